"""l-infinity projection and step: the formula, derivatives, in place, NaN; bad input to every projection."""

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


# ----------------------------------------------------------------------------------------------------------------- step


def step_by_hand(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Tensor, step: Tensor, bounds: Any) -> Tensor:
    """In the type of the sums, rounded once at the end."""
    a, g, c = (t.to(wide(x.dtype)) for t in (x_adv, grad, x))
    moved = torch.minimum(torch.maximum(a + step * g.sign(), c - eps), c + eps)
    return (moved if bounds is None else moved.clamp(*bounds)).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps_kind", EPS_KINDS)
@pytest.mark.parametrize("step_kind", ["number", "per sample"])
def test_step_is_the_formula(
    backend: Backend, step_kind: str, eps_kind: str, dtype: torch.dtype, rng: torch.Generator
) -> None:
    for shape in SHAPES:
        x, grad, offset = batch(shape, dtype, rng, backend.device)
        x_adv = x + offset / 8
        eps, radius = radii(eps_kind, shape[0], x)
        step, length = radii(step_kind, shape[0], x)
        for bounds in BOUNDS:
            before = [t.clone() for t in (x_adv, grad, x)]
            actual = ir.ops.linf_step(x_adv, grad, x, eps, step, bounds=bounds)
            assert actual.dtype == dtype
            assert torch.equal(actual, step_by_hand(x_adv, grad, x, radius, length, bounds))
            assert all(map(torch.equal, before, (x_adv, grad, x)))

            written = x_adv.clone()
            version = written._version
            assert ir.ops.linf_step_(written, grad, x, eps, step, bounds=bounds) is written
            assert torch.equal(written, actual)
            assert written._version > version
            assert all(map(torch.equal, before[1:], (grad, x)))


def test_step_default_bounds_are_the_unit_interval(backend: Backend) -> None:
    x = torch.tensor([[0.0, 1.0]], device=backend.device)
    grad = torch.tensor([[-1.0, 1.0]], device=backend.device)
    assert torch.equal(ir.ops.linf_step(x, grad, x, 0.5, 0.5), x)
    assert ir.ops.linf_step(x, grad, x, 0.5, 0.5, bounds=None).tolist() == [[-0.5, 1.5]]


def test_gradient_zero_does_not_move(backend: Backend) -> None:
    x = torch.full((1, 3), 0.5, device=backend.device)
    grad = torch.tensor([[0.0, -0.0, 5e-324]], dtype=torch.float64, device=backend.device)
    assert ir.ops.linf_step(x.double(), grad, x.double(), 0.25, 0.125).tolist() == [[0.5, 0.5, 0.625]]


def test_strided_arguments(backend: Backend, rng: torch.Generator) -> None:
    """Every argument laid out differently, among them `x_adv`, which is written in place: only its own elements."""

    def strided(x: Tensor, order: tuple[int, ...]) -> Tensor:
        storage = torch.full([2 * x.shape[d] for d in order], 9.0, dtype=x.dtype, device=x.device)
        view = storage.permute([order.index(d) for d in range(x.dim())])[tuple(slice(None, None, 2) for _ in order)]
        return view.copy_(x)

    x, grad, offset = batch((4, 3, 5, 6), torch.float32, rng, backend.device)
    x_adv = x + offset / 8
    arguments = [strided(t, order) for t, order in ((x_adv, (0, 2, 3, 1)), (grad, (3, 0, 1, 2)), (x, (1, 0, 3, 2)))]
    assert not any(t.is_contiguous() for t in arguments)
    eps = torch.linspace(0, 0.3, 8, device=backend.device)[::2]
    for radius in (0.1, eps):
        expected = ir.ops.linf_step(x_adv, grad, x, radius, 0.1)
        assert torch.equal(ir.ops.linf_step(*arguments, radius, 0.1), expected)
        written = strided(x_adv, (0, 2, 3, 1))
        base = written._base
        assert base is not None
        assert ir.ops.linf_step_(written, *arguments[1:], radius, 0.1) is written
        assert torch.equal(written, expected)
        assert (base == 9).sum() >= base.numel() - written.numel()
    expected = ir.ops.project_linf(offset, eps, center=x, bounds=(0, 1))
    actual = ir.ops.project_linf(strided(offset, (2, 1, 0, 3)), eps, center=arguments[2], bounds=(0, 1))
    assert torch.equal(actual, expected)
    # What the fake kernels promise, whatever the layout of the arguments.
    assert actual.is_contiguous()
    assert ir.ops.linf_step(*arguments, eps, 0.1).is_contiguous()


def test_elements_that_share_memory_cannot_be_written(backend: Backend) -> None:
    x_adv = torch.full((1, 1), 0.5, device=backend.device).expand(2, 3)
    with pytest.raises(ValueError, match=r"x_adv: expected memory for each element, got .* with strides \(0, 0\)"):
        ir.ops.linf_step_(x_adv, torch.ones_like(x_adv), torch.zeros_like(x_adv), 0.25, 0.25)
    assert (x_adv == 0.5).all()


def test_step_takes_the_gradient_it_was_given_into_no_graph(backend: Backend, rng: torch.Generator) -> None:
    x, grad, offset = batch((2, 3), torch.float32, rng, backend.device)
    x_adv = (x + offset / 8).requires_grad_()
    eps = torch.tensor([0.1, 0.2], device=backend.device, requires_grad=True)
    assert not ir.ops.linf_step(x_adv, grad, x, eps, 0.1).requires_grad
    before = x_adv.detach().clone()
    assert ir.ops.linf_step_(x_adv, grad, x, 0.1, 0.1) is x_adv
    assert x_adv.requires_grad
    assert x_adv.is_leaf
    assert x_adv.grad_fn is None
    assert torch.equal(x_adv.detach(), ir.ops.linf_step(before, grad, x, 0.1, 0.1))


def test_in_place_step_is_seen_by_autograd(backend: Backend) -> None:
    """A backward pass that needs the overwritten values is an error, not a wrong gradient."""
    x = torch.full((1, 2), 0.5, device=backend.device)
    x_adv = x.clone().requires_grad_()
    loss = x_adv.square().sum()
    ir.ops.linf_step_(x_adv, torch.ones_like(x), x, 0.25, 0.25)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
@pytest.mark.parametrize("tangent_of", ["delta", "eps", "center"])
def test_forward_mode_is_refused(tangent_of: str, norm: str) -> None:
    tensors = {"delta": torch.ones(2, 3), "eps": torch.ones(2), "center": torch.ones(2, 3)}

    def project(tangent: Tensor) -> Tensor:
        return projection(norm)(**{**tensors, tangent_of: tangent}, bounds=(0, 1))

    given = tensors[tangent_of]
    with pytest.raises(NotImplementedError, match=rf"integralrob\.ops\.project_{norm}: forward-mode"):
        torch.func.jvp(project, (given,), (given,))


# -------------------------------------------------------------------------------------------------------- shared memory


@pytest.mark.parametrize("shared", ["grad", "x", "eps"])
@pytest.mark.parametrize("offset", [-8, -1, 0, 1, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_in_place_step_on_overlapping_memory(
    backend: Backend, shared: str, offset: int, transposed: bool, rng: torch.Generator
) -> None:
    memory = torch.randn(200, generator=rng).to(backend.device).abs()
    arguments = {name: torch.rand(7, 7, generator=rng).to(backend.device) for name in ("grad", "x")}
    x_adv = memory[50:99].view(7, 7)
    view = memory[50 + offset :][: 7 if shared == "eps" else 49]
    arguments["eps"] = torch.full((7,), 0.25, device=backend.device)
    arguments[shared] = view if shared == "eps" else view.view(7, 7).T if transposed else view.view(7, 7)
    expected = ir.ops.linf_step(x_adv, **arguments, step_size=0.125)
    ir.ops.linf_step_(x_adv, **arguments, step_size=0.125)
    assert torch.equal(x_adv, expected)


def test_in_place_step_on_memory_shared_outside_of_torch(rng: torch.Generator) -> None:
    memory = torch.rand(65, generator=rng).numpy()
    x_adv, x = torch.from_numpy(memory[None, 1:]), torch.from_numpy(memory[None, :-1])
    grad = torch.randn(1, 64, generator=rng)
    expected = ir.ops.linf_step(x_adv, grad, x, 0.1, 0.1)
    assert torch.equal(ir.ops.linf_step_(x_adv, grad, x, 0.1, 0.1), expected)


@pytest.mark.parametrize(("size", "stride"), [((4, 4), (1, 1)), ((4, 4), (3, 1)), ((4, 4), (0, 1)), ((2, 3), (1, 0))])
def test_in_place_step_refuses_what_overlaps_itself(size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    x_adv = torch.rand(20).as_strided(size, stride)
    before = x_adv.clone()
    with pytest.raises(ValueError, match="x_adv: expected memory for each element"):
        ir.ops.linf_step_(x_adv, torch.ones(size), torch.ones(size), 0.1, 0.1)
    assert torch.equal(x_adv, before)


@pytest.mark.parametrize("layout", [lambda t: t.T, lambda t: t[::2, 1::3], lambda t: t[:, 3:4], lambda t: t[:1].T])
def test_in_place_step_takes_slices_and_transposes(layout: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
    x_adv = layout(torch.rand(6, 9, generator=rng))
    grad, x = (torch.rand(x_adv.shape, generator=rng) for _ in range(2))
    expected = ir.ops.linf_step(x_adv, grad, x, 0.1, 0.1)
    assert torch.equal(ir.ops.linf_step_(x_adv, grad, x, 0.1, 0.1), expected)


# ------------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_in_its_entry(backend: Backend, dtype: torch.dtype, rng: torch.Generator) -> None:
    x, grad, offset = batch((4, 40), dtype, rng, backend.device)
    x_adv = x + offset / 8
    clean = ir.ops.linf_step(x_adv, grad, x, 0.25, 0.1)
    for position in range(3):
        arguments = [t.clone() for t in (x_adv, grad, x)]
        arguments[position][2, 17] = math.nan
        stepped = ir.ops.linf_step(*arguments, 0.25, 0.1)
        assert stepped[2, 17].isnan()
        stepped[2, 17] = clean[2, 17]
        assert torch.equal(stepped, clean)
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
    step = torch.full_like(eps, 0.1)
    for out in (
        OPS.project_linf(x, eps, None, -math.inf, math.inf),
        OPS.project_linf(x, eps, x, 0, 2),
        OPS.linf_step(x, x, x, eps, step, 0, 1),
        OPS.linf_step(x, x, x, step, eps, 0, 1),
    ):
        assert out[1].isnan().all()
        assert out[[0, 2]].isfinite().all()


def test_infinite_entries_are_clipped(backend: Backend) -> None:
    delta = torch.tensor([[math.inf, -math.inf]], device=backend.device)
    assert ir.ops.project_linf(delta, 0.5).tolist() == [[0.5, -0.5]]
    x = torch.zeros_like(delta)
    assert ir.ops.linf_step(delta, delta, x, 0.5, 1.0).tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_batches_are_split_over_threads_without_a_trace(dtype: torch.dtype, rng: torch.Generator) -> None:
    x, grad, offset = batch((37, 20011), dtype, rng, "cpu")
    eps, radius = radii("per sample", 37, x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        stepped = ir.ops.linf_step(x + offset / 8, grad, x, eps, eps)
        projected = ir.ops.project_linf(offset, eps, center=x, bounds=(0, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(stepped, step_by_hand(x + offset / 8, grad, x, radius, radius, (0, 1)))
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


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x_adv": [0.5]}, TypeError, "x_adv: expected a tensor"),
        ({"x_adv": torch.tensor(0.5)}, ValueError, r"x_adv: expected shape \[B, ...\]"),
        ({"x_adv": D.long()}, TypeError, "x_adv: expected a floating-point tensor"),
        ({"grad": None}, TypeError, "grad: expected a tensor, got None"),
        ({"grad": D[:, :2]}, ValueError, r"grad: expected .*\(2, 3\) on cpu like x_adv, got .*\(2, 2\)"),
        ({"grad": D.double()}, ValueError, "grad: expected a torch.float32"),
        ({"grad": D.to("meta")}, ValueError, "grad: expected .* on cpu like x_adv, got .* on meta"),
        ({"x": D.T}, ValueError, r"x: expected .*\(2, 3\).* got .*\(3, 2\)"),
        ({"x": D.half()}, ValueError, "x: expected a torch.float32"),
        ({"eps": -1e-9}, ValueError, "eps: expected a number of at least 0"),
        ({"eps": torch.tensor([0.1, -0.1])}, ValueError, "eps: expected values of at least 0"),
        ({"eps": torch.ones(4)}, ValueError, r"eps: expected a number or shape \[2\]"),
        ({"step_size": -0.1}, ValueError, "step_size: expected a number of at least 0, got -0.1"),
        ({"step_size": math.nan}, ValueError, "step_size: expected a number of at least 0, got nan"),
        ({"step_size": torch.tensor(math.nan)}, ValueError, "step_size: expected values of at least 0, got nan"),
        ({"step_size": torch.ones(1, 2)}, ValueError, r"step_size: expected a number or shape \[2\]"),
        ({"step_size": torch.tensor(-1.0)}, ValueError, "step_size: expected values of at least 0"),
        ({"step_size": "big"}, TypeError, "step_size: expected a number"),
        ({"bounds": (1, 0)}, ValueError, "bounds: expected lo <= hi"),
        ({"bounds": (0, 1, 2)}, TypeError, "bounds: expected a pair"),
        ({"bounds": (None, 1)}, TypeError, "bounds: expected a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_arguments_of_the_step(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    """An error, and nothing written."""
    arguments = {"x_adv": D.clone(), "grad": D.clone(), "x": D.clone(), "eps": 0.1, "step_size": 0.1, **changed}
    x_adv = arguments["x_adv"]
    before = x_adv.clone() if isinstance(x_adv, Tensor) else list(x_adv)
    for step in (ir.ops.linf_step, ir.ops.linf_step_):
        with pytest.raises(error, match=message):
            step(**arguments)
        assert torch.equal(x_adv, before) if isinstance(x_adv, Tensor) else x_adv == before
