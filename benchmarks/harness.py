"""Times an op beside what people use in its place: first the same result, then the same machine state, then numbers.

1. Equality gate: every contender runs once, and a case whose results differ is not timed.
2. All contenders run in turn, A B C A B C ..., for many rounds, so that whatever disturbs the machine disturbs them
   alike. The speed-up is the median of the ratios within a round, not the ratio of two medians.
3. The floor of an op that is bound by memory is the bytes that must move (each input once, each output once) over the
   copy bandwidth of the machine, measured in the same run.
"""

from __future__ import annotations

import functools
import gc
import glob
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

Result = Tensor | tuple[Tensor, ...]
Run = Callable[[], Result]


@dataclass(frozen=True)
class Peer:
    """What people use today for the same work.

    Attributes:
        name: as it appears in the table.
        run: does the work once. Where a peer stores a tensor in another layout, it returns a view of it in ours.
        target: our op is to be at least this many times as fast; None if nothing was promised.
        slow_start: the first call takes long, as that of `compiled` functions does: left out unless asked for.
    """

    name: str
    run: Run
    target: float | None = None
    slow_start: bool = False


@dataclass(frozen=True)
class Work:
    """One case, ready to run.

    Attributes:
        moved_bytes: what must cross the memory bus: each input once, each output once.
        tolerance: greatest difference from a peer's result, relative to the largest entry of that result.
        ours: the public call, exactly as a user writes it.
        peers: at least one.
    """

    moved_bytes: int
    tolerance: float
    ours: Run
    peers: Sequence[Peer]


@dataclass(frozen=True)
class Case:
    """A name, and a function that allocates the tensors only when the case's turn comes."""

    name: str
    prepare: Callable[[torch.device], Work]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: where the tensors are.
        seconds: time budget of a case, after its warm-up.
        min_rounds: rounds that are run even if the budget is spent.
        cold: empty the last-level cache before every call.
        slow_starters: include the peers whose first call takes long.
        targets: judge the speed-ups; targets are promised for full sizes only.
    """

    device: torch.device
    seconds: float = 5.0
    min_rounds: int = 7
    cold: bool = False
    slow_starters: bool = False
    targets: bool = True


@dataclass(frozen=True)
class Timing:
    """One contender of one case.

    Attributes:
        milliseconds: median over the rounds.
        gb_per_s: the case's `moved_bytes` over that time.
        copy_fraction: of the measured copy bandwidth; above 1 where the data stay in a cache.
        speedup: how many times as fast ours is, median over the rounds; None for ours itself.
        speedup_quartiles: of the same ratios.
        target, met: the promised speed-up, and whether it was reached; None without a promise.
    """

    name: str
    milliseconds: float
    gb_per_s: float
    copy_fraction: float
    speedup: float | None = None
    speedup_quartiles: tuple[float, float] | None = None
    target: float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """A measured case; `error` says why a case that failed the equality gate has no timings."""

    case: str
    moved_bytes: int
    tolerance: float
    rounds: int = 0
    timings: tuple[Timing, ...] = ()
    error: str | None = None


class Timer(Protocol):
    """Measures on one type of device."""

    def seconds(self, run: Run, calls: int) -> float:
        """Mean time of a call, over `calls` calls in a row."""


class CpuTimer:
    """The wall clock: CPU ops have finished when they return."""

    def seconds(self, run: Run, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls


TIMERS: dict[str, Callable[[], Timer]] = {"cpu": CpuTimer}

# A sample of a call that is shorter than this is the mean of several calls: the clock and the first call's cache misses
# would weigh too much otherwise.
MIN_SAMPLE_SECONDS = 2e-4


def last_level_cache_bytes() -> int:
    """Size of the largest CPU cache; 64 MiB where the system does not tell."""
    sizes = [Path(path).read_text().strip() for path in glob.glob("/sys/devices/system/cpu/cpu0/cache/index*/size")]
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max((int(size[:-1]) * factors[size[-1]] for size in sizes if size[-1:] in factors), default=64 * 2**20)


class Memory:
    """Two buffers that are each four times as large as the last-level cache."""

    def __init__(self, device: torch.device) -> None:
        size = 4 * last_level_cache_bytes()
        # Written once here, so that no page is mapped during a measurement.
        self.source = torch.full((size,), 1, dtype=torch.uint8, device=device)
        self.target = torch.full((size,), 2, dtype=torch.uint8, device=device)

    def copy_bandwidth(self, timer: Timer, samples: int = 15) -> float:
        """Bytes a second, read and written ones together: that of the fastest copy, as it is to be a limit."""
        fastest = min(timer.seconds(lambda: self.target.copy_(self.source), 1) for _ in range(samples))
        return 2 * self.source.numel() / fastest

    def empty_cache(self) -> None:
        """Leaves nothing but this buffer in the caches."""
        self.target.fill_(0)


class Harness:
    """Measures cases on one device; `copy_bandwidth` (bytes a second) is what they are compared with.

    Raises:
        ValueError: there is no timer for the device.
    """

    def __init__(self, settings: Settings) -> None:
        device_type = settings.device.type
        if device_type not in TIMERS:
            raise ValueError(f"device: expected one of {', '.join(TIMERS)}, got {device_type}")
        self.settings = settings
        self.timer = TIMERS[device_type]()
        self.memory = Memory(settings.device)
        self.copy_bandwidth = self.memory.copy_bandwidth(self.timer)

    def measure(self, case: Case) -> Outcome:
        """Gate, then timing."""
        work = case.prepare(self.settings.device)
        peers = [peer for peer in work.peers if self.settings.slow_starters or not peer.slow_start]
        error = find_difference(work.ours, peers, work.tolerance)
        if error is not None:
            return Outcome(case.name, work.moved_bytes, work.tolerance, error=error)
        ours, *theirs = self._interleave([work.ours, *(peer.run for peer in peers)])
        timings = [self._timing("integralrob", work, ours)]
        for peer, samples in zip(peers, theirs, strict=True):
            target = peer.target if self.settings.targets else None
            timings.append(self._timing(peer.name, work, samples, ours, target))
        return Outcome(case.name, work.moved_bytes, work.tolerance, len(ours), tuple(timings))

    def _interleave(self, runs: Sequence[Run]) -> list[list[float]]:
        """Seconds of each contender in each round."""
        calls = [self._calls(run) for run in runs]
        samples: list[list[float]] = [[] for _ in runs]
        with _no_garbage_collection():
            deadline = time.perf_counter() + self.settings.seconds
            while len(samples[0]) < self.settings.min_rounds or time.perf_counter() < deadline:
                for run, count, row in zip(runs, calls, samples, strict=True):
                    # Untimed, so that a contender reuses the memory of its own last call, as in a loop, and not what
                    # the others left of it. (A virtual machine may even have handed that memory back to its host.)
                    run()
                    if self.settings.cold:
                        self.memory.empty_cache()
                    row.append(self.timer.seconds(run, count))
        return samples

    def _calls(self, run: Run) -> int:
        """How many calls make a sample; also the warm-up."""
        if self.settings.cold:
            return 1
        shortest = min(self.timer.seconds(run, 1) for _ in range(3))
        return max(1, math.ceil(MIN_SAMPLE_SECONDS / shortest))

    def _timing(
        self,
        name: str,
        work: Work,
        samples: Sequence[float],
        ours: Sequence[float] | None = None,
        target: float | None = None,
    ) -> Timing:
        seconds = statistics.median(samples)
        bandwidth = work.moved_bytes / seconds
        timing = Timing(name, seconds * 1e3, bandwidth / 1e9, bandwidth / self.copy_bandwidth)
        if ours is None:
            return timing
        ratios = [theirs / own for theirs, own in zip(samples, ours, strict=True)]
        lower, speedup, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        return Timing(
            name,
            timing.milliseconds,
            timing.gb_per_s,
            timing.copy_fraction,
            speedup,
            (lower, upper),
            target,
            None if target is None else speedup >= target,
        )


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of `function`, for exactly the sizes that it meets; made when first needed."""
    return torch.compile(function, dynamic=False)


def find_difference(ours: Run, peers: Sequence[Peer], tolerance: float) -> str | None:
    """Runs every contender once; None if all results agree, else the first difference in words."""
    own = _as_tuple(ours())
    for peer in peers:
        theirs = _as_tuple(peer.run())
        if len(own) != len(theirs):
            return f"{peer.name}: {len(theirs)} results where ours are {len(own)}"
        for index, (a, b) in enumerate(zip(own, theirs, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{peer.name}: result {index} is {b.dtype} {tuple(b.shape)}, ours {a.dtype} {tuple(a.shape)}"
            difference, scale = (a - b).abs().max().item(), b.abs().max().item()
            # Written so that a NaN differs.
            if not difference <= tolerance * scale:
                return (
                    f"{peer.name}: result {index} differs by {difference:.3g}, "
                    f"more than {tolerance:.1g} of its largest entry {scale:.3g}"
                )
    return None


def _as_tuple(result: Result) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection would fall on whichever contender happens to run."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
