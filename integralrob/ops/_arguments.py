"""Checks of the arguments that projections and steps share."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .._checks import check_int, check_kernel_dtype, check_real, check_tensor, describe, has_values
from ._dtypes import arithmetic_dtype

Bounds = tuple[float, float] | None


def check_batch(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    check_kernel_dtype(name, tensor)
    if tensor.dim() == 0:
        raise ValueError(f"{name}: expected shape [B, ...], got {describe(tensor)}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_tensor(name, tensor)
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        raise ValueError(
            f"{name}: expected {describe(other)} on {other.device} like {other_name}, "
            f"got {describe(tensor)} on {tensor.device}"
        )


def check_bounds(bounds: Bounds) -> Bounds:
    """None, or a pair of numbers ``lo <= hi``."""
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"bounds: expected a pair of numbers (lo, hi) or None, got {describe(bounds)}")
    lower, upper = check_real("bounds", bounds[0]), check_real("bounds", bounds[1])
    if lower > upper:
        raise ValueError(f"bounds: expected lo <= hi, got ({lower}, {upper})")
    return lower, upper


def check_per_sample(name: str, value: float | Tensor, batch: Tensor) -> float | Tensor:
    """A number of at least 0, or a tensor ``[B]`` of such (a GPU's is not looked into: that would wait for the GPU)."""
    if not isinstance(value, Tensor):
        return check_real(name, value, minimum=0)
    check_tensor(name, value)
    _check_one_per_sample(name, value, batch)
    if _may_wait_for(value) and not bool((value.detach() >= 0).all()):
        raise ValueError(f"{name}: expected values of at least 0, got {value.min().item()}")
    return value


def check_kept(k: Any, batch: Tensor) -> int | Tensor:
    """How many of the d entries of a sample: an int, or an int64 tensor of the shape that came.

    An int counts them, from 1 to d; a float is their share, from 0 to 1, rounded to the nearest count, at least 1; a
    tensor ``[B]`` has ints or floats, of which a GPU's are not looked into.
    """
    length = batch.shape[1:].numel()
    if isinstance(k, Tensor):
        return _check_kept_per_sample(k, length, batch)
    if isinstance(k, (int, Integral, torch.SymInt)) and not isinstance(k, bool):
        count = check_int("k", k, minimum=1)
        if count > max(1, length):
            raise ValueError(f"k: expected an int from 1 to {length}, the entries of a sample, got {count}")
        return count
    share = check_real("k", k, minimum=0)
    if share > 1:
        raise ValueError(f"k: expected a float from 0 to 1, the share of a sample's entries, got {share}")
    return max(1, math.floor(share * length + 0.5))


def _check_kept_per_sample(k: Tensor, length: int, batch: Tensor) -> Tensor:
    _check_one_per_sample("k", k, batch)
    low, high = (0, 1) if k.is_floating_point() else (1, max(1, length))
    if _may_wait_for(k) and not bool(((k >= low) & (k <= high)).all()):
        raise ValueError(f"k: expected values from {low} to {high}, got {k.tolist()}")
    if k.is_floating_point():
        k = (k.to(arithmetic_dtype(k.dtype)) * length + 0.5).floor().clamp(min=1)
    return k.to(torch.int64)


_INTS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check_one_per_sample(name: str, value: Tensor, batch: Tensor) -> None:
    if value.dtype not in _INTS + _FLOATS:
        raise TypeError(f"{name}: expected a tensor of ints or floats, got {describe(value)}")
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, batch.shape[0])):
        raise ValueError(
            f"{name}: expected a number or shape [{batch.shape[0]}], one per sample, got {describe(value)}"
        )
    if value.device != batch.device:
        raise ValueError(f"{name}: expected it on {batch.device} like the batch, got {value.device}")


def _may_wait_for(value: Tensor) -> bool:
    return value.device.type == "cpu" and has_values(value)


def as_rows(value: float | Tensor, batch: Tensor, dtype: torch.dtype) -> Tensor:
    """``[1]`` or ``[B]``, contiguous, as the kernels take them."""
    if isinstance(value, Tensor):
        return value.to(dtype).reshape(-1).contiguous()
    if dtype.is_floating_point and value > torch.finfo(dtype).max:
        value = math.inf
    return torch.full((1,), value, dtype=dtype, device=batch.device)
