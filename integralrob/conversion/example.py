"""Running a model on an example without a trace of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["call", "in_full_precision", "outputs_by_module", "outputs_of", "random_state_kept", "tensors_in"]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists, dicts and registered dataclasses."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def call(model: nn.Module, example_inputs: Any, change: Callable[[Tensor], Tensor] = torch.clone) -> Any:
    """Calls the model with a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.

    The model gets `change` of each tensor, by default a copy that it may write to.
    """
    inputs = tree_map_only(Tensor, change, example_inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


@torch.no_grad()
def outputs_of(model: nn.Module, example_inputs: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The floating-point outputs of the model, complex ones as real and imaginary parts.

    `dtype` is that of its floating-point inputs, None for what they have.
    """

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype, copy=True) if dtype and tensor.is_floating_point() else tensor.clone()

    with random_state_kept(model), in_full_precision():
        outputs = tensors_in(call(model, example_inputs, cast))
    real = (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor for tensor in outputs)
    return [tensor for tensor in real if tensor.is_floating_point()]


@torch.no_grad()
def outputs_by_module(model: nn.Module, example_inputs: Any) -> dict[str, Tensor]:
    """The first output of each module of the model, by qualified name, in the order in which they are made."""
    outputs: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():

            def record(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    outputs.setdefault(name, output.clone())

            stack.callback(module.register_forward_hook(record).remove)
        stack.enter_context(random_state_kept(model))
        stack.enter_context(in_full_precision())
        call(model, example_inputs)
    return outputs


@contextlib.contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Each run of a model that draws random numbers draws the same, and leaves torch's generators as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def in_full_precision() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32: TF32, on a GPU the default of the former, is coarser."""
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
