"""The examples of the docstrings, of every module."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import integralrob

EXTRAS = {"matplotlib", "sklearn"}
# Modules whose examples need a package that they import only where they use it.
LATE_IMPORTS = {"integralrob.conversion.algorithm": "torch_pruning", "integralrob.integration.smoothing": "scipy"}
MODULES = [
    name for _, name, _ in pkgutil.walk_packages(integralrob.__path__, "integralrob.") if not name.endswith("__main__")
]


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"{name} needs the extra 'demo': {error}")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    if name in LATE_IMPORTS:
        pytest.importorskip(LATE_IMPORTS[name])
    assert doctest.testmod(load(name)).failed == 0


PACKAGES = ["ops", "quadrature", "partition", "nn", "attacks", "integration", "training", "optim", "perturbations"]


@pytest.mark.parametrize("name", PACKAGES)
def test_public_functions_have_an_example(name: str) -> None:
    package = importlib.import_module(f"integralrob.{name}")
    without = [
        public
        for public in getattr(package, "__all__", ())
        if inspect.isfunction(item := getattr(package, public)) and ">>>" not in (inspect.getdoc(item) or "")
    ]
    assert not without
