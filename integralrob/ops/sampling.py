"""Sampling control values through bands: four ops that are the four partial derivatives of one multilinear form.

``L = Σ grad · Σ Σ weight0 · weight1 · values`` is linear in each of its four factors. Each op leaves out one factor `f`
and returns ``∂L/∂f``; the derivative of ``<c, ∂L/∂f>`` by any other factor is the op for that factor with `c` put in
the place of `f`. So gradients of every order come from the same four kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .._checks import check_int, check_kernel_dtype, check_tensor, describe
from . import reference
from ._dtypes import arithmetic_dtype
from ._library import define, library, refuse_forward_mode
from .bands import Band, cubic_band_as

# ------------------------------------------------------------------------------------------------------------- the ops

_sample_1d = define(
    "sample_1d(Tensor values, Tensor start, Tensor weight) -> Tensor",
    reference=reference.sample_1d,
    fake=lambda values, start, weight: values.new_empty(values.shape[0], start.shape[0], values.shape[2]),
)
_sample_1d_adjoint = define(
    "sample_1d_adjoint(Tensor grad, Tensor start, Tensor weight, SymInt size) -> Tensor",
    reference=reference.sample_1d_adjoint,
    fake=lambda grad, start, weight, size: grad.new_empty(grad.shape[0], size, grad.shape[2]),
)
_sample_1d_weight_grad = define(
    "sample_1d_weight_grad(Tensor grad, Tensor values, Tensor start, SymInt taps) -> Tensor",
    reference=reference.sample_1d_weight_grad,
    fake=lambda grad, values, start, taps: grad.new_empty(start.shape[0], taps, dtype=arithmetic_dtype(grad.dtype)),
)
_sample_2d = define(
    "sample_2d(Tensor values, Tensor start0, Tensor weight0, Tensor start1, Tensor weight1) -> Tensor",
    reference=reference.sample_2d,
    fake=lambda values, start0, weight0, start1, weight1: values.new_empty(
        start0.shape[0], start1.shape[0], values.shape[2]
    ),
)
_sample_2d_adjoint = define(
    "sample_2d_adjoint(Tensor grad, Tensor start0, Tensor weight0, Tensor start1, Tensor weight1, "
    "SymInt size0, SymInt size1) -> Tensor",
    reference=reference.sample_2d_adjoint,
    fake=lambda grad, start0, weight0, start1, weight1, size0, size1: grad.new_empty(size0, size1, grad.shape[2]),
)
_sample_2d_weight0_grad = define(
    "sample_2d_weight0_grad(Tensor grad, Tensor values, Tensor start0, Tensor start1, Tensor weight1, SymInt taps0) "
    "-> Tensor",
    reference=reference.sample_2d_weight0_grad,
    fake=lambda grad, values, start0, start1, weight1, taps0: weight1.new_empty(start0.shape[0], taps0),
)
_sample_2d_weight1_grad = define(
    "sample_2d_weight1_grad(Tensor grad, Tensor values, Tensor start0, Tensor weight0, Tensor start1, SymInt taps1) "
    "-> Tensor",
    reference=reference.sample_2d_weight1_grad,
    fake=lambda grad, values, start0, weight0, start1, taps1: weight0.new_empty(start1.shape[0], taps1),
)


# ------------------------------------------------------------------------------------------------------------ autograd

# The factor that an op leaves out -> the op and the names of its arguments.
_Family = dict[str, tuple[Any, tuple[str, ...]]]

_FAMILY_1D: _Family = {
    "grad": (_sample_1d, ("values", "start", "weight")),
    "values": (_sample_1d_adjoint, ("grad", "start", "weight", "size")),
    "weight": (_sample_1d_weight_grad, ("grad", "values", "start", "taps")),
}
_FAMILY_2D: _Family = {
    "grad": (_sample_2d, ("values", "start0", "weight0", "start1", "weight1")),
    "values": (_sample_2d_adjoint, ("grad", "start0", "weight0", "start1", "weight1", "size0", "size1")),
    "weight0": (_sample_2d_weight0_grad, ("grad", "values", "start0", "start1", "weight1", "taps0")),
    "weight1": (_sample_2d_weight1_grad, ("grad", "values", "start0", "weight0", "start1", "taps1")),
}


def _sizes(factors: dict[str, Any]) -> dict[str, Any]:
    """The sizes of an op's result, which are those of the factor that it leaves out."""
    values = factors["values"]
    if "weight" in factors:
        return {"size": values.shape[1], "taps": factors["weight"].shape[1]}
    taps = {"taps0": factors["weight0"].shape[1], "taps1": factors["weight1"].shape[1]}
    return {"size0": values.shape[0], "size1": values.shape[1], **taps}


def _register_autograd(family: _Family, left_out: str) -> None:
    op, names = family[left_out]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tensor_names = [name for name, value in zip(names, inputs, strict=True) if isinstance(value, Tensor)]
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))

    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        factors = dict(zip(ctx.tensor_names, ctx.saved_tensors, strict=True))
        factors[left_out] = cotangent
        arguments = {**factors, **_sizes(factors)}

        def derivative(name: str) -> Tensor:
            partial, its_names = family[name]
            return partial(*(arguments[argument] for argument in its_names))

        needed = zip(names, ctx.needs_input_grad, strict=True)
        return tuple(derivative(name) if needs and name in family else None for name, needs in needed)

    torch.library.register_autograd(op.name(), backward, setup_context=setup_context, lib=library)


for _family in (_FAMILY_1D, _FAMILY_2D):
    for _left_out in _family:
        _register_autograd(_family, _left_out)


# -------------------------------------------------------------------------------------------------------------- public


def _check_values(name: str, values: Tensor, shape: str) -> None:
    check_tensor(name, values)
    check_kernel_dtype(name, values)
    if values.dim() != 3:
        raise ValueError(f"{name}: expected shape {shape}, got {describe(values)}")


def _check_band(suffix: str, band: Band, values: Tensor, size: int | None) -> None:
    start, weight = band
    start_name, weight_name = f"start{suffix}", f"weight{suffix}"
    check_tensor(start_name, start, floating=False)
    check_tensor(weight_name, weight)
    if start.dtype != torch.int64 or start.dim() != 1:
        raise ValueError(f"{start_name}: expected an int64 tensor of shape [M], got {describe(start)}")
    if weight.dim() != 2 or weight.shape[0] != start.shape[0] or weight.shape[1] < 1:
        raise ValueError(f"{weight_name}: expected shape [{start.shape[0]}, T], T >= 1, got {describe(weight)}")
    if weight.dtype != arithmetic_dtype(values.dtype):
        expected = arithmetic_dtype(values.dtype)
        raise TypeError(f"{weight_name}: expected {expected} for {values.dtype} values, got {weight.dtype}")
    for name, tensor in ((start_name, start), (weight_name, weight)):
        if tensor.device != values.device:
            raise ValueError(f"{name}: expected it on {values.device} like the values, got {tensor.device}")
    if size is not None and weight.shape[1] > size:
        raise ValueError(
            f"{weight_name}: expected at most {size} taps for {size} control values, got {weight.shape[1]}"
        )


def _check_samples(grad: Tensor, dim: int, start: Tensor) -> None:
    if grad.shape[dim] != start.shape[0]:
        raise ValueError(f"grad: expected {start.shape[0]} samples along dim {dim}, got {describe(grad)}")


def sample_1d(values: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Sample the middle axis: ``out[l, m, r] = Σ_t weight[m, t] values[l, start[m] + t, r]``.

    Args:
        values: control values ``[L, S, R]``; float16, bfloat16, float32 or float64.
        start: int64 ``[M]``, the first node of each point, ``0 <= start <= S - T``.
        weight: ``[M, T]``, float64 for float64 values, else float32 (sums are held in it too). See `cubic_band`.

    Returns:
        ``[L, M, R]`` of the values' dtype. Differentiable in `values` and `weight` to any order, in reverse mode; not
        under `torch.func` transforms. The native kernels' backward pass is deterministic, whatever the number of
        threads. (The reference's is, on a GPU, under `torch.use_deterministic_algorithms`.)

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: a start is out of range (CPU; on a GPU the
            results of that point are NaN, and of an adjoint those on the first nodes).

    Complexity: ``O(L · M · T · R)`` multiply-adds, each control value read about once.

    >>> start, weight = torch.tensor([0, 1]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    >>> sample_1d(torch.tensor([[[1.0], [3.0], [7.0]]]), start, weight).flatten().tolist()
    [2.0, 7.0]
    """
    _check_values("values", values, "[L, S, R]")
    _check_band("", (start, weight), values, values.shape[1])
    refuse_forward_mode("sample_1d", values, weight)
    return _sample_1d(values, start, weight)


def sample_1d_adjoint(grad: Tensor, start: Tensor, weight: Tensor, size: int) -> Tensor:
    """The transpose of `sample_1d`: ``[L, M, R] -> [L, size, R]``.

    The native kernel gathers in a fixed order, without atomics; the reference scatters with `index_add_`.

    >>> start, weight = torch.tensor([0, 1]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    >>> sample_1d_adjoint(torch.ones(1, 2, 1), start, weight, 3).flatten().tolist()
    [0.5, 0.5, 1.0]
    """
    size = check_int("size", size, minimum=1)
    _check_values("grad", grad, "[L, M, R]")
    _check_band("", (start, weight), grad, size)
    _check_samples(grad, 1, start)
    refuse_forward_mode("sample_1d_adjoint", grad, weight)
    return _sample_1d_adjoint(grad, start, weight, size)


def sample_2d(values: Tensor, start0: Tensor, weight0: Tensor, start1: Tensor, weight1: Tensor) -> Tensor:
    """Sample the first two axes.

    ``out[o, i, r] = Σ_s Σ_t weight0[o, s] weight1[i, t] values[start0[o] + s, start1[i] + t, r]``

    Args:
        values: control values ``[S0, S1, R]``; float16, bfloat16, float32 or float64.
        start0, weight0: band of axis 0, int64 ``[M0]`` and ``[M0, T0]`` (float64 for float64 values, else float32).
        start1, weight1: band of axis 1, ``[M1]`` and ``[M1, T1]``.

    Returns:
        ``[M0, M1, R]`` of the values' dtype. Differentiable in `values`, `weight0` and `weight1` to any order, in
        reverse mode; not under `torch.func` transforms. The backward pass is as deterministic as that of `sample_1d`.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: a start is out of range (CPU; on a GPU the
            results of that point are NaN, and of an adjoint those on the first nodes).

    Complexity: separable, ``O(M0 · (T0 · S1 + T1 · M1) · R)`` multiply-adds.

    Source: the fused form of listing 1 of "Integral Neural Networks" (CVPR 2023, supplement).

    >>> ones = torch.ones(2, 1)
    >>> rows, columns = torch.tensor([1, 0]), torch.tensor([0, 2])
    >>> sample_2d(torch.arange(6.0).view(2, 3, 1), rows, ones, columns, ones)[..., 0].tolist()
    [[3.0, 5.0], [0.0, 2.0]]
    """
    _check_values("values", values, "[S0, S1, R]")
    _check_band("0", (start0, weight0), values, values.shape[0])
    _check_band("1", (start1, weight1), values, values.shape[1])
    refuse_forward_mode("sample_2d", values, weight0, weight1)
    return _sample_2d(values, start0, weight0, start1, weight1)


def sample_2d_adjoint(
    grad: Tensor, start0: Tensor, weight0: Tensor, start1: Tensor, weight1: Tensor, size0: int, size1: int
) -> Tensor:
    """The transpose of `sample_2d`: ``[M0, M1, R] -> [size0, size1, R]``, in the order of `sample_1d_adjoint`.

    >>> ones = torch.ones(1, 1)
    >>> sample_2d_adjoint(torch.ones(1, 1, 1), torch.tensor([1]), ones, torch.tensor([0]), ones, 2, 2)[..., 0].tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    size0, size1 = check_int("size0", size0, minimum=1), check_int("size1", size1, minimum=1)
    _check_values("grad", grad, "[M0, M1, R]")
    _check_band("0", (start0, weight0), grad, size0)
    _check_band("1", (start1, weight1), grad, size1)
    _check_samples(grad, 0, start0)
    _check_samples(grad, 1, start1)
    refuse_forward_mode("sample_2d_adjoint", grad, weight0, weight1)
    return _sample_2d_adjoint(grad, start0, weight0, start1, weight1, size0, size1)


def sample_weight(
    values: Tensor,
    points: Tensor | Sequence[Tensor],
    scales: Tensor | Sequence[Tensor | None] | None = None,
    *,
    dims: int | Sequence[int] = (0, 1),
    a: float = -0.75,
    padding: str = "border",
    antialias: bool = False,
) -> Tensor:
    """Sample a weight of any shape along one or two of its dims, with Keys' cubic kernel and quadrature weights.

    Args:
        values: control values in the layout of the weight, e.g. ``[out, in, kh, kw]``.
        points: one tensor ``[M]`` per entry of `dims` (a single tensor for a single dim); node `s` of an axis of size
            `S` is at ``-1 + 2 s / (S - 1)``.
        scales: ``[M]`` factors per entry of `dims` (quadrature weights), None for none.
        dims: one or two different dims of `values`, each of size at least 2; negative dims count from the end.
        a, padding, antialias: see `cubic_band`. The defaults equal ``F.grid_sample(mode="bicubic",
            align_corners=True)``; ``a=-0.5, antialias=True`` on ``UniformPartition(M, kind="centered", nodes=S)``
            equals ``F.interpolate(mode="bicubic", antialias=True)``.

    Returns:
        The sampled weight: `values` with each size in `dims` replaced by the number of its points. Differentiable in
        `values`, `points` and `scales` to any order, in reverse mode; not under `torch.func` transforms.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: separable, ``T`` multiply-adds an output for each dim; one kernel for one dim, one for the dims (0, 1).

    Source: listings 1 and 2 of "Integral Neural Networks" (CVPR 2023, supplement).

    >>> ends = torch.tensor([-1.0, 1.0])
    >>> sample_weight(torch.arange(9.0).view(3, 3), (ends, ends)).tolist()
    [[0.0, 2.0], [6.0, 8.0]]
    """
    check_tensor("values", values)
    if values.numel() == 0:
        raise ValueError(f"values: expected a non-empty tensor, got {describe(values)}")
    dims = _check_dims(dims, values.dim())
    if len(dims) > 2:
        raise ValueError(f"dims: expected one or two dims, got {len(dims)}")
    per_dim_points = _per_dim("points", points, len(dims))
    per_dim_scales = _per_dim("scales", scales, len(dims))
    bands = []
    dtype = arithmetic_dtype(values.dtype)
    for i, (dim, p, scale) in enumerate(zip(dims, per_dim_points, per_dim_scales, strict=True)):
        points_name = f"points[{i}]"
        check_tensor(points_name, p)
        if p.device != values.device:
            raise ValueError(f"{points_name}: expected them on {values.device} like values, got {p.device}")
        if values.shape[dim] < 2:
            raise ValueError(f"values: expected at least 2 control values along dim {dim}, got {describe(values)}")
        size = values.shape[dim]
        names = (points_name, f"scales[{i}]")
        bands.append(cubic_band_as(dtype, p, size, scale, a, padding, antialias, names))
    return _sample(values, bands, dims)


def sample_with_bands(values: Tensor, bands: Sequence[Band], dims: Sequence[int]) -> Tensor:
    """Sample `values` along `dims` with ready-made bands: what layers call with the bands that they keep.

    Args:
        values: control values of any shape.
        bands: ``(start [M], weight [M, T])`` per entry of `dims`, see `cubic_band`; the weights are cast to float64 for
            float64 values, else to float32.
        dims: different dims of `values`, as many as `bands`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it, and the band of axis 0 and 1, where
            these are sampled together, `start0`, `weight0` and `start1`, `weight1`.

    >>> band = (torch.tensor([0, 1]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    >>> sample_with_bands(torch.tensor([1.0, 3.0, 7.0]), [band], [0]).tolist()
    [2.0, 7.0]
    """
    check_tensor("values", values)
    dims = _check_dims(dims, values.dim())
    _check_bands(bands, len(dims))
    return _sample(values, bands, dims)


def _sample(values: Tensor, bands: Sequence[Band], dims: list[int]) -> Tensor:
    dtype = arithmetic_dtype(values.dtype)
    if sorted(dims) == [0, 1] and len(bands) == 2:
        (start0, weight0), (start1, weight1) = bands if dims == [0, 1] else bands[::-1]
        flat = values.reshape(values.shape[0], values.shape[1], values.shape[2:].numel())
        out = sample_2d(flat, start0, weight0.to(dtype), start1, weight1.to(dtype))
        return out.view(start0.shape[0], start1.shape[0], *values.shape[2:])
    for dim, (start, weight) in zip(dims, bands, strict=True):
        before, after = values.shape[:dim], values.shape[dim + 1 :]
        flat = values.reshape(before.numel(), values.shape[dim], after.numel())
        values = sample_1d(flat, start, weight.to(dtype)).view(*before, start.shape[0], *after)
    return values


def _check_dims(dims: int | Sequence[int], ndim: int) -> list[int]:
    listed = list(dims) if isinstance(dims, Sequence) else [dims]
    found: list[int] = []
    for dim in listed:
        valid = isinstance(dim, (int, Integral)) and not isinstance(dim, bool) and -ndim <= dim < ndim
        if not valid or dim % ndim in found:
            break
        found.append(int(dim) % ndim)
    if not listed or len(found) < len(listed):
        raise ValueError(f"dims: expected different dims of a {ndim}-dimensional tensor, got {describe(dims)}")
    return found


def _check_bands(bands: Sequence[Band], count: int) -> None:
    if not isinstance(bands, Sequence):
        raise TypeError(f"bands: expected one (start, weight) for each of the {count} dims, got {describe(bands)}")
    if len(bands) != count:
        raise ValueError(f"bands: expected one (start, weight) for each of the {count} dims, got {len(bands)}")
    for i, band in enumerate(bands):
        if not isinstance(band, (tuple, list)) or len(band) != 2:
            raise TypeError(f"bands[{i}]: expected a pair of tensors (start, weight), got {describe(band)}")
        start, weight = band
        if not isinstance(start, Tensor) or not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise TypeError(
                f"bands[{i}]: expected an int64 and a floating-point tensor (start, weight), "
                f"got {describe(start)} and {describe(weight)}"
            )


def _per_dim(name: str, value: Any, count: int) -> list[Any]:
    if not (value is None or isinstance(value, (Tensor, Sequence))):
        raise TypeError(f"{name}: expected one tensor for each of the {count} dims, got {describe(value)}")
    if value is None:
        return [None] * count
    listed = [value] if isinstance(value, Tensor) else list(value)
    if len(listed) != count:
        raise ValueError(f"{name}: expected one tensor for each of the {count} dims, got {len(listed)}")
    return listed
