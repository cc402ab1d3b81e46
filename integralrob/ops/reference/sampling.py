"""Sampling in plain torch: one axis at a time, one tap at a time.

These functions are the oracle of the tests and the kernel of last resort. Shapes, as everywhere in the family: control
values ``[S0, S1, R]`` or ``[L, S, R]``, samples ``[M0, M1, R]`` or ``[L, M, R]``, a band ``start [M]``, ``weight [M,
T]``. Half precision is summed in float32. A tap of weight zero is not read, so that NaN or infinity in a control value
reaches only the samples that weigh it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._dtypes import arithmetic_dtype


def _taps(start: Tensor, weight: Tensor, dim: int, ndim: int) -> list[tuple[Tensor, Tensor]]:
    """For each tap: the node of every point, and its weight shaped to broadcast along `dim`."""
    shape = [1] * ndim
    shape[dim] = -1
    return [(start + t, weight[:, t].view(shape)) for t in range(weight.shape[1])]


def _product(weight: Tensor, x: Tensor) -> Tensor:
    return torch.where(weight != 0, weight * x, torch.zeros((), dtype=x.dtype, device=x.device))


def _sample(values: Tensor, dim: int, start: Tensor, weight: Tensor) -> Tensor:
    shape = [*values.shape[:dim], start.shape[0], *values.shape[dim + 1 :]]
    out = values.new_zeros(shape)
    for node, w in _taps(start, weight, dim, values.dim()):
        out += _product(w, values.index_select(dim, node))
    return out


def _adjoint(grad: Tensor, dim: int, start: Tensor, weight: Tensor, size: int) -> Tensor:
    out = grad.new_zeros([*grad.shape[:dim], size, *grad.shape[dim + 1 :]])
    for node, w in _taps(start, weight, dim, grad.dim()):
        out.index_add_(dim, node, _product(w, grad))
    return out


def _weight_grad(grad: Tensor, values: Tensor, dim: int, start: Tensor, taps: int) -> Tensor:
    others = [d for d in range(values.dim()) if d != dim]
    return torch.stack([(grad * values.index_select(dim, start + t)).sum(others) for t in range(taps)], dim=1)


def _widen(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(arithmetic_dtype(tensor.dtype)) for tensor in tensors]


def sample_1d(values: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """``out[l, m, r] = Σ_t weight[m, t] values[l, start[m] + t, r]``."""
    (wide,) = _widen(values)
    return _sample(wide, 1, start, weight).to(values.dtype)


def sample_1d_adjoint(grad: Tensor, start: Tensor, weight: Tensor, size: int) -> Tensor:
    """``out[l, s, r] = Σ_{m, t: start[m] + t = s} weight[m, t] grad[l, m, r]``."""
    (wide,) = _widen(grad)
    return _adjoint(wide, 1, start, weight, size).to(grad.dtype)


def sample_1d_weight_grad(grad: Tensor, values: Tensor, start: Tensor, taps: int) -> Tensor:
    """``out[m, t] = Σ_{l, r} grad[l, m, r] values[l, start[m] + t, r]``."""
    wide_grad, wide_values = _widen(grad, values)
    return _weight_grad(wide_grad, wide_values, 1, start, taps)


def sample_2d(values: Tensor, start0: Tensor, weight0: Tensor, start1: Tensor, weight1: Tensor) -> Tensor:
    """``out[o, i, r] = Σ_s Σ_t weight0[o, s] weight1[i, t] values[start0[o] + s, start1[i] + t, r]``."""
    (wide,) = _widen(values)
    return _sample(_sample(wide, 0, start0, weight0), 1, start1, weight1).to(values.dtype)


def sample_2d_adjoint(
    grad: Tensor, start0: Tensor, weight0: Tensor, start1: Tensor, weight1: Tensor, size0: int, size1: int
) -> Tensor:
    """The transpose of `sample_2d`: ``[M0, M1, R] -> [size0, size1, R]``."""
    (wide,) = _widen(grad)
    return _adjoint(_adjoint(wide, 1, start1, weight1, size1), 0, start0, weight0, size0).to(grad.dtype)


def sample_2d_weight0_grad(
    grad: Tensor, values: Tensor, start0: Tensor, start1: Tensor, weight1: Tensor, taps0: int
) -> Tensor:
    """``out[o, s] = Σ_{i, r} grad[o, i, r] Σ_t weight1[i, t] values[start0[o] + s, start1[i] + t, r]``."""
    wide_grad, wide_values = _widen(grad, values)
    return _weight_grad(wide_grad, _sample(wide_values, 1, start1, weight1), 0, start0, taps0)


def sample_2d_weight1_grad(
    grad: Tensor, values: Tensor, start0: Tensor, weight0: Tensor, start1: Tensor, taps1: int
) -> Tensor:
    """``out[i, t] = Σ_{o, r} grad[o, i, r] Σ_s weight0[o, s] values[start0[o] + s, start1[i] + t, r]``."""
    wide_grad, wide_values = _widen(grad, values)
    return _weight_grad(wide_grad, _sample(wide_values, 0, start0, weight0), 1, start1, taps1)


def cubic_band(
    points: Tensor,
    size: int,
    scale: Tensor | None = None,
    *,
    a: float = -0.75,
    padding: str = "border",
    antialias: bool = False,
) -> tuple[Tensor, Tensor]:
    """The band as a dense matrix, one Python number at a time: ``start = 0``, ``weight`` float64 ``[M, size]``."""
    x = [(float(p) + 1) * (size - 1) / 2 for p in points]
    weight = torch.zeros(len(x), size, dtype=torch.float64)
    for m in range(len(x)):
        if antialias:
            if len(x) == 1:
                spacing = float(size)
            else:
                left, right = max(m - 1, 0), min(m + 1, len(x) - 1)
                spacing = abs(x[right] - x[left]) / (right - left)
            width = max(spacing, 1.0)
            center = min(max(x[m], -0.5), size - 0.5)
            for s in range(size):
                weight[m, s] = _keys((center - s) / width, a)
            weight[m] /= weight[m].sum()
        else:
            base = math.floor(x[m])
            for node in range(base - 1, base + 3):
                landed = _landing(node, size, padding)
                if landed is not None:
                    weight[m, landed] += _keys(x[m] - node, a)
        if scale is not None:
            weight[m] *= float(scale[m])
    return torch.zeros(len(x), dtype=torch.int64), weight


def _keys(u: float, a: float) -> float:
    u = abs(u)
    if u <= 1:
        return (a + 2) * u**3 - (a + 3) * u**2 + 1
    return a * (u**3 - 5 * u**2 + 8 * u - 4) if u < 2 else 0.0


def _landing(node: int, size: int, padding: str) -> int | None:
    if padding == "reflection":
        node %= 2 * (size - 1)
        return min(node, 2 * (size - 1) - node)
    if padding == "border":
        return min(max(node, 0), size - 1)
    return node if 0 <= node < size else None


def sample_weight(
    values: Tensor,
    points: Tensor | tuple[Tensor, ...],
    scales: Tensor | tuple[Tensor | None, ...] | None = None,
    *,
    dims: int | tuple[int, ...] = (0, 1),
    a: float = -0.75,
    padding: str = "border",
    antialias: bool = False,
) -> Tensor:
    """One dense matrix product per sampled dim."""
    dims = (dims,) if isinstance(dims, int) else dims
    points = (points,) if isinstance(points, Tensor) else points
    scales = (scales,) * len(dims) if scales is None or isinstance(scales, Tensor) else scales
    (out,) = _widen(values)
    for dim, p, scale in zip(dims, points, scales, strict=True):
        _, matrix = cubic_band(p, values.shape[dim], scale, a=a, padding=padding, antialias=antialias)
        out = torch.tensordot(matrix.to(out), out, dims=([1], [dim])).movedim(0, dim)
    return out.to(values.dtype)
