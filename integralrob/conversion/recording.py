"""One run of a network: torch-pruning's graph of it, and what autograd and the calls of layers tell beyond that."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.layers import has_hooks
from .example import call, random_state_kept, tensors_in
from .tensors import maps_channels

__all__ = ["LAYERS", "Call", "Output", "Recording", "shape_of"]

LAYERS = (
    nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.PReLU, nn.Embedding, nn.MultiheadAttention, nn.LSTM,
)  # fmt: skip
"""The layers that channels are followed to, beside those that map them; what is in them is not looked at."""

Output = tuple[Any, int]
"""A tensor: the autograd function that made it, and which of its outputs it is."""


@dataclass(frozen=True)
class Call:
    """A call of a layer, and the tensors that it read."""

    module: nn.Module
    inputs: tuple[Output, ...]


def shape_of(output: Output) -> tuple[int, ...]:
    """The shape of a tensor that autograd recorded."""
    function, number = output
    variable = getattr(function, "variable", None)
    return tuple(function._input_metadata[number].shape if variable is None else variable.shape)


class Recording:
    """Runs a copy of the model, in evaluation mode, on the example.

    Attributes:
        nodes: the nodes of torch-pruning's dependency graph, by module, parameter or operation.
        calls: calls of layers, by the autograd function of what they returned.
        called: how often each module was called.
        inputs, outputs: the model's floating-point inputs, as leaves, and its outputs that depend on them or on
            parameters.
        names, rank: qualified name of each module of the copy, and the place of each name.
        parameters, parameter_names: each parameter's qualified name, and back.
        hooked, tied: modules with hooks, and those that share a parameter.

    Raises:
        RuntimeError: torch-pruning cannot trace the model.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        from torch_pruning import DependencyGraph

        model = copy.deepcopy(model).eval()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()  # else autograd would not see it
        self.names = {module: name for name, module in model.named_modules()}
        self.rank = {name: i for i, name in enumerate(self.names.values())}
        self.parameters = dict(model.named_parameters())
        self.parameter_names = {parameter: name for name, parameter in self.parameters.items()}
        self.hooked = {module for module in self.names if has_hooks(module)}
        self.tied = set(_tied_modules(model))
        self.called: Counter[nn.Module] = Counter()
        self.calls: dict[Any, Call] = {}
        self.inputs: list[Tensor] = []
        self.outputs: list[Output] = []
        self._reading: list[tuple[Output, ...]] = []
        for module in self.names:
            module.register_forward_pre_hook(self._before, with_kwargs=True)
            module.register_forward_hook(self._after)
        graph = DependencyGraph()
        try:
            with torch.enable_grad(), random_state_kept(model):
                graph.build_dependency(model, example_inputs, forward_fn=self._forward, verbose=False)
        except Exception as error:  # asserts, KeyErrors and others: it promises none in particular
            # What it makes last, the maps of channels through operations, it cannot make of some; they are not needed.
            if not hasattr(graph, "module2node"):
                raise RuntimeError(f"model: torch-pruning cannot trace its channels: {error}") from error
        self.nodes = graph.module2node

    def _forward(self, model: nn.Module, example_inputs: Any) -> list[Tensor]:
        def track(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            leaf = tensor.detach().clone().requires_grad_()
            self.inputs.append(leaf)
            return leaf.clone()  # which the model may write to

        results = tensors_in(call(model, example_inputs, track))
        differentiable = [tensor for tensor in results if tensor.grad_fn is not None]
        self.outputs = [(tensor.grad_fn, tensor.output_nr) for tensor in differentiable]
        return differentiable

    def _before(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        # Read here: the layer, or what follows it, may write to its inputs, which gives them another function.
        tensors = tensors_in((args, kwargs))
        self._reading.append(tuple((t.grad_fn, t.output_nr) for t in tensors if t.grad_fn is not None))

    def _after(self, module: nn.Module, _: Any, output: Any) -> None:
        self.called[module] += 1
        inputs = self._reading.pop()
        returned = tensors_in(output)
        if (maps_channels(module) or isinstance(module, LAYERS)) and returned and returned[0].grad_fn is not None:
            self.calls[returned[0].grad_fn] = Call(module, inputs)

    def name_of(self, function: Any) -> str:
        """The qualified name of the layer whose output an autograd function made, or else the function's own."""
        return self.names[self.calls[function].module] if function in self.calls else function.name()

    def entangled(self, module: nn.Module) -> str | None:
        """Why what a module computes is not decided by its type and its own parameters."""
        if module in self.tied:
            return "shares a parameter with another module"
        if module in self.hooked:
            return "has hooks"
        return None


def _tied_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that own a parameter whose memory another module's parameter uses too."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter.untyped_storage().data_ptr(), []).append(module)
    for modules in owners.values():
        if len(modules) > 1:
            yield from modules
