"""The benchmark harness: its gate, its arithmetic, its command line. No test looks at how fast anything is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import integralrob as ir
from benchmarks import balls, harness, projection, report, sampling
from benchmarks.__main__ import FAMILIES, main
from benchmarks.harness import Case, Harness, Memory, Outcome, Peer, Result, Settings, Work, find_difference

CPU = torch.device("cpu")


def constant(result: Result) -> Callable[[], Result]:
    return lambda: result


# ----------------------------------------------------------------------------------------------------------------- gate


def test_gate_passes_what_agrees_within_the_tolerance() -> None:
    a, b = torch.tensor([100.0, 0.0]), torch.tensor([100.0, 0.09])
    assert find_difference(constant(a), [Peer("peer", constant(b))], 1e-3) is None
    assert find_difference(constant((a, b)), [Peer("peer", constant((a, b)))], 0.0) is None


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (torch.tensor([100.0, 0.11]), "peer: result 0 differs by 0.11, more than 0.001 of its largest entry 100"),
        (torch.tensor([100.0, float("nan")]), "result 0 differs by nan"),
        (torch.tensor([[100.0, 0.0]]), r"result 0 is torch.float32 \(1, 2\), ours torch.float32 \(2,\)"),
        (torch.tensor([100.0, 0.0]).double(), "result 0 is torch.float64"),
        ((torch.tensor([100.0, 0.0]), torch.ones(1)), "2 results where ours are 1"),
    ],
)
def test_gate_trips(theirs: Result, message: str) -> None:
    good = Peer("good", constant(torch.tensor([100.0, 0.0])))
    error = find_difference(good.run, [good, Peer("peer", constant(theirs))], 1e-3)
    assert error is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_a_peer_that_does_less_is_compared_with_ours_that_does_no_more() -> None:
    one, two = constant(torch.ones(1)), constant(torch.full((1,), 2.0))
    assert find_difference(two, [Peer("peer", one, same_as=one), Peer("other", two)], 0.0) is None
    assert find_difference(one, [Peer("peer", one, same_as=two)], 0.0) is not None


def test_gate_trips_on_a_nan_of_ours() -> None:
    assert find_difference(constant(torch.tensor([torch.nan])), [Peer("peer", constant(torch.ones(1)))], 1.0)


@pytest.mark.parametrize("op", ["l1_step", "linf_step", "project_l1", "sample_weight"])
def test_a_wrong_kernel_fails_its_cases_and_the_run(
    op: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    right: Callable[..., Tensor] = getattr(ir.ops, op)

    def wrong(*args: Any, **kwargs: Any) -> Tensor:
        out = right(*args, **kwargs).clone()
        out.view(-1)[-1] += 0.01
        return out

    monkeypatch.setattr(ir.ops, op, wrong)
    file = tmp_path / "results.json"
    names = ["l1_step 32x3072", "linf_step 1x3", "project_l1 32x3072", "project_linf 1x3", "8x8x3x3"]
    assert main(["--quick", "--json", str(file), *names]) == 1
    captured = capsys.readouterr()
    assert "FAILED the equality gate" in captured.out
    assert "FAILED the equality gate" in captured.err
    for result in json.loads(file.read_text())["results"]:
        assert (result["error"] is not None) == result["case"].startswith(op)
        assert bool(result["timings"]) == (result["error"] is None)


# --------------------------------------------------------------------------------------------------------------- timing


class Clock:
    """A timer by which every run takes as long as it says, and one second if it says nothing."""

    def __init__(self) -> None:
        self.taken = 0.0

    def seconds(self, runs: Sequence[harness.Run], before: Callable[[], object] | None = None) -> float:
        if before is not None:
            before()
        start = self.taken
        for run in runs:
            run()
        return (self.taken - start) / len(runs) or 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setitem(harness.TIMERS, "cpu", lambda: clock)
    monkeypatch.setattr(harness, "last_level_cache_bytes", lambda device: 2**10)
    return clock


def measure(
    clock: Clock,
    ours: list[float],
    theirs: list[float],
    target: float | None = None,
    of_copy: float | None = None,
    **settings: Any,
) -> tuple[Outcome, list[str], Harness]:
    """Measures two contenders that take the given times in the timed calls; also the order of calls after the gate."""
    order: list[str] = []

    def contender(name: str, times: list[float]) -> harness.Run:
        before_rounds = 1 if settings.get("cold") else 4  # the gate's call, and the warm-up's three
        in_rounds = [seconds for timed in times for seconds in (5.0, timed)]
        remaining: Iterator[float] = iter([5.0] * before_rounds + in_rounds)

        def run() -> Tensor:
            clock.taken += next(remaining)
            order.append(name)
            return torch.ones(2)

        return run

    peer = Peer("peer", contender("B", theirs), target)
    work = Work(moved_bytes=8 * 10**9, tolerance=0.0, ours=contender("A", ours), peers=[peer], target=of_copy)
    machine = Harness(Settings(CPU, seconds=0.0, min_rounds=len(ours), **settings))
    return machine.measure(Case("case", lambda device: work)), order[2:], machine


def test_rounds_interleave_and_the_speedup_is_the_median_of_ratios(clock: Clock) -> None:
    outcome, order, machine = measure(clock, [1.0, 10.0, 2.0], [3.0, 20.0, 2.0])
    assert "".join(order) == "AAABBB" + "AABB" * 3
    ours, peer = outcome.timings
    assert (ours.milliseconds, peer.milliseconds, outcome.rounds) == (2000.0, 3000.0, 3)
    assert peer.speedup == 2.0  # of 3, 2 and 1; the ratio of the medians is 1.5
    assert peer.speedup_quartiles == (1.5, 2.5)
    assert (ours.gb_per_s, ours.speedup) == (4.0, None)
    assert ours.copy_fraction == pytest.approx(4e9 / machine.copy_bandwidth)
    assert machine.copy_bandwidth == 2 * machine.memory.source.numel()


@pytest.mark.parametrize(("target", "met"), [(2.0, True), (2.1, False), (None, None)])
def test_targets(clock: Clock, target: float | None, met: bool | None) -> None:
    outcome, _, _ = measure(clock, [1.0, 1.0], [2.0, 2.0], target)
    assert outcome.timings[1].met is met
    assert measure(clock, [1.0, 1.0], [2.0, 2.0], target, targets=False)[0].timings[1].met is None


def test_targets_of_the_copy_bandwidth(clock: Clock) -> None:
    reached = 8e9 / Harness(Settings(CPU)).copy_bandwidth
    for of_copy, met in ((0.99 * reached, True), (1.01 * reached, False), (None, None)):
        outcome = measure(clock, [1.0, 1.0], [2.0, 2.0], of_copy=of_copy)[0]
        assert (outcome.timings[0].target, outcome.timings[0].met) == (of_copy, met)
        assert ("MISSED" in report.table(outcome)) == (met is False)
    assert measure(clock, [1.0, 1.0], [2.0, 2.0], of_copy=1.0, targets=False)[0].timings[0].met is None


def test_cold_cache_empties_it_before_every_call(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[None] = []
    monkeypatch.setattr(Memory, "empty_cache", lambda self: emptied.append(None))
    _, order, _ = measure(clock, [1.0, 1.0], [1.0, 1.0], cold=True)
    assert "".join(order) == "AABB" * 2
    assert len(emptied) == 4


def test_short_calls_are_repeated(clock: Clock) -> None:
    calls = 0

    def short() -> Tensor:
        nonlocal calls
        calls += 1
        clock.taken += harness.MIN_SAMPLE_SECONDS / 7.5
        return torch.ones(1)

    work = Work(1, 0.0, short, [Peer("peer", constant(torch.ones(1)))])
    outcome = Harness(Settings(CPU, seconds=0.0, min_rounds=2)).measure(Case("case", lambda device: work))
    assert calls == 1 + 3 + 2 * (1 + 8)
    assert outcome.timings[0].milliseconds == pytest.approx(harness.MIN_SAMPLE_SECONDS / 7.5 * 1e3)


def test_slow_starters_run_only_when_asked_for(clock: Clock) -> None:
    one = constant(torch.ones(1))
    case = Case("case", lambda device: Work(1, 0.0, one, [Peer("a", one), Peer("b", one, slow_start=True)]))

    def names(slow_starters: bool) -> list[str]:
        settings = Settings(CPU, seconds=0.0, min_rounds=2, slow_starters=slow_starters)
        return [timing.name for timing in Harness(settings).measure(case).timings]

    assert names(False) == ["integralrob", "a"]
    assert names(True) == ["integralrob", "a", "b"]


class Gpu:
    """What `CudaTimer` asks of torch.cuda: a GPU that sleeps as told and needs two seconds a run."""

    def __init__(self, launch_seconds: float) -> None:
        self.launch_seconds = launch_seconds
        self.host = self.free_at = 0.0
        self.log: list[str] = []

    def launch(self, seconds: float) -> None:
        self.free_at = max(self.free_at, self.host) + seconds

    def run(self) -> Tensor:
        self.host += self.launch_seconds
        self.launch(2.0)
        self.log.append("run")
        return torch.ones(1)

    def flush(self) -> None:
        self.log.append("flush")

    def sleep(self, cycles: int) -> None:
        self.launch(cycles / harness.CudaTimer.CYCLES_A_SECOND)
        self.log.append("sleep")

    def event(self, enable_timing: bool) -> GpuEvent:
        assert enable_timing
        return GpuEvent(self)


class GpuEvent:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at = max(self.gpu.free_at, self.gpu.host)

    def query(self) -> bool:
        return self.gpu.host >= self.at

    def synchronize(self) -> None:
        self.gpu.host = max(self.gpu.host, self.at)

    def elapsed_time(self, end: GpuEvent) -> float:
        return (end.at - self.at) * 1e3


@pytest.mark.parametrize(
    ("launch_seconds", "attempts"), [(1e-5, 1), (1e-3, 2), (3.0, harness.CudaTimer.ATTEMPTS)], ids=str
)
def test_a_gpu_is_timed_without_its_host(launch_seconds: float, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the host never gets ahead; each attempt begins with an empty cache."""
    gpu = Gpu(launch_seconds)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "_sleep", gpu.sleep)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: gpu.host)
    seconds = harness.CudaTimer().seconds([gpu.run] * 5, gpu.flush)
    assert gpu.log == ["flush", "sleep", *["run"] * 5] * attempts
    assert seconds == pytest.approx(2.0 if launch_seconds < 1 else (5 * 3.0 + 2.0) / 5, rel=0.02)


def test_calls_on_a_gpu_have_tensors_of_their_own(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as make a sample long enough, and the cache is emptied before each sample."""
    monkeypatch.setitem(harness.TIMERS, "cuda", lambda: clock)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = Memory(CPU)
    monkeypatch.setattr(harness, "Memory", lambda device: memory)
    emptied: list[None] = []
    monkeypatch.setattr(Memory, "empty_cache", lambda self: emptied.append(None))
    monkeypatch.setattr(Memory, "copy_bandwidth", lambda self, timer: 1e9)
    prepared: list[int] = []

    def prepare(device: torch.device) -> Work:
        index = len(prepared)
        prepared.append(0)

        def run() -> Tensor:
            prepared[index] += 1
            return torch.ones(1)

        floor = harness.MIN_SAMPLE_SECONDS / 4.5
        return Work(int(floor * 1e9), 0.0, run, [Peer("peer", constant(torch.ones(1)))])

    machine = Harness(Settings(torch.device("cuda"), seconds=0.0, min_rounds=3))
    outcome = machine.measure(Case("case", prepare))
    assert outcome.rounds == 3
    # The gate, the warm-up, and an untimed call of the first before each of the three samples.
    assert prepared == [1 + 1 + 2 * 3, *[1 + 3] * 4]
    assert len(emptied) == 2 * 3


def test_buffers_exceed_the_last_level_cache() -> None:
    memory = Memory(CPU)
    assert memory.source.numel() > harness.last_level_cache_bytes(CPU) >= 2**18
    assert memory.copy_bandwidth(harness.CpuTimer(), samples=1) > 0
    assert torch.equal(memory.source[-2:], memory.target[-2:])
    memory.empty_cache()
    assert memory.target[-1] == 0


# ------------------------------------------------------------------------------------------------------------ the cases


def test_moved_bytes_count_each_input_and_output_once() -> None:
    sizes = sampling.Sizes(8, 6, (3, 3))
    for case in sampling.cases(True, "cpu"):
        work = case.prepare(CPU)
        result = work.ours()
        if "8x8x3x3" in case.name:
            forward = (8 * 8 + 6 * 6) * 9 * 4
            assert work.moved_bytes == (2 * forward if "backward" in case.name else forward)
        assert (result[0] if isinstance(result, tuple) else result).dtype == torch.float32
    assert str(sizes) == "8x8x3x3 -> 6x6"
    for case in projection.cases(True, "cpu") + balls.cases(True, "cpu"):
        tensors = 3 if case.name.startswith("project") else 4
        work = case.prepare(CPU)
        result = work.ours()
        assert isinstance(result, Tensor)
        assert work.moved_bytes == tensors * result.numel() * 4


def test_case_names_are_distinct() -> None:
    for device_type in ("cpu", "cuda"):
        names = [case.name for family in FAMILIES for case in family.cases(False, device_type)]
        assert len(set(names)) == len(names)


def test_what_a_gpu_has_beside_the_cpus_cases() -> None:
    """Every one passes its gate on the CPU as well."""
    for family in FAMILIES:
        on_cpu = [case.name for case in family.cases(True, "cpu")]
        on_gpu = family.cases(True, "cuda")
        assert [case.name for case in on_gpu[: len(on_cpu)]] == on_cpu
        for case in on_gpu[len(on_cpu) :]:
            work = case.prepare(CPU)
            peers = [peer for peer in work.peers if not peer.slow_start]
            assert find_difference(work.ours, peers, work.tolerance) is None
            if case.name.startswith("sample_2d"):
                result = work.ours()
                assert isinstance(result, Tensor)
                dtype = getattr(torch, case.name.split(", ")[1])
                (size, points) = (int(part.split("x")[0]) for part in case.name.split(" ")[1:4:2])
                assert result.dtype == dtype
                inner = result.shape[2]
                assert work.moved_bytes == (size**2 + points**2) * inner * dtype.itemsize


# --------------------------------------------------------------------------------------------------------- command line


def test_quick_run(device: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    assert main(["--quick", "--device", device, "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["versions"]["torch"] == torch.__version__
    assert written["command"] == f"python -m benchmarks --quick --device {device} --json {file}"
    assert written["copy_gb_per_s"] > 0.1
    assert {"date", "commit", "cpu", "threads", "instruction_set", "load_average"} <= written.keys()
    results = written["results"]
    assert len(results) == sum(len(family.cases(True, device)) for family in FAMILIES)
    for result in results:
        assert result["error"] is None
        assert result["rounds"] >= 2
        ours, *peers = result["timings"]
        assert ours["milliseconds"] > 0
        assert all(peer["speedup"] > 0 and peer["met"] is None for peer in peers)
    table = capsys.readouterr().out
    assert "copy bandwidth" in table
    assert all(result["case"] in table for result in results)


def test_missed_targets_are_printed_and_do_not_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = constant(torch.ones(1))
    peers = [Peer("fast", one, target=1e9), Peer("slow", one, target=1e-9)]
    cases = [Case("case", lambda device: Work(1, 0.0, one, peers))]
    monkeypatch.setattr(sampling, "cases", lambda quick, device_type: cases)
    assert main(["--seconds", "0", "case"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(">=1e+09x MISSED") for line in lines)
    assert any(line.endswith(">=1e-09x met") for line in lines)
    assert lines[-1] == "1 of 2 targets met"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no such case"], "names: no case matches"),
        (["--device", "meta"], "device: expected one of cpu, cuda, got meta"),
        (["--device", "cuda"], "device: torch finds no GPU"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_case_that_raises_does_not_lose_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_memory(device: torch.device) -> Work:
        raise torch.OutOfMemoryError("no memory")

    one = constant(torch.ones(1))
    good = Case("good case", lambda device: Work(1, 0.0, one, [Peer("peer", one)]))
    monkeypatch.setattr(sampling, "cases", lambda quick, device_type: [Case("bad case", no_memory), good])
    file = tmp_path / "results.json"
    assert main(["--quick", "--json", str(file), "case"]) == 1
    bad_result, good_result = json.loads(file.read_text())["results"]
    assert bad_result["error"] == "raised no memory"
    assert (good_result["error"], len(good_result["timings"])) == (None, 2)
    assert "bad case" in capsys.readouterr().err


def test_load_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0))
    main(["--quick", "linf_step 1x3"])
    assert "warning: load average 3.0" in capsys.readouterr().out
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.0, 0.0))
    main(["--quick", "linf_step 1x3"])
    assert "warning: load" not in capsys.readouterr().out
