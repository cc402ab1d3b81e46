"""`integralrob.optim` and `integralrob.perturbations` do what rai_toolbox 0.2.1 does: the same programs, both packages.

What rai_toolbox gives is recorded in `RECORD`; where it is installed, it is asked again.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

import integralrob
from tests.rai_programs import PROGRAMS, RECORD, run

RECORDED = json.loads(RECORD.read_text())


def assert_alike(ours: Any, theirs: Any, rtol: float, atol: float, path: str = "") -> None:
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), path
        assert ours.keys() == theirs.keys(), path
        for key in theirs:
            assert_alike(ours[key], theirs[key], rtol, atol, f"{path}/{key}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), path
        assert len(ours) == len(theirs), path
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(one, other, rtol, atol, f"{path}/{index}")
    elif isinstance(theirs, float) and isinstance(ours, (float, int)):
        assert math.isclose(ours, theirs, rel_tol=rtol, abs_tol=atol), (path, ours, theirs)
    else:
        assert ours == theirs, path


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_recorded(name: str) -> None:
    tolerance = 2**-7 if "bfloat16" in name else 2e-6
    assert_alike(run(name, integralrob), RECORDED[name], rtol=tolerance, atol=tolerance)


def test_the_record_is_complete() -> None:
    assert list(RECORDED) == list(PROGRAMS)


def installed() -> Any:
    pytest.importorskip("rai_toolbox", reason="rai_toolbox is not installed; what it gives is recorded")
    return SimpleNamespace(
        optim=importlib.import_module("rai_toolbox.optim"),
        perturbations=importlib.import_module("rai_toolbox.perturbations"),
    )


def test_the_record_is_what_the_package_gives() -> None:
    package = installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PROGRAMS:
            assert_alike(run(name, package), RECORDED[name], rtol=1e-6, atol=1e-6)


def test_names_and_arguments() -> None:
    package = installed()
    for module in ("optim", "perturbations"):
        ours, theirs = getattr(integralrob, module), getattr(package, module)
        for name in theirs.__all__:
            expected = inspect.signature(getattr(theirs, name)).parameters
            got = inspect.signature(getattr(ours, name)).parameters
            for parameter in expected.values():
                if parameter.kind is not parameter.VAR_KEYWORD and name != "PerturbationModel":
                    assert parameter.name in got, (name, parameter)
                    assert got[parameter.name].kind == parameter.kind, (name, parameter)
                    if parameter.name not in ("InnerOpt", "perturbation_model", "generator"):
                        assert got[parameter.name].default == parameter.default, (name, parameter)
