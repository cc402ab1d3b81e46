"""`make gpu` cannot run here; that its steps name what exists can be seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "tools" / "gpu.sh"


def test_every_step_runs_something_that_is_there() -> None:
    text = SCRIPT.read_text()
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    functions = set(re.findall(r"^(\w+)\(\) \{", text, re.MULTILINE))
    exported = re.search(r"^export -f (.*)$", text, re.MULTILINE)
    assert exported is not None
    called = set(re.findall(r"step \w+ \d+ bash -c (\w+)", text))
    assert called == set(exported[1].split())
    assert called < functions
    for path in re.findall(r"tests/test_\w+\.py", text):
        assert (SCRIPT.parent.parent / path).exists(), path
    single = re.findall(r"(tests/test_\w+\.py)::\w+\[", text)
    named = re.findall(r'"(tests/test_\w+\.py::.*\])"', text)
    assert len(single) == len(named) > 0
    # With the references they have the same names.
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", *set(single)]
    collected = subprocess.run(collect, cwd=SCRIPT.parent.parent, capture_output=True, text=True, check=True).stdout
    assert {name.replace("[cuda-", "[reference-") for name in named} <= set(collected.splitlines())
    steps = re.findall(r"step \w+ (\d+) ", text)
    assert len(steps) == 8
    assert min(map(int, steps)) > 0
