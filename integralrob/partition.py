"""Partitions: the points of a continuous axis at which an integral layer is sampled, and the sizes to sample.

Coordinates: S control values sit at x_s = -1 + 2 s/(S-1); each also stands for a cell of width 2/(S-1), so that the
cells cover [-S/(S-1), S/(S-1)]. A partition is a strictly increasing tensor of points on that axis.

Source: "Integral Neural Networks" (CVPR 2023), supplement, appendices A and C and listing 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from integralrob._checks import check_choice, check_int, describe

__all__ = ["Concatenation", "Partition", "RandomSize", "TrainablePartition", "UniformPartition"]


class Partition(nn.Module):
    """What partitions share: the number of points, the interval, and the two end points.

    Args:
        num_points: M, at least 2.
        kind: "endpoints": the first and the last point are -1 and 1, which is also the interval.
            "centered": the interval's M equal cells have the uniform points at their centres. The interval is that
            of the control values' cells, [-S/(S-1), S/(S-1)]; at M = S the uniform points are the control values' own.
        nodes: S, the number of control values, at least 2. None: centered cells divide [-1, 1].
    """

    def __init__(self, num_points: int, *, kind: str = "endpoints", nodes: int | None = None) -> None:
        num_points = check_int("num_points", num_points, 2)
        check_choice("kind", kind, ("endpoints", "centered"))
        nodes = None if nodes is None else check_int("nodes", nodes, 2)
        super().__init__()
        self.num_points = num_points
        self.kind = kind
        self.nodes = nodes

    @classmethod
    def like(cls, other: Partition) -> Self:
        """A partition of this class with another's number of points, kind, nodes and train flag, as it is at first.

        >>> TrainablePartition.like(UniformPartition(4, kind="centered"))
        TrainablePartition(num_points=4, kind='centered', nodes=None)
        """
        return cls(other.num_points, kind=other.kind, nodes=other.nodes).train(other.training)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that the points stand for: what to hand to a quadrature rule."""
        end = 1.0 if self.kind == "endpoints" or self.nodes is None else self.nodes / (self.nodes - 1)
        return -end, end

    @property
    def last(self) -> float:
        """The last point; the first one is its negative."""
        if self.kind == "endpoints":
            return 1.0
        # Half a cell from the interval's end: S/(S-1) · (1 - 1/M). One division, hence exactly 1 at M = S.
        scale, cells = (1, 1) if self.nodes is None else (self.nodes, self.nodes - 1)
        return scale * (self.num_points - 1) / (cells * self.num_points)

    def resize(self, num_points: int) -> None:
        """Changes the number of points, in place."""
        self.num_points = check_int("num_points", num_points, 2)

    def extra_repr(self) -> str:
        return f"num_points={self.num_points}, kind={self.kind!r}, nodes={self.nodes}"


class UniformPartition(Partition):
    """Equidistant points; no parameters, no buffers. Arguments: see `Partition`.

    "endpoints" is `F.interpolate`'s `align_corners=True`, "centered" its `align_corners=False`.

    >>> UniformPartition(5)()
    tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000], dtype=torch.float64)
    >>> UniformPartition(2, kind="centered")()
    tensor([-0.5000,  0.5000], dtype=torch.float64)
    >>> UniformPartition(2, kind="centered", nodes=4)()  # nodes at -1, -1/3, 1/3, 1
    tensor([-0.6667,  0.6667], dtype=torch.float64)
    """

    def forward(self, device: torch.device | str | None = None) -> Tensor:
        """The points [M], float64 (float32 on mps, which lacks it), on `device`. O(M)."""
        device = torch.empty(0, device=device).device  # None is torch's default device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.linspace(-self.last, self.last, self.num_points, dtype=dtype, device=device)


class TrainablePartition(Partition):
    """Points that are learnt. Arguments: see `Partition`.

    The end points are the uniform partition's and stay; the M - 1 increments between them are a softmax of the
    parameter `logits`, so that the points increase strictly whatever the logits are. At first the points are uniform
    (to rounding), and their gradient in the logits is not zero. After listing 3 of the supplement.

    >>> partition = TrainablePartition(4)
    >>> partition()
    tensor([-1.0000, -0.3333,  0.3333,  1.0000], dtype=torch.float64,
           grad_fn=<CatBackward0>)
    >>> partition.resize(3)
    >>> partition
    TrainablePartition(num_points=3, kind='endpoints', nodes=None)
    """

    # Share of the increments that is uniform whatever the logits are. A softmax underflows to 0 when logits differ by
    # more than 745, and two equal points have no cell between them.
    uniform_share = 1e-6

    def __init__(self, num_points: int, *, kind: str = "endpoints", nodes: int | None = None) -> None:
        super().__init__(num_points, kind=kind, nodes=nodes)
        self.logits = nn.Parameter(torch.zeros(self.num_points - 1, dtype=torch.float32))

    def _shares(self) -> Tensor:
        """The increments that the logits ask for, [M-1], summing to 1; wide whatever dtype the logits have."""
        return self.logits.to(torch.float32 if self.logits.device.type == "mps" else torch.float64).softmax(0)

    def forward(self) -> Tensor:
        """The points [M], float64 (float32 on mps, which lacks it), on the logits' device. O(M)."""
        shares = self._shares()
        shares = (1 - self.uniform_share) * shares + self.uniform_share / shares.numel()
        # The ends are put in rather than summed up, so that rounding does not move them.
        inner = self.last * (2 * shares.cumsum(0)[:-1] - 1)
        return torch.cat([shares.new_full((1,), -self.last), inner, shares.new_full((1,), self.last)])

    @torch.no_grad()
    def resize(self, num_points: int) -> None:
        """Changes the number of points, in place: the curve of the points is sampled anew, linearly interpolated.

        `logits` becomes a new parameter (same dtype, device and requires_grad, no gradient), which an optimiser made
        before does not know. Nothing happens when the number of points stays. Fewer points forget detail.
        """
        num_points = check_int("num_points", num_points, 2)
        if num_points == self.num_points:
            return
        curve = nn.functional.pad(self._shares().cumsum(0), (1, 0))
        at = torch.linspace(0, 1, num_points, dtype=curve.dtype, device=curve.device) * (curve.numel() - 1)
        below = at.long().clamp(max=curve.numel() - 2)
        shares = torch.lerp(curve[below], curve[below + 1], at - below).diff()
        # Times M - 1: logits of a uniform partition are zeros. The least positive number keeps the logarithm finite.
        logits = (shares.clamp(min=torch.finfo(shares.dtype).tiny) * shares.numel()).log()
        self.logits = nn.Parameter(logits.to(self.logits.dtype), requires_grad=self.logits.requires_grad)
        self.num_points = num_points


class Concatenation(nn.Module):
    """Partitions one behind the other: an axis that carries several functions, as behind a `torch.cat` of channels.

    Args:
        parts: partitions with `nodes`, the same one any number of times; and numbers of entries that stay discrete.
        blocks: one number per part (None: ones): each point of a partition stands for so many consecutive entries.

    Raises:
        TypeError, ValueError: no parts, or an argument that is not as above.

    >>> axis = Concatenation([UniformPartition(8, kind="centered", nodes=8), 3])
    >>> axis.parts[0].resize(4)
    >>> axis.num_points, axis.nodes
    (7, 11)
    """

    def __init__(self, parts: Sequence[Partition | int], blocks: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(parts, Sequence) or not parts:
            raise TypeError(f"parts: expected a sequence of partitions and ints, got {describe(parts)}")
        for i, part in enumerate(parts):
            if not isinstance(part, Partition):
                check_int(f"parts[{i}]", part, 1)
            elif part.nodes is None:
                raise ValueError(f"parts[{i}]: expected a partition with nodes, got {part}")
        if blocks is not None and (not isinstance(blocks, Sequence) or len(blocks) != len(parts)):
            raise TypeError(f"blocks: expected one int for each of {len(parts)} parts, got {describe(blocks)}")
        self.blocks = tuple(check_int(f"blocks[{i}]", block, 1) for i, block in enumerate(blocks or [1] * len(parts)))
        self.partitions = nn.ModuleList(part for part in parts if isinstance(part, Partition))
        self.discrete = tuple(None if isinstance(part, Partition) else part for part in parts)

    @property
    def parts(self) -> list[Partition | int]:
        """The partitions, and the numbers of discrete entries."""
        partitions = iter(cast("Sequence[Partition]", self.partitions))
        return [next(partitions) if size is None else size for size in self.discrete]

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Number of entries of each part."""
        return self._entries(lambda partition: partition.num_points)

    @property
    def num_points(self) -> int:
        """Number of entries of all parts."""
        return sum(self.part_sizes)

    @property
    def nodes(self) -> int:
        """Number of control values of all parts."""
        return sum(self._entries(lambda partition: partition.nodes or 0))

    def _entries(self, count: Callable[[Partition], int]) -> tuple[int, ...]:
        return tuple(
            block * (count(part) if isinstance(part, Partition) else part)
            for part, block in zip(self.parts, self.blocks, strict=True)
        )


class RandomSize:
    """Draws sizes for training over random discretisations (appendix C): uniform over the multiples in [low, high].

    Args:
        low, high: the range, both ends included; at least 2.
        multiple_of: sizes are multiples of this, at least 1.
        generator: the source of randomness; None is torch's default one.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: high < low, low < 2, multiple_of < 1, or no multiple in the range.

    >>> size = RandomSize(16, 64, multiple_of=8, generator=torch.Generator().manual_seed(0))
    >>> size() % 8
    0
    """

    def __init__(self, low: int, high: int, *, multiple_of: int = 1, generator: torch.Generator | None = None) -> None:
        self.low = check_int("low", low, 2)
        self.high = check_int("high", high, low)
        self.multiple_of = check_int("multiple_of", multiple_of, 1)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
        self.generator = generator
        if high // multiple_of < -(-low // multiple_of):
            raise ValueError(
                f"multiple_of: expected a number with a multiple from low = {low} to high = {high}, got {multiple_of}"
            )

    def __call__(self) -> int:
        """One size. O(1)."""
        first, last = -(-self.low // self.multiple_of), self.high // self.multiple_of
        device = "cpu" if self.generator is None else self.generator.device
        drawn = torch.randint(first, last + 1, (), generator=self.generator, device=device)
        return self.multiple_of * int(drawn)

    def __repr__(self) -> str:
        return f"RandomSize(low={self.low}, high={self.high}, multiple_of={self.multiple_of})"
