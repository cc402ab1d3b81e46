"""The benchmark harness: its gate, its arithmetic, its command line. No test looks at how fast anything is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import integralrob as ir
from benchmarks import harness, projection, sampling
from benchmarks.__main__ import main
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


def test_gate_trips_on_a_nan_of_ours() -> None:
    assert find_difference(constant(torch.tensor([torch.nan])), [Peer("peer", constant(torch.ones(1)))], 1.0)


@pytest.mark.parametrize("op", ["linf_step", "sample_weight"])
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
    names = ["linf_step 1x3", "project_linf 1x3", "8x8x3x3"]
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

    def seconds(self, run: harness.Run, calls: int) -> float:
        before = self.taken
        for _ in range(calls):
            run()
        return (self.taken - before) / calls or 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setitem(harness.TIMERS, "cpu", lambda: clock)
    monkeypatch.setattr(harness, "last_level_cache_bytes", lambda: 2**10)
    return clock


def measure(
    clock: Clock, ours: list[float], theirs: list[float], target: float | None = None, **settings: Any
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
    work = Work(moved_bytes=8 * 10**9, tolerance=0.0, ours=contender("A", ours), peers=[peer])
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


def test_buffers_exceed_the_last_level_cache() -> None:
    memory = Memory(CPU)
    assert memory.source.numel() > harness.last_level_cache_bytes() >= 2**18
    assert memory.copy_bandwidth(harness.CpuTimer(), samples=1) > 0
    assert torch.equal(memory.source[-2:], memory.target[-2:])
    memory.empty_cache()
    assert memory.target[-1] == 0


# ------------------------------------------------------------------------------------------------------------ the cases


def test_moved_bytes_count_each_input_and_output_once() -> None:
    sizes = sampling.Sizes(8, 6, (3, 3))
    for case in sampling.cases(quick=True):
        work = case.prepare(CPU)
        result = work.ours()
        if "8x8x3x3" in case.name:
            forward = (8 * 8 + 6 * 6) * 9 * 4
            assert work.moved_bytes == (2 * forward if "backward" in case.name else forward)
        assert (result[0] if isinstance(result, tuple) else result).dtype == torch.float32
    assert str(sizes) == "8x8x3x3 -> 6x6"
    for case in projection.cases(quick=True):
        tensors = 3 if case.name.startswith("project") else 4
        work = case.prepare(CPU)
        result = work.ours()
        assert isinstance(result, Tensor)
        assert work.moved_bytes == tensors * result.numel() * 4


def test_case_names_are_distinct() -> None:
    names = [case.name for family in (sampling, projection) for case in family.cases(quick=False)]
    assert len(set(names)) == len(names)


# --------------------------------------------------------------------------------------------------------- command line


def test_quick_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    assert main(["--quick", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["versions"]["torch"] == torch.__version__
    assert written["command"] == f"python -m benchmarks --quick --json {file}"
    assert written["copy_gb_per_s"] > 0.1
    assert {"date", "commit", "cpu", "threads", "instruction_set", "load_average"} <= written.keys()
    results = written["results"]
    assert len(results) == len(sampling.cases(quick=True)) + len(projection.cases(quick=True))
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
    monkeypatch.setattr(sampling, "cases", lambda quick: [Case("case", lambda device: Work(1, 0.0, one, peers))])
    assert main(["--seconds", "0", "case"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(">=1e+09x MISSED") for line in lines)
    assert any(line.endswith(">=1e-09x met") for line in lines)
    assert lines[-1] == "1 of 2 targets met"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["no such case"], "names: no case matches"), (["--device", "meta"], "device: expected one of cpu, got meta")],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_load_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0))
    main(["--quick", "linf_step 1x3"])
    assert "warning: load average 3.0" in capsys.readouterr().out
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.0, 0.0))
    main(["--quick", "linf_step 1x3"])
    assert "warning: load" not in capsys.readouterr().out
