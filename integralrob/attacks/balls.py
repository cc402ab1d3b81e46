"""The balls of perturbations that an attack can search: one entry of `BALLS` for each norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import linf_step
from ..ops._dtypes import arithmetic_dtype
from ..ops.projection import Bounds

PerSample = float | Tensor


@dataclass(frozen=True)
class Ball:
    """What an attack needs to know of the ball ``‖x_adv - x‖ ≤ eps``, cut by the box `bounds`.

    `eps` and `step_size` are floats or one value per sample; rows are independent.

    Attributes:
        step: ``(x_adv, grad, x, eps, step_size, *, bounds) -> x_adv``, a projected ascent step.
        random_start: ``(x, eps, bounds, generator) -> x_adv``, a random point of the ball inside the box.
        norm: ``delta [B, ...] -> [B]``, the size of perturbations.
    """

    step: Callable[..., Tensor]
    random_start: Callable[[Tensor, PerSample, Bounds, torch.Generator | None], Tensor]
    norm: Callable[[Tensor], Tensor]


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


def _linf_norm(delta: Tensor) -> Tensor:
    return delta.abs().reshape(len(delta), -1).amax(1)


BALLS = {"linf": Ball(linf_step, _linf_random_start, _linf_norm)}
