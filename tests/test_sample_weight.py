"""`sample_weight`: against torch's own resampling, what it reproduces, derivatives, determinism, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES, MODES, Backend, leaves, random
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import integralrob as ir
from integralrob.ops.bands import PADDINGS
from integralrob.partition import UniformPartition


def grid_sample(values: Tensor, points0: Tensor, points1: Tensor, padding: str) -> Tensor:
    """Listing 1 of the supplement, on the CPU: ``[S0, S1, R] -> [M0, M1, R]``."""
    values, points0, points1 = values.cpu(), points0.cpu(), points1.cpu()
    grid = torch.stack(torch.meshgrid(points1, points0, indexing="xy"), dim=-1).to(values.dtype)
    image = values.movedim(2, 0)[None]
    return F.grid_sample(image, grid[None], mode="bicubic", padding_mode=padding, align_corners=True)[0].movedim(0, 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_grid_sample(
    backend: Backend, padding: str, dtype: torch.dtype, tolerance: float, rng: torch.Generator
) -> None:
    for size0, size1, points0, points1, inner in [
        (12, 9, 8, 20, 3),
        (4, 5, 6, 7, 1),
        (64, 48, 48, 33, 9),
        (2, 3, 5, 4, 2),
    ]:
        values = torch.rand(size0, size1, inner, dtype=dtype, generator=rng).to(backend.device)
        # Unsorted, duplicate, at the ends, and outside on both sides.
        axes = [
            (torch.rand(count, dtype=dtype, generator=rng) * 3 - 1.5).to(backend.device) for count in (points0, points1)
        ]
        for p in axes:
            p[-1] = p[0]
            p[1], p[2] = -1, 1
        expected = grid_sample(values.double(), *(p.double() for p in axes), padding)
        actual = ir.ops.sample_weight(values, tuple(axes), padding=padding)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(actual.cpu(), grid_sample(values, *axes, padding), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("sizes", "points"),
    [
        ((16, 12), (16, 12)),
        ((16, 12), (8, 3)),
        ((17, 9), (10, 7)),
        ((5, 6), (13, 20)),
        ((64, 40), (5, 55)),
        ((7, 9), (1, 1)),
    ],
    ids=str,
)
def test_antialiased_equals_interpolate(
    backend: Backend, sizes: tuple[int, int], points: tuple[int, int], dtype: torch.dtype, rng: torch.Generator
) -> None:
    values = torch.rand(*sizes, 3, dtype=dtype, generator=rng).to(backend.device)
    axes = tuple(
        (UniformPartition(count, kind="centered", nodes=size)() if count > 1 else torch.zeros(1)).to(backend.device)
        for count, size in zip(points, sizes, strict=True)
    )
    actual = ir.ops.sample_weight(values, axes, a=-0.5, antialias=True)
    image = values.cpu().movedim(2, 0)[None].double()
    expected = F.interpolate(image, size=points, mode="bicubic", antialias=True, align_corners=False)[0].movedim(0, 2)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((6, 7, 3, 3), (0, 1)),
        ((6, 7, 3, 3), (1, 0)),
        ((6, 7), (0, 1)),
        ((9,), (0,)),
        ((9,), 0),
        ((9,), -1),
        ((6, 7, 5), (-1, 0)),
        ((6, 7, 5), (1,)),
        ((6, 7, 5, 2), (2, 3)),
        ((6, 7, 5, 4), (0, 2)),
    ],
    ids=str,
)
def test_any_shape_and_dims(
    backend: Backend, shape: tuple[int, ...], dims: Any, mode: dict[str, Any], rng: torch.Generator
) -> None:
    values = random(shape, torch.float64, rng, backend.device)
    listed = (dims,) if isinstance(dims, int) else dims
    points = [
        (torch.rand(4 + d, dtype=torch.float64, generator=rng) * 2.4 - 1.2).to(backend.device)
        for d in range(len(listed))
    ]
    scales = [random(tuple(p.shape), torch.float64, rng, backend.device) for p in points]
    for scaling in (None, scales, [None] * (len(listed) - 1) + scales[-1:]):
        p = points[0] if isinstance(dims, int) else points
        s = scaling[0] if isinstance(dims, int) and scaling is not None else scaling
        actual = ir.ops.sample_weight(values, p, s, dims=dims, a=-0.6, **mode)
        expected = ir.ops.reference.sample_weight(values, p, s, dims=dims, a=-0.6, **mode)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_float32(backend: Backend, dtype: torch.dtype, rng: torch.Generator) -> None:
    """As the float32 result, rounded once."""
    values = random((33, 20, 9), dtype, rng, backend.device)
    points = tuple((torch.rand(count, generator=rng) * 2 - 1).to(backend.device) for count in (24, 15))
    actual = ir.ops.sample_weight(values, points)
    assert actual.dtype == dtype
    exact = ir.ops.sample_weight(values.double(), points)
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).smallest_normal)
    assert ((actual.double() - exact).abs() <= 0.51 * ulp + 1e-6).all()


@pytest.mark.parametrize("a", [-0.75, -0.5])
def test_reproduces_constants_and_for_a_half_quadratics(backend: Backend, a: float, rng: torch.Generator) -> None:
    size0, size1 = 9, 12
    x, y = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (size0, size1))
    p, q = (
        (torch.rand(30, dtype=torch.float64, generator=rng) * 2 - 1) * (1 - 2 / (size - 1)) for size in (size0, size1)
    )

    def polynomial(x: Tensor, y: Tensor) -> Tensor:
        x, y = x[:, None], y
        return 2 + (x - 3 * y + x * y - 0.5 * x**2 + y**2 if a == -0.5 else 0 * x * y)

    sample = ir.ops.sample_weight(
        polynomial(x, y).to(backend.device), (p.to(backend.device), q.to(backend.device)), a=a
    )
    torch.testing.assert_close(sample.cpu(), polynomial(p, q), rtol=0, atol=1e-13)


def test_full_size_returns_the_control_values_bit_for_bit(backend: Backend, rng: torch.Generator) -> None:
    for dtype in DTYPES:
        values = random((10, 7, 3), dtype, rng, backend.device)
        for kind in ("endpoints", "centered"):
            points = tuple(UniformPartition(size, kind=kind, nodes=size)().to(backend.device) for size in (10, 7))
            for mode in MODES:
                assert torch.equal(ir.ops.sample_weight(values, points, **mode), values)


def test_bands_of_a_layer_serve_every_dtype(backend: Backend, rng: torch.Generator) -> None:
    p = torch.linspace(-0.9, 0.8, 5, device=backend.device)
    band = ir.ops.cubic_band(p, 8)
    for dtype in DTYPES:
        values = random((3, 8, 8), dtype, rng, backend.device)
        sampled = ir.ops.sample_with_bands(values, (band, band), (2, 1))
        assert torch.equal(sampled, ir.ops.sample_weight(values, (p, p), dims=(2, 1)))


# ---------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(("shape", "dims"), [((5, 4), (0, 1)), ((2, 5, 2), (1,)), ((4, 1, 5), (2, 0))], ids=str)
def test_gradients_of_sample_weight(
    backend: Backend, shape: tuple[int, ...], dims: tuple[int, ...], mode: dict[str, Any], rng: torch.Generator
) -> None:
    # Not on nodes, where the second derivative jumps, and apart from each other.
    axes = [torch.tensor([-1.21, -0.55, 0.93]), torch.tensor([0.61, -0.23])][: len(dims)]
    axes = [p.double().to(backend.device) for p in axes]
    scales = [random(tuple(p.shape), torch.float64, rng, backend.device) for p in axes]
    values = random(shape, torch.float64, rng, backend.device)
    count = len(axes)

    def sample(values: Tensor, *rest: Tensor) -> Tensor:
        return ir.ops.sample_weight(values, rest[:count], rest[count:], dims=dims, **mode)

    inputs = leaves(values, *axes, *scales)
    assert torch.autograd.gradcheck(sample, inputs, eps=1e-7)
    assert torch.autograd.gradgradcheck(sample, inputs, eps=1e-7)


def test_only_needed_gradients_are_computed(backend: Backend, rng: torch.Generator) -> None:
    values = random((6, 7), torch.float32, rng, backend.device)
    p = torch.linspace(-0.9, 0.9, 5, device=backend.device, requires_grad=True)
    fixed = torch.linspace(-0.8, 0.8, 4, device=backend.device)
    ir.ops.sample_weight(values, (p, fixed)).sum().backward()
    assert p.grad is not None
    assert p.grad.dtype == torch.float32
    assert values.grad is None
    assert fixed.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner", [1, 9])
def test_backward_is_bit_identical_for_any_number_of_threads(
    inner: int, dtype: torch.dtype, rng: torch.Generator
) -> None:
    values = random((300, 200, inner), dtype, rng, "cpu")
    points = tuple(torch.rand(count, generator=rng) * 2 - 1 for count in (220, 260))
    cotangent = random((220, 260, inner), dtype, rng, "cpu")
    row_cotangent = random((300, 260, inner), dtype, rng, "cpu")

    def run() -> list[Tensor]:
        v, p, q = leaves(values, *points)
        both = ir.ops.sample_weight(v, (p, q))
        one = ir.ops.sample_weight(v, q, dims=1)
        torch.autograd.backward((both, one), (cotangent, row_cotangent))
        return [both.detach(), one.detach(), *(x.grad for x in (v, p, q) if x.grad is not None)]

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    assert len(results[0]) == 5
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))


# ------------------------------------------------------------------------------------------------------------ bad input

V = torch.zeros(4, 5, 2)
P = torch.linspace(-1, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1.0]], (P, P)), {}, TypeError, "values: expected a tensor"),
        ((V.int(), (P, P)), {}, TypeError, "values: expected a floating-point tensor"),
        ((V.to(torch.complex64), (P, P)), {}, TypeError, "values: expected a floating-point tensor"),
        ((V.to(torch.float8_e4m3fn), (P, P)), {}, TypeError, "values: expected float16, bfloat16, float32 or float64"),
        ((V[:0], (P, P)), {}, ValueError, r"values: expected a non-empty tensor, got .*\(0, 5, 2\)"),
        ((V[:1], (P, P)), {}, ValueError, r"values: expected at least 2 control values along dim 0, got .*\(1, 5, 2\)"),
        ((torch.tensor(1.0), P), {"dims": 0}, ValueError, "dims: expected different dims of a 0-dim"),
        ((V, (P, P)), {"dims": (0, 3)}, ValueError, r"dims: expected .* of a 3-dimensional tensor, got \(0, 3\)"),
        ((V, (P, P)), {"dims": (0, -3)}, ValueError, "dims: expected different dims"),
        ((V, (P, P, P)), {"dims": (0, 1, 2)}, ValueError, "dims: expected one or two dims, got 3"),
        ((V, ()), {"dims": ()}, ValueError, "dims: expected different dims"),
        ((V, (P, P)), {"dims": (0.0, 1)}, ValueError, "dims: expected different dims"),
        ((V, (P, P)), {"dims": "01"}, ValueError, "dims: expected different dims"),
        ((V, (P, P)), {"dims": None}, ValueError, "dims: expected different dims"),
        ((V, P), {"dims": True}, ValueError, "dims: expected different dims"),
        ((V, P), {}, ValueError, "points: expected one tensor for each of the 2 dims, got 1"),
        ((V, (P, P)), {"dims": 1}, ValueError, "points: expected one tensor for each of the 1 dims, got 2"),
        ((V, None), {}, TypeError, r"points\[0\]: expected a tensor, got None"),
        ((V, 0.5), {}, TypeError, "points: expected"),
        ((V, (P, [0.0])), {}, TypeError, r"points\[1\]: expected a tensor"),
        ((V, (P, P.long())), {}, TypeError, r"points\[1\]: expected a floating-point tensor"),
        ((V, (P, P[:0])), {}, ValueError, r"points\[1\]: expected a non-empty tensor"),
        ((V, (P, P / 0)), {}, ValueError, r"points\[1\]: expected finite values"),
        ((V, (P, P.to("meta"))), {}, ValueError, r"points\[1\]: expected them on cpu like values, got meta"),
        ((V, (P, P), P), {}, ValueError, "scales: expected one tensor for each of the 2 dims, got 1"),
        ((V, (P, P), (None, P[:2])), {}, ValueError, r"scales\[1\]: expected shape \(3,\) on cpu like points\[1\]"),
        ((V, (P, P), 2.0), {}, TypeError, "scales: expected"),
        ((V, (P, P)), {"padding": "wrap"}, ValueError, "padding: expected one of"),
        ((V, (P, P)), {"antialias": "no"}, TypeError, "antialias: expected a bool"),
        ((V, (P, P)), {"a": math.nan}, ValueError, "a: expected a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_arguments_of_sample_weight(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ir.ops.sample_weight(*arguments, **options)


BAND = (torch.tensor([0, 1]), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("values", "bands", "dims", "error", "message"),
    [
        ([1.0], [BAND], [0], TypeError, "values: expected a tensor"),
        (V.int(), [BAND], [0], TypeError, "values: expected a floating-point tensor"),
        (torch.tensor(1.0), [BAND], [0], ValueError, "dims: expected different dims of a 0-dimensional tensor"),
        (V, [BAND], [3], ValueError, r"dims: expected different dims of a 3-dimensional tensor, got \[3\]"),
        (V, [BAND, BAND], [1, -2], ValueError, "dims: expected different dims"),
        (V, [], [], ValueError, "dims: expected different dims"),
        (V, [BAND], [0, 1], ValueError, "bands: expected one .* for each of the 2 dims, got 1"),
        (V, BAND, [0], ValueError, "bands: expected one .* for each of the 1 dims, got 2"),
        (V, None, [0], TypeError, "bands: expected one .* got None"),
        (
            V,
            [BAND, BAND[0]],
            [0, 1],
            TypeError,
            r"bands\[1\]: expected a pair of tensors \(start, weight\), got a torch",
        ),
        (V, [([0, 1], BAND[1])], [0], TypeError, r"bands\[0\]: expected .* got \[0, 1\] \(list\) and"),
        (V, [(BAND[0], BAND[0])], [2], TypeError, r"bands\[0\]: expected .* a floating-point tensor"),
        (V, [(BAND[0][0], BAND[1])], [2], ValueError, "start: expected an int64 tensor of shape"),
    ],
)
def test_bad_arguments_of_sample_with_bands(
    values: Any, bands: Any, dims: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ir.ops.sample_with_bands(values, bands, dims)


def test_numpy_dims() -> None:
    dims = tuple(np.array([1, 0]))
    assert torch.equal(ir.ops.sample_weight(V + 1, (P, P), dims=dims), ir.ops.sample_weight(V + 1, (P, P), dims=(1, 0)))


@pytest.mark.parametrize("antialias", [False, True])
def test_meta_and_fake_tensors_give_the_shape(antialias: bool) -> None:
    meta = ir.ops.sample_weight(V.to("meta"), (P.to("meta"), P.to("meta")), antialias=antialias)
    assert meta.is_meta
    assert meta.shape == (3, 3, 2)
    with FakeTensorMode() as mode:
        values, points = mode.from_tensor(V), mode.from_tensor(P)
        assert ir.ops.sample_weight(values, (points, points), antialias=antialias).shape == (3, 3, 2)


@pytest.mark.parametrize("dims", [(0, 1), (1,)], ids=str)
def test_forward_mode_is_refused(dims: tuple[int, ...]) -> None:
    op = f"sample_{len(dims)}d"

    def sample(values: Tensor, p: Tensor) -> Tensor:
        return ir.ops.sample_weight(values, (p,) * len(dims), dims=dims)

    with pytest.raises(NotImplementedError, match=rf"integralrob\.ops\.{op}: forward-mode"):
        torch.func.jvp(lambda values: sample(values, P), (V,), (V,))
    with forward_ad.dual_level():
        sample(V, P)  # without a tangent, there is none to lose
        with pytest.raises(NotImplementedError, match=rf"integralrob\.ops\.{op}: forward-mode"):
            sample(V, forward_ad.make_dual(P, P))
