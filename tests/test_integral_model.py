import copy
import io
import pickle

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import NETWORKS, converted
from torch import nn

from integralrob.conversion import convert
from integralrob.conversion.model import _nearest_size
from integralrob.nn import IntegralLayer
from integralrob.partition import UniformPartition

pytest.importorskip("torch_pruning")

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


def test_what_is_discretised_in_inference_mode_can_be_trained():
    _, x, integral = converted(models.ResidualNet, fuse_bn=False)
    integral.resize(0.5)
    with torch.inference_mode():
        discrete = integral.discretize()
    discrete.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in discrete.parameters())


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


def test_sizes_can_be_numpys():
    _, _, integral = converted(models.PlainCNN)
    integral.resize({"conv1": np.int64(5), "fc1": np.float32(0.5)})
    assert integral.sizes == {"conv1": 5, "conv2": 12, "fc1": 10}
    assert all(type(size) is int for size in integral.sizes.values())
    integral.resize(np.float32(0.5))
    assert integral.sizes == {"conv1": 4, "conv2": 6, "fc1": 10}


def test_the_error_for_an_int_says_what_full_size_is():
    with pytest.raises(TypeError, match=r"^size: expected a fraction \(float, 1.0 for full size\) .*, got 1 \(int\)"):
        converted(models.MLP)[2].resize(1)


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (TypeError, 1), (TypeError, True), (TypeError, "0.5"), (TypeError, None), (ValueError, 0.0), (ValueError, -0.5),
        (ValueError, float("nan")), (ValueError, float("inf")), (ValueError, {"conv9": 4}), (ValueError, {"conv1": 1}),
        (TypeError, {"conv1": True}), (ValueError, {"conv2": 5, "conv1": float("nan")}), (TypeError, {"conv1": "4"}),
        (ValueError, {"conv2": 5, "conv1": 0}), (ValueError, {"conv2": 5, "conv1": 10**13}), (ValueError, 1e30),
        (ValueError, {"conv2": 5, "conv1": 1e30}), (ValueError, {"conv1": 64 * 8 + 1}), (ValueError, 64.1),
        (TypeError, np.int64(1)), (ValueError, np.float32("nan")), (ValueError, {"conv1": np.int64(1)}),
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


def test_without_a_generator_the_model_draws_from_its_own_source():
    """Whatever torch's generator does; a copy and a checkpoint go on where the model is; another seed draws else."""
    _, _, integral = converted(models.PlainCNN)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [integral.random_sizes(0.25, 1.0, 1) for _ in range(5)]
    assert torch.equal(torch.get_rng_state(), state)
    checkpoint, other = copy.deepcopy(integral.state_dict()), copy.deepcopy(integral)
    then = [integral.random_sizes(0.25, 1.0, 1) for _ in range(5)]
    assert then != first
    assert [other.random_sizes(0.25, 1.0, 1) for _ in range(5)] == then
    _, _, resumed = converted(models.PlainCNN)
    torch.manual_seed(1)
    assert [resumed.random_sizes(0.25, 1.0, 1) for _ in range(5)] == first
    resumed.size_draws.seed = 7
    resumed.load_state_dict(checkpoint)
    assert resumed.sizes == first[-1]
    assert [resumed.random_sizes(0.25, 1.0, 1) for _ in range(5)] == then
    _, _, another = converted(models.PlainCNN)
    another.size_draws.seed = 7
    assert [another.random_sizes(0.25, 1.0, 1) for _ in range(5)] != first
    another.random_sizes(0.25, 1.0, 1, generator=torch.Generator())
    assert another.size_draws.count == 5


def test_draws_of_the_model_are_uniform():
    _, _, integral = converted(models.PlainCNN, dims=["fc1"])
    drawn = [integral.random_sizes(0.5, 1.0, 1)["fc1"] for _ in range(1100)]
    sizes, counts = np.unique(drawn, return_counts=True)
    assert sizes.tolist() == list(range(10, 21))
    assert abs(counts - 100).max() < 40  # four standard deviations


@pytest.mark.parametrize("state", [None, {"seed": 0}, {"seed": 0, "count": -1}, {"seed": "0", "count": 0}])
def test_a_bad_state_of_the_draws_is_refused(state):
    _, _, integral = converted(models.MLP)
    integral.random_sizes(0.5, 1.0)
    with pytest.raises((TypeError, ValueError), match=r"^state_dict: random sizes: .*expected"):
        integral.load_state_dict({**integral.state_dict(), "size_draws._extra_state": state})
    assert (integral.size_draws.seed, integral.size_draws.count) == (0, 1)


@pytest.mark.parametrize(
    ("size", "multiple_of", "sizes"),
    [
        (0.5, 8, {"conv1": 8, "conv2": 8, "fc1": 8}),
        (0.9, 8, {"conv1": 8, "conv2": 12, "fc1": 20}),
        (0.01, 8, {"conv1": 8, "conv2": 8, "fc1": 8}),
        (1.0, 8, {"conv1": 8, "conv2": 12, "fc1": 20}),
        (1.5, 8, {"conv1": 16, "conv2": 16, "fc1": 32}),
        (0.5, 3, {"conv1": 3, "conv2": 6, "fc1": 9}),
        (0.3, 1, {"conv1": 2, "conv2": 4, "fc1": 6}),
        (64.0, 7, {"conv1": 511, "conv2": 763, "fc1": 1274}),
        ({"conv1": 5, "fc1": 0.7}, 8, {"conv1": 5, "conv2": 12, "fc1": 16}),
    ],
)
def test_sizes_are_multiples_on_request(size, multiple_of, sizes):
    _, _, integral = converted(models.PlainCNN)
    integral.resize(size, multiple_of=multiple_of)
    assert integral.sizes == sizes


@given(st.integers(2, 70), st.floats(1e-3, 64), st.integers(1, 40))
def test_no_multiple_is_nearer(full_size, fraction, multiple_of):
    size = _nearest_size(full_size, fraction, multiple_of)
    possible = [s for s in range(2, 64 * full_size + 1) if s % multiple_of == 0 or s == full_size]
    assert size in possible
    assert abs(size - fraction * full_size) == min(abs(s - fraction * full_size) for s in possible)


def test_a_bad_multiple_changes_nothing():
    _, _, integral = converted(models.PlainCNN)
    for error, multiple_of in ((ValueError, 0), (TypeError, 8.0), (TypeError, None)):
        with pytest.raises(error, match=r"^multiple_of: expected"):
            integral.resize(0.5, multiple_of=multiple_of)
    assert integral.sizes == {"conv1": 8, "conv2": 12, "fc1": 20}


@pytest.mark.parametrize(
    ("low", "high", "sizes"),
    [(0.5, 0.6, {10, 11, 12}), (0.05, 0.1, {2}), (0.01, 0.02, {2}), (0.51, 0.54, {11}), (0.5, 0.9, {16}), (1, 1, {20})],
)
def test_the_bounds_of_random_sizes_come_before_multiples(low, high, sizes):
    _, _, integral = converted(models.PlainCNN, dims=["fc1"])
    generator = torch.Generator().manual_seed(0)
    assert {integral.random_sizes(low, high, 8, generator=generator)["fc1"] for _ in range(40)} == sizes


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


@pytest.mark.parametrize(
    ("error", "entry"),
    [
        (ValueError, {"size": 5, "order": list(range(9)), "trainable": False}),
        (ValueError, {"size": 5, "order": [0] * 12, "trainable": False}),
        (ValueError, {"size": 5, "order": None, "trainable": False}),
        (ValueError, {"size": 1, "order": list(range(12)), "trainable": False}),
        (ValueError, {"size": 10**13, "order": list(range(12)), "trainable": False}),
        (TypeError, {"size": None, "order": list(range(12)), "trainable": False}),
        (TypeError, {"size": 0.5, "order": list(range(12)), "trainable": False}),
        (TypeError, {"size": 5, "order": list(range(12)), "trainable": 1}),
        (TypeError, {"size": 5}),
        (TypeError, None),
    ],
)
def test_a_bad_state_changes_nothing(error, entry):
    _, _, integral = converted(models.PlainCNN)
    before = integral.get_extra_state()
    state = {**integral.state_dict(), "_extra_state": {**before, "conv2": entry}}
    state["_extra_state"]["conv1"] = {"size": 4, "order": list(range(8)), "trainable": True}
    with pytest.raises(error, match=r"^state_dict: the group 'conv2'.*: expected"):
        integral.load_state_dict(state)
    assert integral.get_extra_state() == before
    with pytest.raises(TypeError, match=r"^state_dict: expected sizes and orders by group, got None"):
        integral.set_extra_state(None)


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
