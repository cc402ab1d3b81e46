"""The band of an axis: its partition, or those of its parts, and how control values become samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from .._checks import check_bool, check_choice, check_real, describe
from ..ops.bands import PADDINGS, Band
from ..partition import Concatenation, Partition, UniformPartition
from ..quadrature import Midpoint, Rule

__all__ = ["Axis", "Sampling", "axis_band"]

Axis = Partition | Concatenation


@dataclass(frozen=True)
class Sampling:
    """How control values become a discrete weight.

    Attributes:
        kind: partition of an axis that is given none, see `integralrob.partition.UniformPartition`.
        rule: quadrature on the input axis.
        a: parameter of Keys' cubic kernel: -0.5 reproduces quadratics, -0.75 is that of `F.grid_sample`.
        padding: "border", "zeros" or "reflection", see `integralrob.ops.cubic_band`.
        antialias: widen the kernel where there are fewer points than control values.

    Raises:
        TypeError, ValueError: an attribute is not as above.

    The defaults kept the most accuracy at small sizes in this project's experiments. The layers of the supplement of
    "Integral Neural Networks" (CVPR 2023, listings 1 and 2) are:

    >>> from integralrob.quadrature import Trapezoidal
    >>> sampling = Sampling(kind="endpoints", rule=Trapezoidal(), a=-0.75, padding="zeros", antialias=False)
    """

    kind: str = "centered"
    rule: Rule = field(default_factory=Midpoint)
    a: float = -0.5
    padding: str = "border"
    antialias: bool = True

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("endpoints", "centered"))
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule: expected a quadrature rule, got {describe(self.rule)}")
        if not math.isfinite(check_real("a", self.a)):
            raise ValueError(f"a: expected a finite number, got {self.a}")
        check_choice("padding", self.padding, PADDINGS)
        check_bool("antialias", self.antialias)


def axis_band(axis: Axis, nodes: int, scaled: bool, sampling: Sampling, *, cached: bool) -> Band:
    """The band of an axis of `nodes` control values at its present sizes, float64, differentiable in its partitions.

    Args:
        axis: of which a partition without `nodes` of its own takes these.
        scaled: by the relative quadrature weights, as on an input axis.
        cached: the bands of uniform partitions may come from a cache, on the CPU.
    """
    if isinstance(axis, Concatenation):
        bands, sizes = [], []
        for part, block in zip(axis.parts, axis.blocks, strict=True):
            if isinstance(part, Partition):
                count = part.nodes or 0
                bands.append(_repeated(axis_band(part, count, scaled, sampling, cached=cached), block))
            else:
                count = part
                bands.append(_identity(part * block))
            sizes.append(count * block)
        return _concatenated(bands, sizes)
    if cached and isinstance(axis, UniformPartition):
        key = (axis.num_points, axis.kind, axis.nodes)
        return _uniform_band(*key, size=nodes, scaled=scaled, sampling=sampling)
    return _partition_band(axis, axis(), nodes, scaled, sampling)


def _partition_band(partition: Partition, points: Tensor, size: int, scaled: bool, sampling: Sampling) -> Band:
    """The band of an axis of `size` control values; `scaled` by the relative quadrature weights on an input axis."""
    scale = None
    if scaled:
        lower, upper = partition.interval
        scale = sampling.rule.weights(points, partition.interval) * (size / (upper - lower))
        # What was meant to be 1, as at full size, is: a sample is then bit for bit the control values.
        scale = torch.where((scale.detach() - 1).abs() <= 1e-12, scale + (1 - scale).detach(), scale)
    return ops.cubic_band(points, size, scale, a=sampling.a, padding=sampling.padding, antialias=sampling.antialias)


@functools.lru_cache(maxsize=4096)
def _uniform_band(
    num_points: int, kind: str, nodes: int | None, *, size: int, scaled: bool, sampling: Sampling
) -> Band:
    """The band of a uniform partition, on the CPU: layers of a network have few different ones, and resize often."""
    partition = UniformPartition(num_points, kind=kind, nodes=nodes)
    with torch.no_grad(), torch.inference_mode(False):
        return _partition_band(partition, partition("cpu"), size, scaled, sampling)


def _identity(size: int) -> Band:
    """The band of an axis that stays as it is, on the CPU."""
    return torch.arange(size, device="cpu"), torch.ones(size, 1, dtype=torch.float64, device="cpu")


def _repeated(band: Band, block: int) -> Band:
    """The band of an axis of which each control value, and each point, is a block of so many entries."""
    start, weight = band
    inside = torch.arange(block, device=start.device)
    spread = weight.new_zeros(*weight.shape, block)
    spread[..., 0] = weight  # the same entry of the next block is `block` entries further on
    spread = spread.flatten(1)[:, : (weight.shape[1] - 1) * block + 1]
    return (start[:, None] * block + inside).flatten(), spread.repeat_interleave(block, 0)


def _concatenated(bands: Sequence[Band], nodes: Sequence[int]) -> Band:
    """The band of functions one behind the other, of so many control values each."""
    size, taps = sum(nodes), max(weight.shape[1] for _, weight in bands)
    device = max((weight.device for _, weight in bands), key=lambda device: device.type != "cpu")
    starts, weights, first = [], [], 0
    for (start, weight), count in zip(bands, nodes, strict=True):
        start, weight = start.to(device) + first, weight.to(device)
        # No tap may lie behind the axis: what would goes so many taps to the left, and its weights to the right.
        moved = (start + taps - size).clamp(min=0)
        column = torch.arange(taps, device=device) - moved[:, None]
        padded = nn.functional.pad(weight, (0, taps - weight.shape[1]))
        starts.append(start - moved)
        weights.append(torch.where(column < 0, 0, padded.gather(1, column.clamp(min=0))))
        first += count
    return torch.cat(starts), torch.cat(weights)
