import copy
import io
import pickle
import warnings

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from integralrob import quadrature
from integralrob.conversion import IntegralModel, convert
from integralrob.conversion.check import relative_difference
from integralrob.conversion.ordering import channel_distance, path_length
from integralrob.nn import IntegralLayer, Sampling
from integralrob.partition import UniformPartition

NETWORKS = [models.MLP, models.PlainCNN, models.ResidualNet, models.SRCNN, models.Flattened1d, models.Flattened3d]

SUPPLEMENT = Sampling("endpoints", quadrature.Trapezoidal(), a=-0.75, padding="zeros", antialias=False)


def converted(network: type[nn.Module], **arguments: object) -> tuple[nn.Module, torch.Tensor, IntegralModel]:
    model, x = models.seeded(network), models.example(network)
    return model, x, convert(model, x, progress=False, **arguments)


def snapshot(model: nn.Module) -> list[object]:
    return [
        copy.deepcopy(model.state_dict()),
        [(name, p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()],
        [(name, type(module), module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
    ]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ------------------------------------------------------------------------------------------------------ equal outputs


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("order", ["two_opt", None, lambda distance: np.arange(len(distance))[::-1]])
def test_outputs_at_full_size_are_the_discrete_networks(network, order):
    model, _, integral = converted(network, order=order)
    x = models.example(network, seed=7)  # other than what it was converted on
    assert relative_difference(integral(x), model(x)) < 3e-6
    double = convert(model.double(), x.double(), order=order, progress=False)
    assert relative_difference(double(x.double()), model(x.double())) < 1e-13


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_at_full_size_with_another_quadrature_and_kernel(network):
    model, x, integral = converted(network, sampling=SUPPLEMENT)
    assert relative_difference(integral(x), model(x)) < 3e-6
    assert {group.partition.kind for group in integral.groups.values()} == {"endpoints"}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_model_is_left_as_it_was(network):
    model, x = models.seeded(network).train(), models.example(network)
    model(x).sum().backward()
    next(iter(model.parameters())).requires_grad_(False)
    list(model.children())[-1].eval()
    before, random_state = snapshot(model), torch.get_rng_state()
    integral = convert(model, x, progress=False)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in integral.parameters()}
    assert not shared


def test_flags_go_over_to_the_result():
    model, x = models.seeded(models.PlainCNN).train(), models.example(models.PlainCNN)
    model.fc1.eval()
    model.fc2.requires_grad_(False)
    integral = convert(model, x, progress=False)
    assert integral.training
    assert integral.module.conv1.training
    assert not integral.module.fc1.training
    assert not integral.module.fc2.weight.requires_grad
    assert integral.module.fc1.weight.requires_grad
    integral.resize(0.5)
    discrete = integral.discretize()
    assert discrete.training
    assert not discrete.fc1.training
    assert not discrete.fc2.weight.requires_grad


# ------------------------------------------------------------------------------------------------------------- groups


def test_groups_of_a_residual_network():
    _, _, integral = converted(models.ResidualNet)
    members = {name: [(m.layer, m.dim, m.block) for m in group.members] for name, group in integral.groups.items()}
    assert members == {
        "stem.0": [
            ("stem.0", 0, 1), ("blocks.0.conv1", 1, 1), ("blocks.0.conv2", 0, 1), ("blocks.1.conv1", 1, 1),
            ("blocks.1.conv2", 0, 1), ("blocks.2.conv1", 1, 1), ("blocks.2.shortcut.0", 1, 1),
        ],
        "blocks.0.conv1": [("blocks.0.conv1", 0, 1), ("blocks.0.conv2", 1, 1)],
        "blocks.1.conv1": [("blocks.1.conv1", 0, 1), ("blocks.1.conv2", 1, 1)],
        "blocks.2.conv1": [("blocks.2.conv1", 0, 1), ("blocks.2.conv2", 1, 1)],
        "blocks.2.conv2": [("blocks.2.conv2", 0, 1), ("blocks.2.shortcut.0", 0, 1), ("head", 1, 1)],
    }  # fmt: skip
    assert [(entry.name, entry.reason) for entry in integral.report] == [("head", "is an output of the model")]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in integral.modules())


def test_a_flattened_axis_has_blocks():
    _, _, integral = converted(models.PlainCNN)
    assert [(m.layer, m.dim, m.block) for m in integral.groups["conv2"].members] == [("conv2", 0, 1), ("fc1", 1, 9)]
    integral.resize({"conv2": 5})
    assert integral.module.fc1.in_features == 45


@pytest.mark.parametrize(
    ("network", "groups", "skipped"),
    [
        (models.Depthwise, ["middle.1", "head.0"], {"stem": ("middle.0", "grouped")}),
        (models.GroupNormed, ["middle.1", "head.0"], {"stem": ("middle.0", "GroupNorm")}),
        (
            models.Transposed,
            ["head.0"],
            {"stem": ("middle", "ConvTranspose2d"), "middle": ("middle", "ConvTranspose2d")},
        ),
        (models.Concatenated, ["middle", "head.0"], {"stem": ("middle", "in parts"), "branch": ("middle", "in parts")}),
        (models.Split, ["middle", "head.0"], {"stem": ("middle", "in parts")}),
        (models.Recurrent, ["head.0"], {"stem": ("middle", "called 2 times")}),
        (
            models.Tied,
            ["head.0"],
            {"stem": ("middle", "shares"), "middle": ("middle", "shares"), "other": ("other", "sh")},
        ),
        (models.Scaled, ["middle", "head.0"], {"stem": ("scale", "parameter")}),
        (models.Masked, ["middle", "head.0"], {"stem": ("stem", "at full size")}),
        (models.Shuffled, ["middle", "head.0"], {"stem": ("stem", "at full size")}),
        (models.JoinsInput, ["down"], {"up": ("", "an input of the model")}),
        (models.TwoOutputs, ["stem", "head.0"], {"middle": ("Mean", "an output of the model")}),
        (models.PreActivation, ["head.0"], {"stem": ("norm", "batch norm that is not fused")}),
    ],
)
def test_what_cannot_be_continuous_stays_discrete_alone(network, groups, skipped):
    model, x, integral = converted(network)
    assert list(integral.groups) == groups
    report = {entry.name: (entry.module, entry.reason) for entry in integral.report}
    report = {
        name: entry for name, entry in report.items() if entry[1] != "is an output of the model" or name in skipped
    }
    assert report.keys() == skipped.keys()
    for name, (module, reason) in skipped.items():
        assert module in report[name][0]
        assert reason in report[name][1]
    integral.resize(0.5)
    integral(x)
    integral.resize(1.0)
    for actual, expected in zip(_tensors(integral(x)), _tensors(model(x)), strict=True):
        assert relative_difference(actual, expected) < 3e-6


def _tensors(outputs):
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def test_without_an_order_what_does_not_run_at_other_sizes_is_found_too():
    _, _, integral = converted(models.Masked, order=None)
    assert list(integral.groups) == ["middle", "head.0"]
    assert "does not run at other sizes" in {entry.name: entry.reason for entry in integral.report}["stem"]


def test_layers_with_hooks_stay_as_they_are():
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    torch.nn.utils.spectral_norm(model[0])  # recomputes the weight in a hook
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["2"]
    assert {entry.name: entry.reason for entry in integral.report}["0"] == "has hooks"
    assert relative_difference(integral(x), model(x)) < 3e-6


def test_batch_norms_that_are_not_fused_keep_their_groups_discrete():
    model, x, integral = converted(models.PlainCNN, fuse_bn=False)
    assert list(integral.groups) == ["fc1"]
    assert [entry.module for entry in integral.report if "batch norm" in entry.reason] == ["bn1", "bn2"]
    assert relative_difference(integral(x), model(x)) < 3e-6


def test_a_batch_norm_is_fused_only_where_nothing_else_reads_the_layer():
    class Leaky(models.PlainCNN):
        def forward(self, x):
            x = self.conv1(x)
            x = F.relu(self.bn1(x)) + x
            x = F.relu(self.bn2(self.conv2(F.max_pool2d(x, 2))))
            return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))

    model, x, integral = converted(Leaky)
    assert isinstance(integral.module.bn1, nn.BatchNorm2d)
    assert isinstance(integral.module.bn2, nn.Identity)
    assert list(integral.groups) == ["conv2", "fc1"]
    assert relative_difference(integral(x), model(x)) < 3e-6


def test_a_frozen_network_converts_and_stays_frozen():
    model = models.seeded(models.PlainCNN).requires_grad_(False)
    x = models.example(models.PlainCNN)
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["conv1", "conv2", "fc1"]
    assert not any(p.requires_grad for p in integral.parameters())


def test_a_lone_layer_has_nothing_to_convert():
    model, x = nn.Linear(6, 4), torch.randn(2, 6)
    integral = convert(model, x, progress=False)
    assert not integral.groups
    assert [(entry.name, entry.reason) for entry in integral.report] == [("", "is an output of the model")]
    integral.resize(0.5)
    assert torch.equal(integral(x), model(x))


def test_dims_choose_the_groups():
    _, x, integral = converted(models.PlainCNN, dims=["conv2"])
    assert list(integral.groups) == ["conv2"]
    assert {entry.name for entry in integral.report if entry.reason == "is not in dims"} == {"conv1", "fc1"}
    assert type(integral.module.fc2) is nn.Linear
    integral.resize(0.5)
    assert integral(x).shape == (2, 10)
    assert not converted(models.PlainCNN, dims=[])[2].groups


def test_inputs_can_be_tuples_and_dicts():
    class Two(nn.Module):
        example_shape = (3, 6)

        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 8), nn.Embedding(5, 8), nn.Linear(8, 2)
            self.hidden = nn.Linear(8, 8)

        def forward(self, x, index):
            return self.head(F.relu(self.hidden(self.a(x) + self.b(index))))

    model, x, index = models.seeded(Two), models.example(Two), torch.tensor([0, 4, 2])
    for inputs in ((x, index), [x, index], {"x": x, "index": index}):
        integral = convert(model, inputs, progress=False)
        assert list(integral.groups) == ["hidden"]
        assert {entry.name: entry.module for entry in integral.report}["a"] == "b"
        assert relative_difference(integral(x, index=index), model(x, index)) < 3e-6


def test_a_network_that_writes_to_its_input_converts():
    class InPlace(models.MLP):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model, x = models.seeded(InPlace), models.example(InPlace)
    before = x.clone()
    assert list(convert(model, x, progress=False).groups) == ["0", "2"]
    assert torch.equal(x, before)


def test_refuses_with_the_first_layer_that_differs(monkeypatch):
    import integralrob.conversion.batchnorm as batchnorm

    fuse = batchnorm.fuse

    def wrong(model, producer, norm):
        fuse(model, producer, norm)
        if producer == "conv2":
            with torch.no_grad():
                model.get_submodule(producer).weight.mul_(1.01)

    monkeypatch.setattr(batchnorm, "fuse", wrong)
    with pytest.raises(RuntimeError, match=r"^model: .* full size, first at the layer 'bn2'"):
        converted(models.PlainCNN)


# ----------------------------------------------------------------------------------------------------------- ordering


def test_channels_are_permuted_consistently_and_closer_to_their_neighbours():
    model, _, integral = converted(models.MLP)
    group = integral.groups["0"]
    order = np.array(group.order)
    assert sorted(order) == list(range(24))
    assert torch.equal(integral.module[0].weight, model[0].weight[order])
    assert torch.equal(integral.module[0].bias, model[0].bias[order])
    second = np.array(integral.groups["2"].order)
    assert torch.equal(integral.module[2].weight, model[2].weight[second][:, order])
    distance = channel_distance([model[0].weight, model[0].bias[:, None], model[2].weight.T])
    assert path_length(distance, order) < 0.9 * path_length(distance, np.arange(24))


def test_a_function_may_order():
    seen = []

    def backwards(distance):
        seen.append(distance.shape)
        return np.arange(len(distance))[::-1]

    model, _, integral = converted(models.MLP, order=backwards)
    assert seen == [(24, 24), (16, 16)]
    assert torch.equal(integral.module[0].weight, model[0].weight.flip(0))


def test_smooth_networks_keep_more_when_ordered():
    # Channels sampled from a smooth function, then shuffled: ordering finds the function again.
    t = (torch.arange(64) + 0.5) / 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
        frequencies = torch.randn(4), torch.randn(3)
        shuffle = torch.randperm(64)
    with torch.no_grad():
        model[0].weight.copy_(torch.cos(3 * t[:, None] * frequencies[0])[shuffle])
        model[0].bias.copy_(torch.sin(2 * t)[shuffle])
        model[2].weight.copy_(torch.cos(3 * t * frequencies[1][:, None])[:, shuffle] / 64)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    errors = {}
    for order in ("two_opt", None):
        integral = convert(model, x, order=order, progress=False)
        integral.resize(0.25)
        errors[order] = relative_difference(integral(x), model(x))
    assert errors["two_opt"] < 0.01 < 0.1 < errors[None]


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("network", NETWORKS)
def test_discretize_is_the_integral_network_bit_for_bit_at_each_size(network):
    model, x, integral = converted(network)
    parameters = [sum(p.numel() for p in model.parameters())]
    for size in (0.9, 0.75, 0.5, 0.25):
        integral.resize(size)
        discrete = integral.discretize()
        assert torch.equal(discrete(x), integral(x))
        assert not any(type(module).__module__.startswith("integralrob") for module in discrete.modules())
        assert b"integralrob" not in pickle.dumps(discrete)
        parameters.append(sum(p.numel() for p in discrete.parameters()))
    assert parameters == sorted(parameters, reverse=True)
    assert parameters[-1] < 0.5 * parameters[0]


def test_a_discretization_is_independent():
    _, x, integral = converted(models.PlainCNN)
    discrete = integral.discretize()
    expected = discrete(x)
    with torch.no_grad():
        for parameter in integral.parameters():
            parameter.zero_()
    assert torch.equal(discrete(x), expected)


def test_down_and_up_again_is_exact():
    _, x, integral = converted(models.ResidualNet)
    full = integral(x)
    integral.resize(0.5)
    half = integral(x)
    integral.resize(1.5)
    integral(x)
    integral.resize(0.5)
    assert torch.equal(integral(x), half)
    integral.resize(1.0)
    assert torch.equal(integral(x), full)


def test_resize_by_name_and_by_fraction():
    _, x, integral = converted(models.PlainCNN)
    integral.resize({"conv1": 5, "fc1": 0.33})
    assert integral.sizes == {"conv1": 5, "conv2": 12, "fc1": 7}
    assert integral.groups["fc1"].size == 7
    assert integral.groups["fc1"].full_size == 20
    assert (integral.module.conv1.out_channels, integral.module.conv2.in_channels) == (5, 5)
    assert integral(x).shape == (2, 10)
    integral.resize(0.01)
    assert set(integral.sizes.values()) == {2}
    integral(x)


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (TypeError, 1), (TypeError, True), (TypeError, "0.5"), (TypeError, None), (ValueError, 0.0), (ValueError, -0.5),
        (ValueError, float("nan")), (ValueError, float("inf")), (ValueError, {"conv9": 4}), (ValueError, {"conv1": 1}),
        (TypeError, {"conv1": True}), (ValueError, {"conv2": 5, "conv1": float("nan")}), (TypeError, {"conv1": "4"}),
        (ValueError, {"conv2": 5, "conv1": 0}),
    ],
)  # fmt: skip
def test_a_bad_resize_changes_nothing(error, size):
    _, _, integral = converted(models.PlainCNN)
    sizes = integral.sizes
    with pytest.raises(error, match=r"^size"):
        integral.resize(size)
    assert integral.sizes == sizes
    nothing_to_resize = converted(models.PlainCNN, dims=[])[2]
    if not isinstance(size, dict):
        with pytest.raises(error, match=r"^size"):
            nothing_to_resize.resize(size)


def test_random_sizes_are_uniform_within_bounds_and_reproducible():
    _, x, integral = converted(models.PlainCNN)
    drawn = [integral.random_sizes(0.5, 1.0, 1, generator=torch.Generator().manual_seed(i)) for i in range(200)]
    assert integral.sizes == drawn[-1]
    integral(x)
    assert {sizes["conv1"] for sizes in drawn} == set(range(4, 9))
    assert {sizes["conv2"] for sizes in drawn} == set(range(6, 13))
    counts = np.unique([sizes["fc1"] for sizes in drawn], return_counts=True)
    assert counts[0].tolist() == list(range(10, 21))
    assert counts[1].min() > 5
    assert drawn[3] == integral.random_sizes(0.5, 1.0, 1, generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    integral.random_sizes(0.5, 1.0, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_sizes_are_multiples_of_eight_unless_told_otherwise():
    _, _, integral = converted(models.PlainCNN)
    generator = torch.Generator().manual_seed(0)
    drawn = [integral.random_sizes(0.3, 1.0, generator=generator) for _ in range(60)]
    assert {sizes["conv1"] for sizes in drawn} == {8}
    assert {sizes["conv2"] for sizes in drawn} == {8, 12}
    assert {sizes["fc1"] for sizes in drawn} == {8, 16, 20}


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "low, high", (0.0, 1.0)),
        (ValueError, "low, high", (0.8, 0.5)),
        (ValueError, "low, high", (0.5, 1.1)),
        (ValueError, "low", (float("nan"), 1.0)),
        (ValueError, "high", (0.5, float("nan"))),
        (TypeError, "low", ("a", 1)),
        (ValueError, "multiple_of", (0.5, 1.0, 0)),
        (TypeError, "multiple_of", (0.5, 1.0, 2.0)),
    ],
)
def test_bad_random_sizes(error, name, arguments):
    _, _, integral = converted(models.MLP)
    with pytest.raises(error, match=rf"^{name}: expected"):
        integral.random_sizes(*arguments)
    with pytest.raises(TypeError, match=r"^generator: expected"):
        integral.random_sizes(0.5, 1.0, generator=0)
    assert integral.sizes == {"0": 24, "2": 16}


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("size", [1.0, 0.5])
def test_gradients_flow_to_all_control_values(size):
    _, x, integral = converted(models.ResidualNet)
    integral.resize(size)
    integral(x).square().sum().backward()
    for name, parameter in integral.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_training_over_random_sizes_lowers_the_loss_at_every_size():
    model, x = models.seeded(models.MLP), torch.randn(256, 12, generator=torch.Generator().manual_seed(0))
    y = (x[:, :4] + x[:, 4:8] * x[:, 8:]).argmax(1)
    integral = convert(model, x[:2], progress=False)
    optimizer, generator = torch.optim.Adam(integral.parameters(), 1e-2), torch.Generator().manual_seed(0)

    def losses():
        result = []
        for size in (1.0, 0.75, 0.5):
            integral.resize(size)
            result.append(float(F.cross_entropy(integral(x), y).detach()))
        return result

    before = losses()
    for _ in range(150):
        integral.random_sizes(0.5, 1.0, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(integral(x), y).backward()
        optimizer.step()
    assert all(after < 0.7 * loss for after, loss in zip(losses(), before, strict=True))


# -------------------------------------------------------------------------------------------------------- round trips


def _saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _saved])
def test_copies_have_the_sizes_and_are_independent(clone):
    _, x, integral = converted(models.ResidualNet)
    integral.resize({"stem.0": 5})
    expected = integral(x)
    other = clone(integral)
    assert other.sizes == integral.sizes
    assert other.report == integral.report
    assert torch.equal(other(x), expected)
    other.resize(0.5)
    other(x)
    assert integral.sizes["stem.0"] == 5
    assert torch.equal(integral(x), expected)


def test_state_dict_holds_sizes_and_orders():
    _, x, integral = converted(models.ResidualNet)
    integral.resize({"stem.0": 5, "blocks.2.conv2": 7})
    expected = integral(x)
    buffer = io.BytesIO()
    torch.save(integral.state_dict(), buffer)
    buffer.seek(0)
    _, _, other = converted(models.ResidualNet, order=None)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.sizes == integral.sizes
    assert {name: group.order for name, group in other.groups.items()} == {
        name: group.order for name, group in integral.groups.items()
    }
    assert torch.equal(other(x), expected)


def test_a_state_of_other_groups_is_refused():
    _, _, integral = converted(models.PlainCNN)
    _, _, fewer = converted(models.PlainCNN, dims=["conv1"])
    with pytest.raises(ValueError, match=r"^state_dict: .*conv2, fc1"):
        integral.load_state_dict(fewer.state_dict())
    state = integral.state_dict()
    state["_extra_state"] = copy.deepcopy(state["_extra_state"])
    state["_extra_state"]["conv1"]["order"] = list(range(9))
    with pytest.raises(ValueError, match=r"^state_dict: expected 8 channels in the group 'conv1', got 9"):
        integral.load_state_dict(state)


def test_moving_average_models_work():
    _, x, integral = converted(models.PlainCNN)
    average = torch.optim.swa_utils.AveragedModel(integral)
    average.update_parameters(integral)
    assert torch.equal(average(x), integral(x))


def test_compiles_to_one_graph():
    _, x, integral = converted(models.PlainCNN)
    compiled = torch.compile(integral, fullgraph=True, backend="eager")
    for size in (1.0, 0.5, 0.75):
        integral.resize(size)
        torch.testing.assert_close(compiled(x), integral(x))


def test_compiles_with_gradients():
    _, x, integral = converted(models.MLP)
    integral.resize(0.5)
    torch.compile(integral, fullgraph=True, backend="aot_eager")(x).sum().backward()
    compiled = [p.grad.clone() for p in integral.parameters()]
    integral.zero_grad()
    integral(x).sum().backward()
    for actual, parameter in zip(compiled, integral.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad)


def test_the_members_of_a_group_share_its_partition():
    _, _, integral = converted(models.ResidualNet)
    for group in integral.groups.values():
        assert isinstance(group.partition, UniformPartition)
        for member in group.members:
            weight = integral.layer(member.layer).continuous_weight
            assert weight.partitions[weight.dims.index(member.dim)] is group.partition
    assert sum(isinstance(module, IntegralLayer) for module in integral.modules()) == 9
    with pytest.raises(ValueError, match=r"^name: expected the name of an integral layer, got 'stem'"):
        integral.layer("stem")


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "model", {"model": lambda x: x}),
        (ValueError, "order", {"order": "none"}),
        (TypeError, "fuse_bn", {"fuse_bn": 1}),
        (TypeError, "progress", {"progress": None}),
        (TypeError, "dims", {"dims": "conv1"}),
        (TypeError, "dims", {"dims": 3}),
        (ValueError, "dims", {"dims": ["conv1", "conv9"]}),
        (TypeError, "sampling", {"sampling": "centered"}),
    ],
)
def test_bad_arguments(error, name, arguments):
    model, x = models.seeded(models.PlainCNN), models.example(models.PlainCNN)
    with pytest.raises(error, match=rf"^{name}: expected"):
        convert(**{"model": model, "example_inputs": x, "progress": False, **arguments})


def test_a_bad_order_function_is_an_error():
    with pytest.raises(ValueError, match=r"^order: expected the function to return a permutation"):
        converted(models.MLP, order=lambda distance: [0] * len(distance))


def test_a_rule_without_inverse_is_an_error():
    with pytest.raises(ValueError, match="the weight 0"):
        converted(models.MLP, sampling=Sampling("endpoints", quadrature.LeftRiemann()))


def test_weights_that_are_not_finite_are_an_error():
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"^model: expected finite weights, got NaN or infinity in '2.weight'"):
        convert(model, x, progress=False)


def test_progress_is_shown_only_when_asked(capfd):
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(model, x, progress=False)
        assert capfd.readouterr().err == ""
        convert(model, x)
        assert "ordering channels" in capfd.readouterr().err
