"""Where the channels of layers lie in the tensors between them, by what autograd recorded of each operation.

torch-pruning's graph says which layers and operations follow each other. It takes channels through operations by rules
of thumb (the channels are dim 1; the pieces of a split are read in order), which are good for most networks. Here they
are followed along one dim of each tensor by the recorded arguments of each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .operations import Operation
from .recording import Call, Output, Recording, shape_of
from .segments import Link, Space
from .states import Channels, Nothing, State
from .tensors import axis_size, is_depthwise, maps_channels

__all__ = ["Axes", "Fault", "Following", "layer_axes"]

_CHANNELS_AFTER_BATCH = ("num_features", "num_channels", "num_parameters")  # of norms and PReLU


@dataclass(frozen=True)
class Fault:
    """Why channels must stay discrete: the module or operation at fault, and the reason."""

    channels: Channels
    module: str
    reason: str


class Following:
    """Follows channels from the layers that produce them to the layers that read them.

    Args:
        recording: of the model.
        transparent: layers that channels pass as if they were not there.

    Attributes:
        sizes: number of entries of each space.
        links: entries of spaces that are the same channels.
        faults: what keeps channels discrete between the layers.
        parameter_dims: the dim of each parameter outside of layers that has channels.
    """

    def __init__(self, recording: Recording, transparent: Callable[[nn.Module], bool]) -> None:
        self.recording = recording
        self.transparent = transparent
        self.sizes: dict[Space, int] = {}
        self.links: list[Link] = []
        self.faults: list[Fault] = []
        self.parameter_dims: dict[str, int] = {}
        self.states: dict[Any, Sequence[State]] = {}  # of each output of a function; the last one of all others
        for function, _ in recording.outputs:
            self._follow(function)
        for output in recording.outputs:
            state = self._state(output)
            if isinstance(state, Channels):
                self.fault(state, output[0], "is an output of the model")

    # -------------------------------------------------------------------------------------------------------- the walk

    def _follow(self, last: Any) -> None:
        """The states of the outputs of a function, and first of all that it depends on."""
        stack = [last]
        while stack:
            function = stack[-1]
            waiting = [source for source, _ in self._sources(function) if source not in self.states]
            stack += waiting
            if not waiting:
                stack.pop()
                if function not in self.states:
                    self.states[function] = self._states(function)

    def _sources(self, function: Any) -> tuple[Output, ...]:
        if function in self.recording.calls:
            return self.recording.calls[function].inputs
        return tuple((source, number) for source, number in function.next_functions if source is not None)

    def _state(self, output: Output) -> State:
        states = self.states[output[0]]
        return states[min(output[1], len(states) - 1)]

    def _states(self, function: Any) -> Sequence[State]:
        call = self.recording.calls.get(function)
        if call is not None:
            return [self._layer(function, call)]
        variable = getattr(function, "variable", None)
        if variable is not None:
            return [self._leaf(variable)]
        sources = self._sources(function)
        found = [self._state(source) for source in sources]
        if not any(isinstance(state, Channels) for state in found):
            return [Nothing(next((state.what for state in found if isinstance(state, Nothing) and state.what), None))]
        return Operation(self, function, sources, found).states()

    def _leaf(self, variable: Any) -> State:
        if any(variable is leaf for leaf in self.recording.inputs):
            return Nothing("an input of the model")
        name = self.recording.parameter_names[variable]
        if variable not in self.recording.nodes:  # torch-pruning's graph has parameters outside of layers only
            return Nothing(f"the parameter {name!r} of a layer, used outside of it")
        wide = [dim for dim, size in enumerate(variable.shape) if size > 1]
        return self._parameter(name, wide[-1]) if wide else Nothing()

    def _parameter(self, name: str, dim: int) -> Channels:
        shape = self.recording.parameters[name].shape
        self.parameter_dims[name] = dim
        return self.new((name, 0), shape[dim], dim - len(shape))

    def moved(self, source: Output, state: Channels, dim: int) -> Channels:
        """Channels of a parameter along another dim than was thought, if nothing depends on that yet."""
        if not hasattr(source[0], "variable") or any(state.space in (link.space, link.other) for link in self.links):
            return state
        name = self.recording.parameter_names[source[0].variable]
        return self._parameter(name, len(shape_of(source)) + dim)

    def _layer(self, function: Any, call: Call) -> State:
        """Links what a layer reads to its input axis, or to its only axis; the state of its output."""
        module, inputs = call.module, call.inputs
        if self.transparent(module):
            return self._state(inputs[0]) if inputs else Nothing()
        axes = layer_axes(module, len(shape_of(inputs[0])) if inputs else 0)
        if axes is None:
            reason = f"is of the type {type(module).__name__}, which has no integral layer"
            for state in map(self._state, inputs):
                self.fault(state, function, reason)
            return Nothing(f"the output of {self.recording.names[module]!r}")
        output = self.new((module, 0), axes.out_size, axes.dim)
        if axes.in_size is None:
            return output
        groups = getattr(module, "num_groups", getattr(module, "groups", 1))
        reads = output
        if maps_channels(module):
            reads = self.new((module, 1), axes.in_size, axes.dim)
            if is_depthwise(module):
                self.link(reads, output, (1, output.size // reads.size))
                groups = 1
        for channels in dict.fromkeys((reads, output)):
            # The groups of channels of a layer must stay equally large: each has the same continuous channels.
            each = channels.size // groups
            self.links += [Link(channels.space, 0, 1, channels.space, i * each, 1, each) for i in range(1, groups)]
        for source in inputs:
            state = self._state(source)
            if isinstance(state, Nothing):
                if state.what:
                    self.fault(reads, function, f"reads {state.what}")
            elif (state.size, state.dim) == (reads.size, reads.dim):
                self.link(state, reads)
            else:
                self.fault(state, function, "does not read these channels along its own axis")
        return output

    # ----------------------------------------------------------------------------------------------------- findings

    def new(self, space: Space, size: int, dim: int) -> Channels:
        self.sizes[space] = size
        return Channels(space, 0, size, dim)

    def link(self, a: Channels, b: Channels, blocks: tuple[int, int] = (1, 1)) -> None:
        """Two ranges of entries are the same channels, with so many entries a channel."""
        self.links.append(Link(a.space, a.start, blocks[0], b.space, b.start, blocks[1], a.size // blocks[0]))

    def fault(self, state: State, function: Any, reason: str) -> None:
        if isinstance(state, Channels):
            self.faults.append(Fault(state, self.recording.name_of(function), reason))


@dataclass(frozen=True)
class Axes:
    """Number of channels that a layer reads (None: none) and makes, and their dim, counted from the last (-1)."""

    in_size: int | None
    out_size: int
    dim: int


def layer_axes(module: nn.Module, ndim: int) -> Axes | None:
    """The axes of a layer whose input has `ndim` dims; None if they are not known."""
    if isinstance(module, nn.Linear):
        return Axes(module.in_features, module.out_features, -1)
    if isinstance(module, nn.modules.conv._ConvNd):
        return Axes(module.in_channels, module.out_channels, -1 - len(module.kernel_size))
    if maps_channels(module):
        return Axes(axis_size(module, 1), axis_size(module, 0), -1)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        return Axes(module.normalized_shape[0], module.normalized_shape[0], -1)
    if isinstance(module, nn.Embedding):
        return Axes(None, module.embedding_dim, -1)
    size = next((getattr(module, name) for name in _CHANNELS_AFTER_BATCH if hasattr(module, name)), None)
    return None if size is None else Axes(size, size, min(-1, 1 - ndim))
