"""The sweep over constants of the CUDA kernels: its table of variants, its medians, what it refuses. No GPU needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.__main__ import FAMILIES
from benchmarks.sweep import DEFAULT, LIBRARY, VARIANTS, Measured, Variant, main
from integralrob.ops import _library

HEADER = (sweep.ROOT / "csrc" / "common" / "tuning.h").read_text()
DEFAULTS = dict(re.findall(r"#ifndef INTEGRALROB_(\w+)\n#define INTEGRALROB_\1 (\d+)\n#endif\n", HEADER))

CLEAN = """\
ptxas info    : Compiling entry function '_Z5scalePff' for 'sm_90'
ptxas info    : Function properties for _Z5scalePff
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers
"""
SPILLS = CLEAN.replace("0 bytes spill stores", "8 bytes spill stores")


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "LIBRARIES", tmp_path / "sweep")
    monkeypatch.setattr(sweep, "BUILDS", tmp_path / "sweep-builds")


def place(*variants: Variant) -> None:
    for variant in variants:
        variant.library.parent.mkdir(parents=True, exist_ok=True)
        variant.library.write_text("a library")


# --------------------------------------------------------------------------------------------------------- the variants


def test_every_variant_changes_constants_of_the_header() -> None:
    assert HEADER.count("#ifndef") == len(DEFAULTS)
    for variant in VARIANTS[1:]:
        assert variant.macros
        assert variant.macros.keys() <= DEFAULTS.keys()
        assert any(int(DEFAULTS[macro]) != value for macro, value in variant.macros.items())
    assert VARIANTS[0] is DEFAULT
    assert not DEFAULT.macros


def test_every_constant_of_the_header_is_used() -> None:
    for macro in DEFAULTS:
        assert len(re.findall(rf"\bINTEGRALROB_{macro}\b", HEADER)) == 3


def test_variants_are_distinct_and_belong_to_a_group() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len({variant.flags for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS[1:]:
        (group,) = variant.groups
        assert variant.name.startswith(f"{group}-")
        assert all(macro.startswith({"tiles": "TILE_"}.get(group, f"{group.upper()}_")) for macro in variant.macros)
        assert re.fullmatch(r"[a-z0-9-]+", variant.name)
    assert {group for variant in VARIANTS[1:] for group in variant.groups} == set(sweep.CASES)


def test_every_part_of_a_name_is_of_a_case() -> None:
    names = [case.name for family in FAMILIES for case in family.cases(False, "cuda")]
    for part in DEFAULT.cases:
        assert any(part in name for name in names), part
    assert sweep.expected_seconds([DEFAULT], 1.0) == sweep.START_SECONDS + 18 * (1.0 + sweep.CASE_SECONDS)


def test_the_sweep_is_expected_to_fit_into_its_time_twice() -> None:
    assert 2 * sweep.expected_seconds(VARIANTS, sweep.SECONDS_A_CASE) < sweep.SECONDS < 480


def test_names_choose_variants_and_always_the_default() -> None:
    assert sweep.chosen([]) == VARIANTS
    some = sweep.chosen(["map-", "waves"])
    assert some[0] is DEFAULT
    assert {variant.groups for variant in some[1:]} == {("map",), ("tiles",)}
    assert all(variant.name.startswith("map-") or "waves" in variant.name for variant in some[1:])


# ---------------------------------------------------------------------------------------------------------------- build


def compiler(monkeypatch: pytest.MonkeyPatch, report: str, status: int = 0) -> list[list[str]]:
    """A stand-in for CMake that leaves a report and a library; returns the commands that it is given."""
    commands: list[list[str]] = []
    run = subprocess.run

    def stub(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != "cmake":
            return run(command, **options)
        commands.append(command)
        if "--build" in command and status == 0:
            folder = Path(command[2])
            (folder / "kernel.cu.o.ptxas").write_text(report)
            (folder / LIBRARY).write_text("a library")
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", stub)
    return commands


def test_build_hands_macros_to_the_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = compiler(monkeypatch, CLEAN)
    assert main(["build", "--architecture", "80", "--jobs", "1", "tiles-waves-2"]) == 0
    configured = [command for command in commands if "--build" not in command]
    assert "-DCMAKE_CUDA_FLAGS=" in configured[0]
    assert "-DCMAKE_CUDA_FLAGS=-DINTEGRALROB_TILE_WAVES=2" in configured[1]
    assert all("-DCMAKE_CUDA_ARCHITECTURES=80-real" in command for command in configured)
    assert sorted(path.parent.name for path in sweep.LIBRARIES.rglob("*.so")) == ["default", "tiles-waves-2"]
    assert capsys.readouterr().out.count("built") == 2


@pytest.mark.parametrize(
    ("report", "status", "message"), [(SPILLS, 0, "uses local memory: scale"), (CLEAN, 1, "does not compile: see ")]
)
def test_build_refuses(
    report: str, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves no library of an earlier build."""
    compiler(monkeypatch, report, status)
    place(DEFAULT)
    assert main(["build", "default"]) == 1
    assert message in capsys.readouterr().out
    assert not DEFAULT.library.exists()


# ------------------------------------------------------------------------------------------------------------------ run

A, B = Variant("map-a", ("map",), {"MAP_THREADS": 1}), Variant("map-b", ("map",), {"MAP_THREADS": 2})
CASE, OTHER = sweep.CASES["map"][:2]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time passes only as told."""
    now = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def benchmark(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None], times: dict[str, list[float]], wrong: str = ""
) -> list[str]:
    """A stand-in for the benchmark, of the given times of CASE and twice those of OTHER; returns who is measured."""
    order: list[str] = []
    remaining = {name: iter(values) for name, values in times.items()}

    def stub(variant: Variant, case_seconds: float, timeout: float) -> dict[str, Any]:
        clock(10.0)
        order.append(variant.name)
        own = next(remaining[variant.name])
        return {
            "gpu": "a GPU",
            "results": [
                {
                    "case": case,
                    "error": "differs" if variant.name == wrong and case == OTHER else None,
                    "timings": [{"milliseconds": own * factor}, {"milliseconds": 99.0}],
                }
                for case, factor in ((CASE, 1), (OTHER, 2))
            ],
        }

    monkeypatch.setattr(sweep, "measure", stub)
    return order


def test_rounds_go_back_and_forth_and_medians_are_of_ratios(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None], tmp_path: Path
) -> None:
    order = benchmark(
        monkeypatch, clock, {"default": [1.0, 10.0, 2.0], "map-a": [0.5, 10.0, 0.5], "map-b": [2.0, 20.0, 4.0]}
    )
    file = tmp_path / "new" / "sweep.json"
    variants = [DEFAULT, A, B]
    measured = sweep.run_all(variants, 1000.0, 0.1, 3, file)
    assert order == ["default", "map-a", "map-b", "map-b", "map-a", "default", "default", "map-a", "map-b"]
    assert sweep.speedups(measured["map-a"], measured["default"]) == {CASE: 2.0, OTHER: 2.0}  # of 2, 1 and 4
    assert sweep.speedups(measured["map-b"], measured["default"]) == {CASE: 0.5, OTHER: 0.5}

    lines = list(sweep.table(variants, measured))
    assert lines[0] == "\nmap: times as fast as the default"
    assert [line.split() for line in lines[-3:]] == [
        ["default,", "ms", "2", "4"],
        ["map-a", "2.000x", "2.000x", "2.000x"],
        ["map-b", "0.500x", "0.500x", "0.500x"],
    ]
    written = json.loads(file.read_text())
    assert (written["gpu"], written["rounds"]) == ("a GPU", 3)
    assert written["variants"]["map-a"] == {
        "macros": {"MAP_THREADS": 1},
        "milliseconds": {CASE: [0.5, 10.0, 0.5], OTHER: [1.0, 20.0, 1.0]},
        "speedups": {CASE: 2.0, OTHER: 2.0},
        "errors": {},
    }


def test_a_wrong_result_has_no_speedup(monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]) -> None:
    benchmark(monkeypatch, clock, {"default": [1.0], "map-a": [0.5]}, wrong="map-a")
    measured = sweep.run_all([DEFAULT, A], 1000.0, 0.1, 1, None)
    assert sweep.speedups(measured["map-a"], measured["default"]) == {CASE: 2.0}
    *_, row, error = sweep.table([DEFAULT, A], measured)
    assert row.split() == ["map-a", "2.000x", "-", "-"]
    assert error == f"map-a: {OTHER}: differs"


@pytest.mark.parametrize(("seconds", "rounds"), [(45.0, 2), (39.0, 1), (10.0, 1)])
def test_no_round_begins_that_would_not_fit(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    order = benchmark(monkeypatch, clock, {"default": [1.0] * 9, "map-a": [1.0] * 9})
    measured = sweep.run_all([DEFAULT, A], seconds, 0.1, 9, None)
    assert order.count("default") == rounds
    assert measured["map-a"].errors == ({"all cases": "no time was left"} if seconds == 10.0 else {})


def test_the_benchmark_gets_the_variants_library(monkeypatch: pytest.MonkeyPatch) -> None:
    result: dict[str, Any] = {"missing": {}, "results": []}
    seen: dict[str, Any] = {}

    def stub(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(options, command=command)
        if result:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 1, "", "torch finds no GPU")

    monkeypatch.setattr(subprocess, "run", stub)
    assert sweep.measure(A, 0.1, 30.0) == result
    assert seen["command"][1:7] == ["-m", "benchmarks", "--device", "cuda", "--seconds", "0.1"]
    assert tuple(seen["command"][-len(sweep.CASES["map"]) :]) == sweep.CASES["map"]
    assert seen["env"]["INTEGRALROB_NATIVE_DIRECTORY"] == str(A.library.parent)
    assert seen["timeout"] == 30.0
    result["missing"] = {"cuda": "could not be loaded"}
    with pytest.raises(RuntimeError, match="could not be loaded"):
        sweep.measure(A, 0.1, 30.0)
    result.clear()
    with pytest.raises(RuntimeError, match="torch finds no GPU"):
        sweep.measure(A, 0.1, 30.0)


def test_a_benchmark_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stub(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", stub)
    with pytest.raises(RuntimeError, match="no time was left"):
        sweep.measure(A, 0.1, 30.0)


def test_run(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    place(*sweep.chosen(["map-threads-128"]))
    benchmark(monkeypatch, clock, {"default": [1.0] * 2, "map-threads-128": [0.8] * 2})
    assert main(["run", "--rounds", "2", "map-threads-128", "map-vectors-1"]) == 0
    out = capsys.readouterr().out
    assert "not built, left out: map-vectors-1" in out
    assert "2 variants, a round takes about " in out
    assert out.splitlines()[-1].split() == ["map-threads-128", *["1.250x"] * 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no such variant"], "names: no variant matches"),
        (["run", "map-"], "the library of the default is not built"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_measured_makes_no_table() -> None:
    assert list(sweep.table([DEFAULT, A], {"default": Measured(), "map-a": Measured()})) == []


# ------------------------------------------------------------------------------------------------ another native folder


def test_libraries_of_another_folder_go_before_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_text("a library")
    inside = {device: _library.NATIVE_DIRECTORY / f"libintegralrob_{device}.so" for device in ("cpu", "cuda")}
    for folder in ("", str(tmp_path / "none")):
        monkeypatch.setenv("INTEGRALROB_NATIVE_DIRECTORY", folder)
        assert {device: _library.native_path(device) for device in inside} == inside
    monkeypatch.setenv("INTEGRALROB_NATIVE_DIRECTORY", str(tmp_path))
    assert _library.native_path("cpu") == inside["cpu"]
    assert _library.native_path("cuda") == tmp_path / LIBRARY


def test_a_library_of_another_folder_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "libintegralrob_cpu.so"
    shutil.copy(_library.native_path("cpu"), copy)
    monkeypatch.setenv("INTEGRALROB_NATIVE_DIRECTORY", str(tmp_path))
    code = "import integralrob as ir; print(ir.build_info()['libraries']['cpu'], ir.build_info()['instruction_set'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=sweep.ROOT, capture_output=True, text=True, check=True)
    path, instruction_set = done.stdout.split()
    assert path == str(copy)
    assert instruction_set in ("baseline", "avx2", "avx512")
