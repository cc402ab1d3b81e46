"""Values of options."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from ..nn.continuous_weight import MAX_UPSAMPLING

__all__ = ["count", "device", "file", "fraction", "keywords", "number", "seed", "shape"]


def number(text: str) -> float:
    """A finite number or a quotient of two.

    >>> number("0.25"), number("8/256")
    (0.25, 0.03125)
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, such as 0.5 or 8/255, got {text!r}")
    return value


def fraction(text: str) -> float:
    """A size as a fraction of the full one."""
    value = number(text)
    if not 0 < value <= MAX_UPSAMPLING:
        raise argparse.ArgumentTypeError(f"expected a fraction above 0 and at most {MAX_UPSAMPLING}, got {text!r}")
    return value


def count(text: str) -> int:
    """An int of at least 1."""
    return _whole(text, 1)


def seed(text: str) -> int:
    """An int that torch takes as a seed."""
    return _whole(text, 0)


def shape(text: str) -> tuple[int, ...]:
    """The shape of a tensor.

    >>> shape("1x3x32x32")
    (1, 3, 32, 32)
    """
    try:
        return tuple(count(size) for size in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a shape, such as 1x3x32x32, got {text!r}") from None


def device(text: str) -> torch.device:
    """A torch device that works here."""
    try:
        torch.zeros(1, device=text).item()
    except Exception as error:  # of many types, where torch lacks what the device needs
        raise argparse.ArgumentTypeError(f"expected a torch device that works here, got {text!r}: {error}") from None
    return torch.device(text)


def file(text: str) -> Path:
    """The path of a file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return Path(text)


def keywords(text: str) -> dict[str, Any]:
    """Keyword arguments.

    >>> keywords('{"num_classes": 10}')
    {'num_classes': 10}
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""expected a JSON object, such as '{{"num_classes": 10}}', got {text!r}""")
    return value


def _whole(text: str, minimum: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not minimum <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, got {text!r}")
    return value
