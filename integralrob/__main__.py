"""python -m integralrob info | demo"""

from __future__ import annotations

import argparse
import sys


def _info(arguments: argparse.Namespace) -> None:
    from .build_info import build_info

    for key, value in build_info().items():
        if isinstance(value, dict):
            value = "; ".join(f"{name}: {text}" for name, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        print(f"{key:18} {'-' if value in (None, '') else value}")


def _demo(arguments: argparse.Namespace) -> None:
    from .demo import run

    run(arguments.output, seed=arguments.seed, device=arguments.device)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m integralrob", description="Integral networks and adversarial robustness."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="what this installation has, and why something is missing")
    info.set_defaults(run=_info)
    demo = commands.add_parser("demo", help="train, convert, resize and attack a network on real images")
    demo.add_argument("--output", default="build/demo", help="folder for results.json and the plots (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    demo.add_argument("--device", default=None, help="torch device (the GPU if there is one, else the CPU)")
    demo.set_defaults(run=_demo)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
