"""Checks of the arguments that all attacks share. They read values and so wait for the device: once per attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import check_tensor, describe
from ..ops._arguments import Bounds, check_kept, check_per_sample
from ..ops._dtypes import arithmetic_dtype
from .balls import Ball, PerSample


def check_model(model: Any) -> None:
    """A callable."""
    if not callable(model):
        raise TypeError(f"model: expected a module or another callable x -> logits, got {describe(model)}")


def check_samples(x: Any, y: Any, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """`x` floating-point ``[B, ...]`` within `bounds` and `y` int64 ``[B]``, detached, for use in autograd."""
    check_tensor("x", x)
    if x.ndim == 0 or (len(x) and not x.numel()):
        raise ValueError(f"x: expected samples along the first axis, each with values, got {describe(x)}")
    check_tensor("y", y, floating=False)
    if y.dtype != torch.int64:
        raise TypeError(f"y: expected class indices of dtype torch.int64, got {describe(y)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y: expected one class index per sample, shape ({len(x)},), got {describe(y)}")
    if y.device != x.device:
        raise ValueError(f"y: expected a tensor on {x.device} like x, got one on {y.device}")
    if x.numel():
        _check_range(x, bounds)
    return _usable(x), _usable(y)


def _check_range(x: Tensor, bounds: Bounds) -> None:
    low, high = (value.item() for value in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("x: expected finite values, got NaN or infinity")
    if bounds is not None:
        # in the dtype of x, so that values clipped to the bounds pass
        lowest, highest = torch.tensor(bounds, dtype=x.dtype).tolist()
        if low < lowest or high > highest:
            raise ValueError(f"x: expected values within bounds {bounds}, got values from {low:.6g} to {high:.6g}")


def _usable(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        tensor = tensor.detach().contiguous()
        return tensor.clone() if tensor.is_inference() else tensor  # autograd refuses to save inference tensors


def check_finite_per_sample(name: str, value: Any, x: Tensor) -> PerSample:
    """A number of at least 0, or a tensor of such, one per sample, which comes back in the type of the sums.

    Some of them add up to a finite one.
    """
    value = check_per_sample(name, value, x)
    dtype = arithmetic_dtype(x.dtype)
    most = torch.finfo(dtype).max / 2**8
    if not isinstance(value, Tensor):
        if value > most:
            raise ValueError(f"{name}: expected a finite number of at most {most:.3g}, got {value}")
        return value
    value = value.detach().to(dtype).expand(len(x))
    if not ((value >= 0) & (value <= most)).all():
        raise ValueError(f"{name}: expected finite numbers from 0 to {most:.3g}, got {value.tolist()}")
    return value


def check_k(norm: str, ball: Ball, k: Any, x: Tensor) -> int | Tensor | None:
    """How many entries a step moves, in counts; None for a ball whose steps move all."""
    if ball.k is not None:
        k = check_kept(ball.k if k is None else k, x)
        return k.expand(len(x)) if isinstance(k, Tensor) else k
    if k is not None:
        raise ValueError(f"k: expected None with norm={norm!r}, where all entries move, got {describe(k)}")
    return None


def check_index(index: Any, x: Tensor) -> Tensor:
    """Int64 ``[B]``, which samples of their data set these are; None: the first B."""
    if index is None:
        return torch.arange(len(x), device=x.device)
    check_tensor("index", index, floating=False)
    if index.dtype != torch.int64 or index.shape != x.shape[:1]:
        raise ValueError(f"index: expected a torch.int64 tensor of shape ({len(x)},), got {describe(index)}")
    if index.device != x.device:
        raise ValueError(f"index: expected a tensor on {x.device} like x, got one on {index.device}")
    return index


def check_generator(generator: Any, device: torch.device) -> None:
    """None, or a generator for `device` or the CPU."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
    if generator.device.type not in (device.type, "cpu"):
        raise ValueError(f"generator: expected one for {device} like x, or for cpu, got one for {generator.device}")


def normalisation(mean: Any, std: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """``x [B, C, ...] -> (x - mean) / std``, a new tensor; each a number or one per channel ``[C]``, None: 0 and 1."""
    if mean is None and std is None:
        return Tensor.clone
    mean, std = (
        _check_channels(name, default if value is None else value, x)
        for name, value, default in (("mean", mean, 0.0), ("std", std, 1.0))
    )
    if not (std > 0).all():
        raise ValueError(f"std: expected numbers above 0, got {std.flatten().tolist()}")
    return lambda x: (x - mean) / std


def _check_channels(name: str, value: Any, x: Tensor) -> Tensor:
    try:
        channels = torch.as_tensor(value, dtype=x.dtype, device=x.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a number or one per channel, got {describe(value)}") from None
    count = x.shape[1] if x.ndim > 1 else 1
    if channels.ndim > 1 or channels.numel() not in (1, count):
        raise ValueError(f"{name}: expected a number or {count} of them, one per channel, got {describe(value)}")
    if not channels.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {channels.tolist()}")
    return channels.reshape(-1, *[1] * max(0, x.ndim - 2))


def check_logits(logits: Any, y: Tensor, differentiable: bool) -> None:
    """Floating-point ``[B, K]`` with K ≥ 2, and classes `y` below K."""
    check_tensor("model", logits)
    if logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(f"model: expected logits of shape ({len(y)}, at least 2), got {describe(logits)}")
    if differentiable and not logits.requires_grad:
        raise ValueError("model: expected logits that are differentiable in x, got a tensor without gradient")
    if not len(y):
        return
    low, high = (value.item() for value in torch.aminmax(y))
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"y: expected class indices from 0 to {logits.shape[1] - 1}, got {low} to {high}")


def check_losses(losses: Any, y: Tensor, differentiable: bool) -> None:
    """Floating-point ``[B]``."""
    check_tensor("loss", losses)
    if losses.shape != y.shape:
        raise ValueError(f"loss: expected one value per sample, shape ({len(y)},), got {describe(losses)}")
    if differentiable and not losses.requires_grad:
        raise ValueError("loss: expected values that are differentiable in the logits, got a tensor without gradient")


def check_dependence(losses: Tensor, logits: Tensor, x: Tensor) -> None:
    """Losses that depend on the logits, and these on `x`."""
    of_logits, of_x = torch.autograd.grad(losses.sum(), (logits, x), allow_unused=True)
    if of_logits is None:
        raise ValueError("loss: expected values that depend on the logits, got a tensor that does not")
    if of_x is None:
        raise ValueError("model: expected logits that depend on x, got a tensor that does not")
