"""Distributions of perturbations, as maps of uniform points of a cube: one map serves random and Sobol points alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .._checks import check_choice, check_tensor, describe
from ..ops._arguments import check_per_sample

__all__ = ["CubeSampler", "Gaussian", "UniformBall"]

# Norm -> p.
_ORDERS = {"linf": math.inf, "l1": 1, "l2": 2}


class CubeSampler(ABC):
    """A distribution of perturbations of each of `B` samples, symmetric about 0.

    Calling it, ``sampler(n, generator)``, draws ``[n, B, ...]``, all independent, in the dtype and on the device of the
    samples. Arithmetic is in float64.

    Args:
        x: ``[B, ...]``, the samples to perturb; only shape, dtype and device are used.
        size: radius or deviation, in units of `x`: a number of at least 0, or one per sample, ``[B]``, in which draws
            are differentiable.

    Attributes:
        dimension: how many uniform numbers a perturbation of one sample takes.
    """

    dimension: int

    def __init__(self, x: Tensor, size: float | Tensor, size_name: str) -> None:
        check_tensor("x", x)
        if x.ndim == 0 or not x.numel():
            raise ValueError(f"x: expected samples [B, ...] with values, got {describe(x)}")
        size = check_per_sample(size_name, size, x)
        if not torch.as_tensor(size).isfinite().all():
            raise ValueError(f"{size_name}: expected finite numbers, got {size}")
        self.x = x.detach()
        self.size = size.reshape(-1, 1) if isinstance(size, Tensor) else size

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent perturbations of each sample, ``[n, B, ...]``."""
        shape = (n, len(self.x), self.dimension)
        return self._scaled(torch.rand(shape, dtype=torch.float64, device=self.x.device, generator=generator))

    def from_cube(self, points: Tensor) -> Tensor:
        """The perturbations ``[n, B, ...]`` that belong to `points`, float64 ``[n, dimension]`` in [0, 1].

        All samples get the same ones, but for their size. Uniform points give the sampler's distribution.
        """
        check_tensor("points", points)
        if points.dtype != torch.float64 or points.ndim != 2 or points.shape[1] != self.dimension:
            expected = f"a torch.float64 tensor of shape (n, {self.dimension})"
            raise ValueError(f"points: expected {expected}, got {describe(points)}")
        return self._scaled(points.to(self.x.device).unsqueeze(1))

    def _scaled(self, points: Tensor) -> Tensor:
        unit = self._unit(points.clamp(2.0**-54, 1 - 2.0**-53))  # infinite quantiles belong to 0 and 1
        return (self.size * unit).to(self.x.dtype).expand(-1, len(self.x), -1).reshape(-1, *self.x.shape)

    @abstractmethod
    def _unit(self, points: Tensor) -> Tensor:
        """Perturbations of size 1, ``[..., d]``, of points ``[..., dimension]`` inside the cube."""


class UniformBall(CubeSampler):
    r"""Uniform in the ball ``‖δ‖ ≤ eps`` around each sample.

    In l-infinity an affine map of the cube. In l1 and l2 a direction times a radius: entries with density
    ``∝ exp(-|t|)`` and ``∝ exp(-t² / 2)``, made from uniform numbers by their quantile functions, divided by their
    norm, are uniform in direction (in l1: on the sphere's faces), and with u uniform the radius ``eps · u^(1/d)``
    spreads them over the ball.

    Args:
        norm: ``"linf"``, ``"l1"`` or ``"l2"``.
        x: ``[B, ...]``, the samples to perturb, with d values each.
        eps: the radius, a number of at least 0 or one per sample, ``[B]``.

    Complexity: O(d) a draw, about 25 ns a value on a CPU.

    Source: G. Schechtman, J. Zinn, "On the volume of the intersection of two L_p^n balls", Proc. AMS 110, 1990.

    >>> delta = UniformBall("l1", torch.zeros(2, 3), eps=0.5)(1000, torch.Generator().manual_seed(0))
    >>> delta.shape, bool((delta.abs().sum(2) <= 0.5).all())
    (torch.Size([1000, 2, 3]), True)
    """

    def __init__(self, norm: str, x: Tensor, eps: float | Tensor) -> None:
        check_choice("norm", norm, _ORDERS)
        super().__init__(x, eps, "eps")
        self.norm = norm
        self.dimension = x.shape[1:].numel() + (norm != "linf")

    def _unit(self, points: Tensor) -> Tensor:
        if self.norm == "linf":
            return 2 * points - 1
        radius, points = points[..., :1], points[..., 1:]
        if self.norm == "l1":
            centred = 2 * points - 1
            entries = -centred.sign() * torch.log1p(-centred.abs())
        else:
            entries = torch.special.ndtri(points)
        size = torch.linalg.vector_norm(entries, _ORDERS[self.norm], dim=-1, keepdim=True)
        # The middle of the cube has no direction: it becomes 0.
        return entries * (radius ** (1 / points.shape[-1]) / size.clamp_min(torch.finfo(size.dtype).tiny))


class Gaussian(CubeSampler):
    """Normal noise of standard deviation `sigma` on every value of every sample.

    Args:
        x: ``[B, ...]``, the samples to perturb.
        sigma: a number of at least 0, or one per sample, ``[B]``.

    >>> noise = Gaussian(torch.zeros(2, 3), sigma=0.5)(10_000, torch.Generator().manual_seed(0))
    >>> noise.shape, round(noise.std().item(), 2)
    (torch.Size([10000, 2, 3]), 0.5)
    """

    def __init__(self, x: Tensor, sigma: float | Tensor) -> None:
        super().__init__(x, sigma, "sigma")
        self.dimension = x.shape[1:].numel()

    def _unit(self, points: Tensor) -> Tensor:
        return torch.special.ndtri(points)


def check_cube_sampler(sampler: Any) -> CubeSampler:
    """A sampler that Sobol points can be mapped by."""
    if not isinstance(sampler, CubeSampler):
        raise TypeError(
            f"sampler: expected a CubeSampler (UniformBall, Gaussian) with method='sobol', got {describe(sampler)}"
        )
    return sampler
