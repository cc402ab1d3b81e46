"""python -m integralrob bench: the benchmarks are in the repository, beside the package, and not in the wheel."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from .errors import UsageError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def add_to(commands: Any) -> None:
    """No options: all are those of the benchmarks."""
    parser = commands.add_parser(
        "bench", add_help=False, help="python -m benchmarks, in a clone of the repository; takes its options"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Hands the arguments over."""
    if not (REPOSITORY / "benchmarks" / "harness.py").exists():
        raise UsageError(
            f"the benchmarks are in the repository of integralrob, and not installed with it in {REPOSITORY}: "
            "run this in a clone of it, or `make bench` there"
        )
    sys.path.insert(0, str(REPOSITORY))
    status: int = importlib.import_module("benchmarks.__main__").main(arguments.handed_over)
    return status
