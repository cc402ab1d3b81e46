"""The native module that orders channels, or why there is none."""

from __future__ import annotations

import functools
import importlib.util
import sysconfig
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

from ..ops._library import BUILD, native_file

_NAME = "integralrob_ordering"


def module_path() -> Path:
    """Where the module for this Python lies, if it is built."""
    return native_file(f"{_NAME}{sysconfig.get_config_var('EXT_SUFFIX')}")


@functools.cache
def solver_module() -> ModuleType | str:
    """The module, loaded once, or why it cannot be had: that is never an error."""
    path = module_path()
    if not path.exists():
        return f"{path.name} is not built ({BUILD['cpu']})"
    loader = ExtensionFileLoader(_NAME, str(path))
    spec = importlib.util.spec_from_loader(_NAME, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        return f"{path.name} could not be loaded: {error}"
    return module
