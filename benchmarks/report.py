"""What a run says: a table for the terminal, and JSON with everything needed to judge the figures later."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import integralrob as ir
from benchmarks.harness import Outcome, Settings, Timing

# With more runnable threads than this when the run starts (average of the last minute), timings are not to be trusted.
QUIET_LOAD = 0.5


def environment(settings: Settings, copy_bandwidth: float, arguments: Sequence[str]) -> dict[str, Any]:
    """Versions, machine, settings, date, commit and command of this run."""
    info = ir.build_info()
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {name: info[name] for name in ("integralrob", "torch", "python")},
        "missing": info["missing"],
        "device": str(settings.device),
        "gpu": _gpu_name(settings),
        "cuda_architectures": info["cuda_architectures"],
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": info["threads"],
        "instruction_set": info["instruction_set"],
        "load_average": os.getloadavg()[0],
        "copy_gb_per_s": copy_bandwidth / 1e9,
        "seconds_per_case": settings.seconds,
        "cold_cache": settings.cold or settings.device.type == "cuda",
    }


def heading(run: dict[str, Any]) -> str:
    """The lines above the table, whose speed-ups say how many times as fast as the peer in that line ours is."""
    versions = " · ".join(f"{name} {version}" for name, version in run["versions"].items())
    cache = "cold" if run["cold_cache"] else "warm"
    lines = [
        f"{versions} · commit {run['commit'] or 'unknown'}",
        f"{run['gpu'] or run['cpu']} · {run['threads']} threads · {run['instruction_set'] or 'no native library'} · "
        f"{cache} cache",
        f"copy bandwidth {run['copy_gb_per_s']:.1f} GB/s, read and written (data that stay in a cache can exceed it)",
    ]
    if run["load_average"] > QUIET_LOAD:
        lines.append(
            f"warning: load average {run['load_average']:.1f} over the last minute: something else is running, "
            "and multi-threaded timings suffer most"
        )
    lines += [f"warning: no native library for {device}: {reason}" for device, reason in run["missing"].items()]
    lines.append("")
    lines.append(f"{'':52} {'ms':>9} {'GB/s':>7} {'of copy':>8} {'speed-up':>9}   {'quartiles':14} target")
    return "\n".join(lines)


def table(outcome: Outcome) -> str:
    """One case: its name, then a line for each contender."""
    if outcome.error is not None:
        return f"{outcome.case}\n  FAILED the equality gate. {outcome.error}"
    return "\n".join([f"{outcome.case}   ({outcome.rounds} rounds)", *map(_line, outcome.timings)])


def _line(timing: Timing) -> str:
    line = f"  {timing.name:50} {timing.milliseconds:9.4g} {timing.gb_per_s:7.2f} {timing.copy_fraction:8.1%}"
    if timing.speedup is None or timing.speedup_quartiles is None:
        return line if timing.target is None else f"{line} {'':27} >={timing.target:.0%} {_verdict(timing)}"
    lower, upper = timing.speedup_quartiles
    line += f" {timing.speedup:8.2f}x   {f'{lower:.2f}-{upper:.2f}':14}"
    if timing.target is not None:
        line += f" >={timing.target:g}x {_verdict(timing)}"
    return line.rstrip()


def _verdict(timing: Timing) -> str:
    return "met" if timing.met else "MISSED"


def as_json(run: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The run and its outcomes as plain values."""
    return {**run, "results": [asdict(outcome) for outcome in outcomes]}


def _gpu_name(settings: Settings) -> str | None:
    return torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """`git describe` of the sources, None outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
