"""Operations between layers: how the channels that they read lie in what they make."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .recording import Output, shape_of
from .states import Channels, Nothing, State

if TYPE_CHECKING:
    from .channels import Following

__all__ = ["Operation"]

_PRODUCTS = ("Mm", "Addmm", "Bmm", "Baddbmm", "Convolution", "Mv", "Dot", "Mkldnn")
_AVERAGES = ("Mean", "Amax", "Amin", "Max", "Min", "Var", "Std")


class Operation:
    """An operation, by the autograd function that recorded it and its arguments.

    Whatever is not known by name is taken to work on each entry, or on other dims than the channels', as long as the
    shapes agree: what is wrong about that is found when the converted network is checked.

    Args:
        following: gets links and faults.
        function: the autograd function.
        sources, found: the tensors that it reads, and their states, of which at least one is `Channels`.
    """

    def __init__(self, following: Following, function: Any, sources: Sequence[Output], found: Sequence[State]) -> None:
        self.following = following
        self.function = function
        self.kind = re.sub(r"Backward\d*$", "", following.recording.name_of(function))
        self.sources = sources
        self.inputs = [(state, shape_of(source)) for state, source in zip(found, sources, strict=True)]
        known = [(state, shape) for state, shape in self.inputs if isinstance(state, Channels)]
        # Where the channels of a parameter lie is a guess: rather look at those that a layer made.
        self.channels, self.shape = min(known, key=lambda pair: isinstance(pair[0].space[0], str))
        self.axis = len(self.shape) + self.channels.dim
        self.out_shapes = [tuple(output.shape) for output in function._input_metadata]
        self.out_shape = self.out_shapes[0]

    def states(self) -> Sequence[State]:
        """The state of each of the operation's outputs."""
        known = _KNOWN.get(self.kind)
        if known is not None:
            result = known(self)
            return result if isinstance(result, list) else [result]
        if "Attention" in self.kind:
            return [self._stop("is an attention, whose heads keep their channels")]
        if self.kind.startswith(_PRODUCTS):
            return [self._stop("multiplies these channels by a matrix")]
        if hasattr(self.function, "_saved_keepdim") or self.kind in ("Mean", "Sum"):
            return [self._reduced()]
        if self.axis in self._dims() or self.kind.endswith(("CopySlices", "AsStrided")):
            return [self._stop("works along these channels")]
        return [self._elementwise()]

    # -------------------------------------------------------------------------------------------------- shape as it was

    def _elementwise(self) -> State:
        """The same channels in the same place; what is joined with them has them too, or has one entry for all."""
        dim = self.channels.dim
        if len(self.out_shape) < -dim or self.out_shape[dim] != self.channels.size:
            return self._stop("changes the number of these channels")
        for i, (state, shape) in enumerate(self.inputs):
            spread = len(shape) >= -dim and shape[dim] != 1
            if spread and isinstance(state, Channels) and state.dim != dim:
                state = self.following.moved(self.sources[i], state, dim)
            if isinstance(state, Nothing):
                if spread:
                    what = state.what or "as many values of another kind"
                    return self._stop(f"joins these channels with {what}", what)
            elif state.dim != dim:
                if spread or not isinstance(state.space[0], str):
                    return self._stop("joins channels that lie along different axes")
                self.following.fault(state, self.function, "joins channels that lie along different axes")
            elif spread:
                self.following.link(self.channels, state)
        return self.channels

    def _reduced(self) -> State:
        """Means, maxima and the like over dims."""
        dims = set(self._dims()) or set(range(len(self.shape)))
        if self.axis in dims:
            if self.kind.startswith(_AVERAGES):
                return Nothing()
            return self._stop("sums over these channels")
        if getattr(self.function, "_saved_keepdim", False):
            return self.channels
        return self._at(self.axis - sum(dim < self.axis for dim in dims))

    # --------------------------------------------------------------------------------------------------- dims that move

    def _permute(self) -> State:
        return self._at(self._dims().index(self.axis))

    def _transpose(self) -> State:
        a, b = (self._signed(getattr(self.function, f"_saved_dim{i}")) for i in (0, 1))
        return self._at({a: b, b: a}.get(self.axis, self.axis))

    def _t(self) -> State:
        return self._at(len(self.shape) - 1 - self.axis)

    def _unsqueeze(self) -> State:
        new = self._signed(self.function._saved_dim, len(self.out_shape))
        return self._at(self.axis + (new <= self.axis))

    def _squeeze(self) -> State:
        dims = self._dims() or range(len(self.shape))
        return self._at(self.axis - sum(dim < self.axis and self.shape[dim] == 1 for dim in dims))

    def _select(self) -> State:
        (dim,) = self._dims()
        if dim == self.axis:
            return self._stop("takes one of these channels")
        return self._at(self.axis - (dim < self.axis))

    def _unbind(self) -> list[State]:
        return [self._select()] * len(self.out_shapes)

    def _stack(self) -> State:
        if any(isinstance(state, Nothing) and state.what for state, _ in self.inputs):
            return self._stop("stacks these channels with others")
        for state, _ in self.inputs:
            if isinstance(state, Channels) and (state.dim, state.size) == (self.channels.dim, self.channels.size):
                self.following.link(self.channels, state)
            else:
                return self._stop("stacks these channels with others")
        return self._unsqueeze()

    # ------------------------------------------------------------------------------------------------- parts and blocks

    def _cat(self) -> State:
        """Channels one behind the other; or, along another dim, more positions of the same channels."""
        dim = self._dims()[0] - len(self.shape)
        if dim != self.channels.dim:
            return self._elementwise()
        joined = self.following.new((self.function, 0), self.out_shape[dim], dim)
        start = 0
        for state, shape in self.inputs:
            part = replace(joined, start=start, size=shape[dim] if len(shape) == len(self.shape) else 0)
            if isinstance(state, Channels) and (state.dim, state.size) == (dim, part.size):
                self.following.link(state, part)
            elif isinstance(state, Channels):
                self.following.fault(state, self.function, "joins channels that lie along different axes")
            start += part.size
        return joined

    def _split(self) -> list[State]:
        (dim,) = self._dims()
        if dim != self.axis:
            return [self.channels] * len(self.out_shapes)
        states: list[Channels] = []
        start = self.channels.start
        for shape in self.out_shapes:
            states.append(replace(self.channels, start=start, size=shape[dim]))
            start += shape[dim]
        for state in states:
            if state.size == states[0].size:  # as `torch.chunk` makes them, at any size
                self.following.link(states[0], state)
        return [*states]

    def _slice(self) -> State:
        (dim,) = self._dims()
        if dim != self.axis:
            return self.channels
        if self.function._saved_step != 1:
            return self._stop("takes every n-th of these channels")
        start = self._signed(self.function._saved_start, self.shape[dim])
        return replace(self.channels, start=self.channels.start + start, size=self.out_shape[dim])

    def _glu(self) -> State:
        (dim,) = self._dims()
        if dim != self.axis:
            return self.channels
        half = self.channels.size // 2
        first = replace(self.channels, size=half)
        self.following.link(first, replace(first, start=first.start + half))
        return first

    def _pixelshuffle(self) -> State:
        block = self.function._saved_upscale_factor**2
        return self._blocks(self.out_shape[-3], block, 1, -3) if self.channels.dim == -3 else self._elementwise()

    def _pixelunshuffle(self) -> State:
        block = self.function._saved_downscale_factor**2
        return self._blocks(self.out_shape[-3], 1, block, -3) if self.channels.dim == -3 else self._elementwise()

    def _view(self) -> State:
        """The dim that begins where the channels' dim began: it has the channels, or blocks of a channel each."""
        before = math.prod(self.shape[: self.axis])
        for axis, size in enumerate(self.out_shape):
            if math.prod(self.out_shape[:axis]) == before and (size != 1 or self.channels.size == 1):
                dim = axis - len(self.out_shape)
                if size == self.channels.size:
                    return replace(self.channels, dim=dim)
                if size in _products(self.shape[self.axis :]):  # a flattening
                    return self._blocks(size, 1, size // self.channels.size, dim)
                if self.channels.size in _products(self.out_shape[axis:]):  # and back
                    return self._blocks(size, self.channels.size // size, 1, dim)
                break
        return self._stop("reshapes these channels so that they no longer lie together, as heads of an attention do")

    # ---------------------------------------------------------------------------------------------------------- helpers

    def _blocks(self, size: int, block: int, out_block: int, dim: int) -> State:
        """A new space of `size` entries, `out_block` for each `block` of the channels' entries."""
        made = self.following.new((self.function, 0), size, dim)
        self.following.link(self.channels, made, (block, out_block))
        return made

    def _at(self, axis: int) -> Channels:
        """The same channels at an axis of the output, counted from 0."""
        return replace(self.channels, dim=axis - len(self.out_shape))

    def _stop(self, reason: str, what: str | None = None) -> State:
        """Gives the channels up; `what` the result has instead."""
        for state, _ in self.inputs:
            self.following.fault(state, self.function, reason)
        return Nothing(what or f"the result of {self.following.recording.name_of(self.function)}")

    def _dims(self) -> list[int]:
        """The dims of the input that the operation was given, counted from 0."""
        for name in ("_saved_dim", "_saved_dims"):
            dims = getattr(self.function, name, None)
            if dims is not None:
                return [self._signed(dim) for dim in (dims if isinstance(dims, tuple) else [dims])]
        return []

    def _signed(self, number: int, size: int | None = None) -> int:
        """An index of a dim of `size`. Autograd gives a negative one as the unsigned number with the same bits."""
        size = len(self.shape) if size is None else size
        return (number - 2**64 + size) if number >= 2**63 else number


_KNOWN: dict[str, Callable[[Operation], State | list[State]]] = {
    "Permute": Operation._permute,
    "Transpose": Operation._transpose,
    "T": Operation._t,
    "Unsqueeze": Operation._unsqueeze,
    "Squeeze": Operation._squeeze,
    "Select": Operation._select,
    "Unbind": Operation._unbind,
    "Stack": Operation._stack,
    "Cat": Operation._cat,
    "Split": Operation._split,
    "SplitWithSizes": Operation._split,
    "Slice": Operation._slice,
    "Glu": Operation._glu,
    "PixelShuffle": Operation._pixelshuffle,
    "PixelUnshuffle": Operation._pixelunshuffle,
    "View": Operation._view,
    "UnsafeView": Operation._view,
    "ReshapeAlias": Operation._view,
}


def _products(sizes: Sequence[int]) -> list[int]:
    """Products of the first, the first two, ... of the sizes."""
    return [math.prod(sizes[:count]) for count in range(1, len(sizes) + 1)]
