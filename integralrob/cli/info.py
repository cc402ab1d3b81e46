"""python -m integralrob info"""

from __future__ import annotations

import argparse
from typing import Any

from ..build_info import build_info


def add_to(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("info", help="what this installation has, and why something is missing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints a line for each entry of `integralrob.build_info`."""
    for key, value in build_info().items():
        if isinstance(value, dict):
            value = "; ".join(f"{name}: {text}" for name, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        print(f"{key:18} {'-' if value in (None, '') else value}")
