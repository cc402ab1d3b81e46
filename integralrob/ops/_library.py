"""The `integralrob::` operators: schemas, pure-torch fallbacks, and the native libraries that replace them.

Schemas are defined here, from Python, and each op's reference is registered for every device. A native library, where
one could be loaded, registers faster kernels for its device under the same names; nothing else changes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NATIVE_DIRECTORY = Path(__file__).resolve().parent.parent / "_native"

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
    reason = native_problems().get(device, f"integralrob has no kernels for the device type {device!r}")
    warnings.warn(f"integralrob runs its slow pure-torch reference: {reason}", RuntimeWarning, stacklevel=4)


@functools.cache
def native_problems() -> dict[str, str]:
    """Load the native libraries, once, and say for each device type why its library is not there.

    A library that is missing or cannot be loaded is never an error: the references take over.
    """
    problems = {}
    wanted = ["cpu"] + (["cuda"] if torch.version.cuda else [])
    for device in wanted:
        path = NATIVE_DIRECTORY / f"libintegralrob_{device}.so"
        if not path.exists():
            problems[device] = f"{path.name} is not built (build it with: pip install --no-build-isolation .)"
            continue
        try:
            torch.ops.load_library(path)
        except OSError as error:
            problems[device] = f"{path.name} could not be loaded: {error}"
    return problems
