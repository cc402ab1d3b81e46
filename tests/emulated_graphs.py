"""CUDA graphs without a GPU: what `integralrob.attacks._graph` uses of `torch.cuda`, for tensors of the CPU.

A capture notes the ops that reach a kernel, with the memory that they read and write; a replay runs these kernels on
that memory, and nothing else of what was captured. As on a GPU,

* a capture computes nothing: what it has made is garbage until the first replay, and what was there is unchanged;
* what waits for the device, or brings numbers from the host, fails in a capture;
* Python runs once: a tensor that it puts in the place of another, or a number that it counts, stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _refused(op: Any, args: Any) -> bool:
    if op is aten.index.Tensor:  # by integers it does not wait
        return any(index.dtype == torch.bool for index in _tensors(args[1]))
    return op is aten.lift_fresh.default or bool(DATA_DEPENDENT & set(op.tags))  # the first: of `torch.tensor(...)`


def _written(op: Any, args: Any, kwargs: Any) -> Any:
    """What an op that writes to its arguments returns: some of these."""
    declared = op._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs
    places = {frozenset(a.alias_info.before_set): given[a.name] for a in declared if a.alias_info is not None}
    results = [places[frozenset(result.alias_info.before_set)] for result in op._schema.returns]
    return results[0] if len(results) == 1 else tuple(results) or None


class Graph(TorchDispatchMode):
    """The kernels that were launched while it was the mode."""

    def __init__(self, launched: Callable[[], object]) -> None:
        super().__init__()
        self.launched = launched
        self.kernels: list[Callable[[], object]] = []
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _refused(op, args):
            raise RuntimeError(f"{op}: operation not permitted when stream is capturing")
        if op._schema.is_mutable:
            self.kernels.append(lambda: op(*args, **kwargs))
            return _written(op, args, kwargs)
        result = op(*args, **kwargs)
        there = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        made = [tensor for tensor in _tensors(result) if _memory(tensor) not in there]
        if made:  # else it is a view, of which no kernel knows

            def again() -> None:
                for tensor, value in zip(_tensors(result), _tensors(op(*args, **kwargs)), strict=True):
                    tensor.copy_(value)

            self.kernels.append(again)
            self.made += made
        return result

    def replay(self) -> None:
        self.launched()
        with torch.no_grad():
            for kernel in self.kernels:
                kernel()


class Stream:
    """With those that have had work which it has not waited for."""

    def __init__(self, device: Any = None, ahead: Stream | None = None) -> None:
        self.device = device
        self.ahead = set() if ahead is None else {ahead}

    def wait_stream(self, other: Stream) -> None:
        self.ahead.discard(other)


class Cuda:
    """In the place of `torch.cuda`; `launches` counts replays."""

    def __init__(self) -> None:
        self.launches = 0
        self.now = Stream()

    def Stream(self, device: Any) -> Stream:
        return Stream(device, ahead=self.now)

    def CUDAGraph(self) -> Graph:
        return Graph(self._launched)

    def current_stream(self, device: Any) -> Stream:
        return self.now

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        outer, self.now = self.now, stream
        assert outer not in stream.ahead, "work on tensors that may not be there yet"
        try:
            yield
        finally:
            self.now = outer
            outer.ahead.add(stream)
            stream.ahead.add(outer)

    @contextmanager
    def graph(self, graph: Graph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        with torch.random.fork_rng():
            try:
                with graph:
                    yield
            except RuntimeError as error:
                self.now = stream  # torch does not give back the one before
                raise RuntimeError("operation failed due to a previous error during capture") from error
        for tensor in graph.made:
            tensor.detach().fill_(torch.nan if tensor.is_floating_point() else 1)

    def _launched(self) -> None:
        assert not self.now.ahead, "a replay on tensors that may not be there yet"
        self.launches += 1
