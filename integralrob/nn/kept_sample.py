"""A sample of control values that is kept until something that it was made from changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from ..ops.bands import cacheable

__all__ = ["KeptSample"]

_fused_steps = 0  # of all optimizers: their kernels write to parameters without a new version


def _count_fused_step(optimizer: Optimizer, *_: Any) -> None:
    global _fused_steps
    if any(group.get("fused") for group in optimizer.param_groups):
        _fused_steps += 1


register_optimizer_step_post_hook(_count_fused_step)


@dataclass(frozen=True)
class _Entry:
    """A sample, and what it was made from.

    Attributes:
        memory: aliases of the sources. While they live, no other tensor gets the sources' memory, so that a source in
            the same memory (`Tensor.is_set_to`) was given no other: `module.to` and assignments to ``.data`` do that
            without a new version.
        made: on a GPU, the moment at which the sample is there, for other streams.
    """

    sample: Tensor
    sample_version: int
    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]
    memory: tuple[Tensor, ...]
    settings: Any
    fused_steps: int
    made: torch.cuda.Event | None

    def is_of(self, sources: Sequence[Tensor], settings: Any) -> bool:
        return (
            self.fused_steps == _fused_steps
            and self.sample._version == self.sample_version
            and not self.sample.requires_grad
            and len(sources) == len(self.sources)
            and all(map(_is_unchanged, sources, self.sources, self.versions, self.memory))
            and self.settings == settings
        )


def _is_unchanged(source: Tensor, before: Tensor, version: int, memory: Tensor) -> bool:
    return source is before and source._version == version and source.is_set_to(memory)


class KeptSample:
    """The last sample, as long as it is the one that would be made, and no gradient flows through it.

    It is made again when a source is another tensor, has another version (each write that torch counts: optimizers,
    fused ones too, `load_state_dict`) or other memory, when `settings` differ, and when the sample itself was written
    to. A pass that needs gradients drops it; so does `drop`. Not noticed are writes that torch does not count: through
    ``.data``, NumPy, collectives, and kernels of other packages.

    Nothing is kept while a graph is traced or captured, under `torch.func`, of tensors that were made in inference
    mode, and of memory that is shared with other processes. Threads and streams may share one.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def drop(self) -> None:
        """Forgets the sample, and frees its memory."""
        self._entry = None

    def get(self, sources: Sequence[Tensor], settings: Any, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, now or the last time.

        Args:
            sources: the tensors that `make` reads.
            settings: whatever else its result depends on; compared by ``==``.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return make()
        if not cacheable(sources):
            self.drop()
            return make()
        on_gpu = sources[0].is_cuda
        if on_gpu and torch.cuda.is_current_stream_capturing():
            return make()
        entry = self._entry  # once: another thread may put another one there
        if entry is None or not entry.is_of(sources, settings):
            with torch.inference_mode(False), torch.no_grad():
                versions = tuple(source._version for source in sources)  # before another thread may write
                sample = make()
                # In a mode such as FakeTensorMode the sample is not for others; on the meta device there is no memory
                # to tell sources by; and other processes count no versions.
                if (
                    type(sample) is not Tensor
                    or sample.is_meta
                    or any(not source.is_cuda and source.is_shared() for source in sources)
                ):
                    return sample
                entry = self._entry = _Entry(
                    sample,
                    sample._version,
                    tuple(sources),
                    versions,
                    tuple(source.detach() for source in sources),
                    settings,
                    _fused_steps,
                    torch.cuda.current_stream(sample.device).record_event() if on_gpu else None,
                )
        if entry.made is not None:
            stream = torch.cuda.current_stream(entry.sample.device)
            stream.wait_event(entry.made)
            entry.sample.record_stream(stream)  # this stream may still read it when it is dropped
        return entry.sample
