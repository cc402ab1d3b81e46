"""Projections onto the l-infinity, l1 and l2 balls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._arguments import Bounds, as_rows, check_batch, check_bounds, check_like, check_per_sample
from ._dtypes import arithmetic_dtype
from ._library import define, library, refuse_forward_mode

_BALL = "Tensor eps, Tensor? center, float lower, float upper"


def _define(norm: str) -> Any:
    """The op ``project_{norm}``, whose derivative is an op too, whose derivative is that of the reference's formula."""
    projection = getattr(reference, f"project_{norm}")
    formula = getattr(reference, f"project_{norm}_backward")
    by_result = norm != "linf"  # for l-infinity, `delta` alone tells what has become of each entry

    # Contiguous results, as the kernels promise.
    def run(delta: Tensor, eps: Tensor, center: Tensor | None, lower: float, upper: float) -> Tensor:
        return projection(delta, eps, center=center, bounds=(lower, upper)).contiguous()

    def fake(delta: Tensor, *rest: Any) -> Tensor:
        return delta.new_empty(delta.shape)

    project = define(f"project_{norm}(Tensor delta, {_BALL}) -> Tensor", reference=run, fake=fake)

    def gradients(*given: Any) -> tuple[Tensor, ...]:
        *tensors, center, lower, upper = given
        return tuple(gradient.contiguous() for gradient in formula(*tensors, center=center, bounds=(lower, upper)))

    def fake_gradients(*given: Any) -> tuple[Tensor, ...]:
        (_, delta), (eps, center) = given[:2], given[-4:-2]
        return (
            delta.new_empty(delta.shape),
            eps.new_empty(delta.shape[0]),
            delta.new_empty(0 if center is None else delta.shape),
        )

    tensors = "Tensor grad, Tensor delta, Tensor result" if by_result else "Tensor grad, Tensor delta"
    backward = define(
        f"project_{norm}_backward({tensors}, {_BALL}) -> (Tensor, Tensor, Tensor)",
        reference=gradients,
        fake=fake_gradients,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        delta, eps, center, ctx.lower, ctx.upper = inputs
        ctx.save_for_backward(*((delta, output) if by_result else (delta,)), eps, center)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *_, eps, center = ctx.saved_tensors
        grad_delta, grad_eps, grad_center = backward(grad, *ctx.saved_tensors, ctx.lower, ctx.upper)
        return (
            grad_delta,
            grad_eps.sum_to_size(eps.shape) if ctx.needs_input_grad[1] else None,
            None if center is None else grad_center,
            None,
            None,
        )

    def save_again(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.lower, ctx.upper = inputs
        ctx.save_for_backward(*tensors)

    def differentiate_again(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, center = ctx.saved_tensors
        box = {"center": center, "bounds": (ctx.lower, ctx.upper)}
        pull: Any = torch.func.vjp(lambda *given: formula(*given, **box), *tensors)[1]
        return *pull(cotangents), None, None, None

    torch.library.register_autograd(project.name(), differentiate, setup_context=save, lib=library)
    torch.library.register_autograd(backward.name(), differentiate_again, setup_context=save_again, lib=library)
    return project


_project_linf, _project_l1, _project_l2 = (_define(norm) for norm in ("linf", "l1", "l2"))


def project_linf(delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: Bounds = None) -> Tensor:
    """The Euclidean projection of each sample's perturbation on ``{‖δ‖∞ ≤ eps} ∩ {lo ≤ center + δ ≤ hi}``.

    Entrywise ``clip(delta, max(-eps, l), min(eps, u))`` with ``l = min(lo - center, 0)`` and ``u = max(hi - center,
    0)``, so that the set is never empty, even where `center` lies outside the bounds.

    Args:
        delta: perturbations ``[B, ...]``; float16, bfloat16, float32 or float64 (half types are computed in float32).
        eps: radius, at least 0: a number, or one per sample ``[B]``.
        center: the clean inputs, like `delta`; needed for `bounds` to mean anything, and only together with them.
        bounds: ``(lo, hi)`` of valid inputs, or None.

    Returns:
        A tensor like `delta`; entries already inside are bit-identical. NaN stays NaN. Differentiable in `delta`, `eps`
        and `center`: entries that were clipped pass their gradient to the limit that clipped them, entries on a limit
        pass it to `delta`. In reverse mode; not under `torch.func` transforms.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: one pass over memory.

    >>> project_linf(torch.tensor([[0.5, -0.1]]), 0.25).tolist()
    [[0.25, -0.10000000149011612]]
    """
    return _project_linf(*_check_projection("project_linf", delta, eps, center, bounds))


def project_l1(delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: Bounds = None) -> Tensor:
    """The Euclidean projection of each sample's perturbation on ``{‖δ‖₁ ≤ eps} ∩ {lo ≤ center + δ ≤ hi}``.

    ``δ_i = clip(soft(y_i, θ), l_i, u_i)`` with ``soft(y, θ) = sign(y) · max(|y| - θ, 0)``, ``l = min(lo - center, 0)``,
    ``u = max(hi - center, 0)``, so that the set is never empty, and the least ``θ ≥ 0`` for which ``‖δ‖₁ ≤ eps``:
    exact, the root of a decreasing, piecewise linear function.

    Args:
        delta: perturbations y ``[B, ...]``; float16, bfloat16, float32 or float64.
        eps: radius, at least 0, in the units of `delta`: a number, or one per sample ``[B]``.
        center: the clean inputs, like `delta`; needed for `bounds` to mean anything, and only together with them.
        bounds: ``(lo, hi)`` of valid inputs, or None.

    Returns:
        A tensor like `delta`. Rows already inside are bit-identical; ``‖δ‖₁`` exceeds `eps` by one unit in the last
        place of its arithmetic type (float32, float64 for float64) at most; half types are rounded towards 0. A row
        with a NaN, in its radius or clean input too, is NaN, and no other. One infinite entry takes all that it may;
        with several, the row may be NaN.

        Differentiable in `delta`, `eps` and `center`, twice too, in reverse mode; not under `torch.func` transforms. At
        kinks the derivative of one side is taken: an entry on a limit of the box passes its gradient to `delta`, an
        entry that is 0 on the sphere passes none, a row with ``‖δ‖₁ = eps`` counts as inside, and so does one that the
        ball has changed by less than rounding; with every entry 0 or clipped, `eps` gets 0.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: a few passes over each row (bracketed Newton); the reference sorts.

    Source: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008; Condat,
    "Fast projection onto the simplex and the l1 ball", Math. Program. 158, 2016; with a box: the continuous quadratic
    knapsack problem, Kiwiel, "Breakpoint searching algorithms", Math. Program. 112, 2008.

    >>> project_l1(torch.tensor([[0.5, 0.25, 0.0]]), 0.25).tolist()
    [[0.25, 0.0, 0.0]]
    """
    return _project_l1(*_check_projection("project_l1", delta, eps, center, bounds))


def project_l2(delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: Bounds = None) -> Tensor:
    """The Euclidean projection of each sample's perturbation on ``{‖δ‖₂ ≤ eps} ∩ {lo ≤ center + δ ≤ hi}``.

    ``δ_i = clip(s·y_i, l_i, u_i)`` with ``l = min(lo - center, 0)``, ``u = max(hi - center, 0)``, so that the set is
    never empty, and the greatest ``s ≤ 1`` for which ``‖δ‖₂ ≤ eps``. Exact, which scaling and then clipping is not.

    Args:
        delta: perturbations y ``[B, ...]``; float16, bfloat16, float32 or float64.
        eps: radius, at least 0, in the units of `delta`: a number, or one per sample ``[B]``.
        center: the clean inputs, like `delta`; needed for `bounds` to mean anything, and only together with them.
        bounds: ``(lo, hi)`` of valid inputs, or None.

    Returns:
        A tensor like `delta`. Rows already inside are bit-identical; ``‖δ‖₂`` exceeds `eps` by one unit in the last
        place of its arithmetic type (float32, float64 for float64) at most; half types are rounded towards 0. For rows
        that leave it, a float64 radius of less than 1e-297 counts as 0. A row with a NaN, in its radius or clean input
        too, is NaN, and no other. One infinite entry takes all that it may; with several, the row may be NaN.

        Differentiable in `delta`, `eps` and `center`, twice too, in reverse mode; not under `torch.func` transforms. At
        kinks the derivative of one side is taken: an entry on a limit of the box passes its gradient to `delta`, a row
        with ``‖δ‖₂ = eps`` counts as inside, and so does one that the ball has changed by less than rounding; with
        every entry 0 or clipped, `eps` gets 0.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: a few passes over each row (bracketed Newton); the reference sorts.

    Source: the search for s over the ratios ``b_i / |y_i|`` is the breakpoint search of the continuous quadratic
    knapsack problem: Kiwiel, "Breakpoint searching algorithms", Math. Program. 112, 2008.

    >>> project_l2(torch.tensor([[3.0, -4.0]]), 10).tolist(), project_l2(torch.tensor([[0.0, -4.0]]), 2).tolist()
    ([[3.0, -4.0]], [[0.0, -2.0]])
    """
    return _project_l2(*_check_projection("project_l2", delta, eps, center, bounds))


def _check_projection(
    name: str, delta: Tensor, eps: float | Tensor, center: Tensor | None, bounds: Bounds
) -> tuple[Tensor, Tensor, Tensor | None, float, float]:
    """The arguments of the op."""
    check_batch("delta", delta)
    bounds = check_bounds(bounds)
    if (center is None) != (bounds is None):
        raise ValueError("center: expected center and bounds together, or neither; got one of them")
    if center is not None:
        check_like("center", center, "delta", delta)
    rows = as_rows(check_per_sample("eps", eps, delta), delta, arithmetic_dtype(delta.dtype))
    refuse_forward_mode(name, delta, rows, *(() if center is None else (center,)))
    lower, upper = bounds or (-math.inf, math.inf)
    return delta, rows, center, lower, upper
