"""Checks of the values that parameter groups hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import check_real, describe
from ..ops._arguments import check_per_sample
from ._batches import batch_shape

Group = dict[str, Any]

# Least divisor of a gradient, unless said otherwise.
TINY = torch.finfo(torch.float32).tiny


def check_defaults(defaults: Any) -> Group:
    """A dict or None, as a dict of the caller's own."""
    if defaults is not None and not isinstance(defaults, dict):
        raise TypeError(f"defaults: expected a dict or None, got {describe(defaults)}")
    return dict(defaults or {})


def check_share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    value = check_real(name, value, minimum=0)
    if value > 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return value


def check_per_row(name: str, value: Any, group: Group) -> None:
    """A number of at least 0, or one for each row that the group's `param_ndim` makes of each of its parameters."""
    for param in group["params"]:
        rows = batch_shape(param.shape, group["param_ndim"])[0] if isinstance(value, Tensor) else 0
        check_per_sample(name, value, param.new_empty(rows))


def per_row(value: float | Tensor, batch: Tensor) -> float | Tensor:
    """A number, or one per row in a shape that broadcasts over the ``[N, ...]`` batch."""
    return value.to(batch.dtype).view(-1, *[1] * (batch.dim() - 1)) if isinstance(value, Tensor) else value


def check_generator(generator: Any) -> torch.Generator:
    """A torch.Generator."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {describe(generator)}")
    return generator
