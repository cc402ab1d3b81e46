"""Argument checks: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def describe(value: Any) -> str:
    """What an error message says of a value: a tensor's dtype and shape, else its repr, on one line of 80 at most.

    >>> describe(torch.zeros(2, 3))
    'a torch.float32 tensor of shape (2, 3)'
    """
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def has_values(tensor: Tensor) -> bool:
    """Whether its values can be looked at: not while a graph is traced, and not those of meta and fake tensors."""
    return not (torch.compiler.is_compiling() or tensor.is_meta or isinstance(tensor, FakeTensor))


def may_look_at(tensor: Tensor) -> bool:
    """`has_values`, and no training step waits for it: not those on a GPU that need a gradient."""
    needs_grad = tensor.requires_grad and torch.is_grad_enabled()
    return has_values(tensor) and not (needs_grad and tensor.device.type != "cpu")


def check_bool(name: str, value: Any) -> bool:
    """A bool, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {describe(value)}")
    return bool(value)


def check_int(name: str, value: Any, minimum: int) -> int:
    """An int (not a bool), Python's or NumPy's, of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral, torch.SymInt)):
        raise TypeError(f"{name}: expected an int of at least {minimum}, got {describe(value)}")
    if value < minimum:
        raise ValueError(f"{name}: expected an int of at least {minimum}, got {value}")
    return cast(int, value) if isinstance(value, torch.SymInt) else int(value)


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """One of `choices`, which are strings."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {listed}, got {describe(value)}")
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
    """A real number (not NaN), Python's or NumPy's, of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (float, int, Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    number = cast(float, value)
    if not number >= minimum:
        least = "" if minimum == -math.inf else f" of at least {minimum}"
        raise ValueError(f"{name}: expected a number{least}, got {value}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in the range of a float, got one beyond it") from None
