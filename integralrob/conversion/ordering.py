"""Ordering of channels: the path along which a layer's weights vary least (appendix C, Algorithm 1).

Channels of a discrete network come in no particular order. Interpolating between neighbours makes sense only where
neighbours resemble each other, so the channels are put in the order of a short path through them, where the length of a
step is the distance between the weights of two channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import describe

__all__ = ["channel_distance", "check_permutation", "path_length", "resolve_order", "two_opt"]

Distance = NDArray[np.float64]
Permutation = NDArray[np.int64]

# Elements of the block of slices that is held in float64 at a time: 32 MiB.
_BLOCK_ELEMENTS = 1 << 22


def channel_distance(slices: Sequence[Tensor]) -> Distance:
    r"""How much the weights of a group differ between channels: ``D[i, j]² = Σ_k |slices[k][i] - slices[k][j]|²``.

    The Euclidean distance of all that the group's tensors hold for two channels. Algorithm 1 of the supplement takes
    the total variation, a sum of absolute differences; the Euclidean distance keeps more accuracy at small sizes (the
    project's docs/decisions.md has the figures).

    Args:
        slices: tensors ``[S, F_k]``: row `i` is what the k-th tensor of the group holds for channel `i`.

    Returns:
        Symmetric ``[S, S]`` float64 with a zero diagonal.

    Complexity: ``O(S² · Σ F_k)`` in float64 matrix products, in blocks of features: beside twice the result at most
    64 MiB, or two columns of `S` where that is more.

    Source: after "Integral Neural Networks" (CVPR 2023), supplement, Algorithm 1, line 3.

    >>> channel_distance([torch.tensor([[0.0, 0.0], [3.0, 4.0]])]).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    size = slices[0].shape[0]
    products = torch.zeros(size, size, dtype=torch.float64, device=slices[0].device)
    width = max(1, _BLOCK_ELEMENTS // size)
    for rows in slices:
        for block in rows.detach().split(width, dim=1):
            # Distances do not depend on the mean, and without it less is lost to cancellation below.
            centred = block.double() - block.double().mean(0)
            products += centred @ centred.T
    squares = products.diagonal()
    squared = (squares[:, None] + squares - 2 * products).clamp(min=0).fill_diagonal_(0)
    return squared.sqrt().cpu().numpy()


def path_length(distance: Distance, path: Permutation) -> float:
    """Length of the open path that visits the channels in this order.

    >>> path_length(np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([1, 0]))
    2.0
    """
    return float(distance[path[:-1], path[1:]].sum())


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
    start = min(np.arange(size), _nearest_neighbours(distance), key=lambda path: path_length(distance, path))
    # A depot at distance 0 from every channel before and after the path: its two end edges are then like all others.
    depot = size
    d = np.pad(distance, (0, 1))
    path = np.concatenate([[depot], start, [depot]])
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


def resolve_order(order: str | Order | None) -> Order:
    """The function from a distance matrix to a permutation that `convert`'s argument `order` names.

    >>> resolve_order(None)(np.zeros((3, 3))).tolist()
    [0, 1, 2]
    """
    if order is None:
        return lambda distance: np.arange(len(distance))
    if order == "two_opt":
        return two_opt
    if callable(order):
        return lambda distance: check_permutation("order(distance)", order(distance), len(distance))
    raise ValueError(f"order: expected 'two_opt', None, or a function of a distance matrix, got {describe(order)}")


def check_permutation(name: str, path: Any, size: int) -> Permutation:
    """A permutation of ``range(size)``."""
    array = np.asarray(path)
    if array.dtype.kind not in "iu" or not np.array_equal(np.sort(array, axis=None), np.arange(size)):
        raise ValueError(f"{name}: expected a permutation of range({size}), got {array}")
    return array.astype(np.int64).reshape(size)
