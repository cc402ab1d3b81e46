"""python -m integralrob attack"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import describe
from ..attacks import Evaluation, apgd, evaluate, fgsm, pgd, square
from ..attacks._arguments import check_logits, check_samples
from ..attacks.balls import BALLS
from ..conversion import IntegralModel
from ..ops._arguments import check_bounds
from .errors import UsageError, refused_by_layers, refused_by_us
from .models import add_model_to, content, load_integral, load_model, load_tensors, model_dtype
from .values import count, device, file, fraction, number, seed

# Each attack, and what it counts, if anything.
_ATTACKS = {"fgsm": (fgsm, None), "pgd": (pgd, "steps"), "apgd": (apgd, "steps"), "square": (square, "queries")}


def add_to(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "attack",
        help="clean and robust accuracy of a classifier, at every size if it is an integral network",
        description="Clean and robust accuracy, by a cascade of attacks of which each gets the samples that withstood "
        "those before: integralrob.attacks.evaluate. See docs/command_line.md.",
    )
    add_model_to(parser)
    parser.add_argument("--integral", type=file, metavar="FILE", help="integral.pt that `convert` wrote for MODEL")
    parser.add_argument("--size", type=fraction, nargs="+", help="of an integral network, fractions of the channels")
    parser.add_argument(
        "--data", type=file, required=True, metavar="FILE", help=".pt with a dict, or .npz: x [N, ...], y [N]"
    )
    parser.add_argument("--samples", type=count, metavar="N", help="the first N only")
    parser.add_argument("--norm", choices=list(BALLS), default="linf", help="of the ball (%(default)s)")
    parser.add_argument("--eps", type=number, required=True, help="radius of the ball in units of x: 8/255")
    parser.add_argument(
        "--bounds", type=number, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="of valid x (0 1)"
    )
    parser.add_argument("--mean", type=number, nargs="+", help="the model expects (x - mean) / std: one or per channel")
    parser.add_argument("--std", type=number, nargs="+", help="see --mean")
    parser.add_argument(
        "--attacks",
        type=_attacks,
        default="standard",
        help=f"standard, or some of {', '.join(_ATTACKS)} with their numbers of steps or queries: pgd:20,square:1000 "
        "(%(default)s)",
    )
    parser.add_argument("--batch-size", type=count, default=128, metavar="N", help="(%(default)s)")
    parser.add_argument("--device", type=device, help="torch device (the GPU if there is one, else the CPU)")
    parser.add_argument("--seed", type=seed, default=0, help="of all randomness (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a line per sample, and adversarial samples")
    parser.add_argument("--resume", action="store_true", help="go on with what --output has")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Attacks a model, or an integral network at each of some sizes."""
    model = _model(arguments)
    x, y = _samples(arguments.data, model_dtype(model))
    x, y = x[: arguments.samples], y[: arguments.samples]
    where = arguments.device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.to(where)
    _check(model, x, y, tuple(arguments.bounds), where)
    print(f"{len(x)} samples, {arguments.norm}, eps = {arguments.eps:g}, seed {arguments.seed}, on {where}", flush=True)
    if not isinstance(model, IntegralModel) or not arguments.size:
        print(_evaluate(model, x, y, arguments, arguments.output))
        return
    for i, size in enumerate(dict.fromkeys(arguments.size)):
        model.resize(size)
        folder = None if arguments.output is None else arguments.output / f"size-{size:g}"
        found = _evaluate(model, x, y, arguments, folder)
        if i == 0:
            _print_row("size", "clean", *(f"after {name}" for name in found.attacks))
        shares = (found.clean_accuracy, *found.accuracy_after.values())
        _print_row(f"{size:g}", *(f"{100 * share:.2f} %" for share in shares))


def _check(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float], where: torch.device) -> None:
    """All samples, before any is attacked."""
    with refused_by_layers("--data"), torch.no_grad():
        logits = model(x[:1].to(where, copy=True))
    with refused_by_us():
        check_bounds(bounds)
        check_samples(x, y, bounds)
        check_logits(logits, y[:1], differentiable=False)
        check_logits(logits.expand(len(y), -1), y, differentiable=False)
    if logits.isnan().any():
        raise UsageError("MODEL", "expected outputs that are numbers, got NaN for the first sample")


def _model(arguments: argparse.Namespace) -> nn.Module:
    model = load_model(arguments)
    if arguments.integral is not None:
        if arguments.weights is not None or isinstance(model, IntegralModel):
            raise UsageError("--integral", "expected a MODEL that is no integral network, without --weights")
        return load_integral(model, "--integral", arguments.integral)
    if arguments.size and not isinstance(model, IntegralModel):
        raise UsageError(
            "--size: expected an integral network (--integral FILE, which `convert` writes, or a MODEL that is an "
            f"integralrob.IntegralModel), got a {type(model).__name__}, which has one size"
        )
    return model


def _print_row(*cells: str) -> None:
    print(" ".join(f"{cell:>{17 if i else 6}}" for i, cell in enumerate(cells)), flush=True)


def _evaluate(model: nn.Module, x: Tensor, y: Tensor, arguments: argparse.Namespace, output: Path | None) -> Evaluation:
    batches = list(zip(x.split(arguments.batch_size), y.split(arguments.batch_size), strict=True))
    with refused_by_us():
        return evaluate(
            model,
            batches,
            arguments.attacks,
            norm=arguments.norm,
            eps=arguments.eps,
            bounds=tuple(arguments.bounds),
            mean=arguments.mean,
            std=arguments.std,
            seed=arguments.seed,
            output=output,
            resume=arguments.resume,
            progress=sys.stderr.isatty(),
        )


def _attacks(text: str) -> str | dict[str, partial[Any]]:
    """Names of attacks, each with the number of its steps or queries or without.

    >>> _attacks("pgd:20")["pgd:20"].keywords
    {'steps': 20, 'early_stop': True}
    """
    if text == "standard":
        return text
    attacks = {}
    for part in text.split(","):
        name, colon, counted = part.partition(":")
        attack, counter = _ATTACKS.get(name, (None, None))
        if attack is None or part in attacks or (colon and counter is None):
            raise argparse.ArgumentTypeError(
                f"expected standard, or some of {', '.join(_ATTACKS)}, each once, got {text!r}"
            )
        options: dict[str, Any] = {counter: count(counted)} if colon and counter else {}
        if "early_stop" in inspect.signature(attack).parameters:
            options["early_stop"] = True
        attacks[part] = partial(attack, **options)
    return attacks


def _samples(path: Path, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` in the dtype of the model's parameters, and `y` int64, of a file."""
    saved = _load_arrays(path) if path.suffix == ".npz" else load_tensors("--data", path)
    if not isinstance(saved, Mapping) or not all(isinstance(saved.get(key), Tensor) for key in ("x", "y")):
        raise UsageError("--data", f"expected x and y, tensors or arrays of numbers, got {content(saved)}")
    x, y = saved["x"], saved["y"]
    if x.layout is not torch.strided or y.layout is not torch.strided:
        raise UsageError("--data", f"expected dense tensors, got x {x.layout} and y {y.layout}")
    if not x.is_floating_point() or x.ndim < 2 or not x.numel():
        raise UsageError("--data", f"x: expected samples [N, ...] of a floating-point dtype, got {describe(x)}")
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool or y.shape != x.shape[:1]:
        raise UsageError("--data", f"y: expected a class index for each of {len(x)} samples, got {describe(y)}")
    return x.to(dtype), y.long()


def _load_arrays(path: Path) -> dict[str, Any]:
    """x and y, and of others only the names."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) if key in ("x", "y") else None for key in archive}
    except Exception as error:  # of many types, where the file is no archive, or holds objects
        raise UsageError("--data", f"expected an archive of NumPy arrays of numbers, got {path}", error) from error
