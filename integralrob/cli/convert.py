"""python -m integralrob convert"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection

from ..conversion import IntegralModel
from ..conversion.check import relative_difference
from ..conversion.example import outputs_of
from .errors import UsageError, refused_by_us
from .models import add_model_to, convert_checked, example_inputs, load_model, save_integral
from .values import count, fraction, shape


def add_to(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "convert",
        help="turn a trained network into one that can be sampled at any size",
        description="Converts a network, which at full size computes the same, prints what stayed discrete and why, "
        "and writes the integral network and plain ones of other sizes. See docs/command_line.md.",
    )
    add_model_to(parser)
    parser.add_argument(
        "--input",
        type=shape,
        nargs="+",
        required=True,
        metavar="SHAPE",
        help="of each of the model's arguments, tensors of floats, with their batch axis: 1x3x32x32",
    )
    parser.add_argument(
        "--order",
        choices=("shortest_path", "two_opt", "none"),
        default="shortest_path",
        help="of channels (%(default)s)",
    )
    parser.add_argument("--keep-bn", action="store_true", help="sample batch norms, instead of fusing them into layers")
    parser.add_argument("--size", type=fraction, nargs="+", default=[], help="fractions of the channels: 0.75 0.5")
    parser.add_argument("--multiple-of", type=count, default=1, metavar="N", help="of the numbers of channels then")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for integral.pt, and size-FRACTION.pt2 of each size"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Converts, reports, and writes what `torch.load(..., weights_only=True)` and `torch.export.load` read."""
    folder: Path | None = arguments.output
    if folder is not None:
        _check_empty(folder)
    model = load_model(arguments)
    if isinstance(model, IntegralModel):
        raise UsageError("MODEL", "expected a discrete network, got an integral one")
    inputs = example_inputs(model, "--input", arguments.input)
    order = None if arguments.order == "none" else arguments.order
    fuse_bn = not arguments.keep_bn
    integral = convert_checked(model, "--input", inputs, order=order, fuse_bn=fuse_bn, progress=sys.stderr.isatty())
    _print_report(integral)
    difference = max(map(relative_difference, outputs_of(integral, inputs), outputs_of(model, inputs)), default=0.0)
    print(f"At full size, outputs differ from the original's by at most {difference:.1e} of the largest.\n")
    if folder is not None:
        with refused_by_us():
            folder.mkdir(parents=True, exist_ok=True)
            save_integral(integral, folder / "integral.pt", shapes=arguments.input, fuse_bn=fuse_bn)
    print(f"{'size':>8} {'parameters':>12}   channels\n{'original':>8} {_parameters(model):12,}")
    for size in dict.fromkeys([1.0, *arguments.size]):
        integral.resize(size, multiple_of=arguments.multiple_of)
        discrete = integral.discretize()
        print(f"{size:8g} {_parameters(discrete):12,}   {', '.join(map(str, integral.sizes.values()))}", flush=True)
        if folder is not None and size in arguments.size:
            _export(discrete, inputs, _program(folder, size))
    if folder is not None:
        _print_use(arguments, folder)


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError("--output", f"expected a folder, got the file {folder}")
    if (folder / "integral.pt").exists():
        raise UsageError("--output", f"expected a folder without integral.pt, got {folder}")


def _print_report(integral: IntegralModel) -> None:
    print(f"{len(integral.groups)} groups of channels are continuous now:")
    for name, group in integral.groups.items():
        print(f"  {name}: {group.full_size} channels")
    if integral.report:
        print("These stay discrete:")
    for entry in integral.report:
        print(f"  {entry.name}: {entry.module} {entry.reason}")


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _program(folder: Path, size: float) -> Path:
    return folder / f"size-{size:g}.pt2"


def _export(discrete: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Writes a program with neither the user's classes nor this package in it, for batches of any size if it can."""
    # torch.export takes an axis of 1 for a constant.
    batch = tuple(x.repeat(2, *[1] * (x.ndim - 1)) if len(x) == 1 else x for x in inputs)
    sizes = ShapesCollection()  # by tensor, as `forward(self, *inputs)` has no parameter for each
    for x in batch:
        sizes[x] = {0: Dim.AUTO}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.export.export(discrete, batch, dynamic_shapes=sizes.dynamic_shapes(discrete, batch))
            torch.export.save(program, path)
    except Exception as error:  # whatever torch.export raises
        refused = (
            "--size: torch.export does not take this network (integral.pt is written; in Python, discretize() makes it)"
        )
        raise UsageError(refused, error) from error


def _print_use(arguments: argparse.Namespace, folder: Path) -> None:
    examples = ", ".join(f"torch.rand{size}" for size in arguments.input)
    if len(arguments.input) > 1:
        examples = f"({examples})"
    print(
        "\nSmaller networks lose accuracy until the integral one is trained over sizes: docs/training.md.\nIn Python:"
    )
    print(f"  integral = ir.convert(model, {examples}, order=None, fuse_bn={not arguments.keep_bn})")
    print(f'  integral.load_state_dict(torch.load("{folder}/integral.pt", weights_only=True)["state_dict"])')
    for size in dict.fromkeys(arguments.size):
        print(f'  small = torch.export.load("{_program(folder, size)}").module()')
    if len(arguments.input) > 1:
        return
    command = ["python", "-m", "integralrob", "attack", arguments.model, "--integral", f"{folder}/integral.pt"]
    if arguments.kwargs is not None:
        command += ["--kwargs", json.dumps(arguments.kwargs)]
    command += ["--size", *(f"{size:g}" for size in dict.fromkeys([1.0, *(arguments.size or [0.5])]))]
    print(f"How robust a classifier is at every size:\n  {shlex.join(command)} --data FILE --eps 8/255")
