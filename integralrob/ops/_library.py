"""The `integralrob::` operators: schemas, pure-torch fallbacks, and the native libraries that replace them.

Schemas are defined here, from Python, and each op's reference is registered for every device. A native library, where
one could be loaded, registers faster kernels for its device under the same names; nothing else changes.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

NATIVE_DIRECTORY = Path(__file__).resolve().parent.parent / "_native"

# Where code lies that a user has not written.
_INSIDE = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parent.parent, Path(torch.__file__).parent))

library = torch.library.Library("integralrob", "DEF")


def define(schema: str, *, reference: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define one op, with its reference as the kernel of last resort, and return it as a callable.

    Args:
        schema: torch schema, e.g. ``"scale(Tensor x, float s) -> Tensor"``.
        reference: pure torch; runs on any device that has no native kernel, after one warning that says so.
        fake: shapes and dtypes only, for `torch.compile` and `torch.export`.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, _with_warning(reference), "CompositeExplicitAutograd")
    torch.library.register_fake(f"integralrob::{name}", fake, lib=library)
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.integralrob, packet), overload or "default")


def _with_warning(reference: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(reference)
    def fallback(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        _warn_once(device)
        return reference(*args)

    return fallback


@functools.cache
def _warn_once(device: str) -> None:
    reason = native_problems().get(device, f"this version has no kernels for the device type {device!r}")
    warnings.warn(
        f"integralrob runs its slow pure-torch reference: {reason}", RuntimeWarning, stacklevel=_users_stacklevel()
    )


def _users_stacklevel() -> int:
    """The `stacklevel` with which a warning of the calling function points at the user's line.

    How many frames of torch lie between depends on whether autograd is at work.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_code.co_filename.startswith(_INSIDE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level


def refuse_forward_mode(name: str, *tensors: Tensor) -> None:
    """An error where a tensor carries a tangent, which the ops, differentiable in reverse mode only, would drop."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            f"integralrob.ops.{name}: forward-mode derivatives (torch.func.jvp, make_dual) are not implemented, "
            "use reverse mode"
        )


@functools.cache
def native_problems() -> dict[str, str]:
    """Load the native library, once, and say for each device type that has no native kernels why not.

    A library that is missing or cannot be loaded is never an error: the references take over.
    """
    problems = {"cuda": "this version has no CUDA kernels"} if torch.version.cuda else {}
    path = NATIVE_DIRECTORY / "libintegralrob_cpu.so"
    if not path.exists():
        problems["cpu"] = f"{path.name} is not built (build it with: pip install --no-build-isolation .)"
    else:
        try:
            torch.ops.load_library(path)
        except OSError as error:
            problems["cpu"] = f"{path.name} could not be loaded: {error}"
    return problems
