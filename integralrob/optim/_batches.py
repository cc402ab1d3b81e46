"""A tensor as a batch of the sub-tensors that a transformation acts on."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._checks import describe


def check_param_ndim(param_ndim: Any) -> None:
    """None or an int, negative ones included."""
    if isinstance(param_ndim, bool) or not (param_ndim is None or isinstance(param_ndim, int)):
        raise TypeError(f"param_ndim: expected an int or None, got {describe(param_ndim)}")


@functools.lru_cache(maxsize=1024)
def batch_shape(shape: torch.Size, param_ndim: int | None) -> torch.Size:
    """``(N, *sub)`` with `param_ndim` axes in `sub`, counted from the last; a negative number leaves out so many axes.

    None is all axes. With 0 axes `sub` is ``(1,)``.

    Raises:
        ValueError: there are fewer axes.

    >>> batch_shape(torch.Size([2, 3, 4]), 1), batch_shape(torch.Size([2, 3, 4]), -1)
    (torch.Size([6, 4]), torch.Size([2, 3, 4]))
    >>> batch_shape(torch.Size([2, 3, 4]), None), batch_shape(torch.Size([2, 3, 4]), 0)
    (torch.Size([1, 2, 3, 4]), torch.Size([24, 1]))
    """
    ndim = len(shape)
    if param_ndim is None:
        param_ndim = ndim
    if abs(param_ndim) > ndim:
        raise ValueError(
            f"param_ndim: expected at most the {ndim} axes of a parameter of shape {tuple(shape)}, got {param_ndim}"
        )
    first = ndim - param_ndim if param_ndim >= 0 else -param_ndim
    return torch.Size([shape[:first].numel(), *(shape[first:] or (1,))])


def as_batch(param: Tensor, param_ndim: int | None) -> Tensor:
    """`param` where it has the shape of a batch, else its values and gradient in that shape.

    They are the same memory, or copies where strides do not allow that: `write_back` when they have been written to.
    """
    shape = batch_shape(param.shape, param_ndim)
    if shape == param.shape:
        return param
    batch = param.detach().reshape(shape)
    if param.grad is not None:
        batch.grad = param.grad.detach().reshape(shape)
    return batch


def write_back(batch: Tensor, param: Tensor) -> None:
    """Copy what `as_batch` could not alias."""
    if batch is param:
        return
    for source, target in ((batch, param), (batch.grad, param.grad)):
        if source is not None and target is not None and source.data_ptr() != target.data_ptr():
            target.copy_(source.view_as(target))
