"""l-infinity projection: the formula, derivatives, NaN; bad input to every projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DTYPES, Backend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import integralrob as ir

OPS = torch.ops.integralrob

SHAPES = [(0, 5), (1,), (7,), (3, 0), (1, 1), (4, 33), (2, 3, 17, 19), (300, 2)]
BOUNDS = [None, (0.0, 1.0), (-0.25, math.inf), (0.5, 0.5)]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def batch(
    shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator, device: str, count: int = 3
) -> list[Tensor]:
    """Clean inputs in [0, 1], and tensors around 0 of which a tenth is exactly 0."""
    x = torch.rand(shape, dtype=torch.float64, generator=rng)
    others = [torch.randn(shape, dtype=torch.float64, generator=rng) for _ in range(count - 1)]
    for other in others:
        other[torch.rand(shape, generator=rng) < 0.1] = 0
    return [t.to(device=device, dtype=dtype) for t in (x, *others)]


def radii(kind: str, samples: int, like: Tensor) -> tuple[Any, Tensor]:
    """eps as it is passed, and as something that broadcasts over ``[B, ...]`` in the type of the sums."""
    numbers = {"number": 0.25, "zero": 0, "infinite": math.inf}
    if kind in numbers:
        return numbers[kind], torch.tensor(numbers[kind], dtype=wide(like.dtype), device=like.device)
    eps = torch.linspace(0, 0.7, samples, dtype=torch.float64, device=like.device)
    if kind == "one-element tensor":
        eps = torch.tensor([0.3], dtype=torch.float64, device=like.device)
    if kind == "0-dimensional tensor":
        eps = torch.tensor(0.3, dtype=torch.float64, device=like.device)
    return eps, eps.to(wide(like.dtype)).reshape(-1, *[1] * (like.dim() - 1))


def projection(norm: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = getattr(ir.ops, f"project_{norm}")
    return function


EPS_KINDS = ["number", "zero", "infinite", "per sample", "one-element tensor", "0-dimensional tensor"]


# ----------------------------------------------------------------------------------------------------------- projection


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", EPS_KINDS)
def test_projection_is_the_formula(backend: Backend, kind: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    for shape in SHAPES:
        center, delta = batch(shape, dtype, rng, backend.device, count=2)
        center[..., :1] += 2  # outside of most bounds
        eps, radius = radii(kind, shape[0], delta)
        before = delta.clone()
        expected = torch.maximum(torch.minimum(delta.to(wide(dtype)), radius), -radius).to(dtype)
        assert torch.equal(ir.ops.project_linf(delta, eps), expected)
        for lower, upper in filter(None, BOUNDS):
            low = torch.maximum(-radius, (lower - center.to(wide(dtype))).clamp(max=0))
            high = torch.minimum(radius, (upper - center.to(wide(dtype))).clamp(min=0))
            expected = torch.maximum(torch.minimum(delta.to(wide(dtype)), high), low).to(dtype)
            actual = ir.ops.project_linf(delta, eps, center=center, bounds=(lower, upper))
            assert actual.dtype == dtype
            assert torch.equal(actual, expected)
        assert torch.equal(delta, before)


number = st.floats(-4, 4, width=32)


@settings(max_examples=200)
@given(
    delta=st.lists(number, min_size=1, max_size=8),
    center=st.floats(-0.5, 1.5, width=32),
    eps=st.floats(0, 3, width=32),
    box=st.tuples(number, number).map(sorted),
    corner=st.lists(st.floats(0, 1), min_size=8, max_size=8),
)
def test_projection_is_the_nearest_point_of_the_set(
    backend: Backend, delta: list[float], center: float, eps: float, box: list[float], corner: list[float]
) -> None:
    """Feasible, idempotent, and ``<δ - p, z - p> <= 0`` for every point z of the convex set."""
    y = torch.tensor([delta], dtype=torch.float64, device=backend.device)
    c = torch.full_like(y, center)
    low, high = max(-eps, min(box[0] - center, 0)), min(eps, max(box[1] - center, 0))
    p = ir.ops.project_linf(y, eps, center=c, bounds=(box[0], box[1]))
    assert (p >= low).all()
    assert (p <= high).all()
    assert torch.equal(ir.ops.project_linf(p, eps, center=c, bounds=(box[0], box[1])), p)
    z = low + (high - low) * torch.tensor([corner[: len(delta)]], dtype=torch.float64, device=backend.device)
    assert ((y - p) * (z - p)).sum() <= 1e-12
    inside = (y >= low) & (y <= high)
    assert torch.equal(p[inside], y[inside])


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients_of_the_projection(
    backend: Backend, per_sample: bool, bounds: tuple[float, float] | None, rng: torch.Generator
) -> None:
    """Every case: free, at ±eps, at a bound, and between clean inputs outside the bounds and 0."""
    delta = torch.randn(3, 8, dtype=torch.float64, generator=rng).to(backend.device).requires_grad_()
    eps = torch.tensor(
        [0.2, 0.5, 0.9] if per_sample else [0.4], dtype=torch.float64, device=backend.device
    ).requires_grad_()
    center = (torch.rand(3, 8, dtype=torch.float64, generator=rng) * 1.6 - 0.3).to(backend.device).requires_grad_()
    box = {} if bounds is None else {"center": center, "bounds": bounds}

    def project(delta: Tensor, eps: Tensor, center: Tensor) -> Tensor:
        return ir.ops.project_linf(delta, eps, **({**box, "center": center} if box else {})) + 0 * center

    assert torch.autograd.gradcheck(project, (delta, eps, center))
    assert torch.autograd.gradgradcheck(project, (delta, eps, center))
    ir.ops.project_linf(delta, eps, **box).square().sum().backward()
    assert delta.grad is not None
    assert 0 < delta.grad.count_nonzero() < delta.numel()


def test_gradient_of_an_entry_on_a_limit_goes_to_delta(backend: Backend) -> None:
    delta = torch.tensor([[0.5, -0.5, 0.25, 0.75]], device=backend.device, requires_grad=True)
    eps = torch.tensor(0.5, device=backend.device, requires_grad=True)
    ir.ops.project_linf(delta, eps).sum().backward()
    assert delta.grad is not None
    assert delta.grad.tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert eps.grad is not None
    assert eps.grad.item() == 1.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_backward_is_the_reference(
    backend: Backend, bounds: tuple[float, float] | None, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Entry by entry the same bits, on every limit too; a sum over the row for the radius."""
    for shape in SHAPES:
        if not shape[0]:
            continue
        center, delta, grad = batch(shape, dtype, rng, backend.device)
        delta, center = (4 * delta).round() / 4, (4 * center).round() / 4  # many are on a limit
        center[..., :1] += 2
        eps = torch.linspace(0, 4, shape[0], device=backend.device).round().div(4).to(wide(dtype))
        box: dict[str, Any] = {} if bounds is None else {"center": center, "bounds": bounds}
        for radius in (eps, eps[-1:], torch.full_like(eps, math.inf)):
            expected = ir.ops.reference.project_linf_backward(grad, delta, radius, **box)
            given = (radius, box.get("center"), *box.get("bounds", (-math.inf, math.inf)))
            for layout in (lambda t: t, lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)):
                actual = OPS.project_linf_backward(layout(grad), layout(delta), *given)
                assert all(found.is_contiguous() for found in actual)
                assert torch.equal(actual[0], expected[0])
                assert torch.equal(actual[2], expected[2])
                torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_goes_nowhere_but_to_what_its_entry_follows(backend: Backend, bad: float) -> None:
    delta = torch.tensor([[0.5, 9.0, 9.0], [0.5, 9.0, -9.0]], device=backend.device, requires_grad=True)
    center = torch.tensor([[0.0, 0.0, 0.75]] * 2, device=backend.device, requires_grad=True)
    eps = torch.tensor([1.0, 1.0], device=backend.device, requires_grad=True)
    p = ir.ops.project_linf(delta, eps, center=center, bounds=(-1, 1))
    for entry in range(3):  # free, at the radius, at the bound
        grad = torch.ones_like(delta)
        grad[0, entry] = bad
        gradients = torch.autograd.grad(p, (delta, eps, center), grad, retain_graph=True)
        of_delta, of_eps, of_center = (gradient[0].isfinite() for gradient in gradients)
        assert of_delta.tolist() == [entry != 0, True, True]
        assert of_eps.item() == (entry != 1)
        assert of_center.tolist() == [True, True, entry != 2]
        assert all(gradient[1].isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("rest", [(), (0,), (5,), (2, 3)], ids=str)
def test_gradient_of_the_radius_has_its_shape(backend: Backend, rest: tuple[int, ...], samples: int) -> None:
    for shape in ((), (1,), (samples,)):
        eps = torch.full(shape, 0.5, device=backend.device, requires_grad=True)
        delta = torch.ones(samples, *rest, device=backend.device, requires_grad=True)
        ir.ops.project_linf(delta, eps).sum().backward()
        assert eps.grad is not None
        assert eps.grad.shape == shape
        assert eps.grad.sum() == delta.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_half_precision(backend: Backend, dtype: torch.dtype, rng: torch.Generator) -> None:
    center, delta = batch((3, 7), dtype, rng, backend.device, count=2)
    delta.requires_grad_()
    center.requires_grad_()
    eps = torch.tensor([0.1, 0.2, 0.9], device=backend.device, requires_grad=True)
    ir.ops.project_linf(delta, eps, center=center, bounds=(0, 1)).sum().backward()
    for leaf in (delta, center, eps):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
@pytest.mark.parametrize("tangent_of", ["delta", "eps", "center"])
def test_forward_mode_is_refused(tangent_of: str, norm: str) -> None:
    tensors = {"delta": torch.ones(2, 3), "eps": torch.ones(2), "center": torch.ones(2, 3)}

    def project(tangent: Tensor) -> Tensor:
        return projection(norm)(**{**tensors, tangent_of: tangent}, bounds=(0, 1))

    given = tensors[tangent_of]
    with pytest.raises(NotImplementedError, match=rf"integralrob\.ops\.project_{norm}: forward-mode"):
        torch.func.jvp(project, (given,), (given,))


def test_strided_arguments(backend: Backend, rng: torch.Generator) -> None:
    x, offset = batch((4, 3, 5, 6), torch.float32, rng, backend.device, count=2)
    eps = torch.linspace(0, 0.3, 8, device=backend.device)[::2]
    expected = ir.ops.project_linf(offset, eps, center=x, bounds=(0, 1))
    strided = offset.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    center = x.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert not center.is_contiguous()
    actual = ir.ops.project_linf(strided, eps, center=center, bounds=(0, 1))
    assert torch.equal(actual, expected)
    assert actual.is_contiguous()


# ------------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_in_its_entry(backend: Backend, dtype: torch.dtype, rng: torch.Generator) -> None:
    x, offset = batch((4, 40), dtype, rng, backend.device, count=2)
    for with_nan in ("delta", "center"):
        delta, center = offset.clone(), x.clone()
        {"delta": delta, "center": center}[with_nan][1, 5] = math.nan
        projected = ir.ops.project_linf(delta, 0.25, center=center, bounds=(0, 1))
        assert projected[1, 5].isnan()
        assert projected.isnan().sum() == 1
    assert (
        ir.ops.project_linf(torch.tensor([[math.nan, 3.0]], dtype=dtype, device=backend.device), 1).isnan().sum() == 1
    )


def test_nan_radius_makes_its_own_row_nan(backend: Backend) -> None:
    """Of the kernels, which a GPU's radius reaches unseen."""
    x = torch.full((3, 20), 0.5, device=backend.device)
    eps = torch.tensor([0.1, math.nan, 0.3], device=backend.device)
    for out in (OPS.project_linf(x, eps, None, -math.inf, math.inf), OPS.project_linf(x, eps, x, 0, 2)):
        assert out[1].isnan().all()
        assert out[[0, 2]].isfinite().all()


def test_infinite_entries_are_clipped(backend: Backend) -> None:
    delta = torch.tensor([[math.inf, -math.inf]], device=backend.device)
    assert ir.ops.project_linf(delta, 0.5).tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_batches_are_split_over_threads_without_a_trace(dtype: torch.dtype, rng: torch.Generator) -> None:
    x, offset = batch((37, 20011), dtype, rng, "cpu", count=2)
    eps, _ = radii("per sample", 37, x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        projected = ir.ops.project_linf(offset, eps, center=x, bounds=(0, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(projected, ir.ops.reference.project_linf(offset, eps, center=x, bounds=(0, 1)))


# ------------------------------------------------------------------------------------------------------------ bad input

D = torch.rand(2, 3)


@pytest.mark.parametrize(
    ("delta", "eps", "options", "error", "message"),
    [
        ([1.0], 1, {}, TypeError, "delta: expected a tensor, got"),
        (D.int(), 1, {}, TypeError, "delta: expected a floating-point tensor"),
        (torch.tensor(1.0), 1, {}, ValueError, r"delta: expected shape \[B, ...\]"),
        (D.to(torch.float8_e4m3fn), 1, {}, TypeError, "delta: expected float16, bfloat16, float32 or float64"),
        (D, -0.1, {}, ValueError, "eps: expected a number of at least 0, got -0.1"),
        (D, math.nan, {}, ValueError, "eps: expected a number of at least 0, got nan"),
        (D, "1", {}, TypeError, "eps: expected a number, got '1'"),
        (D, True, {}, TypeError, "eps: expected a number, got True"),
        (D, None, {}, TypeError, "eps: expected a number, got None"),
        (D, [0.1, 0.2], {}, TypeError, "eps: expected a number"),
        (D, torch.tensor([1, 2]), {}, TypeError, "eps: expected a floating-point tensor"),
        (D, torch.ones(3), {}, ValueError, r"eps: expected a number or shape \[2\], one per sample, got .*\(3,\)"),
        (D, torch.ones(2, 1), {}, ValueError, r"eps: expected a number or shape \[2\]"),
        (D, torch.tensor([0.1, -0.1]), {}, ValueError, "eps: expected values of at least 0, got -0.1"),
        (D, torch.tensor([0.1, math.nan]), {}, ValueError, "eps: expected values of at least 0, got nan"),
        (D, 10**400, {}, ValueError, "eps: expected a number in the range of a float"),
        (D, torch.ones(2, device="meta"), {}, ValueError, "eps: expected it on cpu like the batch, got meta"),
        (D, 1, {"center": D}, ValueError, "center: expected center and bounds together"),
        (D, 1, {"bounds": (0, 1)}, ValueError, "center: expected center and bounds together"),
        (
            D,
            1,
            {"center": D[:1], "bounds": (0, 1)},
            ValueError,
            r"center: expected .*\(2, 3\).* like delta, got .*\(1, 3\)",
        ),
        (
            D,
            1,
            {"center": D.double(), "bounds": (0, 1)},
            ValueError,
            "center: expected a torch.float32 .* got a torch.float64",
        ),
        (D, 1, {"center": 0.0, "bounds": (0, 1)}, TypeError, "center: expected a tensor"),
        (D, 1, {"center": D, "bounds": (1, 0)}, ValueError, r"bounds: expected lo <= hi, got \(1.0, 0.0\)"),
        (D, 1, {"center": D, "bounds": (0, math.nan)}, ValueError, "bounds: expected a number"),
        (D, 1, {"center": D, "bounds": (0,)}, TypeError, "bounds: expected a pair of numbers"),
        (D, 1, {"center": D, "bounds": 1.0}, TypeError, "bounds: expected a pair of numbers"),
        (D, 1, {"center": D, "bounds": (D, D)}, TypeError, "bounds: expected a number"),
        (D, 1, {"center": D, "bounds": "01"}, TypeError, "bounds: expected a"),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value else None,
)
@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
def test_bad_arguments_of_the_projections(
    norm: str, delta: Any, eps: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        projection(norm)(delta, eps, **options)
