"""Argument checks: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor


def describe(value: Any) -> str:
    """What an error message says of a value: a tensor's dtype and shape, else its repr.

    >>> describe(torch.zeros(2, 3))
    'a torch.float32 tensor of shape (2, 3)'
    """
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"


def check_int(name: str, value: Any, minimum: int) -> int:
    """An int (not a bool) of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an int of at least {minimum}, got {describe(value)}")
    if value < minimum:
        raise ValueError(f"{name}: expected an int of at least {minimum}, got {value}")
    return cast(int, value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """One of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}")
    return value


def check_tensor(name: str, value: Any, *, floating: bool = True) -> Tensor:
    """A tensor, floating-point unless said otherwise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {describe(value)}")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {describe(value)}")
    return value


def check_kernel_dtype(name: str, tensor: Tensor) -> None:
    """A dtype that the kernels know."""
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {tensor.dtype}")


def check_real(name: str, value: Any, minimum: float = -math.inf) -> float:
    """A real number (not NaN) of at least `minimum`."""
    if isinstance(value, (bool, Tensor)) or not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    if not value >= minimum:
        raise ValueError(f"{name}: expected a number of at least {minimum}, got {value}")
    return float(value)
