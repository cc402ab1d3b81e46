"""Projections onto the l-infinity, l1 and l2 balls, and the fused sign step of projected gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import check_kernel_dtype, check_real, check_tensor, describe, has_values
from . import reference
from ._dtypes import arithmetic_dtype
from ._library import define, library, refuse_forward_mode
from .reference.projection import linf_limits

Bounds = tuple[float, float] | None

# The fallbacks promise contiguous results, as the kernels do.


def _reference_project(project: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(delta: Tensor, eps: Tensor, center: Tensor | None, lower: float, upper: float) -> Tensor:
        return project(delta, eps, center=center, bounds=(lower, upper)).contiguous()

    return run


def _fake_project(delta: Tensor, *rest: Any) -> Tensor:
    return delta.new_empty(delta.shape)


def _reference_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Any, step_size: Any, lower: float, upper: float
) -> Tensor:
    return reference.linf_step(x_adv, grad, x, eps, step_size, bounds=(lower, upper)).contiguous()


def _reference_step_(x_adv: Tensor, *rest: Any) -> None:
    x_adv.copy_(_reference_step(x_adv, *rest))


_BALL = "Tensor eps, Tensor? center, float lower, float upper"

_project_linf = define(
    f"project_linf(Tensor delta, {_BALL}) -> Tensor",
    reference=_reference_project(reference.project_linf),
    fake=_fake_project,
)

_STEP_ARGUMENTS = "Tensor grad, Tensor x, {kind} eps, {kind} step_size, float lower, float upper"


def _fake_step(x_adv: Tensor, *rest: Any) -> Tensor:
    return x_adv.new_empty(x_adv.shape)


def _fake_step_(x_adv: Tensor, *rest: Any) -> None:
    return None


# One number for the whole batch, or one per sample ([B]): a plain number costs less per call.
_linf_step = define(
    f"linf_step(Tensor x_adv, {_STEP_ARGUMENTS.format(kind='float')}) -> Tensor",
    reference=_reference_step,
    fake=_fake_step,
)
_linf_step_per_sample = define(
    f"linf_step.per_sample(Tensor x_adv, {_STEP_ARGUMENTS.format(kind='Tensor')}) -> Tensor",
    reference=_reference_step,
    fake=_fake_step,
)
_linf_step_ = define(
    f"linf_step_(Tensor(a!) x_adv, {_STEP_ARGUMENTS.format(kind='float')}) -> ()",
    reference=_reference_step_,
    fake=_fake_step_,
)
_linf_step_per_sample_ = define(
    f"linf_step_.per_sample(Tensor(a!) x_adv, {_STEP_ARGUMENTS.format(kind='Tensor')}) -> ()",
    reference=_reference_step_,
    fake=_fake_step_,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    delta, eps, center, ctx.lower, ctx.upper = inputs
    ctx.save_for_backward(delta, eps, center)


def _backward_linf(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """On each entry the result is one of: `delta`, `±eps`, a bound minus `center`, or 0 (center outside the bounds)."""
    delta, eps, center = ctx.saved_tensors
    lower, upper = linf_limits(delta, eps, center, (ctx.lower, ctx.upper))
    radius = eps.reshape(-1, *[1] * (delta.dim() - 1))
    above, below = delta > upper, delta < lower
    grad_delta = grad.masked_fill(above | below, 0)
    grad_eps = grad_center = None
    wide = grad.to(eps.dtype)
    if ctx.needs_input_grad[1]:
        sign = (above & (upper == radius)).to(wide) - (below & (lower == -radius)).to(wide)
        grad_eps = (wide * sign).sum_to_size(radius.shape).reshape(eps.shape)
    if center is not None and ctx.needs_input_grad[2]:
        at_box = (above & (upper < radius) & (upper > 0)) | (below & (lower > -radius) & (lower < 0))
        grad_center = -grad.masked_fill(~at_box, 0)
    return grad_delta, grad_eps, grad_center, None, None


torch.library.register_autograd(_project_linf.name(), _backward_linf, setup_context=_setup_context, lib=library)


def _define_with_backward(norm: str) -> Any:
    """The op ``project_{norm}``, whose derivative is an op too, whose derivative is that of the reference's formula."""
    formula = getattr(reference, f"project_{norm}_backward")
    project = define(
        f"project_{norm}(Tensor delta, {_BALL}) -> Tensor",
        reference=_reference_project(getattr(reference, f"project_{norm}")),
        fake=_fake_project,
    )

    def gradients(
        grad: Tensor, delta: Tensor, result: Tensor, eps: Tensor, center: Tensor | None, lower: float, upper: float
    ) -> tuple[Tensor, ...]:
        found = formula(grad, delta, result, eps, center=center, bounds=(lower, upper))
        return tuple(gradient.contiguous() for gradient in found)

    def fake_gradients(
        grad: Tensor, delta: Tensor, result: Tensor, eps: Tensor, center: Tensor | None, lower: float, upper: float
    ) -> tuple[Tensor, ...]:
        return (
            delta.new_empty(delta.shape),
            eps.new_empty(delta.shape[0]),
            delta.new_empty(0 if center is None else delta.shape),
        )

    backward = define(
        f"project_{norm}_backward(Tensor grad, Tensor delta, Tensor result, {_BALL}) -> (Tensor, Tensor, Tensor)",
        reference=gradients,
        fake=fake_gradients,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        delta, eps, center, ctx.lower, ctx.upper = inputs
        ctx.save_for_backward(delta, output, eps, center)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        delta, result, eps, center = ctx.saved_tensors
        grad_delta, grad_eps, grad_center = backward(grad, delta, result, eps, center, ctx.lower, ctx.upper)
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


_project_l1 = _define_with_backward("l1")
_project_l2 = _define_with_backward("l2")


def _check_batch(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    check_kernel_dtype(name, tensor)
    if tensor.dim() == 0:
        raise ValueError(f"{name}: expected shape [B, ...], got {describe(tensor)}")


def _check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_tensor(name, tensor)
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        raise ValueError(
            f"{name}: expected {describe(other)} on {other.device} like {other_name}, "
            f"got {describe(tensor)} on {tensor.device}"
        )


def check_bounds(bounds: Bounds) -> Bounds:
    """None, or a pair of numbers ``lo <= hi``."""
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"bounds: expected a pair of numbers (lo, hi) or None, got {describe(bounds)}")
    lower, upper = check_real("bounds", bounds[0]), check_real("bounds", bounds[1])
    if lower > upper:
        raise ValueError(f"bounds: expected lo <= hi, got ({lower}, {upper})")
    return lower, upper


def check_per_sample(name: str, value: float | Tensor, batch: Tensor) -> float | Tensor:
    """A number of at least 0, or a tensor ``[B]`` of such (a GPU's is not looked into: that would wait for the GPU)."""
    if not isinstance(value, Tensor):
        return check_real(name, value, minimum=0)
    check_tensor(name, value)
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, batch.shape[0])):
        raise ValueError(
            f"{name}: expected a number or shape [{batch.shape[0]}], one per sample, got {describe(value)}"
        )
    if value.device != batch.device:
        raise ValueError(f"{name}: expected it on {batch.device} like the batch, got {value.device}")
    if value.device.type == "cpu" and has_values(value) and not bool((value.detach() >= 0).all()):
        raise ValueError(f"{name}: expected values of at least 0, got {value.min().item()}")
    return value


def _as_rows(value: float | Tensor, batch: Tensor) -> Tensor:
    """``[1]`` or ``[B]``, in the type that the kernels compute in."""
    dtype = arithmetic_dtype(batch.dtype)
    if isinstance(value, Tensor):
        return value.to(dtype).reshape(-1).contiguous()
    return torch.full((1,), value, dtype=dtype, device=batch.device)


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

    Complexity: ``O(d log d)``, a sort of each row's breakpoints. There is no native kernel: the reference runs, and
    says so once.

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
        place of its arithmetic type (float32, float64 for float64) at most; half types are rounded towards 0. A row
        with a NaN, in its radius or clean input too, is NaN, and no other. One infinite entry takes all that it may;
        with several, the row may be NaN.

        Differentiable in `delta`, `eps` and `center`, twice too, in reverse mode; not under `torch.func` transforms. At
        kinks the derivative of one side is taken: an entry on a limit of the box passes its gradient to `delta`, a row
        with ``‖δ‖₂ = eps`` counts as inside, and so does one that the ball has changed by less than rounding; with
        every entry 0 or clipped, `eps` gets 0.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: ``O(d log d)``, a sort of each row. There is no native kernel: the reference runs, and says so once.

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
    _check_batch("delta", delta)
    bounds = check_bounds(bounds)
    if (center is None) != (bounds is None):
        raise ValueError("center: expected center and bounds together, or neither; got one of them")
    if center is not None:
        _check_like("center", center, "delta", delta)
    rows = _as_rows(check_per_sample("eps", eps, delta), delta)
    refuse_forward_mode(name, delta, rows, *(() if center is None else (center,)))
    lower, upper = bounds or (-math.inf, math.inf)
    return delta, rows, center, lower, upper


def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """One fused step of l-infinity PGD: ``clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``.

    Args:
        x_adv: current adversarial inputs ``[B, ...]``; float16, bfloat16, float32 or float64.
        grad: gradient of the objective to ascend, like `x_adv`.
        x: clean inputs, like `x_adv`.
        eps: radius of the ball, at least 0: a number, or one per sample ``[B]``.
        step_size: at least 0, a number or one per sample ``[B]``.
        bounds: ``(lo, hi)`` of valid inputs, or None.

    Returns:
        The next adversarial inputs, a new tensor like `x_adv`. An entry whose gradient is 0 does not move; one whose
        gradient is NaN becomes NaN, and no other. Not differentiable.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: one pass: three tensors read, one written.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    >>> x = torch.tensor([[0.5, 0.9]])
    >>> linf_step(x, torch.tensor([[-3.0, 2.0]]), x, eps=0.25, step_size=0.125).tolist()
    [[0.375, 1.0]]
    """
    arguments, per_sample = _check_step(x_adv, grad, x, eps, step_size, bounds)
    return (_linf_step_per_sample if per_sample else _linf_step)(x_adv.detach(), *arguments)


def linf_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """`linf_step` in place: writes the next adversarial inputs into `x_adv` and returns it.

    `x_adv` needs memory for each element, nested as that of slices and transposes is; a gradient or clean input that
    overlaps it without being the same view is copied first.

    >>> x = torch.tensor([[0.5]])
    >>> x_adv = x.clone()
    >>> linf_step_(x_adv, torch.ones(1, 1), x, eps=0.25, step_size=1.0) is x_adv, x_adv.item()
    (True, 0.75)
    """
    arguments, per_sample = _check_step(x_adv, grad, x, eps, step_size, bounds)
    if not x_adv.is_contiguous() and _may_overlap_itself(x_adv):
        raise ValueError(
            f"x_adv: expected memory for each element, got {describe(x_adv)} with strides {x_adv.stride()}"
        )
    if has_values(x_adv):  # a compiled graph keeps count of its writes, and of overlaps, by itself
        torch.autograd.graph.increment_version(x_adv)
        arguments = tuple(_apart(x, x_adv) if isinstance(x, Tensor) else x for x in arguments)
    (_linf_step_per_sample_ if per_sample else _linf_step_)(x_adv.detach(), *arguments)
    return x_adv


def _may_overlap_itself(tensor: Tensor) -> bool:
    """False if each stride is longer than all that the smaller ones reach, so that no two elements can share memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _apart(tensor: Tensor, written: Tensor) -> Tensor:
    """The tensor, or a copy if writing to `written`, entry by entry, could change an entry of it before its turn."""
    begin, written_begin = tensor.data_ptr(), written.data_ptr()
    if begin == written_begin and tensor.stride() == written.stride() and tensor.shape == written.shape:
        return tensor
    overlap = begin < written_begin + _reach(written) and written_begin < begin + _reach(tensor)
    return tensor.clone() if overlap else tensor


def _reach(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last one in memory."""
    if tensor.is_contiguous():
        return tensor.nbytes
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return (last + 1) * tensor.itemsize


def _check_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step_size: float | Tensor, bounds: Bounds
) -> tuple[tuple[Any, ...], bool]:
    _check_batch("x_adv", x_adv)
    _check_like("grad", grad, "x_adv", x_adv)
    _check_like("x", x, "x_adv", x_adv)
    lower, upper = check_bounds(bounds) or (-math.inf, math.inf)
    eps = check_per_sample("eps", eps, x_adv)
    step_size = check_per_sample("step_size", step_size, x_adv)
    per_sample = isinstance(eps, Tensor) or isinstance(step_size, Tensor)
    if per_sample:
        eps, step_size = _as_rows(eps, x_adv).detach(), _as_rows(step_size, x_adv).detach()
    return (grad.detach(), x.detach(), eps, step_size, lower, upper), per_sample
