"""Models that the command line names: the user's own Python code, and weights that are never unpickled."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import describe
from ..conversion import IntegralModel, convert
from ..conversion.example import outputs_of
from .errors import UsageError, refused_by_layers, refused_by_us
from .values import file, keywords

__all__ = [
    "add_model_to",
    "content",
    "convert_checked",
    "example_inputs",
    "load_integral",
    "load_model",
    "load_tensors",
    "model_dtype",
    "save_integral",
]

# What nn.DataParallel, DistributedDataParallel and torch.compile put before the names of parameters.
_WRAPPER = re.compile(r"^(module\.|_orig_mod\.)+")


def add_model_to(parser: argparse.ArgumentParser) -> None:
    """What `load_model` reads."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:attribute or path/to/file.py:attribute, a torch.nn.Module or a function (a class) that "
        "makes one; this Python code is run, and no other: files of weights and data are never unpickled",
    )
    parser.add_argument("--kwargs", type=keywords, metavar="JSON", help="""of the function: '{"num_classes": 10}'""")
    parser.add_argument("--weights", type=file, metavar="FILE", help="state dict, saved by torch.save")
    parser.add_argument("--weights-key", metavar="KEY", help="where in a checkpoint the state dict is")


def load_model(arguments: argparse.Namespace) -> nn.Module:
    """The model that the options name, with its weights, on the CPU and in evaluation mode."""
    if arguments.weights_key is not None and arguments.weights is None:
        raise UsageError("--weights-key", "expected --weights too")
    with _no_arguments():
        model = _make(_attribute(arguments.model), arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(
            "MODEL", f"expected {arguments.model} to be or to make a torch.nn.Module, got {describe(model)}"
        )
    if arguments.weights is not None:
        state = load_tensors("--weights", arguments.weights)
        if arguments.weights_key is not None:
            state = _entry("--weights-key", state, arguments.weights_key)
        _load_state(model, "--weights", state)
    return model.cpu().eval()


def load_tensors(option: str, path: Path) -> Any:
    """What `torch.save` wrote, of tensors and plain Python values only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (others := _other_objects(path)):
            raise UsageError(option, f"expected tensors and plain values that torch.save wrote, got {path}") from error
        raise UsageError(
            option,
            f"expected tensors and plain values, such as a state dict, got a file with other objects, which are not "
            f"unpickled: {path}: {', '.join(sorted(others))}",
        ) from error
    except Exception as error:  # of many types, where the file is none of torch's or is damaged
        raise UsageError(option, f"expected a file written by torch.save, got {path}", error) from error


def _other_objects(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of many types: the file is no archive, or is damaged
        return []


def convert_checked(
    model: nn.Module, option: str, inputs: tuple[Tensor, ...], *, order: str | None, fuse_bn: bool, progress: bool
) -> IntegralModel:
    """`integralrob.convert`, for inputs that come from an option."""
    with refused_by_layers(option):
        outputs_of(model, inputs)
    with refused_by_us():
        return convert(model, inputs, order=order, fuse_bn=fuse_bn, progress=progress)


def save_integral(integral: IntegralModel, path: Path, *, shapes: Sequence[Sequence[int]], fuse_bn: bool) -> None:
    """Writes a file for `load_integral`."""
    conversion = {"input": [list(shape) for shape in shapes], "fuse_bn": fuse_bn}
    with path.open("wb") as opened:  # which tells why it cannot be written, as torch.save does not
        torch.save({**conversion, "state_dict": integral.state_dict()}, opened)


def load_integral(model: nn.Module, option: str, path: Path) -> IntegralModel:
    """Converts a network as it was converted, and loads control values, orders and sizes."""
    saved = load_tensors(option, path)
    shapes, fuse_bn, state = (_entry(option, saved, key) for key in ("input", "fuse_bn", "state_dict"))
    inputs = example_inputs(model, option, shapes)
    integral = convert_checked(model, option, inputs, order=None, fuse_bn=fuse_bn, progress=False)
    _load_state(integral, option, state)
    return integral


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of its first floating-point parameter, for its inputs."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


def example_inputs(model: nn.Module, option: str, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Normal numbers, the same each time, one tensor for each positional argument of the model."""
    generator = torch.Generator().manual_seed(0)
    try:
        return tuple(torch.randn(*shape, generator=generator).to(model_dtype(model)) for shape in shapes)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(option, error) from error


def _attribute(name: str) -> Any:
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise UsageError("MODEL", f"expected package.module:attribute or file.py:attribute, got {name!r}")
    module = _run_file(Path(source)) if source.endswith(".py") else _import(source)
    if not hasattr(module, attribute):
        raise UsageError("MODEL", f"{source} has no {attribute!r}")
    return getattr(module, attribute)


@contextmanager
def _no_arguments() -> Iterator[None]:
    """Code that parses the arguments of a script of its own finds none, and takes its defaults."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def _run_file(path: Path) -> ModuleType:
    """Runs a file as Python runs a script: what lies beside it can be imported."""
    if not path.is_file():
        raise UsageError("MODEL", f"no such file: {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    name = f"integralrob_cli_{path.stem}"  # not the stem, which may be the name of a package
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError("MODEL", f"expected package.module:attribute or file.py:attribute, got the module {name!r}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or f"{name}.".startswith(f"{error.name}."):
            raise UsageError("MODEL", error) from error
        raise  # of an import inside of the module


def _make(attribute: Any, arguments: argparse.Namespace) -> Any:
    if isinstance(attribute, nn.Module) or not callable(attribute):
        if arguments.kwargs is not None:
            raise UsageError("--kwargs", f"expected a MODEL that is a function, got {describe(attribute)}")
        return attribute
    keywords = arguments.kwargs or {}
    try:
        inspect.signature(attribute).bind(**keywords)
    except TypeError as error:
        raise UsageError("--kwargs", f"{arguments.model}: {error}") from error
    except ValueError:  # it has no signature
        pass
    return attribute(**keywords)


def _entry(option: str, saved: Any, key: str) -> Any:
    if not isinstance(saved, Mapping) or key not in saved:
        raise UsageError(option, f"expected an entry {key!r}, got {content(saved)}")
    return saved[key]


def _load_state(model: nn.Module, option: str, state: Any) -> None:
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UsageError(option, f"expected a state dict, got {content(state)}")
    if state and all(map(_WRAPPER.match, state)) and not any(map(_WRAPPER.match, model.state_dict())):
        state = {_WRAPPER.sub("", key): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(option, f"expected the state dict of the model, got {content(state)}: {error}") from error


def content(saved: Any) -> str:
    """What an error message says of what was in a file."""
    if not isinstance(saved, Mapping):
        return describe(saved)
    keys = [repr(key) for key in saved]
    return f"a dict with {', '.join(keys[:5]) or 'nothing'}{' and so on' if len(keys) > 5 else ''}"
