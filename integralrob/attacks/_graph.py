"""An iteration that a CUDA graph repeats."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, cuda

from .._checks import check_bool
from ._rows import Rows

State = TypeVar("State", bound=Rows)

WARM_UP = 3  # iterations, in which libraries load and choose their kernels


def check_cuda_graph(cuda_graph: Any, x: Tensor, early_stop: bool) -> bool:
    """A bool; True only for samples on a GPU whose number stays as it is."""
    if not check_bool("cuda_graph", cuda_graph):
        return False
    if early_stop:
        raise ValueError("cuda_graph: expected False with early_stop=True, by which batches shrink, got True")
    if x.device.type != "cuda":
        raise ValueError(f"cuda_graph: expected False but for x on a CUDA device, got True with x on {x.device}")
    return True


@functools.cache
def _side_stream(device: torch.device) -> cuda.Stream:
    """The same for all: libraries keep memory for every stream that they have worked on."""
    return cuda.Stream(device)


class Replayed(Generic[State]):
    """An iteration ``state -> state`` on a GPU, launched as one CUDA graph instead of kernel by kernel.

    The first calls warm up: they are launched kernel by kernel, on the stream that then captures the next one, and that
    and all others are replays. Besides the state, of which it keeps a copy in memory that is always the same, the
    iteration may read and write in place any tensor that stays where it is. What it does on the host is not repeated.

    The state that a call returns is that copy, which the next call overwrites. What is changed in between is made from
    it, or written into it, and goes on from there.
    """

    def __init__(self, iteration: Callable[[State], State], device: torch.device) -> None:
        self.iteration = iteration
        self.stream = _side_stream(device)
        self.warm_up = WARM_UP
        self.graph: cuda.CUDAGraph | None = None
        self.state: State | None = None

    def __call__(self, state: State) -> State:
        """The next state."""
        if self.state is None:
            self.state = state.clone()
        else:
            self.state.copy_(state)
        if self.warm_up:
            self.warm_up -= 1
            with self._beside():
                self.state.copy_(self.iteration(self.state))
        else:
            if self.graph is None:
                self.graph = self._captured(self.state)
            self.graph.replay()
        return self.state

    def _captured(self, state: State) -> cuda.CUDAGraph:
        """A graph that replaces the state by the next one."""
        graph = cuda.CUDAGraph()
        # Autocast keeps casts of weights, here in the memory of the graph, which what comes later would read as well.
        autocast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        # What other threads do meanwhile, as one that pins a loader's batches, does not touch a thread-local capture.
        capture = cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")
        try:
            with self._beside(), capture, autocast:
                state.copy_(self.iteration(state))
        except RuntimeError as error:
            raise RuntimeError(
                "cuda_graph: expected a model and a loss that a CUDA graph can hold, which do not wait for the GPU, "
                f"got {error.__context__ or error}"
            ) from error
        return graph

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On the stream of its own, after what the current one has been given, and before what it will be."""
        current = cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)
