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
from ..attacks.balls import BALLS
from ..conversion import IntegralModel
from ..conversion.example import outputs_of
from .errors import UsageError, refused_by_layers, refused_by_us
from .models import add_model_to, load_integral, load_model, load_tensors, model_dtype
from .values import count, fraction, number, seed

# Each attack, and what it counts.
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
    parser.add_argument("--integral", type=Path, metavar="FILE", help="integral.pt that `convert` wrote for MODEL")
    parser.add_argument("--size", type=fraction, nargs="+", help="of an integral network, fractions of the channels")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help=".pt with a dict, or .npz: x [N, ...], y [N]"
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
    parser.add_argument("--device", help="torch device (the GPU if there is one, else the CPU)")
    parser.add_argument("--seed", type=seed, default=0, help="of all randomness (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a line per sample, and adversarial samples")
    parser.add_argument("--resume", action="store_true", help="go on with what --output has")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Attacks a model, or an integral network at each of some sizes."""
    device = _device(arguments.device)
    model = load_model(arguments)
    if arguments.integral is not None:
        if arguments.weights is not None or isinstance(model, IntegralModel):
            raise UsageError("--integral", "expected a MODEL that is no integral network, without --weights")
        model = load_integral(model, "--integral", arguments.integral)
    if arguments.size and not isinstance(model, IntegralModel):
        raise UsageError(
            f"--size: expected an integral network, that is --integral FILE, which `convert` writes, or a MODEL that is "
            f"an integralrob.IntegralModel, got a {type(model).__name__}"
        )
    x, y = _samples(arguments.data, model_dtype(model))
    x, y = x[: arguments.samples], y[: arguments.samples]
    model.to(device)
    with refused_by_layers("--data"):
        outputs_of(model, x[:1].to(device))
    print(
        f"{len(x)} samples, {arguments.norm}, eps = {arguments.eps:g}, seed {arguments.seed}, on {device}", flush=True
    )
    if not arguments.size or not isinstance(model, IntegralModel):
        print(_evaluate(model, x, y, arguments, arguments.output))
        return
    for number, size in enumerate(dict.fromkeys(arguments.size)):
        model.resize(size)
        folder = None if arguments.output is None else arguments.output / f"size-{size:g}"
        evaluation = _evaluate(model, x, y, arguments, folder)
        if number == 0:
            names = ["clean", *(f"after {name}" for name in evaluation.attacks)]
            print(" ".join(f"{name:>{max(8, len(name))}}" for name in ("size", *names)))
        shares = (evaluation.clean_accuracy, *evaluation.accuracy_after.values())
        cells = (f"{100 * share:{max(6, len(name) - 2)}.2f} %" for name, share in zip(names, shares, strict=True))
        print(f"{size:8g}", *cells, flush=True)


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
        name, colon, number = part.partition(":")
        attack, counts = _ATTACKS.get(name, (None, None))
        if attack is None or part in attacks or (colon and counts is None):
            listed = ", ".join(
                known if counted is None else f"{known}[:{counted}]" for known, (_, counted) in _ATTACKS.items()
            )
            raise argparse.ArgumentTypeError(f"expected standard, or some of {listed}, each once, got {text!r}")
        options: dict[str, Any] = {counts: count(number)} if counts and colon else {}
        if "early_stop" in inspect.signature(attack).parameters:
            options["early_stop"] = True
        attacks[part] = partial(attack, **options)
    return attacks


def _device(name: str | None) -> torch.device:
    """A device that works; None for the accelerator if there is one, else the CPU."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # assertions are torch's without CUDA
        raise UsageError("--device", error) from error
    return torch.device(name)


def _samples(path: Path, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` in the dtype of the model's parameters, and `y` int64, of a file."""
    if path.suffix == ".npz":
        saved = _load_arrays(path)
    else:
        saved = load_tensors("--data", path)
    if not isinstance(saved, Mapping) or not all(isinstance(saved.get(key), Tensor) for key in ("x", "y")):
        content = ", ".join(map(repr, saved)) if isinstance(saved, Mapping) else describe(saved)
        raise UsageError("--data", f"expected x and y, tensors or arrays of numbers, got {content}")
    x, y = saved["x"], saved["y"]
    if not x.is_floating_point() or x.ndim < 2 or not x.numel():
        raise UsageError("--data", f"x: expected samples [N, ...] of a floating-point dtype, got {describe(x)}")
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool or y.shape != x.shape[:1]:
        raise UsageError("--data", f"y: expected a class index for each of {len(x)} samples, got {describe(y)}")
    return x.to(dtype), y.long()


def _load_arrays(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in ("x", "y") if key in file}
    except Exception as error:  # of many types, where the file is no archive, or holds objects
        raise UsageError("--data", f"expected an archive of NumPy arrays of numbers, got {path}", error) from error
