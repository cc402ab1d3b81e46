"""python -m benchmarks.sweep build|run [names ...]: the CUDA kernels with other constants (csrc/common/tuning.h).

``build`` compiles one library a variant, with or without a GPU at hand: the libraries of another machine, where torch
may be of another version (stable ABI) for the same CUDA, can be carried to the one with the GPU (half a megabyte each:
``tar -cJf sweep.tar.xz build/sweep``). ``run`` measures them there: the benchmark, with its equality gates, a process
for each variant, over all of them in turn and back again, so that a GPU that becomes slower favours none. A variant's
figure is the median of its ratios to the default in the same round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.__main__ import FAMILIES
from tools import cuda_resources

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "libintegralrob_cuda.so"
# Nothing but libraries in the former, so that it is small enough to be carried.
LIBRARIES, BUILDS = ROOT / "build" / "sweep", ROOT / "build" / "sweep-builds"

# Group of kernels -> the cases that they run in, by parts of the names.
CASES = {
    "tiles": (
        "sample_2d 512x512x3x3 -> 384x384, float32",
        "sample_2d 4096x4096 -> 3072x3072, ",  # in each type
        "sample_2d 4096x4096x3x3 -> 3072x3072, float32",
        "sample_2d_adjoint 4096x4096 -> 3072x3072, float32",
        "sample_weight 2048x2048 -> 1536x1536, antialiased",  # more than four taps
    ),
    "rows": ("sample_1d ",),
    "map": ("linf_step 512x3x224x224", "project_linf 128x3x224x224"),
    "ball": ("l1_step 16384x3072", "l1_step 512x150528"),
}


@dataclass(frozen=True)
class Variant:
    """Values of some macros of tuning.h, named without their prefix, which concern one group of kernels, or all."""

    name: str
    groups: tuple[str, ...]
    macros: Mapping[str, int] = field(default_factory=dict)

    @property
    def library(self) -> Path:
        return LIBRARIES / self.name / LIBRARY

    @property
    def flags(self) -> str:
        return " ".join(f"-DINTEGRALROB_{macro}={value}" for macro, value in self.macros.items())

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(case for group in self.groups for case in CASES[group])


def _by_size(macro: str, of16: int, of32: int, of64: int) -> dict[str, int]:
    return {f"{macro}_16": of16, f"{macro}_32": of32, f"{macro}_64": of64}


def _variants(group: str, table: Mapping[str, Mapping[str, int]]) -> list[Variant]:
    return [Variant(f"{group}-{name}", (group,), macros) for name, macros in table.items()]


_HALF_THREADS = _by_size("TILE_THREADS", 64, 128, 128)
_FEW_RESIDENT = _by_size("TILE_RESIDENT", 256, 256, 256)

DEFAULT = Variant("default", tuple(CASES))
VARIANTS = [
    DEFAULT,
    *_variants(
        "tiles",
        {
            "threads-half": _HALF_THREADS,
            "threads-double": _by_size("TILE_THREADS", 256, 512, 512),
            "resident-256": _FEW_RESIDENT,
            "slots-12": {"TILE_SLOTS_4_TAPS": 12},
            "slots-0": {"TILE_SLOTS_4_TAPS": 0, "TILE_SLOTS_8_TAPS": 0},
            "rows-from-4": {"TILE_ROWS_LEAST": 4},
            "rows-from-16": {"TILE_ROWS_LEAST": 16},
            "rows-to-16": {"TILE_ROWS_MOST": 16},
            "waves-2": {"TILE_WAVES": 2},
            "waves-8": {"TILE_WAVES": 8},
            "threads-half-rows-from-16": {**_HALF_THREADS, "TILE_ROWS_LEAST": 16},
            "resident-256-slots-16": {**_FEW_RESIDENT, "TILE_SLOTS_4_TAPS": 16, "TILE_SLOTS_8_TAPS": 24},
        },
    ),
    *_variants(
        "rows",
        {
            "threads-64": {"ROWS_THREADS": 64},
            "resident-256": {"ROWS_RESIDENT": 256},
            "resident-512-window-8": {"ROWS_RESIDENT": 512, "ROWS_WINDOW": 8},
            "window-16": {"ROWS_WINDOW_4_TAPS": 16},
            "from-8": {"ROWS_LEAST": 8},
            "to-64": {"ROWS_MOST": 64},
        },
    ),
    *_variants(
        "map",
        {
            "threads-128": {"MAP_THREADS": 128},
            "threads-512": {"MAP_THREADS": 512, "MAP_RESIDENT": 1024},  # without a bound, it spills
            "vectors-1": {"MAP_VECTORS": 1},
            "vectors-1-threads-512": {"MAP_VECTORS": 1, "MAP_THREADS": 512},
            "vectors-7-threads-128": {"MAP_VECTORS": 7, "MAP_THREADS": 128},
            "vectors-12-resident-512": {"MAP_VECTORS": 12, "MAP_RESIDENT": 512},
        },
    ),
    *_variants(
        "ball",
        {
            "threads-256": {"BALL_THREADS": 256},
            "entries-16": {"BALL_ENTRIES": 16},
            "shared-200": {"BALL_SHARED": 200},
        },
    ),
]


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants with one of these parts in their names, and always the default; all if there are no parts."""
    return [
        variant
        for variant in VARIANTS
        if variant is DEFAULT or not names or any(name in variant.name for name in names)
    ]


# ---------------------------------------------------------------------------------------------------------------- build


def build(variant: Variant, architecture: str) -> str | None:
    """Compiles the library of a variant; None, or why there is none."""
    folder = BUILDS / variant.name
    folder.mkdir(parents=True, exist_ok=True)
    variant.library.unlink(missing_ok=True)
    configure = [
        *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        f"-DINTEGRALROB_TORCH={Path(torch.__file__).parent}",
        "-DINTEGRALROB_CUDA=on",
        "-DINTEGRALROB_TESTS=ON",  # with the compiler's reports
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real",
        f"-DCMAKE_CUDA_FLAGS={variant.flags}",
    ]
    compile_it = ["cmake", "--build", str(folder), "--target", "integralrob_cuda", "--parallel", "1"]
    log = folder / "build.log"
    with log.open("w") as output:
        for command in (configure, compile_it):
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode != 0:
                return f"does not compile: see {log}"
    functions = [function for path in folder.rglob("*.ptxas") for function in cuda_resources.parse(path.read_text())]
    cuda_resources.demangle(functions)
    if bad := cuda_resources.offenders(functions):
        return "uses local memory: " + ", ".join(function.name for function in bad)
    variant.library.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / LIBRARY, variant.library)
    return None


def build_all(variants: Sequence[Variant], architecture: str, jobs: int) -> int:
    """The exit status: 1 if a variant has no library."""

    def timed(variant: Variant) -> bool:
        start = time.monotonic()
        problem = build(variant, architecture)
        print(f"{variant.name:34} {time.monotonic() - start:4.0f} s  {problem or 'built'}", flush=True)
        return problem is None

    with ThreadPoolExecutor(jobs) as pool:
        return 0 if all(list(pool.map(timed, variants))) else 1


# ------------------------------------------------------------------------------------------------------------------ run

SECONDS, SECONDS_A_CASE = 470.0, 0.1
# What a process is expected to take to start, and for a case beyond its own seconds.
START_SECONDS, CASE_SECONDS = 5.0, 0.5


@dataclass
class Measured:
    """What one variant gave in all rounds so far: case -> round -> milliseconds, and what went wrong, by case."""

    milliseconds: dict[str, dict[int, float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def measure(variant: Variant, case_seconds: float, timeout: float) -> dict[str, Any]:
    """What the benchmark says of the cases that concern a variant, with its library.

    Raises:
        RuntimeError: it did not run, or not with that library.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "benchmarks", "--device", "cuda", "--seconds", str(case_seconds)]
        try:
            done = subprocess.run(
                [*command, "--json", str(file), *variant.cases],
                cwd=ROOT,
                env={**os.environ, "INTEGRALROB_NATIVE_DIRECTORY": str(variant.library.parent)},
                timeout=timeout,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError("no time was left") from None
        if not file.exists():
            raise RuntimeError(done.stderr.strip()[-500:] or f"exit status {done.returncode}")
        result: dict[str, Any] = json.loads(file.read_text())
    if "cuda" in result["missing"]:
        raise RuntimeError(result["missing"]["cuda"])
    return result


def expected_seconds(variants: Iterable[Variant], case_seconds: float) -> float:
    """Of a round."""
    names = [case.name for family in FAMILIES for case in family.cases(False, "cuda")]

    def cases(variant: Variant) -> int:
        return sum(any(part in name for part in variant.cases) for name in names)

    return sum(START_SECONDS + cases(variant) * (CASE_SECONDS + case_seconds) for variant in variants)


def run_all(
    variants: Sequence[Variant], seconds: float, case_seconds: float, rounds: int, file: Path | None
) -> dict[str, Measured]:
    """Rounds over the variants, while another one is expected to fit into the time; writes what it has after each."""
    begin = time.monotonic()
    measured = {variant.name: Measured() for variant in variants}
    round_seconds, done, about = 0.0, 0, {}
    while done < rounds and (done == 0 or time.monotonic() - begin + round_seconds < seconds):
        round_begin = time.monotonic()
        for variant in variants if done % 2 == 0 else reversed(variants):
            left = seconds - (time.monotonic() - begin)
            own = measured[variant.name]
            try:
                if left <= 0:
                    raise RuntimeError("no time was left")
                result = measure(variant, case_seconds, left)
            except RuntimeError as error:
                own.errors["all cases"] = str(error)
                print(f"{variant.name}: {error}", file=sys.stderr, flush=True)
                continue
            about = {key: value for key, value in result.items() if key not in ("results", "command")}
            for case in result["results"]:
                if case["error"] is None:
                    own.milliseconds.setdefault(case["case"], {})[done] = case["timings"][0]["milliseconds"]
                else:
                    own.errors[case["case"]] = case["error"]
        done += 1
        round_seconds = time.monotonic() - round_begin
        print(f"round {done}: {round_seconds:.0f} s", flush=True)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**about, "rounds": done, "variants": as_json(variants, measured)}, indent=1))
    return measured


def speedups(own: Measured, default: Measured) -> dict[str, float]:
    """Case -> how many times as fast as the default, median over the rounds that have both."""
    result = {}
    for case, milliseconds in own.milliseconds.items():
        theirs = default.milliseconds.get(case, {})
        ratios = [theirs[number] / own_time for number, own_time in milliseconds.items() if number in theirs]
        if ratios and case not in own.errors:
            result[case] = statistics.median(ratios)
    return result


def as_json(variants: Sequence[Variant], measured: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        variant.name: {
            "macros": dict(variant.macros),
            "milliseconds": {case: list(of.values()) for case, of in measured[variant.name].milliseconds.items()},
            "speedups": speedups(measured[variant.name], measured[DEFAULT.name]),
            "errors": measured[variant.name].errors,
        }
        for variant in variants
    }


def table(variants: Sequence[Variant], measured: Mapping[str, Measured]) -> Iterator[str]:
    """A part for each group: the default's times, then the variants, the fastest in the geometric mean first."""
    default = measured[DEFAULT.name]
    for group in CASES:
        own = [variant for variant in variants if variant.groups == (group,)]
        cases = [case for case in default.milliseconds if any(part in case for part in CASES[group])]
        if not own or not cases:
            continue
        yield f"\n{group}: times as fast as the default"
        yield from (f"  ({number}) {case}" for number, case in enumerate(cases, 1))
        yield f"{'':34}" + "".join(f"{f'({number})':>9}" for number in range(1, len(cases) + 1)) + f"{'mean':>9}"
        times = [statistics.median(default.milliseconds[case].values()) for case in cases]
        yield f"{'default, ms':34}" + "".join(f"{time_:9.4g}" for time_ in times)
        rows = []
        for variant in own:
            found = speedups(measured[variant.name], default)
            mean = math.prod(found.values()) ** (1 / len(found)) if found.keys() == set(cases) else 0.0
            cells = [f"{found[case]:8.3f}x" if case in found else f"{'-':>9}" for case in cases]
            rows.append((mean, f"{variant.name:34}" + "".join(cells) + (f"{mean:8.3f}x" if mean else f"{'-':>9}")))
        yield from (row for _, row in sorted(rows, key=lambda item: -item[0]))
    for name, of in measured.items():
        yield from (f"{name}: {case}: {error}" for case, error in of.errors.items())


# --------------------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str]) -> int:
    """The exit status is 1 if a variant could not be built, or one that ran failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__.partition("\n")[2])
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="compile the variants into build/sweep")
    builder.add_argument("--architecture", default="90", help="of the GPU (%(default)s)")
    builder.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="variants at a time (%(default)s)")
    runner = commands.add_parser("run", help="measure those that are built")
    runner.add_argument("--seconds", type=float, default=SECONDS, help="for everything (%(default)s)")
    runner.add_argument(
        "--case-seconds", type=float, default=SECONDS_A_CASE, help="for a case in a round (%(default)s)"
    )
    runner.add_argument("--rounds", type=int, default=5, help="at most (%(default)s)")
    runner.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    for command in (builder, runner):
        command.add_argument("names", nargs="*", help="parts of names of variants, e.g. tiles-; all if none")
    options = parser.parse_args(arguments)
    variants = chosen(options.names)
    if variants == [DEFAULT] and options.names and not any(name in DEFAULT.name for name in options.names):
        parser.error("names: no variant matches; there are\n  " + "\n  ".join(variant.name for variant in VARIANTS))
    if options.command == "build":
        return build_all(variants, options.architecture, options.jobs)

    missing = [variant.name for variant in variants if not variant.library.exists()]
    if DEFAULT.name in missing:
        parser.error("the library of the default is not built: python -m benchmarks.sweep build")
    if missing:
        print("not built, left out: " + ", ".join(missing))
    variants = [variant for variant in variants if variant.name not in missing]
    a_round = expected_seconds(variants, options.case_seconds)
    print(
        f"{len(variants)} variants, a round takes about {a_round:.0f} s; at most {options.rounds} rounds, "
        f"and at most {options.seconds:.0f} s in all",
        flush=True,
    )
    measured = run_all(variants, options.seconds, options.case_seconds, options.rounds, options.json)
    print(*table(variants, measured), sep="\n")
    return 1 if any(of.errors for of in measured.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
