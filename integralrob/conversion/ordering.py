"""Ordering of channels: the path along which a layer's weights vary least (appendix C, Algorithm 1).

Channels of a discrete network come in no particular order. Interpolating between neighbours makes sense only where
neighbours resemble each other, so the channels are put in the order of a short path through them, where the length of a
step is the distance between the weights of two channels.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import check_int, check_real, describe
from ..ops._library import users_stacklevel
from .example import in_full_precision
from .native_solver import solver_module

__all__ = [
    "STOPPED",
    "channel_distance",
    "check_distance",
    "check_permutation",
    "path_length",
    "resolve_order",
    "search",
    "shortest_path",
    "two_opt",
]

Distance = NDArray[np.float64]
Permutation = NDArray[np.int64]

# Channels and features of the blocks that distances are computed in: tiles of products of 4 MiB in float32.
_TILE = 1024
_FEATURES = 2048
_FOR_EVER = 1 << 62

STOPPED = "the ordering of channels was stopped by Ctrl-C: it is the best found so far"


def channel_distance(slices: Sequence[Tensor]) -> Distance:
    r"""How much the weights of a group differ between channels: ``D[i, j]² = Σ_k |slices[k][i] - slices[k][j]|²``.

    The Euclidean distance of all that the group's tensors hold for two channels. Algorithm 1 of the supplement takes
    the total variation, a sum of absolute differences; the Euclidean distance keeps more accuracy at small sizes (the
    project's docs/decisions.md has the figures).

    Args:
        slices: tensors ``[S, F_k]``: row `i` is what the k-th tensor of the group holds for channel `i`.

    Returns:
        Symmetric ``[S, S]`` float64 with a zero diagonal.

    Complexity: ``O(S² · Σ F_k / 2)`` in matrix products on the tensors' device, in blocks of 1,024 channels and 2,048
    features. Memory: 2 matrices like the result, and ``O(S)`` for the features of a block (8 KiB a channel, twice).

    Products are in float32 (float64 where a tensor is), sums of blocks in float64. Squares are off by some 1e-7 of the
    mean of ``|slices[k][i]|²`` over the channels: channels nearer than that have no distance of their own.

    Source: after "Integral Neural Networks" (CVPR 2023), supplement, Algorithm 1, line 3.

    >>> channel_distance([torch.tensor([[0.0, 0.0], [3.0, 4.0]])]).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    size, device = slices[0].shape[0], slices[0].device
    slices = [rows.detach() for rows in slices]
    dtype = torch.promote_types(torch.float32, functools.reduce(torch.promote_types, (rows.dtype for rows in slices)))
    # Relative to the largest weight, no square overflows, and none that matters is lost.
    ends = [end for rows in slices if rows.numel() for end in rows.aminmax()]
    largest = max((abs(float(end)) for end in ends), default=0.0) or 1.0
    squares = torch.zeros(size, size, dtype=torch.float64, device=device)
    tiles = [slice(start, start + _TILE) for start in range(0, size, _TILE)]
    with in_full_precision():
        for block in (block for rows in slices for block in rows.split(_FEATURES, dim=1)):
            # Distances do not depend on the mean, and without it less is lost to cancellation below.
            centred = block.to(dtype) / largest
            centred -= centred.mean(0)
            for i, rows in enumerate(tiles):
                for columns in tiles[: i + 1]:
                    squares[rows, columns] -= 2 * (centred[rows] @ centred[columns].T)
    # |a - b|² = |a|² + |b|² - 2 a·b, from the products below the diagonal, so that it is symmetric to the last bit.
    own = squares.diagonal() / -2
    squares = squares.tril_(-1).add_(own).add_(own[:, None]).clamp_(min=0).tril_(-1)
    squares += squares.T.clone()
    return squares.sqrt_().mul_(largest).cpu().numpy()


def path_length(distance: Distance, path: Permutation) -> float:
    """Length of the open path that visits the channels in this order.

    >>> path_length(np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([1, 0]))
    2.0
    """
    return float(distance[path[:-1], path[1:]].sum())


def shortest_path(
    distance: Distance,
    *,
    seed: int = 0,
    kicks: int | None = None,
    stall: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[float, float], object] | None = None,
) -> Permutation:
    """The shortest open path through all channels, as nearly as an iterated local search finds it.

    Goes on from where `two_opt` ends, and so is never longer: exchanges two or three edges of the path for others that
    lead to near neighbours (2-opt, Or-opt and the other 3-opt moves) until no such exchange shortens it; then, again
    and again, perturbs a short stretch (a kick: a double bridge), repairs it in the same way, and undoes what has
    become longer. The GIL is released meanwhile.

    Where the native solver is missing, this is `two_opt`, without progress, after one warning that says why.

    Args:
        distance: symmetric ``[S, S]``, finite, not negative; of ``[i, j]`` and ``[j, i]``, which may differ by
            rounding, the mean is taken.
        seed: of the kicks. The same seed gives the same path, unless `time_limit` or Ctrl-C ended the search.
        kicks: how many at most; 5 a channel, and at least 2,000, if None.
        stall: how many in a row that shorten nothing end the search; 2 a channel, and at least 1,000, if None.
        time_limit: seconds, or None. A path that it ends before `two_opt` would have ended may be longer than that.
        progress: called every 0.1 s or so with the seconds since the start and the length of the best path so far.

    Returns:
        int64 ``[S]``: position -> channel. After Ctrl-C the best path so far, with a `RuntimeWarning`.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Complexity: that of `two_opt`, and for a kick far less than ``O(S)``. Memory: twice that of `distance`.

    Source: D. S. Johnson and L. A. McGeoch, "The traveling salesman problem: a case study", in *Local Search in
    Combinatorial Optimization* (1997): neighbour lists, don't-look bits, iterated 3-opt with local double bridges.

    >>> points = np.array([3.0, 0.0, 2.0, 1.0])
    >>> distance = abs(points[:, None] - points)
    >>> path_length(distance, shortest_path(distance))
    3.0
    """
    path, interrupted = search(distance, seed=seed, kicks=kicks, stall=stall, time_limit=time_limit, progress=progress)
    if interrupted:
        warnings.warn(STOPPED, RuntimeWarning, stacklevel=users_stacklevel())
    return path


def search(
    distance: Distance,
    *,
    seed: int = 0,
    kicks: int | None = None,
    stall: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[float, float], object] | None = None,
) -> tuple[Permutation, bool]:
    """What `shortest_path` returns, and whether Ctrl-C ended the search: that is for the caller to tell."""
    distance = check_distance("distance", distance)
    size = len(distance)
    if check_int("seed", seed, 0) >= 1 << 64:
        raise ValueError(f"seed: expected an int below 2**64, got {seed}")
    kicks = max(2000, 5 * size) if kicks is None else min(check_int("kicks", kicks, 0), _FOR_EVER)
    stall = max(1000, 2 * size) if stall is None else min(check_int("stall", stall, 0), _FOR_EVER)
    seconds = np.inf if time_limit is None else check_real("time_limit", time_limit, 0)
    if not (progress is None or callable(progress)):
        raise TypeError(f"progress: expected a function of the seconds and the length, got {describe(progress)}")
    solver = solver_module()
    if isinstance(solver, str):
        _warn_of_two_opt(solver)
        return two_opt(distance), False
    path, _, interrupted = solver.shortest_path(
        distance, _start(distance), seed=seed, kicks=kicks, stall=stall, seconds=seconds, progress=progress
    )
    return path, interrupted


@functools.cache
def _warn_of_two_opt(reason: str) -> None:
    warnings.warn(
        f"integralrob orders channels by 2-opt, which finds longer paths than its native solver: {reason}",
        RuntimeWarning,
        stacklevel=users_stacklevel(),
    )


def check_distance(name: str, value: Any) -> Distance:
    """A matrix of distances, float64 and contiguous."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a matrix of real numbers, got one of {array.dtype}")
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got an array of shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=np.float64)

    def refuse(bad: NDArray[np.bool_], wanted: str) -> None:
        if bad.any():
            i, j = (int(index) for index in np.argwhere(bad)[0])
            raise ValueError(
                f"{name}: expected {wanted}, got {array[i, j]} at [{i}, {j}] and {array[j, i]} at [{j}, {i}]"
            )

    refuse(~np.isfinite(array), "finite numbers")
    refuse(array < 0, "no negative numbers")
    # The products that distances are made from need not be symmetric to the last bit, and roots magnify that.
    refuse(np.abs(array - array.T) > 1e-6 * array.max(initial=0), "a symmetric matrix")
    return array


def two_opt(distance: Distance) -> Permutation:
    """A short open path through all channels, by 2-opt.

    Starts from the nearest-neighbour path (from the channel that is farthest from the others) or from the given order,
    whichever is shorter, and reverses segments while that makes the path shorter. Each change is strictly an
    improvement, so the result is never longer than the given order, and no reversal of a segment could shorten it.
    Deterministic.

    Args:
        distance: symmetric ``[S, S]``, finite.

    Returns:
        int64 ``[S]``: position -> channel.

    Complexity: ``O(S²)`` a sweep over all segments, a few dozen sweeps in practice.

    >>> points = np.array([3.0, 0.0, 2.0, 1.0])
    >>> distance = abs(points[:, None] - points)
    >>> path_length(distance, two_opt(distance))
    3.0
    """
    size = len(distance)
    # A depot at distance 0 from every channel before and after the path: its two end edges are then like all others.
    depot = size
    d = np.pad(distance, (0, 1))
    path = np.concatenate([[depot], _start(distance), [depot]])
    edges = d[path[:-1], path[1:]]  # edges[i] joins positions i and i + 1
    least_gain = 1e-12 * float(distance.max(initial=0.0))  # less is rounding, and could go on for ever
    improved = True
    while improved:
        improved = False
        for i in range(1, size):
            # Reversing positions i..j replaces the edges (i-1, i) and (j, j+1) by (i-1, j) and (i, j+1).
            removed = edges[i - 1] + edges[i + 1 :]
            gain = removed - d[path[i - 1], path[i + 1 : -1]] - d[path[i], path[i + 2 :]]
            best = int(gain.argmax())
            if gain[best] > least_gain:
                j = i + 1 + best
                path[i : j + 1] = path[i : j + 1][::-1].copy()
                edges[i - 1 : j + 1] = d[path[i - 1 : j + 1], path[i : j + 2]]
                improved = True
    return path[1:-1]


def _start(distance: Distance) -> Permutation:
    """The given order, or the nearest-neighbour path where that is shorter."""
    given = np.arange(len(distance))
    if len(distance) < 3:
        return given
    return min(given, _nearest_neighbours(distance), key=lambda path: path_length(distance, path))


def _nearest_neighbours(distance: Distance) -> Permutation:
    """From the channel with the largest distance to all others, always on to the nearest one not yet visited."""
    size = len(distance)
    path = np.empty(size, dtype=np.int64)
    visited = np.zeros(size, dtype=bool)
    path[0] = distance.sum(axis=1).argmax()
    for i in range(1, size):
        visited[path[i - 1]] = True
        path[i] = np.where(visited, np.inf, distance[path[i - 1]]).argmin()
    return path


Order = Callable[[Distance], Any]
_ORDERS: dict[str, Order] = {"shortest_path": shortest_path, "two_opt": two_opt}


def resolve_order(order: str | Order | None) -> Order:
    """The function from a distance matrix to a permutation that `convert`'s argument `order` names.

    >>> resolve_order(None)(np.zeros((3, 3))).tolist()
    [0, 1, 2]
    """
    if order is None:
        return lambda distance: np.arange(len(distance))
    if isinstance(order, str) and order in _ORDERS:
        return _ORDERS[order]
    if callable(order):
        return lambda distance: check_permutation("order(distance)", order(distance), len(distance))
    names = ", ".join(repr(name) for name in _ORDERS)
    raise ValueError(f"order: expected {names}, None, or a function of a distance matrix, got {describe(order)}")


def check_permutation(name: str, path: Any, size: int) -> Permutation:
    """A permutation of ``range(size)``."""
    array = np.asarray(path)
    if array.dtype.kind not in "iu" or not np.array_equal(np.sort(array, axis=None), np.arange(size)):
        raise ValueError(f"{name}: expected a permutation of range({size}), got {array}")
    return array.astype(np.int64).reshape(size)
