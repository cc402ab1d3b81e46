"""What each CUDA kernel takes of a GPU, from the reports of the compiler: registers, local memory, shared memory.

``compile nvcc ...`` runs a compiler and keeps its report beside the object, as ``<object>.ptxas``; ``check folder``
prints the reports in a folder as a table and fails if a kernel keeps anything in local memory: spilled registers or a
stack frame.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Kernels (a part of the name) that may use local memory, and why.
LOCAL_MEMORY_ALLOWED: dict[str, str] = {}

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass
class Function:
    """A kernel, or a device function that was not inlined (its registers are the kernel's)."""

    name: str
    architecture: str
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0

    @property
    def uses_local_memory(self) -> bool:
        return self.stack + self.spill_stores + self.spill_loads > 0


def parse(report: str) -> list[Function]:
    """The functions that ``ptxas -v`` tells of, by their mangled names."""
    functions: dict[tuple[str, str], Function] = {}
    entry = current = Function("", "")
    for line in report.splitlines():
        if match := _ENTRY.search(line):
            key = match[1], match[2]
            entry = current = functions.setdefault(key, Function(*key))
        elif match := _FUNCTION.search(line):
            key = match[1], entry.architecture
            current = functions.setdefault(key, Function(*key))
        elif match := _LOCAL.search(line):
            current.stack, current.spill_stores, current.spill_loads = map(int, match.groups())
        elif match := _REGISTERS.search(line):
            entry.registers = int(match[1])
            shared = _SHARED.search(line)
            entry.shared = int(shared[1]) if shared else 0
    return list(functions.values())


def demangle(functions: list[Function]) -> None:
    """Readable names, without parameters and the project's own namespaces."""
    names = "\n".join(function.name for function in functions)
    result = subprocess.run(["c++filt", "--no-params"], input=names, capture_output=True, text=True, check=True)
    for function, name in zip(functions, result.stdout.splitlines(), strict=True):
        function.name = re.sub(r"^void |integralrob::|cuda::|\(anonymous namespace\)::", "", name)


def offenders(functions: list[Function]) -> list[Function]:
    return [
        function
        for function in functions
        if function.uses_local_memory and not any(part in function.name for part in LOCAL_MEMORY_ALLOWED)
    ]


def table(functions: list[Function]) -> Iterator[str]:
    yield f"{'registers':>9} {'stack':>6} {'spill st/ld':>11} {'shared':>7} {'for':<7} kernel"
    for function in sorted(functions, key=lambda f: (f.name, f.architecture)):
        spills = f"{function.spill_stores}/{function.spill_loads}"
        yield (
            f"{function.registers:>9} {function.stack:>6} {spills:>11} {function.shared:>7} "
            f"{function.architecture:<7} {function.name}"
        )


def check(folder: Path) -> int:
    reports = sorted(folder.rglob("*.ptxas"))
    functions = [function for path in reports for function in parse(path.read_text())]
    if not functions:
        print(f"{folder}: no compiler reports of CUDA kernels", file=sys.stderr)
        return 1
    demangle(functions)
    print(*table(functions), sep="\n")
    bad = offenders(functions)
    for function in bad:
        print(f"{function.name} ({function.architecture}) uses local memory", file=sys.stderr)
    return 1 if bad else 0


def compile_and_keep_report(command: list[str]) -> int:
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(result.stderr)
    if result.returncode == 0:
        Path(command[command.index("-o") + 1] + ".ptxas").write_text(result.stderr)
    return result.returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["compile"] and len(sys.argv) > 2:
        sys.exit(compile_and_keep_report(sys.argv[2:]))
    if sys.argv[1:2] == ["check"] and len(sys.argv) == 3:
        sys.exit(check(Path(sys.argv[2])))
    sys.exit(f"usage: {sys.argv[0]} compile nvcc ... | check folder")
