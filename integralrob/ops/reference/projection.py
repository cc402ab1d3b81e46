"""Projections onto perturbation balls, and their derivatives, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._dtypes import arithmetic_dtype


def per_row(value: float | Tensor, like: Tensor) -> Tensor:
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
    radius = per_row(eps, delta)
    if center is None or bounds is None:
        return -radius, radius
    wide = center.to(radius.dtype)
    return torch.maximum(-radius, (bounds[0] - wide).clamp(max=0)), torch.minimum(
        radius, (bounds[1] - wide).clamp(min=0)
    )


def project_l1(
    delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: tuple[float, float] | None = None
) -> Tensor:
    """``δ_i = sign(y_i) · clip(|y_i| - θ, 0, b_i)`` with the least θ >= 0 for which ``‖δ‖₁ <= eps``.

    ``φ(θ) = Σ clip(a_i - θ, 0, b_i)`` is linear between its `2d` breakpoints `a_i` and `a_i - b_i`. Sort them, search
    for the two between which φ reaches `eps`, and interpolate.
    """
    a, b, radius = _magnitudes(delta, eps, center, bounds)
    if a.numel() == 0:
        return delta.clone()
    # No entry of the result exceeds eps; an infinite one counts as the greatest number.
    high, top = a.clamp(max=torch.finfo(a.dtype).max), torch.minimum(b, radius)
    edge = high - top

    def shrunk(theta: Tensor) -> Tensor:
        return torch.where(theta <= edge, top, (high - theta).clamp(min=0))

    ends = torch.tensor([math.inf, 0.0], dtype=a.dtype, device=a.device).expand(len(a), 2)
    breakpoints = torch.cat([high, edge.clamp(min=0), ends], dim=1).sort(dim=1, descending=True).values
    theta_most, theta_least = _bracket(breakpoints, lambda theta: _sum(shrunk(theta)) <= radius)
    least, most = shrunk(theta_most), shrunk(theta_least)
    missing = (_rounded_off(radius) - _sum(least)).clamp(min=0)
    on_sphere = least + (most - least) * (missing / _sum(most - least))
    inside = torch.minimum(a, top)
    return _with_signs(torch.where(_sum(inside) <= radius, inside, on_sphere), delta, a, b, radius)


def project_l2(
    delta: Tensor, eps: float | Tensor, *, center: Tensor | None = None, bounds: tuple[float, float] | None = None
) -> Tensor:
    """``δ_i = sign(y_i) · min(s·|y_i|, b_i)`` with the greatest s <= 1 for which ``‖δ‖₂ <= eps``.

    Entry i is clipped from ``s = b_i / a_i`` on. Sort these ratios, search for the two between which ``‖δ‖₂`` reaches
    `eps`, and solve ``Σ_clipped b_i² + s² Σ_free a_i² = eps²``.
    """
    a, b, radius = _magnitudes(delta, eps, center, bounds)
    if a.numel() == 0:
        return delta.clone()
    high = a.clamp(max=torch.finfo(a.dtype).max)
    unit = torch.ldexp(torch.ones_like(radius), torch.frexp(radius).exponent - 1)  # a power of 2 divides exactly

    def squares(m: Tensor) -> Tensor:
        return _sum((m / unit).square())

    limit = (radius / unit).square()
    ratios = torch.where(high > 0, b / high, 1).clamp(max=1)
    breakpoints = torch.cat([torch.zeros_like(radius), ratios], dim=1).sort(dim=1).values
    s, _ = _bracket(breakpoints, lambda s: squares(torch.minimum(s * high, b)) <= limit)
    free = ratios > s
    direction = high.masked_fill(~free, 0)
    direction = direction / direction.amax(dim=1, keepdim=True)
    room = (_rounded_off(radius) / unit).square() - squares(b.masked_fill(free, 0))
    length = room.clamp(min=0).sqrt() * unit
    on_sphere = torch.where(free, direction * (length / _sum(direction.square()).sqrt()), b)
    inside = torch.minimum(a, b)
    return _with_signs(torch.where(squares(inside) <= limit, inside, on_sphere), delta, a, b, radius)


def _rows(tensor: Tensor) -> Tensor:
    """``[B, d]`` in float64, whatever the type of the data: the sums are exact to a few roundings."""
    return tensor.to(torch.float64).reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dim=1, keepdim=True)


def _rounded_off(limit: Tensor) -> Tensor:
    """A little less, so that roundings do not lead out of the ball."""
    return limit * (1 - 2**-51)


def _magnitudes(
    delta: Tensor, eps: float | Tensor, center: Tensor | None, bounds: tuple[float, float] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``a = |y|`` and its limit ``b`` in the box, on the side of y's sign, ``[B, d]``, and eps ``[B, 1]``."""
    y = _rows(delta)
    lower, upper = (_rows(limit.expand_as(delta)) for limit in linf_limits(delta, math.inf, center, bounds))
    radius = per_row(eps, delta).to(y.dtype).reshape(-1, 1).expand(len(y), 1)
    return y.abs(), torch.where(y > 0, upper, -lower), radius


def _bracket(points: Tensor, holds: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The last of each row's points at which `holds`, and the one after it; it holds up to some point, not at the last.

    Args:
        points: ``[B, n]``.
        holds: from a point of each row, ``[B, 1]``, to a bool.
    """
    low = torch.zeros_like(points[:, :1], dtype=torch.int64)
    high = torch.full_like(low, points.shape[1] - 1)
    for _ in range((points.shape[1] - 1).bit_length()):
        middle = (low + high) // 2
        still = holds(points.gather(1, middle))
        low, high = torch.where(still, middle, low), torch.where(still, high, middle)
    return points.gather(1, low), points.gather(1, high)


def _narrowed(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """In the type of the arithmetic; from there to half types towards 0, so that neither ball nor box is left."""
    magnitude = magnitude.to(arithmetic_dtype(dtype))
    rounded = magnitude.to(dtype)
    beyond = rounded.to(magnitude.dtype) > magnitude
    return torch.where(beyond, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)


def _with_signs(magnitude: Tensor, delta: Tensor, a: Tensor, b: Tensor, radius: Tensor) -> Tensor:
    """Limited to what holds of every result, in the type of `delta` and with its signs; NaN if the row has one."""
    magnitude = torch.minimum(torch.minimum(magnitude, radius), torch.minimum(a, b))
    unknown = magnitude.isnan().any(dim=1, keepdim=True)
    rounded = _narrowed(magnitude, delta.dtype).masked_fill(unknown, math.nan).reshape(delta.shape)
    return torch.copysign(rounded, delta)


def project_linf_backward(
    grad: Tensor,
    delta: Tensor,
    eps: float | Tensor,
    *,
    center: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `delta`, ``eps [B]``, `center` (or ``[0]``).

    On each entry the result is one of: `delta`, ``±eps``, a bound minus `center`, or 0 (center outside the bounds).
    """
    y, g = _rows(delta), _rows(grad)
    lower, upper = (_rows(limit.expand_as(delta)) for limit in linf_limits(delta, eps, center, bounds))
    radius = per_row(eps, delta).to(y.dtype).reshape(-1, 1)
    above, below = y > upper, y < lower
    by_ball = (above & (upper == radius)) | (below & (lower == -radius))
    by_box = (above & (upper < radius) & (upper > 0)) | (below & (lower > -radius) & (lower < 0))
    of_eps = _sum(torch.where(above, g, -g).masked_fill(~by_ball, 0))
    return _gradients(g, ~(above | below), of_eps, g, by_box, delta, center)


def project_l1_backward(
    grad: Tensor,
    delta: Tensor,
    result: Tensor,
    eps: float | Tensor,
    *,
    center: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `delta`, ``eps [B]``, `center` (or ``[0]``), from ``θ = (Σ_free a + Σ_clipped b - eps) / #free``."""
    free, clipped, active = _active_set(delta, result, center, bounds)
    g, sign = _rows(grad), _rows(delta).sign()
    mean = _sum((sign * g).masked_fill(~(free & active), 0)) / _sum(free).clamp(min=1)
    moved = g - sign * mean
    return _gradients(moved, free, mean, moved, clipped, delta, center)


def project_l2_backward(
    grad: Tensor,
    delta: Tensor,
    result: Tensor,
    eps: float | Tensor,
    *,
    center: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `delta`, ``eps [B]``, `center` (or ``[0]``), from ``s² Σ_free a² + Σ_clipped b² = eps²``."""
    free, clipped, active = _active_set(delta, result, center, bounds)
    g, projected = _rows(grad), _rows(result)
    # Scaled, so that no square overflows: ``δ = n · largest`` and ``y = t · greatest`` on the free entries.
    n, largest = scaled(projected.masked_fill(~(free & active), 0))
    t, greatest = scaled(_rows(delta).masked_fill(~(free & active), 0))
    nothing = (_sum(n.square()) == 0).to(g.dtype)  # mean = 0 there, and s = 1, or 0 for a ball of radius 0
    s = ((_sum(n.square()) + nothing) / (_sum(t.square()) + nothing)).sqrt() * (largest / greatest)
    s = s.masked_fill(active & (nothing > 0), 0)
    mean = _sum((n * g).masked_fill(~free, 0)) / (_sum(n.square()) + nothing) / largest
    radius = per_row(eps, delta).to(g.dtype).reshape(-1, 1).expand_as(mean).masked_fill(~active, 0)
    moved = g - projected * mean
    follows = free | (_rows(delta) == 0)  # s · 0 is 0, and yet moves with delta
    return _gradients(s * moved, follows, radius * mean, moved, clipped, delta, center)


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose greatest magnitude is 1, and what they were divided by; rows of zeros stay."""
    greatest = rows.abs().amax(dim=1, keepdim=True) if rows.numel() else rows.new_zeros(len(rows), 1)
    greatest = torch.where(greatest > 0, greatest, 1)
    return rows / greatest, greatest


def _active_set(
    delta: Tensor, result: Tensor, center: Tensor | None, bounds: tuple[float, float] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries ``[B, d]`` that follow `delta`, those that follow the box, and the rows ``[B, 1]`` on the sphere.

    An entry on a limit counts as free. A row is on the sphere if one of its entries is less than the box makes it.
    """
    a, b, _ = _magnitudes(delta, math.inf, center, bounds)
    m = _rows(result).abs()
    clipped = (a > b) & (m >= _rows(_narrowed(b, delta.dtype)))
    active = ((m < a) & ~clipped).any(dim=1, keepdim=True)
    free = ~clipped & ((m > 0) | ~active)
    return free, clipped & (b > 0), active


def _gradients(
    of_delta: Tensor,
    free: Tensor,
    of_eps: Tensor,
    of_center: Tensor,
    clipped: Tensor,
    delta: Tensor,
    center: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in float64 in the shapes and types of what they are the gradients of."""
    grad_delta = of_delta.masked_fill(~free, 0).to(delta.dtype).reshape(delta.shape)
    grad_center = delta.new_empty(0)
    if center is not None:
        grad_center = -of_center.masked_fill(~clipped, 0).to(delta.dtype).reshape(delta.shape)
    return grad_delta, of_eps.reshape(-1).to(arithmetic_dtype(delta.dtype)), grad_center
