"""The balls of perturbations that an attack can search: one entry of `BALLS` for each norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import l1_step, l2_step, linf_step, project_l1, project_l2, project_linf
from ..ops._arguments import Bounds
from ..ops._dtypes import arithmetic_dtype
from ..ops.reference.steps import added
from ._noise import Noise

PerSample = float | Tensor


@dataclass(frozen=True)
class Ball:
    """What an attack needs to know of the ball ``‖x_adv - x‖ ≤ eps``, cut by the box `bounds`.

    `eps` and `step_size` are floats or one value per sample; rows are independent.

    Attributes:
        order: of the norm: 1, 2 or infinity.
        step: ``(x_adv, grad, x, eps, step_size, *, bounds, momentum, previous) -> x_adv``, a projected ascent step; in
            l1 with an argument `k` for the number of entries that move.
        nearest: ``(delta, eps, *, center, bounds) -> delta``, the Euclidean projection on ball ∩ box.
        path: how many radii the steps of a run are long together, unless said otherwise.
        far: so many radii along a gradient is a point whose projection is where its linear function is greatest. In l1
            that rests on differences of entries, which have to be larger than a radius, and not lost to rounding.
        k: what `step` takes for it, unless said otherwise; None where it takes none.
    """

    order: float
    step: Callable[..., Tensor]
    nearest: Callable[..., Tensor]
    path: float = 2.5
    far: float = 2.0**60
    k: float | None = None

    def norm(self, delta: Tensor) -> Tensor:
        """``delta [B, ...] -> [B]``, the size of perturbations."""
        return torch.linalg.vector_norm(delta.reshape(len(delta), delta.shape[1:].numel()), self.order, dim=1)

    def project(self, delta: Tensor, x: Tensor, eps: PerSample, bounds: Bounds) -> Tensor:
        """``x + δ``, where δ is the nearest to `delta`, of the arithmetic type of `x`, in ball ∩ box.

        No rounding leaves the ball.
        """
        centre = x.to(delta.dtype)
        delta = self.nearest(delta, eps, center=None if bounds is None else centre, bounds=bounds)
        moved = torch.where(delta == 0, x, added(centre, delta, x.dtype))  # where that is -0.0, too
        return moved if bounds is None else moved.clamp_(*bounds)

    def steepest(self, grad: Tensor, x: Tensor, eps: PerSample, bounds: Bounds) -> Tensor:
        """``x + δ`` with the δ in ball ∩ box for which ``grad · δ`` is greatest; NaN counts as 0."""
        grad = grad.to(arithmetic_dtype(x.dtype)).nan_to_num()
        size = grad.abs().reshape(len(x), -1).amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
        return self.project(grad / per_row(size, x) * (self.far * per_row(eps, x)), x, eps, bounds)

    def random_start(self, x: Tensor, eps: PerSample, bounds: Bounds, noise: Noise) -> Tensor:
        """A random point of the ball inside the box.

        In linf uniform in both, which are a box. (To sample the ball and clip would pile up mass on the bounds.) In l1
        and l2 uniform in the ball, then the nearest point of ball ∩ box: what lay outside is on the bounds.

        Entries with density ``∝ exp(-|t|^p)`` divided by ``(Σ |t|^p + e)^(1/p)``, e exponential, are uniform in the
        unit ball: Barthe et al., "A probabilistic approach to the geometry of the l_p^n-ball", Annals of Probability
        33, 2005.
        """
        centre = x.to(arithmetic_dtype(x.dtype))
        shape, dtype = tuple(x.shape[1:]), centre.dtype
        radius = per_row(eps, x)
        if self.order == torch.inf:
            lowest, highest = centre - radius, centre + radius
            if bounds is not None:
                lowest, highest = lowest.clamp_min_(bounds[0]), highest.clamp_max_(bounds[1])
            start = torch.lerp(lowest, highest, noise.uniform(shape, dtype))
            return self.project(start - centre, x, eps, bounds)
        if self.order == 1:
            entries = noise.stream(0).exponential(shape, dtype) * noise.stream(1).sign(shape, dtype)
        else:
            entries = noise.stream(0).normal(shape, dtype) * 0.5**0.5
        rest = noise.stream(2).exponential((1,), dtype)[:, 0]
        size = (self.norm(entries) ** self.order + rest) ** (1 / self.order)
        return self.project(entries * (radius / per_row(size, x)), x, eps, bounds)


def per_row(value: PerSample, x: Tensor) -> PerSample:
    """A number as it is, or values ``[B]`` in a shape that broadcasts against ``x [B, ...]``."""
    return value.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(value, Tensor) else value


def _of_free_entries(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A step of the entries that can move: one at a bound that its gradient points to would use up a part of it.

    (A place among the k in l1; a part of the length in l2, so much of it in a corner of the box that the others hardly
    move, and what they gain is lost where the sum is scaled back into the ball.)
    """

    def free(
        x_adv: Tensor, grad: Tensor, x: Tensor, eps: PerSample, step_size: PerSample, *, bounds: Bounds, **options: Any
    ) -> Tensor:
        if bounds is not None:
            roundings = 4 * torch.finfo(x_adv.dtype).eps
            lowest, highest = bounds[0] + roundings * abs(bounds[0]), bounds[1] - roundings * abs(bounds[1])
            rising = torch.where(x_adv <= lowest, grad.clamp(min=0), grad)
            grad = torch.where(x_adv >= highest, rising.clamp(max=0), rising)
        return step(x_adv, grad, x, eps, step_size, bounds=bounds, **options)

    return free


BALLS = {
    "linf": Ball(torch.inf, linf_step, project_linf),
    # The strongest of what was tried on networks for the 8×8 digits: 3 of 64 entries a step, paths of 1 to 20 radii.
    "l1": Ball(1, _of_free_entries(l1_step), project_l1, path=5, far=2.0**24, k=0.05),
    "l2": Ball(2, _of_free_entries(l2_step), project_l2, path=10),
}
