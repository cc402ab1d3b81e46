"""Partitions and random sizes: positions, intervals, training, resizing, bad input."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integralrob as ir

Concatenation = ir.partition.Concatenation
RandomSize = ir.partition.RandomSize
TrainablePartition = ir.partition.TrainablePartition
UniformPartition = ir.partition.UniformPartition

KINDS = [{}, {"kind": "centered"}, {"kind": "centered", "nodes": 6}, {"kind": "endpoints", "nodes": 6}]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
both_classes = pytest.mark.parametrize("cls", [UniformPartition, TrainablePartition])


def shaken(num_points, spread, seed=0, **kind):
    """A trainable partition with random logits."""
    partition = TrainablePartition(num_points, **kind)
    with torch.no_grad():
        partition.logits.normal_(0, spread, generator=torch.Generator().manual_seed(seed))
    return partition


# Uniform partitions.


@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_endpoints(size):
    partition = UniformPartition(size)
    points = partition()
    assert points.dtype == torch.float64
    assert torch.equal(points, torch.linspace(-1, 1, size, dtype=torch.float64))
    assert partition.interval == (-1.0, 1.0)
    assert points[0] == -1
    assert points[-1] == 1
    assert not list(partition.parameters())
    assert not list(partition.buffers())


@pytest.mark.parametrize(("size", "nodes"), [(2, 2), (3, 8), (8, 8), (5, 7), (16, 8)])
def test_centered_cells_divide_the_cells_of_the_nodes(size, nodes):
    partition = UniformPartition(size, kind="centered", nodes=nodes)
    node = (torch.arange(size, dtype=torch.float64) + 0.5) * nodes / size - 0.5
    torch.testing.assert_close(partition(), -1 + 2 * node / (nodes - 1), rtol=0, atol=1e-15)
    assert partition.interval == (-nodes / (nodes - 1), nodes / (nodes - 1))


@pytest.mark.parametrize("size", [2, 3, 7, 49, 512])
def test_centered_points_at_full_size_are_the_nodes(size):
    assert torch.equal(UniformPartition(size, kind="centered", nodes=size)(), UniformPartition(size)())


def test_centered_without_nodes():
    partition = UniformPartition(4, kind="centered")
    torch.testing.assert_close(partition(), torch.tensor([-0.75, -0.25, 0.25, 0.75], dtype=torch.float64))
    assert partition.interval == (-1.0, 1.0)


@pytest.mark.parametrize(("size", "align_corners"), [(5, False), (12, False), (5, True)])
def test_geometry_is_that_of_interpolate(size, align_corners):
    nodes = 9
    kind = "endpoints" if align_corners else "centered"
    points = UniformPartition(size, kind=kind, nodes=nodes)()
    ramp = torch.arange(nodes, dtype=torch.float64)  # linear interpolation of node numbers gives positions
    expected = torch.nn.functional.interpolate(ramp[None, None], size, mode="linear", align_corners=align_corners)[0, 0]
    position = ((points + 1) / 2 * (nodes - 1)).clamp(0, nodes - 1)
    torch.testing.assert_close(position, expected, rtol=0, atol=1e-14)


@every_kind
@both_classes
def test_quadrature_weights_sum_to_the_interval(cls, kind):
    partition = cls(4, **kind)
    low, high = partition.interval
    for rule in (ir.quadrature.Midpoint(), ir.quadrature.Trapezoidal()):
        weights = rule.weights(partition(), partition.interval)
        assert weights.sum().item() == pytest.approx(high - low, abs=1e-14)
        assert (weights > 0).all()


def test_midpoint_weights_of_centered_points_are_equal():
    partition = UniformPartition(5, kind="centered", nodes=8)
    weights = ir.quadrature.Midpoint().weights(partition(), partition.interval)
    torch.testing.assert_close(weights, torch.full((5,), 16 / 7 / 5, dtype=torch.float64), rtol=0, atol=1e-15)


def test_uniform_device():
    assert UniformPartition(3)("cpu").device == torch.device("cpu")
    assert UniformPartition(3)(device=torch.device("meta")).device.type == "meta"


@every_kind
def test_uniform_resize(kind):
    partition = UniformPartition(7, **kind)
    assert partition.resize(4) is None
    assert partition.num_points == 4
    assert torch.equal(partition(), UniformPartition(4, **kind)())


# Trainable partitions.


@every_kind
@pytest.mark.parametrize("size", [2, 3, 9, 100])
def test_trainable_starts_uniform(size, kind):
    partition = TrainablePartition(size, **kind)
    assert partition.logits.shape == (size - 1,)
    assert partition.logits.dtype == torch.float32
    points, uniform = partition(), UniformPartition(size, **kind)()
    assert points.dtype == torch.float64
    torch.testing.assert_close(points, uniform, rtol=0, atol=1e-14)
    assert points[0] == uniform[0]
    assert points[-1] == uniform[-1]
    assert partition.interval == UniformPartition(size, **kind).interval


def test_gradient_is_not_zero_at_the_start():
    partition = TrainablePartition(6)
    points = partition()
    for index in range(1, 5):
        (gradient,) = torch.autograd.grad(points[index], partition.logits, retain_graph=True)
        assert gradient.abs().min() > 0.01
    (ends,) = torch.autograd.grad(points[0] + points[-1], partition.logits)
    assert not ends.any()


def test_gradcheck():
    partition = TrainablePartition(5, kind="centered", nodes=8).double()
    logits = torch.tensor([0.3, -0.5, 1.0, 0.1], dtype=torch.float64, requires_grad=True)

    def points(logits):
        return torch.func.functional_call(partition, {"logits": logits}, ())

    assert torch.autograd.gradcheck(points, logits)
    assert torch.autograd.gradgradcheck(points, logits)


def test_training_moves_points_where_they_are_wanted():
    partition = TrainablePartition(4)
    target = torch.tensor([-1.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    optimizer = torch.optim.Adam(partition.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (partition() - target).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(partition().detach(), target, rtol=0, atol=1e-3)


@given(
    logits=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40), kind=st.sampled_from(KINDS)
)
@settings(deadline=None, max_examples=100)
def test_points_increase_strictly_whatever_the_logits(logits, kind):
    partition = TrainablePartition(len(logits) + 1, **kind)
    with torch.no_grad():
        partition.logits.copy_(torch.tensor(logits))
    points = partition().detach()
    assert (points.diff() > 0).all()
    assert points[-1] == partition.last == -points[0]
    assert ir.quadrature.Trapezoidal().weights(points).sum().item() == pytest.approx(2 * partition.last, abs=1e-14)


def test_points_increase_strictly_when_there_are_many():
    assert (shaken(20_000, 1e4)().diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_points_stay_float64_when_the_module_is_cast(dtype):
    partition = shaken(5, 1.0).to(dtype)
    assert partition.logits.dtype == dtype
    points = partition()
    assert points.dtype == torch.float64
    points[2].backward()
    assert partition.logits.grad.dtype == dtype
    assert partition.logits.grad.any()


@every_kind
def test_resize_keeps_uniform_points_uniform(kind):
    partition = TrainablePartition(7, **kind)
    for size in (4, 12, 2, 9):
        assert partition.resize(size) is None
        assert partition.num_points == size
        assert partition.logits.shape == (size - 1,)
        assert partition.logits.abs().max() < 1e-5
        torch.testing.assert_close(partition(), UniformPartition(size, **kind)(), rtol=0, atol=1e-6)


def test_resize_samples_the_same_curve():
    partition = shaken(9, 1.0)
    before = partition().detach()
    partition.resize(17)  # every second point is an old one, those between lie halfway
    after = partition().detach()
    torch.testing.assert_close(after[::2], before, rtol=0, atol=1e-6)
    torch.testing.assert_close(after[1::2], (before[1:] + before[:-1]) / 2, rtol=0, atol=1e-6)
    partition.resize(9)
    torch.testing.assert_close(partition().detach(), before, rtol=0, atol=1e-6)


@given(sizes=st.lists(st.integers(2, 40), min_size=1, max_size=4), spread=st.sampled_from([0.1, 3.0, 1e3, 1e30]))
@settings(deadline=None, max_examples=50)
def test_resize_keeps_points_increasing(sizes, spread):
    partition = shaken(8, spread)
    for size in sizes:
        partition.resize(size)
        assert partition.logits.isfinite().all()
        assert (partition().diff() > 0).all()
        assert partition().shape == (size,)


def test_resize_to_the_same_size_changes_nothing():
    partition = shaken(5, 1.0)
    logits, before = partition.logits, partition.logits.detach().clone()
    partition.resize(5)
    assert partition.logits is logits
    assert torch.equal(logits.detach(), before)


def test_resize_keeps_dtype_and_requires_grad():
    partition = TrainablePartition(5).double().requires_grad_(False)
    partition.resize(9)
    assert partition.logits.dtype == torch.float64
    assert not partition.logits.requires_grad
    partition = TrainablePartition(5)
    partition.resize(3)
    assert isinstance(partition.logits, torch.nn.Parameter)
    assert partition.logits.requires_grad
    partition()[1].backward()
    assert partition.logits.grad.any()


def test_state_dict_round_trip():
    partition, other = shaken(6, 1.0), TrainablePartition(6)
    assert list(partition.state_dict()) == ["logits"]
    other.load_state_dict(partition.state_dict())
    assert torch.equal(other(), partition())


@both_classes
def test_copies_are_equal_and_independent(cls):
    partition = cls(6, kind="centered", nodes=8)
    for other in (copy.deepcopy(partition), pickle.loads(pickle.dumps(partition))):
        assert torch.equal(other(), partition())
        assert other.interval == partition.interval
        other.resize(3)
        assert partition.num_points == 6
        assert partition().shape == (6,)


@both_classes
def test_compiles_without_graph_breaks(cls):
    torch.compiler.reset()
    partition = cls(6, kind="centered", nodes=8)
    compiled = torch.compile(partition, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), partition())
    partition.resize(4)
    assert torch.equal(compiled(), partition())


@both_classes
def test_sizes_can_be_numpys(cls):
    partition = cls(np.int64(6), kind="centered", nodes=np.int32(8))
    assert repr(partition) == repr(cls(6, kind="centered", nodes=8))
    partition.resize(np.int64(4))
    assert type(partition.num_points) is type(partition.nodes) is int
    assert partition().shape == (4,)


@both_classes
def test_repr(cls):
    expected = f"{cls.__name__}(num_points=6, kind='centered', nodes=8)"
    assert repr(cls(6, kind="centered", nodes=8)) == expected


@both_classes
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_points": 1}, ValueError, "num_points: expected an int of at least 2, got 1"),
        ({"num_points": 2.0}, TypeError, "num_points: expected an int"),
        ({"num_points": True}, TypeError, "num_points: expected an int"),
        (
            {"num_points": 4, "kind": "centred"},
            ValueError,
            "kind: expected one of 'endpoints', 'centered', got 'centred'",
        ),
        ({"num_points": 4, "nodes": 1}, ValueError, "nodes: expected an int of at least 2, got 1"),
        ({"num_points": 4, "nodes": "4"}, TypeError, "nodes: expected an int"),
    ],
)
def test_bad_arguments(cls, arguments, error, message):
    with pytest.raises(error, match=message):
        cls(**arguments)


@both_classes
@pytest.mark.parametrize(("size", "error"), [(1, ValueError), (0, ValueError), (-3, ValueError), (2.5, TypeError)])
def test_bad_resize_changes_nothing(cls, size, error):
    partition = cls(5)
    before = partition().detach()
    with pytest.raises(error, match="num_points: expected an int of at least 2"):
        partition.resize(size)
    assert partition.num_points == 5
    assert torch.equal(partition().detach(), before)


# Random sizes.


def test_random_size_draws_every_multiple_evenly():
    draw = RandomSize(10, 40, multiple_of=8, generator=torch.Generator().manual_seed(0))
    sizes = [draw() for _ in range(3000)]
    assert all(isinstance(size, int) for size in sizes)
    counts = {size: sizes.count(size) for size in set(sizes)}
    assert sorted(counts) == [16, 24, 32, 40]
    # Binomial with mean 750 and standard deviation 24.
    assert all(abs(count - 750) < 100 for count in counts.values())


def test_random_size_is_reproducible():
    draws = [RandomSize(2, 1000, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert [draws[0]() for _ in range(20)] == [draws[1]() for _ in range(20)]


def test_random_size_uses_only_its_generator():
    state = torch.get_rng_state()
    RandomSize(2, 9, generator=torch.Generator())()
    assert torch.equal(torch.get_rng_state(), state)


def test_random_size_without_generator_follows_the_default_one():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = [RandomSize(2, 1000)() for _ in range(10)]
        torch.manual_seed(3)
        assert [RandomSize(2, 1000)() for _ in range(10)] == first


def test_random_size_of_one_value():
    assert RandomSize(5, 5)() == 5
    assert RandomSize(3, 9, multiple_of=5)() == 5


def test_random_size_repr():
    assert repr(RandomSize(16, 64, multiple_of=8)) == "RandomSize(low=16, high=64, multiple_of=8)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"low": 1, "high": 4}, ValueError, "low: expected an int of at least 2, got 1"),
        ({"low": 2.0, "high": 4}, TypeError, "low: expected an int"),
        ({"low": 8, "high": 4}, ValueError, "high: expected an int of at least 8, got 4"),
        ({"low": 2, "high": 4, "multiple_of": 0}, ValueError, "multiple_of: expected an int of at least 1, got 0"),
        ({"low": 9, "high": 15, "multiple_of": 8}, ValueError, "multiple_of: .* low = 9 to high = 15, got 8"),
        ({"low": 2, "high": 4, "generator": 0}, TypeError, "generator: expected a torch.Generator"),
    ],
)
def test_bad_random_size(arguments, error, message):
    with pytest.raises(error, match=message):
        RandomSize(**arguments)


# ------------------------------------------------------------------------------------------------------ concatenations


def test_a_concatenation_has_the_points_of_its_parts():
    a, b = UniformPartition(8, nodes=8), TrainablePartition(6, kind="centered", nodes=6)
    axis = Concatenation([a, 3, b, a])
    assert (axis.num_points, axis.nodes, axis.part_sizes) == (25, 25, (8, 3, 6, 8))
    a.resize(4)
    b.resize(9)
    assert (axis.num_points, axis.nodes, axis.part_sizes) == (20, 25, (4, 3, 9, 4))
    assert axis.parts[0] is axis.parts[3] is a
    assert len(list(axis.parameters())) == 1
    for clone in (copy.deepcopy(axis), pickle.loads(pickle.dumps(axis))):
        clone.parts[0].resize(8)
        assert (clone.part_sizes, axis.part_sizes) == ((8, 3, 9, 8), (4, 3, 9, 4))


@pytest.mark.parametrize(
    ("error", "name", "parts"),
    [
        (TypeError, "parts", []),
        (TypeError, "parts", None),
        (TypeError, r"parts\[1\]", [2, None]),
        (TypeError, r"parts\[0\]", [True]),
        (ValueError, r"parts\[0\]", [0]),
        (ValueError, r"parts\[1\]", [2, UniformPartition(4)]),
    ],
)
def test_bad_concatenations(error, name, parts):
    with pytest.raises(error, match=rf"^{name}: expected"):
        Concatenation(parts)


@pytest.mark.parametrize(("error", "blocks"), [(TypeError, [1]), (TypeError, 2), (ValueError, [1, 0])])
def test_bad_blocks_of_concatenations(error, blocks):
    with pytest.raises(error, match=r"^blocks.*: expected"):
        Concatenation([2, 3], blocks)


def test_blocks_multiply_the_entries():
    a = UniformPartition(8, nodes=8)
    axis = Concatenation([a, 3], [4, 1])
    a.resize(5)
    assert (axis.part_sizes, axis.num_points, axis.nodes) == ((20, 3), 23, 35)
