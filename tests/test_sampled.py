"""Modules of any type with continuous tensors, and running statistics that are functions."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from integralrob.nn import ContinuousWeight, IntegralConv2d
from integralrob.nn.sampled import SampledModule, make_sampled
from integralrob.partition import UniformPartition


def points(size: int) -> UniformPartition:
    return UniformPartition(size, kind="centered", nodes=size)


def make_channelwise(module: nn.Module, size: int, attribute: str) -> UniformPartition:
    """Makes all tensors of a layer with one axis continuous along their first dim."""
    axis = points(size)
    tensors = {
        name: ContinuousWeight(tensor.shape, (0,), input_dim=None, partitions=[axis])
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.dim()
    }
    make_sampled(module, tensors, {"0": axis}, {attribute: ("0", 1)})
    return axis


def resized(module: SampledModule, axis: UniformPartition, size: int) -> nn.Module:
    axis.resize(size)
    module.integral_refresh()
    discrete = copy.deepcopy(module)
    discrete.integral_discretize_()
    return discrete


def random_norm(size: int = 12) -> nn.BatchNorm1d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(size)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight, 1)
        nn.init.normal_(norm.bias)
    return norm


# ------------------------------------------------------------------------------------------------------------ modules


@pytest.mark.parametrize(
    ("layer", "attribute", "x"),
    [
        (nn.LayerNorm(12), "normalized_shape", torch.randn(3, 12)),
        (nn.PReLU(12), "num_parameters", torch.randn(3, 12)),
        (nn.InstanceNorm1d(12, affine=True), "num_features", torch.randn(3, 12, 5)),
        (nn.GroupNorm(1, 12), "num_channels", torch.randn(3, 12, 5)),
        (random_norm().eval(), "num_features", torch.randn(3, 12)),
    ],
)
def test_reads_samples_and_becomes_its_twin_again(layer, attribute, x):
    twin = copy.deepcopy(layer)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    twin.load_state_dict(layer.state_dict())
    axis = make_channelwise(layer, 12, attribute)
    assert isinstance(layer, type(twin))
    assert layer.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(layer(x), twin(x))
    discrete = resized(layer, axis, 7)
    assert type(discrete) is type(twin)
    assert getattr(discrete, attribute) in (7, (7,))
    expected = ContinuousWeight((12,), (0,), input_dim=None, partitions=[axis])(twin.weight)
    assert torch.equal(discrete.weight, expected)
    assert torch.equal(layer(x[:, :7]), discrete(x[:, :7]))
    assert b"integralrob" not in pickle.dumps(discrete)


def test_copies_and_pickles_keep_the_sizes():
    layer = nn.LayerNorm(12)
    axis = make_channelwise(layer, 12, "normalized_shape")
    resized(layer, axis, 7)
    x = torch.randn(3, 7)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(clone) is type(layer)
        assert torch.equal(clone(x), layer(x))
        clone.integral_axes["0"].resize(12)
        clone.integral_refresh()
        assert clone(torch.randn(3, 12)).shape == (3, 12)
        assert layer(x).shape == (3, 7)


def test_a_module_of_ones_own_keeps_its_methods_and_attributes():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.arange(8.0)), nn.Parameter(torch.ones(8))
            self.twin, self.axes = "mine", 3

        def refresh(self):
            return "mine"

        def forward(self, x):
            return x * self.scale + self.shift

    own, axis = Own(), points(8)
    for name in ("scale", "shift"):  # one after the other
        weight = ContinuousWeight((8,), (0,), input_dim=None, partitions=[axis])
        make_sampled(own, {name: weight}, {name: axis}, {})
    assert torch.equal(own(torch.ones(8)), torch.arange(8.0) + 1)
    axis.resize(4)
    assert own(torch.ones(4)).shape == (4,)
    assert (own.twin, own.axes, own.refresh()) == ("mine", 3, "mine")
    own.integral_discretize_()
    assert type(own) is Own
    assert own.scale.shape == (4,)
    assert set(dict(own.named_parameters())) == {"scale", "shift"}


def test_gradients_reach_control_values_and_optimizers_move_them():
    layer = nn.LayerNorm(12)
    axis = make_channelwise(layer, 12, "normalized_shape")
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    axis.resize(5)
    layer.integral_refresh()
    layer(torch.randn(3, 5)).square().sum().backward()
    assert dict(layer.named_parameters())["weight"].grad.shape == (12,)
    before = layer.weight.clone()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_a_transposed_convolution_integrates_over_its_first_dim():
    layer, axis = nn.ConvTranspose2d(8, 6, 3), points(8)
    weight = layer.weight.detach().clone()
    continuous = ContinuousWeight(weight.shape, (0,), input_dim=0, partitions=[axis])
    make_sampled(layer, {"weight": continuous}, {"1": axis}, {"in_channels": ("1", 1)})
    axis.resize(5)
    layer.integral_refresh()
    conv = IntegralConv2d.from_discrete(_conv_with(weight.transpose(0, 1)), dims=(1,))
    conv.resize(in_size=5)
    assert layer.in_channels == 5
    assert torch.allclose(layer.weight, conv.sample()[0].transpose(0, 1), atol=1e-6)


def _conv_with(weight: torch.Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3)
    with torch.no_grad():
        conv.weight.copy_(weight)
    return conv


# -------------------------------------------------------------------------------------------------- running statistics


def sampled_norm(**arguments: object) -> tuple[nn.BatchNorm1d, nn.BatchNorm1d, UniformPartition]:
    """A batch norm, the same one with continuous tensors, and its axis."""
    twin = random_norm()
    for name, value in arguments.items():
        setattr(twin, name, value)
    norm = copy.deepcopy(twin)
    return twin, norm, make_channelwise(norm, 12, "num_features")


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_at_full_size_training_is_the_twins(momentum):
    twin, norm, _ = sampled_norm(momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = 3 * torch.randn(16, 12, generator=generator) + 1
        assert torch.allclose(norm(x), twin(x), atol=1e-6)
    for name, value in twin.state_dict().items():
        assert torch.allclose(norm.state_dict()[name], value, rtol=1e-5), name


def test_the_evaluation_form_does_not_change_the_statistics():
    _, norm, axis = sampled_norm()
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    axis.resize(6)
    norm.integral_refresh()
    norm(torch.randn(4, 6))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_at_another_size_the_statistics_of_the_samples_move_towards_the_batchs():
    _, norm, axis = sampled_norm()
    axis.resize(6)
    norm.integral_refresh()
    t = torch.linspace(0, 1, 6)
    x = (1 + t) * torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) + 2 * t
    for _ in range(400):
        norm(x)
    assert torch.allclose(norm.running_mean, x.mean(0), atol=1e-3)
    assert torch.allclose(norm.running_var, x.var(0), rtol=1e-2)
    expected = norm(x)
    assert torch.allclose(norm.eval()(x), expected, atol=0.1)  # the running variance is the unbiased one


def test_statistics_that_all_sizes_share_fit_all_of_them():
    """Channels that are samples of smooth functions: one set of control values is right for each size."""
    _, norm, axis = sampled_norm()
    generator = torch.Generator().manual_seed(0)

    def batch(size: int) -> torch.Tensor:
        t = (torch.arange(size) + 0.5) / size
        return (1 + t) * torch.randn(256, 1, generator=generator) + 2 * t

    for step in range(600):
        size = (12, 9, 6)[step % 3]
        axis.resize(size)
        norm.integral_refresh()
        norm(batch(size))
    norm.eval()
    for size in (12, 9, 8, 6):
        axis.resize(size)
        norm.integral_refresh()
        x = batch(size)
        assert torch.allclose(norm.running_mean, x.mean(0), atol=0.35)
        assert torch.allclose(norm.running_var.sqrt(), x.std(0), rtol=0.2)


@pytest.mark.parametrize("size", [2, 5, 11, 12, 30])
def test_variances_are_never_negative(size):
    _, norm, axis = sampled_norm()
    norm.running_var  # noqa: B018  # a property
    norm._buffers["running_var"].copy_(torch.tensor([0.0, 100.0] * 6))
    axis.resize(size)
    norm.integral_refresh()
    assert (norm.running_var >= 0).all()
    assert norm.running_var.shape == (size,)
    norm(torch.randn(3, size))
    assert (norm._buffers["running_var"] >= 0).all()


def test_an_update_is_spread_over_what_was_sampled():
    weight = ContinuousWeight((12,), (0,), input_dim=None, partitions=[points(12)])
    changes = torch.randn(12)
    assert torch.allclose(weight.spread_back(changes), changes.double())
    weight.resize([6])
    assert torch.allclose(weight.spread_back(torch.ones(6)), torch.ones(12, dtype=torch.float64), atol=0.2)
    blocked = ContinuousWeight((12,), (0,), input_dim=None, blocks=[3])
    assert torch.allclose(blocked.spread_back(changes), changes.double())


def test_instance_norms_with_running_statistics_train_too():
    norm = nn.InstanceNorm1d(12, affine=True, track_running_stats=True)
    twin = copy.deepcopy(norm)
    axis = make_channelwise(norm, 12, "num_features")
    x = torch.randn(4, 12, 9)
    assert torch.allclose(norm(x), twin(x), atol=1e-6)
    assert torch.allclose(norm.running_var, twin.running_var)
    discrete = resized(norm, axis, 7)
    assert torch.equal(norm.eval()(x[:, :7]), discrete.eval()(x[:, :7]))
    assert F.relu(discrete.running_var).equal(discrete.running_var)
