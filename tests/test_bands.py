"""`cubic_band`: against Keys' kernel number by number, what it reproduces, derivatives, the cache, bad input."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from typing import Any

import pytest
import torch
from conftest import MODES
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import integralrob as ir
from integralrob.ops import reference
from integralrob.ops.bands import PADDINGS, _BandCache, _build, _cache, cubic_band_as
from integralrob.partition import UniformPartition


def dense(band: tuple[Tensor, Tensor], size: int) -> Tensor:
    """The band as a matrix ``[M, size]``."""
    start, weight = band
    node = start[:, None] + torch.arange(weight.shape[1])
    return weight.new_zeros(weight.shape[0], size).scatter_add(1, node, weight)


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


@given(
    points=st.lists(finite(-3, 3), min_size=1, max_size=12),
    size=st.integers(2, 9),
    a=finite(-1, 0),
    mode=st.sampled_from(MODES),
    scaled=st.booleans(),
)
def test_equals_the_reference(points: list[float], size: int, a: float, mode: dict[str, Any], scaled: bool) -> None:
    p = torch.tensor(points, dtype=torch.float64)
    scale = torch.linspace(-1, 2, len(p)) if scaled else None
    start, weight = ir.ops.cubic_band(p, size, scale, a=a, **mode)
    assert start.dtype == torch.int64
    assert weight.dtype == torch.float64
    assert start.shape == (len(p),)
    assert weight.shape[0] == len(p)
    assert 1 <= weight.shape[1] <= size
    assert start.min() >= 0
    assert start.max() <= size - weight.shape[1]
    _, expected = reference.cubic_band(p, size, scale, a=a, **mode)
    torch.testing.assert_close(dense((start, weight), size), expected, rtol=0, atol=2e-11)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 64])
def test_number_of_taps(size: int) -> None:
    p = torch.linspace(-1, 1, 7, dtype=torch.float64)
    for padding in PADDINGS:
        assert ir.ops.cubic_band(p, size, padding=padding)[1].shape == (7, min(4, size))
    spacing = (size - 1) / 6
    assert ir.ops.cubic_band(p, size, antialias=True)[1].shape == (7, min(size, math.ceil(4 * max(spacing, 1))))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_points_on_nodes_read_one_node(mode: dict[str, Any]) -> None:
    for size in (2, 3, 7, 100, 1023):
        for dtype in (torch.float32, torch.float64):
            weight = dense(
                ir.ops.cubic_band(torch.linspace(-1, 1, size, dtype=torch.float64).to(dtype), size, **mode), size
            )
            if dtype == torch.float64:
                assert torch.equal(weight, torch.eye(size, dtype=torch.float64))
            torch.testing.assert_close(weight, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("a", [-0.75, -0.5, 0.0])
@pytest.mark.parametrize("mode", [{"padding": "border"}, {"padding": "reflection"}, {"antialias": True}], ids=str)
def test_weights_sum_to_one(mode: dict[str, Any], a: float, rng: torch.Generator) -> None:
    p = torch.rand(200, dtype=torch.float64, generator=rng) * 3 - 1.5
    for size in (2, 3, 4, 17):
        total = ir.ops.cubic_band(p, size, a=a, **mode)[1].sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


def test_far_outside_border_is_the_end_node_and_zeros_is_nothing() -> None:
    p = torch.tensor([-1e6, -4.0, 4.0, 1e6], dtype=torch.float64)
    last = torch.zeros(4, 6, dtype=torch.float64)
    last[:2, 0] = last[2:, 5] = 1
    torch.testing.assert_close(dense(ir.ops.cubic_band(p, 6), 6), last, rtol=0, atol=1e-14)
    assert not ir.ops.cubic_band(p, 6, padding="zeros")[1].any()


def interior(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Points whose four taps are all nodes."""
    return (torch.rand(count, dtype=torch.float64, generator=rng) * 2 - 1) * (1 - 2 / (size - 1))


@pytest.mark.parametrize(("a", "degree"), [(-0.75, 0), (-0.25, 0), (-0.5, 2)])
def test_reproduces_polynomials(a: float, degree: int, rng: torch.Generator) -> None:
    size = 11
    p = interior(50, size, rng)
    nodes = torch.linspace(-1, 1, size, dtype=torch.float64)
    matrix = dense(ir.ops.cubic_band(p, size, a=a), size)
    for power in range(4):
        error = (matrix @ nodes**power - p**power).abs().max()
        assert (error < 1e-13) == (power <= degree), (power, error)


def test_converges_with_order_three(rng: torch.Generator) -> None:
    errors = []
    for size in (33, 65, 129):
        p = interior(4000, 33, rng)
        nodes = torch.linspace(-1, 1, size, dtype=torch.float64)
        errors.append(
            (dense(ir.ops.cubic_band(p, size, a=-0.5), size) @ torch.sin(4 * nodes) - torch.sin(4 * p)).abs().max()
        )
    for coarse, fine in itertools.pairwise(errors):
        assert 2**2.8 < coarse / fine < 2**3.3


def test_antialiasing_averages_what_a_sample_stands_for() -> None:
    nodes = 12  # at 4 points, on the nodes 1, 4, 7 and 10
    alternating = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(nodes // 2)
    p = UniformPartition(4, kind="centered", nodes=nodes)()
    plain = dense(ir.ops.cubic_band(p, nodes, a=-0.5), nodes) @ alternating
    smooth = dense(ir.ops.cubic_band(p, nodes, a=-0.5, antialias=True), nodes) @ alternating
    assert plain.abs().min() == 1
    assert smooth.abs().max() < 0.1
    # More points than nodes: nothing to average, and the interpolating band itself where no tap is dropped.
    fine = UniformPartition(40, kind="centered", nodes=nodes)()[8:-8]
    torch.testing.assert_close(
        dense(ir.ops.cubic_band(fine, nodes, antialias=True), nodes), dense(ir.ops.cubic_band(fine, nodes), nodes)
    )


@pytest.mark.parametrize("points", [[0.3], [0.1, 0.1, 0.1], [0.9, -0.9, 0.2, 0.21]])
def test_antialiasing_of_one_repeated_and_unsorted_points(points: list[float]) -> None:
    p = torch.tensor(points, dtype=torch.float64)
    weight = dense(ir.ops.cubic_band(p, 9, antialias=True), 9)
    torch.testing.assert_close(weight, reference.cubic_band(p, 9, antialias=True)[1], rtol=0, atol=1e-13)
    torch.testing.assert_close(weight.sum(1), torch.ones(len(points), dtype=torch.float64), rtol=0, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("a", [-0.75, -0.5])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_gradients(mode: dict[str, Any], a: float) -> None:
    """At points off the nodes: at a node the second derivative of Keys' kernel jumps."""
    p = torch.tensor([-1.37, -0.93, -0.31, 0.123, 0.417, 0.79, 1.21], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.7, 1.3, 0.9], dtype=torch.float64, requires_grad=True)
    for size in (3, 8, 23):

        def weights(p: Tensor, scale: Tensor, size: int = size) -> Tensor:
            return ir.ops.cubic_band(p, size, scale, a=a, **mode)[1]

        assert torch.autograd.gradcheck(weights, (p, scale), eps=1e-7)
        assert torch.autograd.gradgradcheck(weights, (p, scale), eps=1e-7)


def test_gradient_at_the_nodes_is_the_central_difference() -> None:
    """Keys' kernel is continuously differentiable, so the first derivative is unambiguous at a node as well."""
    size, h = 9, 1e-6
    nodes = torch.linspace(-1, 1, size, dtype=torch.float64)
    values = torch.sin(3 * nodes) + nodes**2
    p = nodes[1:-1].clone().requires_grad_()
    sample = dense(ir.ops.cubic_band(p, size), size) @ values
    (slope,) = torch.autograd.grad(sample.sum(), p)
    ahead, behind = (dense(ir.ops.cubic_band(nodes[1:-1] + d, size), size) @ values for d in (h, -h))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=0, atol=1e-4)


def test_gradient_reaches_points_of_any_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        p = torch.tensor([-0.5, 0.3], dtype=dtype, requires_grad=True)
        ir.ops.cubic_band(p, 6)[1][:, 1].sum().backward()
        assert p.grad is not None
        assert p.grad.dtype == dtype
        assert p.grad.abs().min() > 0


def test_forward_mode(rng: torch.Generator) -> None:
    """A band is torch's own arithmetic: tangents pass, and a cached band without them does not serve instead."""
    p = interior(6, 9, rng)
    ir.ops.cubic_band(p, 9)
    _, tangent = torch.func.jvp(lambda p: ir.ops.cubic_band(p, 9)[1], (p,), (torch.ones_like(p),))
    jacobian = torch.autograd.functional.jacobian(lambda p: ir.ops.cubic_band(p, 9)[1], p)
    torch.testing.assert_close(tangent, jacobian.sum(-1))
    assert not torch._C._functorch.is_functorch_wrapped_tensor(ir.ops.cubic_band(p, 9)[1])


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("size", [2, 5, 40])
def test_points_that_nobody_looked_at_make_no_stray_read(size: int, mode: dict[str, Any]) -> None:
    """As on a GPU, where a training step does not wait for a check: NaN makes NaN, nothing makes a bad start."""
    options = {"padding": "border", "antialias": False, **mode}
    good = torch.tensor([-0.2, 0.3, 0.9, -0.7, 0.1], dtype=torch.float64)
    _, expected = _build(good, size, None, -0.75, **options)
    for bad in (math.nan, math.inf, -math.inf, 1e300):
        points = good.clone()
        points[2] = bad
        start, weight = _build(points, size, None, -0.75, **options)
        assert start.min() >= 0
        assert start.max() <= size - weight.shape[1]
        if math.isnan(bad):
            assert weight[2].isnan().all()
        assert weight[[0, 4]].isfinite().all()
        if weight.shape == expected.shape:
            assert torch.equal(weight[[0, 4]], expected[[0, 4]])


@pytest.mark.parametrize("antialias", [False, True])
def test_meta_points(antialias: bool) -> None:
    p = torch.zeros(5, device="meta")
    start, weight = ir.ops.cubic_band(p, 9, p, antialias=antialias)
    assert start.is_meta
    assert weight.is_meta
    assert (start.shape, weight.shape) == ((5,), (5, 9 if antialias else 4))


# ---------------------------------------------------------------------------------------------------------------- cache


def shared(
    p: Tensor,
    size: int,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
    a: float = -0.75,
    padding: str = "border",
    antialias: bool = False,
) -> tuple[Tensor, Tensor]:
    """The tensors that the cache holds."""
    return cubic_band_as(dtype, p, size, scale, a, padding, antialias)


def test_cached_by_identity_and_version() -> None:
    p, scale = torch.linspace(-1, 1, 5), torch.ones(5)
    band = shared(p, 8, scale)
    assert shared(p, 8, scale) is band
    assert shared(p.clone(), 8, scale) is not band
    assert shared(p, 8) is not band
    assert shared(p, 9, scale) is not band
    assert shared(p, 8, scale, a=-0.5) is not band
    assert shared(p, 8, scale, padding="zeros") is not band
    assert shared(p, 8, scale, antialias=True) is not band
    assert shared(p, 8, scale, torch.float32)[1].dtype == torch.float32
    assert shared(p, 8, scale) is band


def test_writing_to_a_band_changes_no_other() -> None:
    p = torch.linspace(-1, 1, 5)
    expected = [x.clone() for x in ir.ops.cubic_band(p, 8)]
    for x in ir.ops.cubic_band(p, 8):
        x.zero_()
    assert all(map(torch.equal, ir.ops.cubic_band(p, 8), expected))


@pytest.mark.parametrize("changed", ["points", "scale"])
def test_in_place_change_makes_a_new_band(changed: str) -> None:
    tensors = {"points": torch.linspace(-0.9, 0.9, 5), "scale": torch.ones(5)}
    _, before = ir.ops.cubic_band(tensors["points"], 8, tensors["scale"])
    tensors[changed].mul_(0.5)
    _, after = ir.ops.cubic_band(tensors["points"], 8, tensors["scale"])
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, ir.ops.cubic_band(tensors["points"].clone(), 8, tensors["scale"].clone())[1])


def test_not_cached_where_a_gradient_is_needed() -> None:
    p = torch.nn.Parameter(torch.linspace(-0.9, 0.9, 5))
    with torch.no_grad():
        assert shared(p, 8) is shared(p, 8)
    first, second = shared(p, 8), shared(p, 8)
    assert first is not second
    assert first[1].requires_grad
    first[1].square().sum().backward()
    second[1].square().sum().backward()


def test_band_made_without_gradient_does_not_serve_one_that_needs_it() -> None:
    p = torch.nn.Parameter(torch.linspace(-0.9, 0.9, 5))
    with torch.no_grad():
        ir.ops.cubic_band(p, 8)
    assert ir.ops.cubic_band(p, 8)[1].requires_grad


def test_inference_mode_tensors_are_sampled_uncached() -> None:
    with torch.inference_mode():
        p = torch.linspace(-1, 1, 5)
        assert shared(p, 8) is not shared(p, 8)
    band = ir.ops.cubic_band(torch.linspace(-1, 1, 5), 8)
    assert not band[1].is_inference()


def test_band_cached_under_inference_mode_serves_autograd() -> None:
    p = torch.linspace(-1, 1, 5)
    values = torch.randn(8, requires_grad=True)
    with torch.inference_mode():
        ir.ops.sample_weight(values, p, dims=0)
    ir.ops.sample_weight(values, p, dims=0).sum().backward()
    assert values.grad is not None


def test_cache_is_bounded() -> None:
    kept = [torch.linspace(-1, 1, 3) for _ in range(_cache.capacity + 10)]
    for p in kept:
        ir.ops.cubic_band(p, 4)
    assert len(_cache.entries) == _cache.capacity
    assert shared(kept[-1], 4) is shared(kept[-1], 4)


def test_bands_die_with_their_points() -> None:
    p, scale = torch.linspace(-1, 1, 3), torch.ones(3)
    gone = [weakref.ref(x) for x in (p, scale, shared(p, 4, scale)[1])]
    del p
    gc.collect()
    assert gone[0]() is None
    ir.ops.cubic_band(torch.linspace(-1, 1, 3), 4)
    assert gone[2]() is None
    assert gone[1]() is scale


def test_identity_of_a_dead_tensor_is_not_mistaken_for_a_new_one() -> None:
    """An id is used again once its tensor is gone: the same key, another tensor."""
    cache = _BandCache(capacity=4)
    p, other = torch.zeros(3), torch.ones(3)
    band = ir.ops.cubic_band(p, 4)
    cache.put("key", (p,), band)
    assert cache.get("key", (p,)) is band
    assert cache.get("key", (other,)) is None
    assert cache.get("key", (p,)) is None


# ------------------------------------------------------------------------------------------------------------ bad input

P = torch.linspace(-1, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0, 1.0], 4), TypeError, "points: expected a tensor, got"),
        ((torch.arange(3), 4), TypeError, "points: expected a floating-point tensor, got a torch.int64"),
        ((P[None], 4), ValueError, r"points: expected a non-empty tensor of shape \[M\], got .*\(1, 4\)"),
        ((P[:0], 4), ValueError, r"points: expected a non-empty tensor of shape \[M\], got .*\(0,\)"),
        ((torch.tensor([0.0, float("nan")]), 4), ValueError, "points: expected finite values"),
        ((torch.tensor([0.0, float("inf")]), 4), ValueError, "points: expected finite values"),
        (
            (torch.tensor([-1e308], dtype=torch.float64), 4),
            ValueError,
            r"points: expected finite values of at most 1e\+06 .* got 1e",
        ),
        ((P, 1), ValueError, "size: expected an int of at least 2, got 1"),
        ((P, 4.0), TypeError, "size: expected an int of at least 2, got 4.0"),
        ((P, True), TypeError, "size: expected an int of at least 2, got True"),
        ((P, 4, [1.0] * 4), TypeError, "scale: expected a tensor"),
        ((P, 4, torch.ones(4, dtype=torch.int32)), TypeError, "scale: expected a floating-point tensor"),
        ((P, 4, torch.ones(3)), ValueError, r"scale: expected shape \(4,\) .* got .*\(3,\)"),
        ((P, 4, torch.ones(4, device="meta")), ValueError, "scale: expected .* on cpu like points"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_tensors_and_sizes(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ir.ops.cubic_band(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding": "wrap"}, ValueError, "padding: expected one of 'border', 'zeros', 'reflection', got 'wrap'"),
        ({"padding": ["border"]}, ValueError, "padding: expected one of"),
        ({"a": float("nan")}, ValueError, "a: expected a .*number"),
        ({"a": float("inf")}, ValueError, "a: expected a finite number, got inf"),
        ({"a": "cubic"}, TypeError, "a: expected a number"),
        ({"antialias": "no"}, TypeError, "antialias: expected a bool, got 'no'"),
        ({"a": torch.tensor(-0.5)}, TypeError, "a: expected a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ir.ops.cubic_band(P, 4, **options)
