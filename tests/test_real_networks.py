"""Well-known architectures: which of their channels become continuous, and that nothing else changes."""

import copy
import functools
import pickle
import time
from collections import Counter

import networks
import pytest
import torch
from models import MLP, SRCNN, Block, ResidualNet, converted, example, seeded
from torch import nn

from integralrob.conversion import IntegralModel, convert
from integralrob.conversion.check import relative_difference
from integralrob.conversion.tensors import owner_of, tensors_of

pytest.importorskip("torch_pruning")

ATTENTION = "is an attention, whose heads keep their channels"
SHUFFLE = "reshapes these channels so that they no longer lie together, as heads of an attention do"


def attention(*encoders: str) -> dict[str, str]:
    return {f"{encoder}.attention.{name}": ATTENTION for encoder in encoders for name in ("query", "key", "value")}


# The continuous groups and their sizes; and why others, beside the output, stay discrete.
EXPECTED = {
    MLP: ({"0": 24, "2": 16}, {}),
    SRCNN: ({"0": 16, "2": 8}, {}),
    ResidualNet: (
        {"stem.0": 8, "blocks.0.conv1": 8, "blocks.1.conv1": 8, "blocks.2.conv1": 12, "blocks.2.conv2": 12},
        {},
    ),
    networks.ResNet50: (
        {
            "0": 8, "4.body.0": 8, "4.body.3": 8, "4.body.6": 16, "5.body.0": 8, "5.body.3": 8, "6.body.0": 12,
            "6.body.3": 12, "6.body.6": 24,
        },
        {},
    ),
    networks.ResNeXt: (
        {
            "0": 8, "4.body.0": 2, "4.body.3": 2, "4.body.6": 16, "5.body.0": 2, "5.body.3": 2, "6.body.0": 3,
            "6.body.3": 3, "6.body.6": 24,
        },
        {},
    ),
    networks.VGG16: ({"0": 8, "2": 8, "5": 12, "9": 32, "12": 24}, {}),
    networks.DenseNet40: ({"0": 8, "1.conv": 6, "2.conv": 6, "5": 12, "7.conv": 6, "8.conv": 6}, {}),
    networks.NIN: ({"0": 12, "2": 10, "4": 8}, {}),
    networks.MobileNetV2: ({"0": 8, "3.body.0": 16, "4.body.0": 24, "4.body.6": 12, "5.body.0": 24, "6": 32}, {}),
    networks.UNet: (
        {"down1.0": 8, "down2.1": 12, "bottom.1": 16, "up2": 12, "merge2.0": 12, "up1.0": 8, "merge1.0": 8},
        {},
    ),
    networks.EDSR: ({"head": 12, "blocks.0.0": 12, "blocks.1.0": 12, "up.0": 10}, {}),
    networks.SqueezeNet: ({"0": 12, "2.squeeze": 6, "2.expand1": 8, "2.expand3": 8, "3.body.squeeze": 6}, {}),
    networks.GatedConv: ({"first.0": 4, "second.0": 12, "squeeze.0": 6, "third.0": 8}, {}),
    networks.ShuffleNet: ({"branch.0": 6, "last.0": 16}, {"stem.0": SHUFFLE, "branch.3": SHUFFLE}),
    networks.Fusion: ({"image.0": 8, "vector": 6, "hidden": 12}, {}),
    networks.ViT: (
        {"patches": 16, "encoders.0.mlp.0": 32, "encoders.1.mlp.0": 32},
        attention("encoders.0", "encoders.1"),
    ),
    networks.BERT: (
        {"words": 16, "encoders.0.mlp.0": 32, "encoders.1.mlp.0": 32, "pooler": 12},
        attention("encoders.0", "encoders.1"),
    ),
}  # fmt: skip

WITH_NORMS = [
    network
    for network in EXPECTED
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network().modules())
]


CASES = [
    pytest.param(network, fuse, id=network.__name__ + ("" if fuse else "-norms-kept"))
    for network in EXPECTED
    for fuse in ((True, False) if network in WITH_NORMS else (True,))
]


@functools.cache
def _converted(network: type[nn.Module], fuse_bn: bool) -> tuple[nn.Module, torch.Tensor, IntegralModel]:
    return converted(network, fuse_bn=fuse_bn)


def case(network: type[nn.Module], fuse_bn: bool = False) -> tuple[nn.Module, torch.Tensor, IntegralModel]:
    """The network, its example, and the converted network: for each test anew, but converted once."""
    model, x, integral = _converted(network, fuse_bn)
    return copy.deepcopy(model), x, copy.deepcopy(integral)


@pytest.mark.parametrize(("network", "fuse_bn"), CASES)
def test_groups_and_report(network, fuse_bn):
    _, _, integral = case(network, fuse_bn)
    groups, discrete = EXPECTED[network]
    assert {name: group.full_size for name, group in integral.groups.items()} == groups
    report = {entry.name: entry for entry in integral.report}
    outputs = [name for name, entry in report.items() if entry.reason == "is an output of the model"]
    assert len(outputs) == 1
    assert {name: entry.reason for name, entry in report.items() if name not in outputs} == discrete
    assert all(entry.module for entry in integral.report)


@pytest.mark.parametrize(("network", "fuse_bn"), CASES)
def test_exact_at_full_size(network, fuse_bn):
    model, _, integral = case(network, fuse_bn)
    x = example(network, seed=7)  # other than what it was converted on
    assert relative_difference(integral(x), model(x)) < 1e-5
    double = convert(model.double(), x.double(), fuse_bn=fuse_bn, progress=False)
    assert relative_difference(double(x.double()), model(x.double())) < 1e-10


@pytest.mark.parametrize(("network", "fuse_bn"), CASES)
def test_other_sizes_run_and_discretize(network, fuse_bn):
    model, x, integral = case(network, fuse_bn)
    full = model(x)
    unequal = {name: max(2, group.full_size - i % 3) for i, (name, group) in enumerate(integral.groups.items())}
    for size in (0.5, 1.5, unequal):
        integral.resize(size)
        outputs = integral(x)
        assert outputs.shape == full.shape
        assert outputs.isfinite().all()
        discrete = integral.discretize()
        assert relative_difference(discrete(x), outputs) < 1e-6
        assert not any(type(module).__module__.startswith("integralrob") for module in discrete.modules())
        assert b"integralrob" not in pickle.dumps(discrete)
    for module, before in zip(discrete.modules(), model.modules(), strict=True):
        assert type(module) is type(before) or (fuse_bn and type(module) is nn.Identity)
    integral.resize(1.0)
    assert relative_difference(integral(x), full) < 1e-5


@pytest.mark.parametrize(("network", "fuse_bn"), CASES)
def test_every_axis_has_the_size_of_its_channels(network, fuse_bn):
    _, _, integral = case(network, fuse_bn)
    full = integral.discretize()
    integral.resize({name: group.full_size // 2 + 1 for name, group in integral.groups.items()})
    discrete = integral.discretize()
    lost: Counter[tuple[str, int]] = Counter()  # entries, by tensor and dim
    for group in integral.groups.values():
        for member in group.members:
            layer, parameter = owner_of(full, member.layer)
            prefix = member.layer.rpartition(".")[0] if parameter else member.layer
            for name, dim in [(parameter, member.dim)] if parameter else tensors_of(layer, member.dim):
                lost[f"{prefix}.{name}".lstrip("."), dim] += member.block * (group.full_size - group.size)
    before, after = full.state_dict(), discrete.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        expected = tuple(size - lost[name, dim] for dim, size in enumerate(before[name].shape))
        assert tuple(tensor.shape) == expected, name


@pytest.mark.parametrize(("network", "fuse_bn"), CASES)
def test_the_model_is_left_as_it_was(network, fuse_bn):
    model, x = seeded(network).train(), example(network)
    before = copy.deepcopy(model)
    convert(model, x, order=None, fuse_bn=fuse_bn, progress=False)
    assert [(name, type(m), m.training) for name, m in model.named_modules()] == [
        (name, type(m), m.training) for name, m in before.named_modules()
    ]
    assert model.state_dict().keys() == before.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name


@pytest.mark.parametrize("network", list(EXPECTED))
def test_training_reaches_all_parameters_at_another_size(network):
    _, x, integral = case(network)
    integral.resize(0.75)
    integral.train()
    integral(x).square().sum().backward()
    for name, parameter in integral.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    before = integral(x)
    torch.optim.SGD(integral.parameters(), 1e-2).step()
    assert not torch.equal(integral(x), before)


@pytest.mark.parametrize("network", [networks.DenseNet40, networks.UNet, networks.ViT, networks.BERT])
def test_round_trips(network):
    _, x, integral = case(network)
    integral.resize(0.5)
    expected = integral(x)
    for clone in (copy.deepcopy(integral), pickle.loads(pickle.dumps(integral))):
        assert torch.equal(clone(x), expected)
        clone.resize(1.0)
        clone(x)
    assert torch.equal(integral(x), expected)
    _, _, other = converted(network, fuse_bn=False, order=None)
    other.load_state_dict(integral.state_dict())
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("training", [False, True])
def test_compiles_to_one_graph(training):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), networks.DenseUnit(8, 6), nn.Conv2d(14, 4, 1))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    integral = convert(model, x, progress=False).train(training)
    integral.resize(0.5)
    eager = copy.deepcopy(integral)
    torch.testing.assert_close(torch.compile(integral, fullgraph=True, backend="eager")(x), eager(x))
    for name, value in eager.module.state_dict().items():
        torch.testing.assert_close(integral.module.state_dict()[name], value)


def test_a_network_of_eleven_million_weights_takes_seconds():
    """ResNet-18 in full width: what a quadratic loop in the graph, or a copy for each group, would make minutes of."""
    blocks = [
        Block(inputs, outputs, stride)
        for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        for inputs, stride in ((inputs, stride), (outputs, 1))
    ]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()
    assert 11.6e6 < sum(parameter.numel() for parameter in model.parameters()) < 11.8e6
    start = time.process_time()
    integral = convert(model, torch.randn(1, 3, 64, 64), progress=False)
    assert time.process_time() - start < 6  # twice what it may take, as other work slows this down
    assert [group.full_size for group in integral.groups.values()] == [
        64,
        64,
        64,
        128,
        128,
        128,
        256,
        256,
        256,
        512,
        512,
        512,
    ]


def test_torchs_own_transformer_layers():
    """Their fused kernel would read control values for weights; and their attention is one module with its heads."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)).eval()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["1.layers.0.linear1", "1.layers.1.linear1"]
    integral.resize(0.5)
    with_gradients = integral(x)
    with torch.no_grad():
        assert relative_difference(integral(x), with_gradients) < 1e-6
        assert relative_difference(integral.discretize()(x), with_gradients) < 1e-6
