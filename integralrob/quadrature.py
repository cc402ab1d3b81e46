"""Quadrature rules: weights q_i with ∫ f(x) dx ≈ Σ_i q_i f(x_i) for any partition x_0 < ... < x_{M-1}.

A rule integrates the piecewise polynomial through the points, exactly. Beyond the first and the last point, when the
interval is larger than the partition, the first and the last piece go on. So the weights depend on the points and the
interval alone, sum to the interval's length, and are differentiable in the points, to any order.

| rule            | integrates exactly                                          | error, spacing h   | fewest points |
|-----------------|-------------------------------------------------------------|--------------------|---------------|
| `LeftRiemann`   | constants                                                   | O(h)               | 1             |
| `RightRiemann`  | constants                                                   | O(h)               | 1             |
| `Midpoint`      | constants; degree 1 where the points are their cells' middles | O(h²)            | 1             |
| `Trapezoidal`   | degree 1                                                    | O(h²)              | 2             |
| `Simpson`       | degree 2; 3 on uniform grids of an odd number of points     | O(h⁴)              | 2             |
| `GaussLegendre` | degree M - 1; 2 M - 1 at its own points                     | faster than any power of h | 1     |

Without an interval the first three need two points as well. Arithmetic is in the points' dtype, but at
least in float32: float64 is recommended.

Source: "Integral Neural Networks" (CVPR 2023), supplement, appendices A (composite rules) and B (weights).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from integralrob._checks import check_int, check_real, check_tensor, describe, may_look_at
from integralrob.ops._dtypes import arithmetic_dtype

__all__ = [
    "GaussLegendre",
    "LeftRiemann",
    "Midpoint",
    "RightRiemann",
    "Rule",
    "Simpson",
    "Trapezoidal",
    "integrate",
]

Interval = tuple[float, float]


def _check_interval(name: str, interval: Interval) -> Interval:
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise TypeError(f"{name}: expected a pair (a, b) of numbers with a < b, or None, got {describe(interval)}")
    lower, upper = check_real(f"{name}[0]", interval[0]), check_real(f"{name}[1]", interval[1])
    if not -math.inf < lower < upper < math.inf:
        raise ValueError(f"{name}: expected finite numbers (a, b) with a < b, got ({lower}, {upper})")
    return lower, upper


def _check_points(name: str, points: Tensor, fewest: int) -> None:
    check_tensor(name, points)
    if points.ndim != 1:
        raise ValueError(f"{name}: expected a tensor of one dimension, got {describe(points)}")
    if points.numel() < fewest:
        raise ValueError(f"{name}: expected at least {fewest} points, got {points.numel()}")
    # What depends on the data cannot be checked in a traced graph. In eager mode a good input costs one
    # host-device synchronisation.
    if not may_look_at(points) or (points.isfinite().all() & (points.diff() > 0).all()):
        return
    if not points.isfinite().all():
        raise ValueError(f"{name}: expected finite points, got {points.tolist()}")
    at = int((points.diff() <= 0).nonzero()[0])
    raise ValueError(
        f"{name}: expected strictly increasing points, got {points[at].item()} before {points[at + 1].item()} "
        f"at index {at}"
    )


def _check_inside(name: str, points: Tensor, interval: Interval) -> None:
    if not may_look_at(points):
        return
    first, last = points[[0, -1]].tolist()
    # The end points may be the interval's, rounded to the points' dtype.
    slack = 4 * torch.finfo(points.dtype).eps * max(map(abs, interval))
    if first < interval[0] - slack or last > interval[1] + slack:
        raise ValueError(f"{name}: expected points inside the interval {interval}, got points from {first} to {last}")


class Rule(ABC):
    """A quadrature rule: from a partition to the weights of its points. Rules hold no state: those of a type are equal.

    A rule of one's own defines `_weights(points, lower, upper)`, where the ends are tensors of shape (1,).
    """

    min_points: ClassVar[int] = 1
    default_interval: ClassVar[Interval | None] = None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def weights(self, points: Tensor, interval: Interval | None = None) -> Tensor:
        """The weights of a partition.

        Args:
            points: [M], strictly increasing, finite, floating-point.
            interval: the (a, b) to integrate over, which holds all points. None is the interval from the first to the
                last point; `Midpoint` takes half a spacing more on either side, `GaussLegendre` takes (-1, 1).

        Returns:
            [M], of the points' dtype and device; the sum is the interval's length. Differentiable in `points`.

        Raises:
            TypeError: `points` is no floating-point tensor, or `interval` no pair of numbers.
            ValueError: points of the wrong shape, too few, not finite, not strictly increasing or outside the interval;
                an interval that is empty or not finite. Inside `torch.compile` the values are not looked at, nor on a
                GPU those that need a gradient: a training step would wait for them.

        >>> Trapezoidal().weights(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.2500, 0.5000, 0.2500])
        >>> Midpoint().weights(torch.tensor([0.25, 0.75]), interval=(0, 1))
        tensor([0.5000, 0.5000])
        """
        return self._named_weights(points, interval, "points", "interval")

    def _named_weights(self, points: Tensor, interval: Interval | None, points_name: str, interval_name: str) -> Tensor:
        interval = self.default_interval if interval is None else _check_interval(interval_name, interval)
        _check_points(points_name, points, max(2, self.min_points) if interval is None else self.min_points)
        wide = points.to(arithmetic_dtype(points.dtype))
        if interval is None:
            lower, upper = self._own_interval(wide)
        else:
            _check_inside(points_name, points, interval)
            lower, upper = (wide.new_full((1,), end) for end in interval)
        return self._weights(wide, lower, upper).to(points.dtype)

    def _own_interval(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return points[:1], points[-1:]

    @abstractmethod
    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LeftRiemann(Rule):
    """Each point stands for the cell up to the next point: q_i = x_{i+1} - x_i, the last weight is b - x_{M-1}.

    Without an interval that last weight is 0 (appendix B). O(M).

    >>> LeftRiemann().weights(torch.tensor([0.0, 1.0, 3.0]))
    tensor([1., 2., 0.])
    """

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.cat([lower, points[1:], upper]).diff()


class RightRiemann(Rule):
    """Each point stands for the cell from the point before: q_i = x_i - x_{i-1}, the first weight is x_0 - a.

    Without an interval that first weight is 0 (appendix B). With an interval the last cell goes on to b. O(M).

    >>> RightRiemann().weights(torch.tensor([0.0, 1.0, 3.0]))
    tensor([0., 1., 2.])
    """

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.cat([lower, points[:-1], upper]).diff()


class Midpoint(Rule):
    """Each point stands for the cell between the middles of its two spacings.

    The outer cells end at the interval's ends. Without an interval they are symmetric about their points: the interval
    is (x_0 - (x_1 - x_0)/2, x_{M-1} + (x_{M-1} - x_{M-2})/2), so that M uniform points stand for M equal cells. O(M).

    >>> Midpoint().weights(torch.tensor([0.0, 1.0, 3.0]))
    tensor([1.0000, 1.5000, 2.0000])
    """

    def _own_interval(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return (3 * points[:1] - points[1:2]) / 2, (3 * points[-1:] - points[-2:-1]) / 2

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.cat([lower, (points[1:] + points[:-1]) / 2, upper]).diff()


class Trapezoidal(Rule):
    """Integral of the broken line through the points: q_i = (x_{i+1} - x_{i-1})/2, half a spacing at the ends.

    With an interval the first and the last line go on to its ends, so that linear functions stay exact. The second
    weight from an end can then be negative, where more than a spacing of the interval lies beyond that end. O(M).

    >>> Trapezoidal().weights(torch.tensor([0.0, 1.0, 3.0]))
    tensor([0.5000, 1.5000, 1.0000])
    """

    min_points = 2

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        # ∫ over the cell [l, r] of the line that is 0 at x_i and 1 at x_{i+1} = x_i + h is ((r-x_i)² - (l-x_i)²) / 2h.
        edges = torch.cat([lower, points[1:-1], upper])
        left, right = edges[:-1] - points[:-1], edges[1:] - points[:-1]
        rising = (right.square() - left.square()) / (2 * points.diff())
        falling = right - left - rising
        return pad(falling, (0, 1)) + pad(rising, (1, 0))


class Simpson(Rule):
    """Integral of the parabolas through points 0-1-2, 2-3-4, and so on, for any spacing.

    Where the number of points is even, the last spacing takes the parabola through the last three points, as
    `scipy.integrate.simpson` does. Exact for quadratics; for cubics too on uniform grids of an odd number of points.
    Two points give the trapezoidal rule. With an interval the outer parabolas go on to its ends. Where neighbouring
    spacings differ by more than a factor of 2, weights can be negative. O(M).

    >>> Simpson().weights(torch.tensor([0.0, 3.0, 6.0, 9.0, 12.0]))
    tensor([1., 4., 2., 4., 1.])
    """

    min_points = 2

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        size = points.numel()
        if size == 2:
            return Trapezoidal()._weights(points, lower, upper)
        first = torch.arange(0, size - 1, 2, device=points.device).clamp(max=size - 3)
        before, middle, after = points[first], points[first + 1], points[first + 2]
        h0, h1 = middle - before, after - middle

        # Moments of the panel [l, r] about the middle point, ∫ (x - x_1)^k dx, integrate the three Lagrange parabolas.
        edges = torch.cat([lower, points[2:-1:2], upper])
        left, right = edges[:-1] - middle, edges[1:] - middle
        m0, m1, m2 = right - left, (right**2 - left**2) / 2, (right**3 - left**3) / 3
        q0 = (m2 - h1 * m1) / (h0 * (h0 + h1))
        q2 = (m2 + h0 * m1) / (h1 * (h0 + h1))
        panels = torch.stack([q0, m0 - q0 - q2, q2])

        nodes = torch.stack([first, first + 1, first + 2])
        return torch.zeros_like(points).index_add(0, nodes.flatten(), panels.flatten())


def _legendre(degree: int, t: Tensor) -> list[Tensor]:
    """P_0(t) ... P_degree(t) by Bonnet's recurrence."""
    values = [torch.ones_like(t), t]
    for k in range(1, degree):
        values.append(((2 * k + 1) * t * values[k] - k * values[k - 1]) / (k + 1))
    return values[: degree + 1]


class GaussLegendre(Rule):
    """The interpolatory rule: integral over the interval of the one polynomial through all points.

    At its own points, `points(n)`, it is Gauss-Legendre quadrature: positive weights, exact to degree 2 n - 1. At any
    other M points it is exact to degree M - 1, and as well conditioned as interpolation there: good at points that
    crowd towards the ends like Gauss's or Chebyshev's, bad at equispaced points, where from 11 points on some weights
    are negative and the largest grow to 4·10³ at 30 points and 4·10¹¹ at 60, which costs as many digits. The default
    interval is (-1, 1).

    The weights solve the M by M system of Legendre moments, in float64 whatever the points' dtype: O(M³).

    >>> rule = GaussLegendre()
    >>> points = rule.points(3, interval=(0, 1))
    >>> (rule.weights(points, interval=(0, 1)) * points**5).sum()  # 1/6
    tensor(0.1667, dtype=torch.float64)
    """

    default_interval = (-1.0, 1.0)

    def points(
        self, num_points: int, interval: Interval = (-1.0, 1.0), *, device: torch.device | str | None = None
    ) -> Tensor:
        """The nodes: the zeros of the Legendre polynomial P_n, increasing, mapped to the interval. O(n²).

        Returns:
            [n], float64 (float32 on devices that lack it).

        >>> GaussLegendre().points(2) ** 2
        tensor([0.3333, 0.3333], dtype=torch.float64)
        """
        num_points = check_int("num_points", num_points, 1)
        lower, upper = _check_interval("interval", interval)
        # Newton's method from Tricomi's asymptotic zeros, close enough for every n: each step squares the error.
        k = torch.arange(num_points, 0, -1, dtype=torch.float64, device="cpu")
        t = torch.cos(math.pi * (k - 0.25) / (num_points + 0.5))
        for _ in range(5):
            *_, previous, value = _legendre(num_points, t)
            t = t - value * (t.square() - 1) / (num_points * (t * value - previous))
        t = (t - t.flip(0)) / 2  # exactly symmetric
        points = (lower + upper) / 2 + (upper - lower) / 2 * t
        device = torch.empty(0, device=device).device  # None is torch's default device
        return points.to(device, torch.float32 if device.type == "mps" else torch.float64)

    def _weights(self, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        dtype = torch.float32 if points.device.type == "mps" else torch.float64
        x, lower, upper = points.to(dtype), lower.to(dtype), upper.to(dtype)
        size = x.numel()
        t = (2 * x - lower - upper) / (upper - lower)
        # Σ_i q_i P_k(t_i) = ∫ P_k = (b - a) [k = 0] for k < M. The factor sqrt(2k + 1) makes the rows orthonormal
        # for the Gauss weights, which keeps the system well conditioned at good points.
        norm = torch.arange(1, 2 * size, 2, dtype=dtype, device=x.device).sqrt()
        moments = pad(upper - lower, (0, size - 1))
        matrix = norm[:, None] * torch.stack(_legendre(size - 1, t))
        return torch.linalg.solve(matrix, moments).to(points.dtype)


def _per_axis(name: str, values: Any, axes: int | None = None) -> tuple[Any, ...]:
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"{name}: expected one for all axes or a sequence of one per axis, got {describe(values)}")
    if not values or (axes is not None and len(values) != axes):
        raise ValueError(f"{name}: expected one per axis ({axes or 'at least 1'}), got {len(values)}")
    return tuple(values)


def integrate(
    rule: Rule | Sequence[Rule],
    function: Callable[..., Tensor],
    grids: Tensor | Sequence[Tensor],
    *,
    intervals: Interval | Sequence[Interval | None] | None = None,
) -> Tensor:
    """Composite quadrature over a box: the one-dimensional rules applied axis by axis (Fubini, appendix A).

    Args:
        rule: one rule for all axes, or one per axis.
        function: called once with one coordinate tensor per axis, each of shape [M_1, ..., M_n] (`torch.meshgrid`,
            `indexing="ij"`); returns values of shape [M_1, ..., M_n, ...], the rest being the shape of the integrand.
        grids: the points of each axis, [M_k]; a single tensor is one axis.
        intervals: the (a, b) of all axes, or one per axis (None: the rule's own); see `Rule.weights`.

    Returns:
        The integral, of the integrand's shape (0-dimensional for scalars), in the wider of the dtypes of the values and
        the grids. Differentiable in the grids and in all that the function uses; the derivative of the sum is the sum
        of the derivatives (Leibniz). Time and memory O(M_1 ··· M_n), besides the function's own.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: another number of rules or intervals than of grids, a bad grid or interval (as `Rule.weights`), or
            values of the wrong shape.

    >>> grid = torch.linspace(0, 1, 5, dtype=torch.float64)
    >>> integrate(Simpson(), lambda x, y: x**3 * y**2, (grid, grid))  # 1/4 · 1/3
    tensor(0.0833, dtype=torch.float64)
    """
    grids = (grids,) if isinstance(grids, Tensor) else _per_axis("grids", grids)
    axes = len(grids)
    rules = (rule,) * axes if isinstance(rule, Rule) else _per_axis("rule", rule, axes)
    for one in rules:
        if not isinstance(one, Rule):
            raise TypeError(f"rule: expected a quadrature rule, or one per axis, got {describe(one)}")
    one_interval = not isinstance(intervals, (tuple, list)) or all(isinstance(end, Real) for end in intervals)
    pairs = (intervals,) * axes if one_interval else _per_axis("intervals", intervals, axes)
    if not callable(function):
        raise TypeError(f"function: expected a callable, got {describe(function)}")
    weights = [
        one._named_weights(grid, interval, f"grids[{axis}]", f"intervals[{axis}]")
        for axis, (one, grid, interval) in enumerate(zip(rules, grids, pairs, strict=True))
    ]

    # Copies, so that a function that works in place cannot reach the caller's grids.
    values = function(*torch.meshgrid(*[grid.clone() for grid in grids], indexing="ij"))
    sizes = tuple(grid.numel() for grid in grids)
    check_tensor("function", values, floating=False)
    if values.shape[:axes] != sizes:
        raise ValueError(f"function: expected values of shape {sizes} (and more dimensions), got {describe(values)}")
    for weight in weights:
        dtype = torch.promote_types(values.dtype, weight.dtype)
        values = torch.tensordot(weight.to(dtype), values.to(dtype), dims=1)
    return values
