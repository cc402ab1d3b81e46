"""The steps of projected gradient ascent, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._dtypes import arithmetic_dtype
from .projection import per_row, project_l1, scaled

Value = float | Tensor
Bounds = tuple[float, float] | None


def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: Value,
    step_size: Value,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """``z = clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``.

    With momentum, the same clips of ``x_adv + (1 - momentum)·(z - x_adv) + momentum·(x_adv - previous)``. In the result
    ``x ± eps`` is rounded towards x where the nearest number is further from x than eps.
    """
    radius, step = per_row(eps, x), per_row(step_size, x)
    start, direction, center = (t.to(radius.dtype) for t in (x_adv, grad, x))
    lower, upper = bounds or (-math.inf, math.inf)

    sign = torch.where(direction.isnan(), direction, direction.sign())
    z = start + step * sign
    if momentum and previous is not None:
        z = torch.minimum(torch.maximum(z, center - radius), center + radius).clamp(lower, upper)
        z = start + _mixed(z, start, previous, momentum)
    limit = added(center, torch.where(z > center, radius, -radius), x.dtype).to(z.dtype)
    inside = torch.where(z > center, torch.minimum(z, limit), torch.maximum(z, limit))
    return inside.clamp(lower, upper).to(x_adv.dtype)


def l2_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: Value,
    step_size: Value,
    *,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """``clip(x + δ, lo, hi)``, ``δ = y · min(1, eps / ‖y‖₂)``, ``y = (x_adv - x) + step_size · grad / ‖grad‖₂``."""
    return _step(_along, _in_l2_ball, x_adv, grad, x, eps, step_size, bounds, momentum, previous)


def l1_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: Value,
    step_size: Value,
    *,
    k: int | Tensor,
    bounds: Bounds = (0.0, 1.0),
    momentum: float = 0.0,
    previous: Tensor | None = None,
) -> Tensor:
    """``x + δ``, δ the projection of ``(x_adv - x) + step_size · s / ‖s‖₁`` on ball and box.

    ``s = sign(grad)`` on the entries that are not 0 and at least as large as the k-th largest, 0 on the others; k is a
    count, or one for each sample ``[B]``.
    """
    return _step(partial(_sparse, k=k), project_l1, x_adv, grad, x, eps, step_size, bounds, momentum, previous)


def _step(
    move: Callable[[Tensor, Tensor], Tensor],
    limited: Callable[..., Tensor],
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: Value,
    step_size: Value,
    bounds: Bounds,
    momentum: float,
    previous: Tensor | None,
) -> Tensor:
    """A `move` that depends on gradient ``[B, d]`` and size ``[B, 1]``, of perturbations that are `limited`.

    With momentum, another of ``(x_adv - x) + (1 - momentum)·(z - x_adv) + momentum·(x_adv - previous)``, where z is
    where the first one led.
    """
    if x_adv.numel() == 0:
        return x_adv.clone()
    wide = arithmetic_dtype(x_adv.dtype)
    rows = [t.to(wide).flatten(1) if t.dim() > 1 else t.to(wide)[:, None] for t in (x_adv, grad, x)]
    start, gradient, center = rows
    radius, size = (per_row(value, start) for value in (eps, step_size))
    lower, upper = bounds or (-math.inf, math.inf)
    delta = limited(start - center + move(gradient, size), radius.flatten(), center=center, bounds=bounds)
    if momentum and previous is not None:
        rows.append(previous.to(wide).reshape(start.shape))
        z = (center + delta).clamp(lower, upper)
        mixed = start - center + _mixed(z, start, rows[-1], momentum)
        delta = limited(mixed, radius.flatten(), center=center, bounds=bounds)
    moved = added(center, delta, x.dtype).to(wide).clamp(lower, upper).to(x.dtype)
    unknown = torch.stack([row.isnan().any(dim=1) for row in rows]).any(dim=0) | (radius + size).isnan().flatten()
    return moved.masked_fill(unknown[:, None], math.nan).reshape(x_adv.shape)


def _mixed(z: Tensor, start: Tensor, previous: Tensor, momentum: float) -> Tensor:
    share = torch.as_tensor(momentum, dtype=start.dtype, device=start.device)
    return (1 - share) * (z - start) + share * (start - previous.to(start.dtype))


def _sparse(gradient: Tensor, size: Tensor, k: int | Tensor) -> Tensor:
    magnitude = gradient.abs()
    counts = torch.as_tensor(k, device=gradient.device).reshape(-1, 1).expand(len(gradient), 1)
    sorted_ = magnitude.sort(dim=1, descending=True).values
    least = sorted_.gather(1, counts.clamp(1, sorted_.shape[1]) - 1)
    kept = (magnitude >= least) & (magnitude > 0)
    share = size / kept.sum(dim=1, keepdim=True).clamp(min=1).to(size.dtype)
    return torch.where(kept, share * gradient.sign(), 0)


def _along(gradient: Tensor, size: Tensor) -> Tensor:
    direction, _, length = _polar(gradient)
    return (size * direction / length).to(gradient.dtype)


def _in_l2_ball(delta: Tensor, eps: Tensor, *, center: Tensor, bounds: Bounds) -> Tensor:
    """Scaled into the ball. What the box then clips off the sum with `center` leads no further from it."""
    direction, greatest, length = _polar(delta)
    radius = eps.to(direction.dtype)[:, None]
    return torch.where(radius / greatest < length, direction * (radius / length), delta).to(delta.dtype)


def _polar(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64, rows whose greatest magnitude is 1, what they were divided by, and their length then, at least 1.

    Infinite entries count as the greatest number of their type; rows of zeros stay.
    """
    limit = torch.finfo(rows.dtype).max
    unit, greatest = scaled(rows.clamp(-limit, limit).to(torch.float64))
    return unit, greatest, unit.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1)


def added(center: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """``center + delta`` in a type, rounded to nearest if that is not beyond `delta`, else towards `center`."""
    total = center + delta
    change = total - center
    error = (center - (total - change)) + (delta - change)  # center + delta = total + error
    moved = total.to(dtype)
    excess = (moved.to(total.dtype) - total) - error
    beyond = torch.where(delta < 0, -excess, excess) > 0
    return torch.where(beyond, torch.nextafter(moved, center.to(dtype)), moved)


def linf_step_(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Value, step_size: Value, **options: Any) -> Tensor:
    """`linf_step`, written into `x_adv`."""
    return x_adv.copy_(linf_step(x_adv, grad, x, eps, step_size, **options))


def l1_step_(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Value, step_size: Value, **options: Any) -> Tensor:
    """`l1_step`, written into `x_adv`."""
    return x_adv.copy_(l1_step(x_adv, grad, x, eps, step_size, **options))


def l2_step_(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Value, step_size: Value, **options: Any) -> Tensor:
    """`l2_step`, written into `x_adv`."""
    return x_adv.copy_(l2_step(x_adv, grad, x, eps, step_size, **options))
