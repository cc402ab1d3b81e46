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
    library.impl(name, _with_warning(name, reference), "CompositeExplicitAutograd")
    torch.library.register_fake(f"integralrob::{name}", fake, lib=library)
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.integralrob, packet), overload or "default")


def _with_warning(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(reference)
    def fallback(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        _warn_once(device, name if device in native_devices() and device not in native_problems() else None)
        return reference(*args)

    return fallback


@functools.cache
def _warn_once(device: str, op: str | None) -> None:
    """Of a device without native kernels, or of an op that its library lacks."""
    missing = "kernels" if op is None else f"kernel of {op}"
    reason = native_problems().get(device, f"this version has no {missing} for the device type {device!r}")
    warnings.warn(
        f"integralrob runs its slow pure-torch reference: {reason}", RuntimeWarning, stacklevel=users_stacklevel()
    )


def users_stacklevel() -> int:
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


# Device type -> how its library is built. That of the CPU brings the module that orders channels.
BUILD = {
    "cpu": "build it with: pip install --no-build-isolation .",
    "cuda": "build it where nvcc is on the PATH, with: "
    "CMAKE_ARGS=-DINTEGRALROB_CUDA=on pip install --no-build-isolation .",
}


def native_path(device: str) -> Path:
    """Where the native library for a device type lies, if it is built."""
    return native_file(f"libintegralrob_{device}.so")


def native_file(file: str) -> Path:
    """Where a native file lies, if it is built.

    One in the folder that the environment variable ``INTEGRALROB_NATIVE_DIRECTORY`` names goes before the package's.
    """
    folder = os.environ.get("INTEGRALROB_NATIVE_DIRECTORY")
    if folder and (path := Path(folder).resolve() / file).exists():
        return path
    return NATIVE_DIRECTORY / file


def native_devices() -> tuple[str, ...]:
    """The device types for which this torch can load a native library, whether or not there is such a device."""
    return ("cpu", "cuda") if torch.version.cuda else ("cpu",)


@functools.cache
def native_problems() -> dict[str, str]:
    """Load the native libraries, once, and say for each device type that should have native kernels why it has none.

    A library that is missing or cannot be loaded is never an error: the references take over.
    """
    problems = {}
    for device in native_devices():
        path = native_path(device)
        if not path.exists():
            problems[device] = f"{path.name} is not built ({BUILD[device]})"
            continue
        try:
            torch.ops.load_library(path)
        except OSError as error:
            problems[device] = f"{path.name} could not be loaded: {error}"
    return problems
