"""The balls of perturbations that an attack can search: one entry of `BALLS` for each norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..ops import l1_step, l2_step, linf_step, project_l1, project_l2
from ..ops._arguments import Bounds
from ..ops._dtypes import arithmetic_dtype

PerSample = float | Tensor
RandomStart = Callable[[Tensor, PerSample, Bounds, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Ball:
    """What an attack needs to know of the ball ``‖x_adv - x‖ ≤ eps``, cut by the box `bounds`.

    `eps` and `step_size` are floats or one value per sample; rows are independent.

    Attributes:
        step: ``(x_adv, grad, x, eps, step_size, *, bounds) -> x_adv``, a projected ascent step; in l1 with an argument
            `k` for the number of entries that move.
        random_start: ``(x, eps, bounds, generator) -> x_adv``, a random point of the ball inside the box.
        norm: ``delta [B, ...] -> [B]``, the size of perturbations.
        path: how many radii the steps of a run are long together, unless said otherwise.
        k: what `step` takes for it, unless said otherwise; None where it takes none.
    """

    step: Callable[..., Tensor]
    random_start: RandomStart
    norm: Callable[[Tensor], Tensor]
    path: float = 2.5
    k: float | None = None


def _sparse_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: PerSample, step_size: PerSample, *, bounds: Bounds, k: int | Tensor
) -> Tensor:
    """`l1_step` among the entries that can move: one at a bound that its gradient points to would use up a place."""
    if bounds is not None:
        roundings = 4 * torch.finfo(x_adv.dtype).eps
        lowest, highest = bounds[0] + roundings * abs(bounds[0]), bounds[1] - roundings * abs(bounds[1])
        stuck = ((grad > 0) & (x_adv >= highest)) | ((grad < 0) & (x_adv <= lowest))
        grad = grad.masked_fill(stuck, 0)
    return l1_step(x_adv, grad, x, eps, step_size, bounds=bounds, k=k)


def _linf_random_start(x: Tensor, eps: PerSample, bounds: Bounds, generator: torch.Generator | None) -> Tensor:
    """Uniform on ball ∩ box, which is a box itself. (To sample the ball and clip would pile up mass on the bounds.)"""
    dtype = arithmetic_dtype(x.dtype)
    centre = x.to(dtype)
    radius = eps.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(eps, Tensor) else eps
    lowest, highest = centre - radius, centre + radius
    if bounds is not None:
        lowest, highest = lowest.clamp_min_(bounds[0]), highest.clamp_max_(bounds[1])
    uniform = torch.rand(x.shape, dtype=dtype, device=x.device, generator=generator)
    return torch.lerp(lowest, highest, uniform).to(x.dtype)


def _projected_random_start(
    p: int, x: Tensor, eps: PerSample, bounds: Bounds, generator: torch.Generator | None
) -> Tensor:
    """Uniform in the ball of norm p, 1 or 2, then the nearest point of ball ∩ box: what lay outside is on the bounds.

    Entries with density ``∝ exp(-|t|^p)`` divided by ``(Σ |t|^p + e)^(1/p)``, e exponential, are uniform in the unit
    ball: Barthe et al., "A probabilistic approach to the geometry of the l_p^n-ball", Annals of Probability 33, 2005.
    """
    centre = x.to(arithmetic_dtype(x.dtype))
    rows = centre.reshape(len(x), -1)
    rest = torch.empty_like(rows[:, :1]).exponential_(generator=generator)
    if p == 1:
        sign = torch.randint(0, 2, rows.shape, device=x.device, generator=generator) * 2 - 1
        entries = sign * torch.empty_like(rows).exponential_(generator=generator)
        size = entries.abs().sum(1, keepdim=True) + rest
    else:
        entries = torch.empty_like(rows).normal_(std=0.5**0.5, generator=generator)
        size = (entries.square().sum(1, keepdim=True) + rest).sqrt()
    radius = eps.reshape(-1, 1) if isinstance(eps, Tensor) else eps
    delta = (entries * (radius / size)).reshape(x.shape)
    project = project_l1 if p == 1 else project_l2
    delta = project(delta, eps, center=None if bounds is None else centre, bounds=bounds)
    moved = (centre + delta).to(x.dtype)
    beyond = (moved.to(delta.dtype) - centre).abs() > delta.abs()
    moved = torch.where(beyond, torch.nextafter(moved, x), moved)  # no rounding leaves the ball
    return moved if bounds is None else moved.clamp_(*bounds)


def _norm(order: float, delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(delta.reshape(len(delta), -1), order, dim=1)


BALLS = {
    "linf": Ball(linf_step, _linf_random_start, partial(_norm, torch.inf)),
    # The strongest of what was tried on networks for the 8×8 digits: 3 of 64 entries a step, paths of 1 to 20 radii.
    "l1": Ball(_sparse_step, partial(_projected_random_start, 1), partial(_norm, 1), path=5, k=0.05),
    "l2": Ball(l2_step, partial(_projected_random_start, 2), partial(_norm, 2)),
}
