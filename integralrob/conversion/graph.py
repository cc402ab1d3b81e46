"""The groups of connected channels of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .batchnorm import fusable
from .channels import Fault, Following, layer_axes
from .recording import Recording
from .segments import Component, Segment, components
from .tensors import Member, axis_size, channel_groups, has_integral_form, is_depthwise, maps_channels

__all__ = ["ChannelGroup", "ReportEntry", "Traced", "trace"]

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)  # of several channels together


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be reordered and resized together; `name` is that of the first layer that produces them."""

    name: str
    full_size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class ReportEntry:
    """Why a group of channels stays discrete: its `name`, the `module` (or operation) at fault, and the `reason`.

    A linear or convolution layer that is not in the traced graph, and any other module with matrices that is in no
    group, such as an LSTM, has an entry of its own.
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
    recording = Recording(model, example_inputs)
    fused = dict(fusable(recording)) if fuse_bn else {}
    found = _Groups(recording, lambda module: module in fused or getattr(module, "num_parameters", 0) == 1)
    return Traced(
        groups=tuple(found.groups),
        skipped=(*found.skipped, *_unseen(found.following, found.carriers)),
        fusable=tuple((recording.names[layer], recording.names[norm]) for norm, layer in fused.items()),
    )


def _unseen(following: Following, carriers: Collection[str]) -> Iterator[ReportEntry]:
    """An entry for each linear or convolution layer that autograd did not see, and each other module with matrices.

    But for those with parameters that have channels of groups or of others, which `carriers` names.
    """
    recording = following.recording
    seen = {call.module for function, call in recording.calls.items() if function in following.states}
    layers = tuple(f"{name}." for module, name in recording.names.items() if maps_channels(module))
    for module, name in recording.names.items():
        if maps_channels(module) and module not in seen:
            why = "no gradient reaches it from the outputs" if recording.called[module] else "its forward is not called"
            yield ReportEntry(name, name, f"is not in the traced graph: {why}")
        elif layer_axes(module, 0) is None and not name.startswith(layers):
            parameters = {recording.parameter_names[parameter]: parameter for parameter in module.parameters(False)}
            if any(parameter.dim() > 1 and at not in carriers for at, parameter in parameters.items()):
                yield ReportEntry(name, name, f"is of the type {type(module).__name__}, which has no integral layer")


class _Groups:
    """Names the components of channels, and sorts them into groups and others.

    Args:
        recording: of the model.
        transparent: layers that channels pass as if they were not there.

    Attributes:
        groups, skipped: in the order of the network's modules.
        carriers: layers, and parameters outside of layers, that have their channels.
    """

    def __init__(self, recording: Recording, transparent: Callable[[nn.Module], bool]) -> None:
        self.recording = recording
        self.modules = {name: module for module, name in recording.names.items()}
        self.following = Following(recording, transparent)
        found = [c for c in components(self.following.sizes, self.following.links) if self._produced(c)]
        found.sort(key=lambda component: self._produced(component)[0])
        names = {component: self._name(component) for component in found}
        members = {component: self._members(component) for component in found}
        self.carriers = {member.layer for its_members in members.values() for member in its_members}
        faults = self._between_layers(found, self.following.faults)
        for component in found:
            faults[component] += self._in_layers(component)
        healthy = {component: members[component] for component in found if not faults[component]}
        for component, fault in self._normalised_together(healthy):
            faults[component].append(fault)
        self.groups = [ChannelGroup(names[c], c.size, members[c]) for c in found if not faults[c]]
        self.skipped = [
            ReportEntry(names[c], module or names[c], reason) for c in found for module, reason in faults[c][:1]
        ]

    def _produced(self, component: Component) -> list[tuple[int, int, int]]:
        """The pieces of output axes in a component: rank of the layer, first and last entry; in the order of layers."""
        return sorted(
            (self.recording.rank[self.recording.names[segment.space[0]]], segment.start, segment.stop)
            for segment in component.segments
            if segment.space[1] == 0 and _produces(segment.space[0])
        )

    def _name(self, component: Component) -> str:
        """That of the first layer that produces the channels, and which of its entries if they are not all."""
        pieces = self._produced(component)
        rank, start, stop = pieces[0]
        name, module = list(self.modules.items())[rank]
        entries = sum(stop - start for at, start, stop in pieces if at == rank)
        axes = layer_axes(module, 0)
        return name if axes is None or entries == axes.out_size else f"{name}[{start}:{stop}]"

    def _members(self, component: Component) -> tuple[Member, ...]:
        members = []
        for segment in component.segments:
            owner, side = segment.space
            block = (segment.stop - segment.start) // component.size
            if isinstance(owner, str):
                members.append(Member(owner, self.following.parameter_dims[owner], block, segment.start))
            # The weight of a grouped convolution has the input channels of one of its groups.
            elif owner in self.recording.names and not (side == 1 and not _in_weight(owner, segment)):
                members.append(Member(self.recording.names[owner], side, block, segment.start))
        rank = self.recording.rank
        return tuple(sorted(members, key=lambda m: (rank.get(m.layer, -1), m.layer, m.dim, m.start)))

    # ----------------------------------------------------------------------------------------------------------- faults

    def _between_layers(
        self, found: Sequence[Component], faults: Sequence[Fault]
    ) -> dict[Component, list[tuple[str, str]]]:
        """What keeps channels discrete between the layers that have them: the module or operation, and the reason."""
        pieces = defaultdict(list)
        for component in found:
            for segment in component.segments:
                pieces[segment.space].append((segment, component))
        found_faults: dict[Component, list[tuple[str, str]]] = {component: [] for component in found}
        for fault in faults:
            start, stop = fault.channels.start, fault.channels.start + fault.channels.size
            for segment, component in pieces[fault.channels.space]:
                if segment.start < stop and start < segment.stop:
                    found_faults[component].append((fault.module, fault.reason))
        return found_faults

    def _in_layers(self, component: Component) -> Iterator[tuple[str, str]]:
        """What keeps channels discrete in the layers that have them."""
        recording = self.recording
        for owner in dict.fromkeys(segment.space[0] for segment in component.segments):
            if isinstance(owner, str):
                fault = recording.entangled(self.modules[owner.rpartition(".")[0]])
                if fault:
                    yield owner, f"is a parameter of a module that {fault}"
            elif owner in recording.names:
                fault = _without_form(owner) or recording.entangled(owner)
                if fault:
                    yield recording.names[owner], fault
        if component.torn:
            yield "", "is taken apart in the middle of a channel"
        if component.size < 2:
            yield "", "has a single channel"

    def _normalised_together(
        self, members: dict[Component, tuple[Member, ...]]
    ) -> Iterator[tuple[Component, tuple[str, str]]]:
        """Components that share with others an axis that is normalised."""
        axes = defaultdict(list)
        for component, its_members in members.items():
            for member in its_members:
                axes[member.layer, member.dim].append((component, member))
        for (layer, _), carried in axes.items():
            module = self.modules.get(layer)
            covered: dict[Component, int] = defaultdict(int)
            for component, member in carried:
                covered[component] += component.size * member.block
            if isinstance(module, _NORMS) and list(covered.values()) != [axis_size(module, 0)]:
                for component in covered:
                    yield component, (layer, "normalises these channels together with others")


def _produces(owner: Any) -> bool:
    return isinstance(owner, nn.Embedding) or (isinstance(owner, nn.Module) and maps_channels(owner))


def _without_form(module: nn.Module) -> str | None:
    if any(parameter.is_complex() for parameter in module.parameters(recurse=False)):
        return "has complex weights"
    if has_integral_form(module):
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and channel_groups(module) > 1:
        return "is a grouped transposed convolution"
    if type(module) is nn.Embedding:
        return "is an embedding with a largest norm or with sparse gradients"
    return f"is of the type {type(module).__name__}, which has no integral layer"


def _in_weight(module: nn.Module, segment: Segment) -> bool:
    """Whether the weight has a piece of the input axis: that of a grouped convolution has those of one group."""
    return not is_depthwise(module) and segment.stop <= axis_size(module, 1)
