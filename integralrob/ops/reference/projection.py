"""Projections onto perturbation balls, and the fused attack steps, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._dtypes import arithmetic_dtype


def _per_row(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or one value per sample ``[B]``, shaped to broadcast over ``[B, ...]`` and in the type of the sums."""
    tensor = torch.as_tensor(value, dtype=arithmetic_dtype(like.dtype), device=like.device)
    return tensor.reshape(-1, *[1] * (like.dim() - 1))


def project_linf(
    delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: tuple[float, float] | None = None
) -> Tensor:
    """``clip(delta, max(-eps, l), min(eps, u))``, ``l = min(lo - center, 0)``, ``u = max(hi - center, 0)``."""
    lower, upper = linf_limits(delta, eps, center, bounds)
    return torch.minimum(torch.maximum(delta.to(lower.dtype), lower), upper).to(delta.dtype)


def linf_limits(
    delta: Tensor, eps: float | Tensor, center: Tensor | None, bounds: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """The least and greatest value that each entry of `delta` may take."""
    radius = _per_row(eps, delta)
    if center is None or bounds is None:
        return -radius, radius
    wide = center.to(radius.dtype)
    return torch.maximum(-radius, (bounds[0] - wide).clamp(max=0)), torch.minimum(
        radius, (bounds[1] - wide).clamp(min=0)
    )


def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """``clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``."""
    radius, step = _per_row(eps, x), _per_row(step_size, x)
    lower, upper = bounds or (-math.inf, math.inf)
    wide_x = x.to(radius.dtype)
    wide_grad = grad.to(radius.dtype)
    sign = torch.where(wide_grad.isnan(), wide_grad, wide_grad.sign())
    moved = x_adv.to(radius.dtype) + step * sign
    inside = torch.minimum(torch.maximum(moved, wide_x - radius), wide_x + radius)
    return inside.clamp(lower, upper).to(x_adv.dtype)


def linf_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """`linf_step`, written into `x_adv`."""
    return x_adv.copy_(linf_step(x_adv, grad, x, eps, step_size, bounds=bounds))
