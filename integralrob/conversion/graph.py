"""The groups of connected channels of a network, from torch-pruning's dependency graph."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.layers import INTEGRAL_TYPES, has_hooks
from .batchnorm import BATCH_NORMS
from .example import call, random_state_kept, tensors_in

__all__ = ["ChannelGroup", "Member", "ReportEntry", "Traced", "trace"]

_PRODUCERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Member:
    """An axis of a layer's weight that carries a group's channels.

    Attributes:
        layer: qualified name.
        dim: 0, the output axis (the bias goes with it), or 1, the input axis.
        block: consecutive entries of the axis that belong to one channel; more than 1 after a flattening.
    """

    layer: str
    dim: int
    block: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be reordered and resized together; `name` is that of the first layer that produces them."""

    name: str
    full_size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class ReportEntry:
    """Why a group of channels stays discrete: its `name`, the `module` (or operation) at fault, and the `reason`.

    A linear or convolution layer that is not in the traced graph has an entry of its own.
    """

    name: str
    module: str
    reason: str


@dataclass(frozen=True)
class Traced:
    """What `trace` finds: groups in the order of the network's modules, the others, pairs (layer, batch norm)."""

    groups: tuple[ChannelGroup, ...]
    skipped: tuple[ReportEntry, ...]
    fusable: tuple[tuple[str, str], ...]


def trace(model: nn.Module, example_inputs: Any, *, fuse_bn: bool) -> Traced:
    """Finds the groups by running a copy of the model, in evaluation mode, on the example.

    Args:
        model: left as it is.
        example_inputs: see `integralrob.convert`.
        fuse_bn: treat a batch norm that can be fused into the layer before it as if it was not there.

    Raises:
        RuntimeError: torch-pruning cannot trace the model.
    """
    tracer = _Tracer(model, example_inputs, fuse_bn)
    found = sorted(tracer.groups(), key=lambda group: tracer.rank[group.name])
    return Traced(
        groups=tuple(group for group in found if isinstance(group, ChannelGroup)),
        skipped=tuple(group for group in found if isinstance(group, ReportEntry)),
        fusable=tuple((tracer.names[layer], tracer.names[norm]) for norm, layer in tracer.fused.items()),
    )


class _Tracer:
    """One run of a copy of the model, and the dependency graph of what autograd saw."""

    def __init__(self, model: nn.Module, example_inputs: Any, fuse_bn: bool) -> None:
        from torch_pruning import DependencyGraph

        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()  # else autograd would not see it
        self.names = {module: name for name, module in self.model.named_modules()}
        self.rank = {name: i for i, name in enumerate(self.names.values())}
        self.parameter_names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.hooked = {module for module in self.names if has_hooks(module)}
        self.tied = set(_tied_modules(self.model))
        self.calls: Counter[nn.Module] = Counter()
        self.output_dims: dict[nn.Module, int] = {}
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        for module in self.names:
            module.register_forward_hook(self._count)
        try:
            with torch.enable_grad(), random_state_kept(self.model):
                self.graph = DependencyGraph().build_dependency(
                    self.model, example_inputs, forward_fn=self._forward, verbose=False
                )
        except Exception as error:  # asserts, KeyErrors and others: it promises none in particular
            raise RuntimeError(f"model: torch-pruning cannot trace its channels: {error}") from error
        self.output_functions = {tensor.grad_fn for tensor in self.outputs}
        self.fused = dict(self._fusable()) if fuse_bn else {}

    def _forward(self, model: nn.Module, example_inputs: Any) -> list[Tensor]:
        def track(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            leaf = tensor.detach().clone().requires_grad_()
            self.inputs.append(leaf)
            return leaf.clone()  # which the model may write to

        results = tensors_in(call(model, example_inputs, track))
        self.outputs = [tensor for tensor in results if tensor.grad_fn is not None]
        return self.outputs

    def _count(self, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[module] += 1
        if isinstance(output, Tensor):
            self.output_dims[module] = output.dim()

    # ------------------------------------------------------------------------------------------------------ batch norms

    def _fusable(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Batch norms, and the layer whose output each reads, where nothing else reads it."""
        nodes = self.graph.module2node
        for norm in self.names:
            sources = set(nodes[norm].inputs) if type(norm) in BATCH_NORMS and norm in nodes else set()
            layer: Any = sources.pop().module if len(sources) == 1 else None
            if (
                type(layer) in INTEGRAL_TYPES
                and set(nodes[layer].outputs) == {nodes[norm]}
                and nodes[layer].grad_fn not in self.output_functions
                and norm.running_mean is not None
                and norm.num_features == layer.weight.shape[0]
                and (not isinstance(layer, nn.Linear) or self.output_dims[layer] == 2)
                and not any(self._entangled(module) for module in (layer, norm))
            ):
                yield norm, layer

    def _entangled(self, module: nn.Module) -> str | None:
        """Why what a module computes, or where it is used, is not decided by its type and its own parameters."""
        if self.calls[module] != 1:
            return f"is called {self.calls[module]} times in a forward pass"
        if module in self.tied:
            return "shares a parameter with another module"
        if module in self.hooked:
            return "has hooks"
        return None

    # ----------------------------------------------------------------------------------------------------------- groups

    def groups(self) -> Iterator[ChannelGroup | ReportEntry]:
        """All groups of channels that a layer produces, and an entry for each layer that autograd did not see."""
        groups = list(self.graph.get_all_groups())
        yield from map(self._group, groups)
        grouped = {item.dep.target.module for items in groups for item in items}
        for module, name in self.names.items():
            if isinstance(module, _PRODUCERS) and module not in grouped:
                why = "no gradient reaches it from the outputs" if self.calls[module] else "its forward is not called"
                yield ReportEntry(name, name, f"is not in the traced graph: {why}")

    def _group(self, items: Any) -> ChannelGroup | ReportEntry:
        size = len(items[0].idxs)
        producers, members, faults = [], [], []
        for item in items:
            node, dim = item.dep.target, self._dim(item)
            name = self._name(node)
            if dim == 0 and isinstance(node.module, _PRODUCERS):
                producers.append(name)
            fault = self._fault_of_node(node, dim) or self._fault_of_module(node.module)
            if fault is None and type(node.module) in INTEGRAL_TYPES:
                block = _block(item, size, node.module.weight.shape[dim])
                if block is None:
                    fault = "takes these channels in parts, or together with others"
                else:
                    members.append(Member(name, dim, block))
            if fault is not None:
                faults.append((name, fault))
        name = min(producers, key=self.rank.__getitem__)
        if size < 2:
            faults.append((name, "has a single channel"))
        members.sort(key=lambda member: (self.rank[member.layer], member.dim))
        return ReportEntry(name, *faults[0]) if faults else ChannelGroup(name, size, tuple(members))

    def _dim(self, item: Any) -> int:
        """The axis of the weight that an item of a torch-pruning group stands for."""
        pruner = self.graph.get_pruner_of_module(item.dep.target.module)
        return int(item.dep.handler == pruner.prune_in_channels != pruner.prune_out_channels)

    def _name(self, node: Any) -> str:
        if node.module in self.names:
            return self.names[node.module]
        return self.parameter_names.get(node.module, node.grad_fn.name())

    def _fault_of_node(self, node: Any, dim: int) -> str | None:
        """What keeps channels discrete in the graph around them."""
        if dim == 0 and node.grad_fn in self.output_functions:
            return "is an output of the model"
        sources = (function for function, _ in node.grad_fn.next_functions)
        variables = [getattr(function, "variable", None) for function in sources]
        if node.module not in self.names and any(variable is leaf for variable in variables for leaf in self.inputs):
            return "joins these channels with an input of the model"
        return None

    def _fault_of_module(self, module: Any) -> str | None:
        """What keeps a module's channels discrete; None for operations, which have none of their own."""
        if isinstance(module, nn.Parameter):
            return "is a parameter outside of known layers"
        if module not in self.names or module in self.fused:
            return None
        if type(module) in BATCH_NORMS:
            return "is a batch norm that is not fused"
        if type(module) not in INTEGRAL_TYPES:
            return f"is of the type {type(module).__name__}, which has no integral layer"
        if getattr(module, "groups", 1) != 1:
            return "is a grouped convolution"
        return self._entangled(module)


def _block(item: Any, size: int, axis_size: int) -> int | None:
    """The number of consecutive entries of an axis for each of the group's channels, None if that is not its layout."""
    block = axis_size // size
    root_of = dict(zip(item.idxs, item.root_idxs, strict=True))
    regular = len(root_of) == axis_size == block * size and all(root_of.get(i) == i // block for i in range(axis_size))
    return block if regular else None


def _tied_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that own a parameter whose memory another module's parameter uses too."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter.untyped_storage().data_ptr(), []).append(module)
    for modules in owners.values():
        if len(modules) > 1:
            yield from modules
