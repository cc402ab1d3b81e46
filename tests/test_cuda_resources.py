"""The compiler's reports on CUDA kernels, as tools/cuda_resources.py reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import cuda_resources
from tools.cuda_resources import check, compile_and_keep_report, parse

CLEAN = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5scalePff' for 'sm_90'
ptxas info    : Function properties for _Z5scalePff
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 4096 bytes smem, 372 bytes cmem[0]
ptxas info    : Compile time = 23.440 ms
ptxas info    : Compiling entry function '_Z5scalePff' for 'sm_80'
ptxas info    : Function properties for _Z5scalePff
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 372 bytes cmem[0]
"""
SPILLS = CLEAN.replace("0 bytes spill stores, 0 bytes spill loads", "8 bytes spill stores, 4 bytes spill loads", 1)
STACK = CLEAN.replace("0 bytes stack frame", "40 bytes stack frame", 1)
CALL_WITH_STACK = (
    CLEAN
    + """\
ptxas info    : Function properties for _Z4helpf
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
)


def _folder(tmp_path: Path, report: str) -> Path:
    path = tmp_path / "objects" / "scale.cu.o.ptxas"
    path.parent.mkdir()
    path.write_text(report)
    return tmp_path


def test_figures_are_read() -> None:
    first, second = parse(CLEAN)
    assert (first.name, first.architecture, first.registers, first.shared) == ("_Z5scalePff", "sm_90", 14, 4096)
    assert (second.architecture, second.registers, second.shared) == ("sm_80", 16, 0)


def test_local_memory_is_read() -> None:
    function = parse(SPILLS.replace("0 bytes stack", "40 bytes stack", 1))[0]
    assert (function.stack, function.spill_stores, function.spill_loads) == (40, 8, 4)


def test_clean_kernels_pass_and_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(_folder(tmp_path, CLEAN)) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["16", "0", "0/0", "0", "sm_80", "scale"]


@pytest.mark.parametrize("report", [SPILLS, STACK, CALL_WITH_STACK], ids=["spills", "stack frame", "called function"])
def test_local_memory_fails(report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(_folder(tmp_path, report)) == 1
    assert "uses local memory" in capsys.readouterr().err


def test_an_allowed_kernel_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_resources, "LOCAL_MEMORY_ALLOWED", {"scale": "a reason"})
    assert check(_folder(tmp_path, SPILLS)) == 0


def test_a_folder_without_reports_fails(tmp_path: Path) -> None:
    assert check(tmp_path) == 1


def test_the_report_is_kept_beside_the_object(tmp_path: Path) -> None:
    target = tmp_path / "scale.o"
    compiler = [sys.executable, "-c", f"import sys; sys.stderr.write({CLEAN!r})", "-o", str(target)]
    assert compile_and_keep_report(compiler) == 0
    assert parse((tmp_path / "scale.o.ptxas").read_text()) == parse(CLEAN)


def test_a_failed_compiler_leaves_no_report(tmp_path: Path) -> None:
    target = tmp_path / "scale.o"
    assert compile_and_keep_report([sys.executable, "-c", "exit(3)", "-o", str(target)]) == 3
    assert not list(tmp_path.iterdir())
