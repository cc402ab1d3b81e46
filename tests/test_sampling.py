"""Sampling through bands: every op against dense matrices, derivatives of every order, NaN, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DTYPES, Backend, leaves, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import integralrob as ir

OPS = torch.ops.integralrob


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_band(
    size: int, points: int, taps: int, dtype: torch.dtype, rng: torch.Generator, device: str
) -> tuple[Tensor, Tensor]:
    """Any starts (unsorted, duplicate), some weights exactly zero."""
    start = torch.randint(0, size - taps + 1, (points,), generator=rng)
    weight = torch.randn(points, taps, dtype=torch.float64, generator=rng)
    weight[torch.rand(points, taps, generator=rng) < 0.1] = 0
    return start.to(device), weight.to(device=device, dtype=wide(dtype))


def dense(start: Tensor, weight: Tensor, size: int) -> Tensor:
    """The band as a float64 matrix ``[M, size]``."""
    node = start[:, None] + torch.arange(weight.shape[1], device=start.device)
    return weight.new_zeros(weight.shape[0], size, dtype=torch.float64).scatter_add(1, node, weight.double())


def gather(matrix: Tensor, start: Tensor, taps: int) -> Tensor:
    """``[M, size] -> [M, T]``: the derivative by the dense matrix -> the derivative by the band's weights."""
    return matrix.gather(1, start[:, None] + torch.arange(taps, device=start.device))


def products(equation: str, *factors: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of products in float64, and the sum of their absolute values."""
    exact = [factor.double() for factor in factors]
    return torch.einsum(equation, *exact), torch.einsum(equation, *(factor.abs() for factor in exact))


def assert_sum_close(actual: Tensor, expected: Tensor, magnitude: Tensor, terms: int) -> None:
    """Within the error bound of a sum of `terms` products: `magnitude` is the sum of their absolute values."""
    out, sums = torch.finfo(actual.dtype), torch.finfo(wide(actual.dtype))
    assert actual.shape == expected.shape
    bound = (out.eps + terms * sums.eps) * magnitude + 2 * out.smallest_normal * out.eps
    excess = (actual.double() - expected).abs() - bound
    assert not excess.numel() or excess.max() <= 0, excess.max()


# (S0, M0, T0, S1, M1, T1): plain, square, one point, taps on all nodes, many taps, enlarging, one node, long, no points
SHAPES = [
    (12, 9, 4, 17, 13, 4),
    (8, 8, 4, 8, 8, 4),
    (5, 1, 4, 6, 1, 4),
    (4, 7, 4, 3, 5, 3),
    (40, 6, 20, 33, 5, 17),
    (6, 50, 4, 5, 70, 2),
    (1, 3, 1, 1, 2, 1),
    (3, 4, 3, 700, 500, 4),
    (7, 0, 4, 9, 5, 4),
    (7, 5, 4, 9, 0, 4),
]
INNERS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 31, 32, 33, 40]
LONG_INNERS = [1, 3, 9, 20]


# -------------------------------------------------------------------------------------------- each op, against matrices


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_2d_ops_equal_dense_products(
    backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator
) -> None:
    size0, points0, taps0, size1, points1, taps1 = shape
    for inner in INNERS if size1 < 100 else LONG_INNERS:
        values = random((size0, size1, inner), dtype, rng, backend.device)
        grad = random((points0, points1, inner), dtype, rng, backend.device)
        start0, weight0 = random_band(size0, points0, taps0, dtype, rng, backend.device)
        start1, weight1 = random_band(size1, points1, taps1, dtype, rng, backend.device)
        matrix0, matrix1 = dense(start0, weight0, size0), dense(start1, weight1, size1)

        sample = OPS.sample_2d(values, start0, weight0, start1, weight1)
        assert sample.dtype == dtype
        assert sample.is_contiguous()
        assert_sum_close(sample, *products("os,it,str->oir", matrix0, matrix1, values), taps0 + taps1)

        adjoint = OPS.sample_2d_adjoint(grad, start0, weight0, start1, weight1, size0, size1)
        assert adjoint.dtype == dtype
        assert_sum_close(adjoint, *products("os,it,oir->str", matrix0, matrix1, grad), points0 + points1)

        grad0 = OPS.sample_2d_weight0_grad(grad, values, start0, start1, weight1, taps0)
        assert grad0.dtype == wide(dtype)
        expected, magnitude = (gather(x, start0, taps0) for x in products("oir,it,str->os", grad, matrix1, values))
        assert_sum_close(grad0, expected, magnitude, points1 + size1 * inner + points1 * inner)

        grad1 = OPS.sample_2d_weight1_grad(grad, values, start0, weight0, start1, taps1)
        assert grad1.dtype == wide(dtype)
        expected, magnitude = (gather(x, start1, taps1) for x in products("oir,os,str->it", grad, matrix0, values))
        assert_sum_close(grad1, expected, magnitude, taps0 + points0 * inner)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("outer", [0, 1, 11])
def test_1d_ops_equal_dense_products(
    backend: Backend, outer: int, shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator
) -> None:
    size, points, taps = shape[3:]
    for inner in INNERS if size < 100 else LONG_INNERS:
        values = random((outer, size, inner), dtype, rng, backend.device)
        grad = random((outer, points, inner), dtype, rng, backend.device)
        start, weight = random_band(size, points, taps, dtype, rng, backend.device)
        matrix = dense(start, weight, size)

        sample = OPS.sample_1d(values, start, weight)
        assert sample.dtype == dtype
        assert sample.is_contiguous()
        assert_sum_close(sample, *products("mt,ltr->lmr", matrix, values), taps)

        adjoint = OPS.sample_1d_adjoint(grad, start, weight, size)
        assert adjoint.dtype == dtype
        assert_sum_close(adjoint, *products("mt,lmr->ltr", matrix, grad), points)

        weight_grad = OPS.sample_1d_weight_grad(grad, values, start, taps)
        assert weight_grad.dtype == wide(dtype)
        expected, magnitude = (gather(x, start, taps) for x in products("lmr,ltr->mt", grad, values))
        assert_sum_close(weight_grad, expected, magnitude, outer * inner + 1)


def test_strided_arguments(backend: Backend, rng: torch.Generator) -> None:
    def strided(shape: tuple[int, ...]) -> Tensor:
        """Neither contiguous nor starting where its storage does."""
        big = random((shape[-1] + 1, *[2 * size for size in shape[:-1]]), torch.float64, rng, backend.device)
        return big[1:].movedim(0, -1)[tuple(slice(1, None, 2) for _ in shape[:-1])]

    values, grad = strided((9, 8, 5)), strided((6, 7, 5))
    (start0, weight0), (start1, weight1) = (
        (torch.randint(0, 5, (2 * points,), generator=rng).to(backend.device)[::2], strided((points, 4)))
        for points in (6, 7)
    )
    assert not any(tensor.is_contiguous() for tensor in (values, grad, start0, weight0, start1, weight1))
    arguments = {
        OPS.sample_2d: (values, start0, weight0, start1, weight1),
        OPS.sample_2d_adjoint: (grad, start0, weight0, start1, weight1, 9, 8),
        OPS.sample_2d_weight0_grad: (grad, values, start0, start1, weight1, 4),
        OPS.sample_2d_weight1_grad: (grad, values, start0, weight0, start1, 4),
        OPS.sample_1d: (values, start0, weight0),
        OPS.sample_1d_adjoint: (grad, start1, weight1, 8),
        OPS.sample_1d_weight_grad: (strided((9, 7, 5)), values, start1, 4),
    }
    for op, given_arguments in arguments.items():
        compact = [x.contiguous() if isinstance(x, Tensor) else x for x in given_arguments]
        before = [x.clone() for x in compact if isinstance(x, Tensor)]
        torch.testing.assert_close(op(*given_arguments), op(*compact), rtol=1e-14, atol=1e-14)
        assert all(map(torch.equal, before, (x for x in given_arguments if isinstance(x, Tensor)))), op


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    points=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    inner=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_adjoint_identity(
    backend: Backend, sizes: tuple[int, int], points: tuple[int, int], inner: int, seed: int
) -> None:
    """``<sample(v), g> = <v, adjoint(g)>``, also as each of the weight gradients sees it."""
    rng = torch.Generator().manual_seed(seed)
    v = random((*sizes, inner), torch.float64, rng, backend.device)
    g = random((*points, inner), torch.float64, rng, backend.device)
    bands = [
        random_band(size, count, min(4, size), torch.float64, rng, backend.device)
        for size, count in zip(sizes, points, strict=True)
    ]
    (start0, weight0), (start1, weight1) = bands
    form = (ir.ops.sample_2d(v, start0, weight0, start1, weight1) * g).sum()
    scale = v.abs().sum() * g.abs().sum()
    for other in (
        (ir.ops.sample_2d_adjoint(g, start0, weight0, start1, weight1, *sizes) * v).sum(),
        (OPS.sample_2d_weight0_grad(g, v, start0, start1, weight1, weight0.shape[1]) * weight0).sum(),
        (OPS.sample_2d_weight1_grad(g, v, start0, weight0, start1, weight1.shape[1]) * weight1).sum(),
    ):
        assert (form - other).abs() <= 1e-13 * scale
    row = random((3, points[1], inner), torch.float64, rng, backend.device)
    control = random((3, sizes[1], inner), torch.float64, rng, backend.device)
    form = (ir.ops.sample_1d(control, start1, weight1) * row).sum()
    for other in (
        (ir.ops.sample_1d_adjoint(row, start1, weight1, sizes[1]) * control).sum(),
        (OPS.sample_1d_weight_grad(row, control, start1, weight1.shape[1]) * weight1).sum(),
    ):
        assert (form - other).abs() <= 1e-13 * control.abs().sum() * row.abs().sum()


# -------------------------------------------------------------------------------------------------------- NaN, infinity


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inner", [1, 2, 9, 20])
def test_a_tap_of_weight_zero_is_not_read(
    backend: Backend, inner: int, dtype: torch.dtype, poison: float, rng: torch.Generator
) -> None:
    size, points = 40, 37
    start, weight = ir.ops.cubic_band(torch.linspace(-1, 1, points, dtype=torch.float64), size)
    weight[::3, 2] = 0
    weight = weight.to(wide(dtype))
    reads = dense(start, weight, size) != 0
    for node in (0, 13, size - 1):
        values = random((size, size, inner), dtype, rng, "cpu")
        values[node, node, -1] = poison
        samples = ir.ops.sample_2d(*(x.to(backend.device) for x in (values, start, weight, start, weight)))
        expected = torch.zeros(points, points, inner, dtype=torch.bool)
        expected[..., -1] = reads[:, node, None] & reads[None, :, node]
        assert torch.equal(~samples.cpu().isfinite(), expected)

        rows = ir.ops.sample_1d(*(x.to(backend.device) for x in (values, start, weight)))
        expected = torch.zeros(size, points, inner, dtype=torch.bool)
        expected[node, :, -1] = reads[:, node]
        assert torch.equal(~rows.cpu().isfinite(), expected)

    grad = random((points, points, inner), dtype, rng, "cpu")
    grad[5, 6, 0] = poison
    adjoint = ir.ops.sample_2d_adjoint(
        *(x.to(backend.device) for x in (grad, start, weight, start, weight)), size, size
    )
    expected = torch.zeros(size, size, inner, dtype=torch.bool)
    expected[..., 0] = reads[5][:, None] & reads[6]
    assert torch.equal(~adjoint.cpu().isfinite(), expected)


# ---------------------------------------------------------------------------------------------------------- derivatives


def raw_cases(device: str, rng: torch.Generator) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Each op as a function of its floating-point arguments alone."""
    start0, weight0 = random_band(4, 3, 3, torch.float64, rng, device)
    start1, weight1 = random_band(3, 2, 2, torch.float64, rng, device)
    v = random((4, 3, 2), torch.float64, rng, device)
    g = random((3, 2, 2), torch.float64, rng, device)
    rows = random((4, 2, 2), torch.float64, rng, device)
    return {
        "sample_1d": (lambda v, w: OPS.sample_1d(v, start1, w), (v, weight1)),
        "sample_1d_adjoint": (lambda g, w: OPS.sample_1d_adjoint(g, start1, w, 3), (rows, weight1)),
        "sample_1d_weight_grad": (lambda g, v: OPS.sample_1d_weight_grad(g, v, start1, 2), (rows, v)),
        "sample_2d": (lambda v, w0, w1: OPS.sample_2d(v, start0, w0, start1, w1), (v, weight0, weight1)),
        "sample_2d_adjoint": (
            lambda g, w0, w1: OPS.sample_2d_adjoint(g, start0, w0, start1, w1, 4, 3),
            (g, weight0, weight1),
        ),
        "sample_2d_weight0_grad": (
            lambda g, v, w1: OPS.sample_2d_weight0_grad(g, v, start0, start1, w1, 3),
            (g, v, weight1),
        ),
        "sample_2d_weight1_grad": (
            lambda g, v, w0: OPS.sample_2d_weight1_grad(g, v, start0, w0, start1, 2),
            (g, v, weight0),
        ),
    }


@pytest.mark.parametrize("name", raw_cases("cpu", torch.Generator()))
def test_gradients_of_each_op(backend: Backend, name: str, rng: torch.Generator) -> None:
    op, arguments = raw_cases(backend.device, rng)[name]
    assert torch.autograd.gradcheck(op, leaves(*arguments))
    assert torch.autograd.gradgradcheck(op, leaves(*arguments))


def test_third_derivative(backend: Backend, rng: torch.Generator) -> None:
    """The form is linear in each factor, so its third derivative, applied to directions, is the form of these."""
    start0, weight0 = random_band(5, 4, 4, torch.float64, rng, backend.device)
    start1, weight1 = random_band(6, 3, 4, torch.float64, rng, backend.device)
    v, dv = (random((5, 6, 2), torch.float64, rng, backend.device) for _ in range(2))
    g = random((4, 3, 2), torch.float64, rng, backend.device)
    d0, d1 = (random(tuple(w.shape), torch.float64, rng, backend.device) for w in (weight0, weight1))
    v, weight0, weight1 = leaves(v, weight0, weight1)
    slope = (ir.ops.sample_2d(v, start0, weight0, start1, weight1) * g).sum()
    for factor, direction in ((v, dv), (weight0, d0), (weight1, d1)):
        (partial,) = torch.autograd.grad(slope, factor, create_graph=True)
        slope = (partial * direction).sum()
    torch.testing.assert_close(slope.detach(), (ir.ops.sample_2d(dv, start0, d0, start1, d1) * g).sum())


# ------------------------------------------------------------------------------------------------------------ bad input

V = torch.zeros(4, 5, 2)


START, WEIGHT = torch.tensor([0, 1]), torch.ones(2, 2)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (V[0], ValueError, r": expected shape \[.*\], got .*\(5, 2\)"),
        (V.long(), TypeError, ": expected a floating-point tensor, got a torch.int64"),
        (V.to(torch.float8_e5m2), TypeError, ": expected float16, bfloat16, float32 or float64, got torch.float8_e5m2"),
        (1.0, TypeError, ": expected a tensor, got 1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_values_of_the_band_functions(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="values" + message):
        ir.ops.sample_1d(values, START, WEIGHT)
    with pytest.raises(error, match="values" + message):
        ir.ops.sample_2d(values, START, WEIGHT, START, WEIGHT)
    with pytest.raises(error, match="grad" + message):
        ir.ops.sample_1d_adjoint(values, START, WEIGHT, 4)
    with pytest.raises(error, match="grad" + message):
        ir.ops.sample_2d_adjoint(values, START, WEIGHT, START, WEIGHT, 4, 4)


@pytest.mark.parametrize(
    ("start", "weight", "error", "message"),
    [
        ([0, 1], WEIGHT, TypeError, "start{}: expected a tensor"),
        (START.int(), WEIGHT, ValueError, r"start{}: expected an int64 tensor of shape \[M\], got a torch.int32"),
        (START[None], WEIGHT, ValueError, "start{}: expected an int64 tensor"),
        (START.to("meta"), WEIGHT, ValueError, "start{}: expected it on cpu like the values, got meta"),
        (START, [[1.0]], TypeError, "weight{}: expected a tensor"),
        (START, WEIGHT[0], ValueError, r"weight{}: expected shape \[2, T\], T >= 1, got .*\(2,\)"),
        (START, WEIGHT[:1], ValueError, r"weight{}: expected shape \[2, T\], T >= 1, got .*\(1, 2\)"),
        (START, WEIGHT[:, :0], ValueError, r"weight{}: expected shape \[2, T\], T >= 1, got .*\(2, 0\)"),
        (START, WEIGHT.long(), TypeError, "weight{}: expected a floating-point tensor"),
        (
            START,
            WEIGHT.double(),
            TypeError,
            "weight{}: expected torch.float32 for torch.float32 values, got torch.float64",
        ),
        (
            START,
            WEIGHT.half(),
            TypeError,
            "weight{}: expected torch.float32 for torch.float32 values, got torch.float16",
        ),
        (START, torch.ones(2, 6), ValueError, "weight{}: expected at most . taps for . control values, got 6"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_bands(start: Any, weight: Any, error: type[Exception], message: str) -> None:
    grad = V[:2, :2]
    with pytest.raises(error, match=message.format("")):
        ir.ops.sample_1d(V, start, weight)
    with pytest.raises(error, match=message.format("")):
        ir.ops.sample_1d_adjoint(grad, start, weight, 5)
    for axis in (0, 1):
        bands = [START, WEIGHT, START, WEIGHT]
        bands[2 * axis : 2 * axis + 2] = [start, weight]
        with pytest.raises(error, match=message.format(axis)):
            ir.ops.sample_2d(V, *bands)
        with pytest.raises(error, match=message.format(axis)):
            ir.ops.sample_2d_adjoint(grad, *bands, 4, 5)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (1, ValueError, "weight{}: expected at most 1 taps for 1 control values, got 2"),
        (0, ValueError, "size{}: expected an int of at least 1, got 0"),
        (2.0, TypeError, "size{}: expected an int of at least 1, got 2.0"),
    ],
)
def test_bad_sizes_of_adjoints(size: Any, error: type[Exception], message: str) -> None:
    grad = V[:2, :2]
    with pytest.raises(error, match=message.format("")):
        ir.ops.sample_1d_adjoint(grad, START, WEIGHT, size)
    with pytest.raises(error, match=message.format("0")):
        ir.ops.sample_2d_adjoint(grad, START, WEIGHT, START, WEIGHT, size, 4)
    with pytest.raises(error, match=message.format("1")):
        ir.ops.sample_2d_adjoint(grad, START, WEIGHT, START, WEIGHT, 4, size)


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 3, 2)])
def test_adjoints_check_the_number_of_samples(backend: Backend, shape: tuple[int, ...]) -> None:
    """A kernel that took the number of points from one argument and the memory from another would read past its end."""
    grad = torch.zeros(shape, device=backend.device)
    start, weight = START.to(backend.device), WEIGHT.to(backend.device)
    with pytest.raises((ValueError, RuntimeError), match="grad: expected"):
        ir.ops.sample_2d_adjoint(grad, start, weight, start, weight, 4, 5)
    if shape[1] == 3:
        with pytest.raises((ValueError, RuntimeError), match="grad: expected"):
            ir.ops.sample_1d_adjoint(grad, start, weight, 4)


@pytest.mark.parametrize("first", [-1, 4, 2**62, -(2**63)])
def test_start_out_of_range_is_an_error_or_nan_but_no_stray_read(backend: Backend, first: int) -> None:
    """Of the second point, whose samples are NaN where the starts are not looked at: that would wait for the GPU."""
    v, start, weight = (x.to(backend.device) for x in (V + 1, START, WEIGHT))
    bad = torch.tensor([0, first], device=backend.device)
    g, second, all_of_it = v[:2, :2], slice(1, None), slice(None)
    taps = slice(2)  # an adjoint takes the start for 0
    # Each call, the dim along which some of its results are NaN, and where along it.
    calls: list[tuple[Callable[[], Tensor], int, slice]] = [
        (lambda: ir.ops.sample_1d(v, bad, weight), 1, second),
        (lambda: ir.ops.sample_1d_adjoint(v[:, :2], bad, weight, 5), 1, taps),
        (lambda: ir.ops.sample_2d(v, start, weight, bad, weight), 1, second),
        (lambda: ir.ops.sample_2d(v[:, :4], bad, weight, start, weight), 0, second),
        (lambda: ir.ops.sample_2d_adjoint(g, start, weight, bad, weight, 3, 5), 1, taps),
        (lambda: ir.ops.sample_2d_adjoint(g, bad, weight, start, weight, 5, 3), 0, taps),
        (lambda: OPS.sample_1d_weight_grad(v[:, :2], v, bad, 2), 0, second),
        (lambda: OPS.sample_2d_weight0_grad(g, v, bad, start, weight, 2), 0, second),
        (lambda: OPS.sample_2d_weight0_grad(g, v, start, bad, weight, 2), 0, all_of_it),
        (lambda: OPS.sample_2d_weight1_grad(g, v, start, weight, bad, 2), 0, second),
        (lambda: OPS.sample_2d_weight1_grad(g, v, bad, weight, start, 2), 0, all_of_it),
    ]
    for call, dim, where in calls:
        if backend.looks_at_starts:
            with pytest.raises((RuntimeError, IndexError), match=r"start|out of (range|.*bounds)"):
                call()
            continue
        out = call()
        expected = torch.zeros_like(out, dtype=torch.bool).movedim(dim, 0)
        expected[where] = True
        assert torch.equal(out.isnan(), expected.movedim(0, dim))
        assert not out.isinf().any()
