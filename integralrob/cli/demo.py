"""python -m integralrob demo"""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .values import device, seed


def add_to(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("demo", help="train, convert, resize and attack a network on real images")
    parser.add_argument("--output", default="build/demo", help="folder for results.json and the plots (%(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of everything random (%(default)s)")
    parser.add_argument("--device", type=device, help="torch device (the GPU if there is one, else the CPU)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """See `integralrob.demo.run`."""
    from ..demo import run as demo

    try:
        demo(arguments.output, seed=arguments.seed, device=arguments.device)
    except (ModuleNotFoundError, OSError) as error:  # without the extra 'demo', or without a folder to write to
        raise UsageError(error) from error
