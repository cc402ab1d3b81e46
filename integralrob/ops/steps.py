"""The fused steps of projected gradient ascent in the l-infinity, l1 and l2 balls."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._checks import check_real, describe, has_values
from . import reference
from ._arguments import Bounds, as_rows, check_batch, check_bounds, check_kept, check_like, check_per_sample
from ._dtypes import arithmetic_dtype
from ._library import define


class _Step(NamedTuple):
    """The ops of a step: a new tensor or in place (…_), with one number for the whole batch or one per sample ([B]).

    A plain number costs less per call.
    """

    new: Any
    new_per_sample: Any
    written: Any
    written_per_sample: Any


def _define(norm: str) -> _Step:
    step = getattr(reference, f"{norm}_step")

    # `previous` is `x` where there is no momentum: an optional argument would cost more per call.
    def run(x_adv: Tensor, grad: Tensor, x: Tensor, previous: Tensor, eps: Any, step_size: Any, *rest: Any) -> Tensor:
        *k, momentum, lower, upper = rest
        options = {"bounds": (lower, upper), "momentum": momentum, "previous": previous}
        out: Tensor = step(x_adv, grad, x, eps, step_size, **options, **({"k": k[0]} if k else {}))
        return out.contiguous()  # as the kernels promise

    def run_(x_adv: Tensor, *rest: Any) -> None:
        x_adv.copy_(run(x_adv, *rest))

    def fake(x_adv: Tensor, *rest: Any) -> Tensor:
        return x_adv.new_empty(x_adv.shape)

    def fake_(x_adv: Tensor, *rest: Any) -> None:
        return None

    def overloads(suffix: str, of_x_adv: str, result: str, kernel: Any, fake: Any) -> list[Any]:
        return [
            define(
                f"{norm}_step{suffix}{overload}({of_x_adv} x_adv, Tensor grad, Tensor x, Tensor previous, {value} eps, "
                f"{value} step_size, {f'{count} k, ' if norm == 'l1' else ''}float momentum, float lower, float upper)"
                f" -> {result}",
                reference=kernel,
                fake=fake,
            )
            for overload, value, count in (("", "float", "SymInt"), (".per_sample", "Tensor", "Tensor"))
        ]

    return _Step(*overloads("", "Tensor", "Tensor", run, fake), *overloads("_", "Tensor(a!)", "()", run_, fake_))


_linf, _l1, _l2 = (_define(norm) for norm in ("linf", "l1", "l2"))


def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """One fused step of l-infinity PGD: ``clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``.

    With momentum m, that is z, and the step of APGD follows: the same clips of
    ``x_adv + (1 - m)·(z - x_adv) + m·(x_adv - previous)``.

    In the result ``x ± eps`` is rounded towards `x` where the nearest number is further from it than `eps`, so that no
    entry leaves the ball. The ball is that of `eps` rounded to float32 (to float64 for float64 tensors).

    Args:
        x_adv: current adversarial inputs ``[B, ...]``; float16, bfloat16, float32 or float64.
        grad: gradient of the objective to ascend, like `x_adv`.
        x: clean inputs, like `x_adv`.
        eps: radius of the ball in units of `x`, at least 0: a number, or one per sample ``[B]``.
        step_size: how far each entry moves, at least 0, a number or one per sample ``[B]``.
        bounds: ``(lo, hi)`` of valid inputs, or None.
        momentum: share of the previous move, from 0 to 1; APGD's is 0.25 from its second step on.
        previous: the adversarial inputs of one step ago, like `x_adv`; with momentum, and only with it.

    Returns:
        The next adversarial inputs, a new tensor like `x_adv`. An entry whose gradient is 0 does not move (but by
        momentum); one whose gradient is NaN becomes NaN, and no other. Not differentiable.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: one pass: three tensors read (four with momentum), one written.

    Sources: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; momentum: Croce,
    Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.

    >>> x = torch.tensor([[0.5, 0.9]])
    >>> linf_step(x, torch.tensor([[-3.0, 2.0]]), x, eps=0.25, step_size=0.125).tolist()
    [[0.375, 1.0]]
    """
    return _new(_linf, x_adv, grad, x, eps, step_size, (), bounds, momentum, previous)


def l1_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    k: int | float | Tensor = 0.05,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """One fused step of l1 PGD: a sparse move, then the exact projection on the ball within the box.

    With ``s = sign(grad)`` on the entries whose magnitude is at least the k-th largest of their sample and not 0, and 0
    on the others, it is ``x + δ`` where δ is the Euclidean projection (`project_l1`) of ``(x_adv - x) + step_size · s /
    ‖s‖₁`` on ``{‖δ‖₁ ≤ eps} ∩ {lo ≤ x + δ ≤ hi}``. Entries that tie with the k-th largest are all kept.

    With momentum m, that is z, and the step of APGD follows: ``x + δ`` with δ the projection of ``(x_adv - x) + (1 - m)
    · (z - x_adv) + m · (x_adv - previous)``.

    Args:
        x_adv: current adversarial inputs ``[B, ...]``; float16, bfloat16, float32 or float64.
        grad: gradient of the objective to ascend, like `x_adv`.
        x: clean inputs, like `x_adv`.
        eps: radius of the ball in units of `x`, at least 0: a number, or one per sample ``[B]``.
        step_size: l1 length of the move, at least 0, a number or one per sample ``[B]``.
        k: how many entries move. An int counts them, from 1 to d, the entries of a sample; a float is their share, from
            0 to 1, rounded to the nearest count and at least one of them (1 is one entry, 1.0 is all). Or a tensor of
            ints or of floats, one per sample ``[B]``. A GPU's is not looked at, which would wait for the GPU, but
            limited to the range.
        bounds: ``(lo, hi)`` of valid inputs, or None.
        momentum: share of the previous move, from 0 to 1.
        previous: the adversarial inputs of one step ago, like `x_adv`; with momentum, and only with it.

    Returns:
        The next adversarial inputs, a new tensor like `x_adv`, each entry rounded towards `x` so that none leaves the
        ball. The step leads into the box too where `x` lies outside. A sample with a NaN in one of the tensors, its
        radius or its step size is NaN, and no other. Not differentiable.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: a few passes over each sample, in fast memory where it fits: to find the k-th largest, and to project.
    The reference sorts.

    Sources: the sparse direction: Tramèr, Boneh, "Adversarial training and robustness for multiple perturbations",
    NeurIPS 2019 (SLIDE); its normalisation, and the projection on ball and box: Croce, Hein, "Mind the box: l1-APGD for
    sparse adversarial attacks on image classifiers", ICML 2021.

    >>> x = torch.tensor([[0.5, 0.5, 0.9]])
    >>> l1_step(x, torch.tensor([[-3.0, 1.0, 4.0]]), x, eps=1.0, step_size=0.5, k=2).tolist()
    [[0.25, 0.5, 1.0]]
    """
    return _new(_l1, x_adv, grad, x, eps, step_size, (k,), bounds, momentum, previous)


def l2_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """One fused step of l2 PGD: a normalised move, back to the ball by scaling, then to the box by clipping.

    ``clip(x + δ, lo, hi)`` with ``δ = y · min(1, eps / ‖y‖₂)`` and ``y = (x_adv - x) + step_size · grad / ‖grad‖₂``.
    It stays in ball and box where `x` is in the box, but is not the nearest such point, which `project_l2` finds.

    With momentum m, that is z, and the step of APGD follows: the same scaling and clipping of ``y = (x_adv - x) + (1 -
    m)·(z - x_adv) + m·(x_adv - previous)``.

    Args:
        x_adv: current adversarial inputs ``[B, ...]``; float16, bfloat16, float32 or float64.
        grad: gradient of the objective to ascend, like `x_adv`; of any scale, and where it is 0 there is no move. An
            infinite entry counts as the largest number.
        x: clean inputs, like `x_adv`.
        eps: radius of the ball in units of `x`, at least 0: a number, or one per sample ``[B]``.
        step_size: l2 length of the move, at least 0, a number or one per sample ``[B]``.
        bounds: ``(lo, hi)`` of valid inputs, or None.
        momentum: share of the previous move, from 0 to 1; APGD's is 0.25 from its second step on.
        previous: the adversarial inputs of one step ago, like `x_adv`; with momentum, and only with it.

    Returns:
        The next adversarial inputs, a new tensor like `x_adv`, each entry rounded towards `x` so that none leaves the
        ball. A sample with a NaN in one of the tensors, its radius or its step size is NaN, and no other. Not
        differentiable.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: a few passes over each sample, in fast memory where it fits: two norms, three with momentum.

    Sources: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; momentum: Croce,
    Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.

    >>> x = torch.tensor([[0.5, 0.5]])
    >>> l2_step(x, torch.tensor([[-30.0, 40.0]]), x, eps=1.0, step_size=0.625).tolist()
    [[0.125, 1.0]]
    """
    return _new(_l2, x_adv, grad, x, eps, step_size, (), bounds, momentum, previous)


def linf_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """`linf_step` in place: writes the next adversarial inputs into `x_adv` and returns it.

    `x_adv` needs memory for each element, nested as that of slices and transposes is; another argument that overlaps it
    is copied first.

    >>> x = torch.tensor([[0.5]])
    >>> x_adv = x.clone()
    >>> linf_step_(x_adv, torch.ones(1, 1), x, eps=0.25, step_size=1.0) is x_adv, x_adv.item()
    (True, 0.75)
    """
    return _written(_linf, x_adv, grad, x, eps, step_size, (), bounds, momentum, previous)


def l1_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    k: int | float | Tensor = 0.05,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """`l1_step` in place, as `linf_step_` is.

    >>> x = torch.tensor([[0.5, 0.5]])
    >>> x_adv = x.clone()
    >>> l1_step_(x_adv, torch.tensor([[1.0, -2.0]]), x, eps=0.25, step_size=1.0, k=1) is x_adv, x_adv.tolist()
    (True, [[0.5, 0.25]])
    """
    return _written(_l1, x_adv, grad, x, eps, step_size, (k,), bounds, momentum, previous)


def l2_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """`l2_step` in place, as `linf_step_` is.

    >>> x = torch.tensor([[0.5]])
    >>> x_adv = x.clone()
    >>> l2_step_(x_adv, torch.ones(1, 1), x, eps=0.25, step_size=1.0) is x_adv, x_adv.item()
    (True, 0.75)
    """
    return _written(_l2, x_adv, grad, x, eps, step_size, (), bounds, momentum, previous)


def _new(step: _Step, x_adv: Tensor, *rest: Any) -> Tensor:
    arguments, per_sample = _check(x_adv, *rest)
    out: Tensor = (step.new_per_sample if per_sample else step.new)(x_adv.detach(), *arguments)
    return out


def _written(step: _Step, x_adv: Tensor, *rest: Any) -> Tensor:
    arguments, per_sample = _check(x_adv, *rest)
    if has_values(x_adv):  # a compiled graph keeps count of its writes, and of overlaps, by itself
        if not x_adv.is_contiguous() and _may_overlap_itself(x_adv):
            raise ValueError(
                f"x_adv: expected memory for each element, got {describe(x_adv)} with strides {x_adv.stride()}"
            )
        torch.autograd.graph.increment_version(x_adv)
        arguments = tuple(_apart(x, x_adv) if isinstance(x, Tensor) else x for x in arguments)
    (step.written_per_sample if per_sample else step.written)(x_adv.detach(), *arguments)
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
    """The tensor, or a copy if its memory overlaps what is written."""
    begin, written_begin = tensor.data_ptr(), written.data_ptr()
    overlap = begin < written_begin + _reach(written) and written_begin < begin + _reach(tensor)
    return tensor.clone() if overlap else tensor


def _reach(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last one in memory."""
    if tensor.is_contiguous():
        return tensor.nbytes
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return (last + 1) * tensor.itemsize


def _check(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    k: tuple[int | float | Tensor, ...],
    bounds: Bounds,
    momentum: float,
    previous: Tensor | None,
) -> tuple[tuple[Any, ...], bool]:
    """The arguments of the op after `x_adv`, and whether it is the one with values per sample."""
    check_batch("x_adv", x_adv)
    check_like("grad", grad, "x_adv", x_adv)
    check_like("x", x, "x_adv", x_adv)
    x = before = x.detach()
    if previous is not None or type(momentum) is not float or momentum != 0:
        momentum = _check_momentum(momentum, previous)
        if previous is not None:
            check_like("previous", previous, "x_adv", x_adv)
            before = previous.detach()
    lower, upper = check_bounds(bounds) or (-math.inf, math.inf)
    eps, step_size = check_per_sample("eps", eps, x_adv), check_per_sample("step_size", step_size, x_adv)
    kept = [check_kept(count, x_adv) for count in k]
    per_sample = isinstance(eps, Tensor) or isinstance(step_size, Tensor) or any(isinstance(n, Tensor) for n in kept)
    if per_sample:
        wide = arithmetic_dtype(x_adv.dtype)
        eps, step_size = (as_rows(value, x_adv, wide).detach() for value in (eps, step_size))
        kept = [as_rows(count, x_adv, torch.int64) for count in kept]
    return (grad.detach(), x, before, eps, step_size, *kept, momentum, lower, upper), per_sample


def _check_momentum(momentum: Any, previous: Any) -> float:
    momentum = check_real("momentum", momentum, minimum=0)
    if momentum > 1:
        raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
    if (momentum > 0) != (previous is not None):
        got = "no previous" if previous is None else "a momentum of 0"
        raise ValueError(f"previous: expected it with a momentum above 0, and only with one, got {got}")
    return momentum
