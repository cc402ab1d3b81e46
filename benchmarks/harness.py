"""Times an op beside what people use in its place: first the same result, then the same machine state, then numbers.

1. Equality gate: every contender runs once, and a case whose results differ is not timed.
2. All contenders run in turn, A B C A B C ..., for many rounds, so that whatever disturbs the machine disturbs them
   alike. The speed-up is the median of the ratios within a round, not the ratio of two medians.
3. The floor of an op that is bound by memory is the bytes that must move (each input once, each output once) over the
   copy bandwidth of the machine, measured in the same run.
4. On a GPU the caches are always emptied, and times are those of the device: see `CudaTimer`.
"""

from __future__ import annotations

import functools
import gc
import glob
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        same_as: where the peer does less than ours, our call that does no more; the gate compares these two.
    """

    name: str
    run: Run
    target: float | None = None
    slow_start: bool = False
    same_as: Run | None = None


@dataclass(frozen=True)
class Work:
    """One case, ready to run.

    Attributes:
        moved_bytes: what must cross the memory bus: each input once, each output once.
        tolerance: greatest difference from a peer's result, relative to the largest entry of that result.
        ours: the public call, exactly as a user writes it.
        peers: at least one.
        target: our op is to reach at least this fraction of the copy bandwidth; None if nothing was promised.
    """

    moved_bytes: int
    tolerance: float
    ours: Run
    peers: Sequence[Peer]
    target: float | None = None


# Device type -> what was promised there: a speed-up, or a fraction of the copy bandwidth.
Targets = Mapping[str, float]
NOTHING_PROMISED: Targets = {}


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
        cold: empty the last-level cache before every call, as is always done on a GPU.
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
        target, met: the promised speed-up, of ours the promised `copy_fraction`, and whether it was reached; None
            without a promise.
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

    def seconds(self, runs: Sequence[Run], before: Callable[[], object] | None = None) -> float:
        """Mean time of a run, of all in a row, and what comes `before` them untimed."""


class CpuTimer:
    """The wall clock: CPU ops have finished when they return."""

    def seconds(self, runs: Sequence[Run], before: Callable[[], object] | None = None) -> float:
        if before is not None:
            before()
        start = time.perf_counter()
        for run in runs:
            run()
        return (time.perf_counter() - start) / len(runs)


class CudaTimer:
    """CUDA events around kernels that lie ready in the stream: time of the device, not of the host that launches them.

    The GPU first sleeps for longer than the host needs to launch all runs, so that no gap between the events is a wait
    for the host. Where the sleep was too short, which shows in that the first event has passed when the last launch
    returns, all is done again after a longer one. (Runs that wait for the GPU never fit, and count with their waits.)

    A pair of events resolves about half a microsecond, and a launch costs even a GPU that has it ready one or two.
    Several runs between the events make the former small, and the latter is the op's own. Results live until the end,
    so that no run writes where the one before it has just written, in the cache.
    """

    ATTEMPTS = 4
    LEAST_SLEEP, MOST_SLEEP = 1e-3, 0.2  # seconds
    CYCLES_A_SECOND = 2e9  # at least those of a GPU: it sleeps longer at a lower clock

    def __init__(self) -> None:
        self.sleep = self.LEAST_SLEEP

    def seconds(self, runs: Sequence[Run], before: Callable[[], object] | None = None) -> float:
        for _ in range(self.ATTEMPTS):
            if before is not None:
                before()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(self.sleep * self.CYCLES_A_SECOND))
            begin.record()
            start = time.perf_counter()
            results = [run() for run in runs]
            launching = time.perf_counter() - start
            in_time = not begin.query()
            end.record()
            end.synchronize()
            del results
            self.sleep = min(max(2 * launching, self.LEAST_SLEEP), self.MOST_SLEEP)
            if in_time:
                break
        return begin.elapsed_time(end) / 1e3 / len(runs)


TIMERS: dict[str, Callable[[], Timer]] = {"cpu": CpuTimer, "cuda": CudaTimer}

# A sample of a call that is shorter than this is the mean of several calls: the clock and the first call's cache misses
# would weigh too much otherwise.
MIN_SAMPLE_SECONDS = 2e-4
# On a GPU these calls each have tensors of their own, at most so many.
MOST_TENSOR_SETS = 16


def last_level_cache_bytes(device: torch.device) -> int:
    """Size of the largest cache; of a CPU's 64 MiB where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [Path(path).read_text().strip() for path in glob.glob("/sys/devices/system/cpu/cpu0/cache/index*/size")]
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max((int(size[:-1]) * factors[size[-1]] for size in sizes if size[-1:] in factors), default=64 * 2**20)


class Memory:
    """Two buffers that are each at least four times as large as the last-level cache."""

    def __init__(self, device: torch.device) -> None:
        size = 4 * last_level_cache_bytes(device)
        if device.type == "cuda":
            size = max(size, 2**30)  # a shorter copy is over before it is at full speed
        # Written once here, so that no page is mapped during a measurement.
        self.source = torch.full((size,), 1, dtype=torch.uint8, device=device)
        self.target = torch.full((size,), 2, dtype=torch.uint8, device=device)

    def copy_bandwidth(self, timer: Timer, samples: int = 15) -> float:
        """Bytes a second, read and written ones together: that of the fastest copy, as it is to be a limit."""
        fastest = min(timer.seconds([lambda: self.target.copy_(self.source)]) for _ in range(samples))
        return 2 * self.source.numel() / fastest

    def empty_cache(self) -> None:
        """Leaves nothing but this buffer in the caches, all of it still to be written to memory.

        Whatever comes next has to make room by writing this back, and leaves as much of its own results behind.
        """
        self.target.fill_(0)


class Harness:
    """Measures cases on one device; `copy_bandwidth` (bytes a second) is what they are compared with.

    Raises:
        ValueError: there is no timer for the device, or no device.
    """

    def __init__(self, settings: Settings) -> None:
        device_type = settings.device.type
        if device_type not in TIMERS:
            raise ValueError(f"device: expected one of {', '.join(TIMERS)}, got {device_type}")
        if device_type == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: torch finds no GPU")
        self.settings = settings
        self.timer = TIMERS[device_type]()
        self.memory = Memory(settings.device)
        self.copy_bandwidth = self.memory.copy_bandwidth(self.timer)

    def measure(self, case: Case) -> Outcome:
        """Gate, then timing."""
        work = case.prepare(self.settings.device)
        peers = self._peers(work)
        error = find_difference(work.ours, peers, work.tolerance)
        if error is not None:
            return Outcome(case.name, work.moved_bytes, work.tolerance, error=error)
        ours, *theirs = self._interleave(self._samples(case, work))
        timings = [self._timing("integralrob", work, ours)]
        for peer, samples in zip(peers, theirs, strict=True):
            target = peer.target if self.settings.targets else None
            timings.append(self._timing(peer.name, work, samples, ours, target))
        return Outcome(case.name, work.moved_bytes, work.tolerance, len(ours), tuple(timings))

    def _peers(self, work: Work) -> list[Peer]:
        return [peer for peer in work.peers if self.settings.slow_starters or not peer.slow_start]

    def _samples(self, case: Case, work: Work) -> list[list[Run]]:
        """The calls that make a sample, for each contender; also the warm-up."""
        contenders = [work.ours, *(peer.run for peer in self._peers(work))]
        if self.settings.device.type == "cuda":
            # The cache is emptied once a sample: each call finds its tensors outside of it, as they are its own.
            floor = work.moved_bytes / self.copy_bandwidth
            count = min(MOST_TENSOR_SETS, max(1, math.ceil(MIN_SAMPLE_SECONDS / floor)))
            others = [case.prepare(self.settings.device) for _ in range(count - 1)]
            rows = [contenders, *([other.ours, *(peer.run for peer in self._peers(other))] for other in others)]
            samples = [list(column) for column in zip(*rows, strict=True)]
            for runs in samples:
                self.timer.seconds(runs)
            return samples
        return [[run] * self._calls(run) for run in contenders]

    def _calls(self, run: Run) -> int:
        if self.settings.cold:
            return 1
        shortest = min(self.timer.seconds([run]) for _ in range(3))
        return max(1, math.ceil(MIN_SAMPLE_SECONDS / shortest))

    def _interleave(self, contenders: Sequence[Sequence[Run]]) -> list[list[float]]:
        """Seconds of each contender in each round."""
        cold = self.settings.cold or self.settings.device.type == "cuda"
        samples: list[list[float]] = [[] for _ in contenders]
        with _no_garbage_collection():
            deadline = time.perf_counter() + self.settings.seconds
            while len(samples[0]) < self.settings.min_rounds or time.perf_counter() < deadline:
                for runs, row in zip(contenders, samples, strict=True):
                    # Untimed, so that a contender reuses the memory of its own last call, as in a loop, and not what
                    # the others left of it. (A virtual machine may even have handed that memory back to its host.)
                    runs[0]()
                    row.append(self.timer.seconds(runs, self.memory.empty_cache if cold else None))
        return samples

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
            if work.target is None or not self.settings.targets:
                return timing
            return replace(timing, target=work.target, met=timing.copy_fraction >= work.target)
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
    result = _as_tuple(ours())
    for peer in peers:
        own = result if peer.same_as is None else _as_tuple(peer.same_as())
        theirs = _as_tuple(peer.run())
        if len(own) != len(theirs):
            return f"{peer.name}: {len(theirs)} results where ours are {len(own)}"
        for index, (a, b) in enumerate(zip(own, theirs, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{peer.name}: result {index} is {b.dtype} {tuple(b.shape)}, ours {a.dtype} {tuple(a.shape)}"
            difference, scale = (a.double() - b.double()).abs().max().item(), b.abs().max().item()
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
