"""Argument checks: what passes comes back, what fails names the argument, what was expected and what came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from integralrob import _checks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3, dtype=torch.int8), "a torch.int8 tensor of shape (2, 3)"),
        (torch.tensor(1.0), "a torch.float32 tensor of shape ()"),
        ("x", "'x' (str)"),
        (None, "None (NoneType)"),
        ([1], "[1] (list)"),
        ("x" * 79, "'" + "x" * 76 + "... (str)"),
        (torch.nn.ReLU, "<class 'torch.nn.modules.activation.ReLU'> (type)"),
        (torch.nn.Sequential(torch.nn.ReLU()), "Sequential( (0): ReLU() ) (Sequential)"),
    ],
)
def test_describe(value: Any, text: str) -> None:
    assert _checks.describe(value) == text


def test_what_is_right_comes_back() -> None:
    tensor, indices = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    assert _checks.check_int("n", 2, minimum=2) == 2
    assert _checks.check_choice("kind", "b", ("a", "b")) == "b"
    assert _checks.check_tensor("t", tensor) is tensor
    assert _checks.check_tensor("t", indices, floating=False) is indices
    assert _checks.check_real("x", 3) == 3.0
    assert isinstance(_checks.check_real("x", 3), float)
    assert _checks.check_real("x", math.inf, minimum=0) == math.inf
    assert _checks.check_real("x", -math.inf) == -math.inf
    assert _checks.check_bool("flag", True) is True
    assert _checks.check_bool("flag", np.bool_(False)) is False
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        _checks.check_kernel_dtype("t", tensor.to(dtype))


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), np.float16(3), np.float32(3), np.float64(3)], ids=repr)
def test_numpy_scalars_come_back_as_pythons(value: Any) -> None:
    number = _checks.check_real("x", value, minimum=0)
    assert (type(number), number) == (float, 3.0)
    if isinstance(value, np.integer):
        count = _checks.check_int("n", value, minimum=0)
        assert (type(count), count) == (int, 3)
    else:
        with pytest.raises(TypeError, match=r"n: expected an int of at least 0, got np\.float"):
            _checks.check_int("n", value, minimum=0)


def test_values_of_meta_and_fake_tensors_are_not_looked_at() -> None:
    assert _checks.has_values(torch.zeros(2))
    assert not _checks.has_values(torch.zeros(2, device="meta"))
    with FakeTensorMode():
        assert not _checks.has_values(torch.zeros(2))


@pytest.mark.parametrize(
    ("check", "arguments", "error", "message"),
    [
        ("check_int", ("size", 1, 2), ValueError, "size: expected an int of at least 2, got 1"),
        ("check_int", ("size", True, 0), TypeError, "size: expected an int of at least 0, got True (bool)"),
        ("check_int", ("size", 2.0, 2), TypeError, "size: expected an int of at least 2, got 2.0 (float)"),
        ("check_int", ("size", "2", 2), TypeError, "size: expected an int of at least 2, got '2' (str)"),
        ("check_choice", ("kind", "c", ("a", "b")), ValueError, "kind: expected one of 'a', 'b', got 'c' (str)"),
        ("check_choice", ("kind", ["a"], {"a": 1}), ValueError, "kind: expected one of 'a', got ['a'] (list)"),
        (
            "check_choice",
            ("kind", np.ones(2), ["a"]),
            ValueError,
            "kind: expected one of 'a', got array([1., 1.]) (ndarray)",
        ),
        ("check_bool", ("flag", "no"), TypeError, "flag: expected a bool, got 'no' (str)"),
        ("check_bool", ("flag", 1), TypeError, "flag: expected a bool, got 1 (int)"),
        ("check_bool", ("flag", None), TypeError, "flag: expected a bool, got None (NoneType)"),
        (
            "check_int",
            ("size", np.bool_(True), 0),
            TypeError,
            "size: expected an int of at least 0, got np.True_ (bool)",
        ),
        ("check_tensor", ("points", [1.0]), TypeError, "points: expected a tensor, got [1.0] (list)"),
        (
            "check_tensor",
            ("points", torch.zeros(2, dtype=torch.int32)),
            TypeError,
            "points: expected a floating-point tensor, got a torch.int32 tensor of shape (2,)",
        ),
        (
            "check_kernel_dtype",
            ("values", torch.zeros(2, dtype=torch.float8_e5m2)),
            TypeError,
            "values: expected float16, bfloat16, float32 or float64, got torch.float8_e5m2",
        ),
        ("check_real", ("eps", -1, 0), ValueError, "eps: expected a number of at least 0, got -1"),
        ("check_real", ("eps", math.nan, 0), ValueError, "eps: expected a number of at least 0, got nan"),
        ("check_real", ("a", math.nan), ValueError, "a: expected a number, got nan"),
        (
            "check_real",
            ("eps", 10**400),
            ValueError,
            "eps: expected a number in the range of a float, got one beyond it",
        ),
        ("check_real", ("eps", "1"), TypeError, "eps: expected a number, got '1' (str)"),
        ("check_real", ("eps", False), TypeError, "eps: expected a number, got False (bool)"),
        (
            "check_real",
            ("eps", torch.tensor(1.0)),
            TypeError,
            "eps: expected a number, got a torch.float32 tensor of shape ()",
        ),
    ],
)
def test_what_is_wrong_is_named(check: str, arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        getattr(_checks, check)(*arguments)
    assert str(raised.value) == message
