"""The command line: ``python -m integralrob info | demo | bench | attack | convert``, a module for each command."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from . import attack, bench, convert, demo, info
from .errors import UsageError

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {UsageError(message)} (--help lists the options)\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status. The user's mistakes end it with one line on stderr and status 2."""
    parser = _Parser(prog="python -m integralrob", description="Integral networks and adversarial robustness.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (info, demo, bench, attack, convert):
        command.add_to(commands)
    arguments, rest = parser.parse_known_args(argv)
    chosen: argparse.ArgumentParser = commands.choices[arguments.command]
    if arguments.command == "bench":
        arguments.handed_over = rest
    elif rest:
        chosen.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int | None = arguments.run(arguments)
    except UsageError as error:
        chosen.error(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return status or 0
