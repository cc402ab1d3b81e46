"""python -m benchmarks [--quick] [--cold] [--compile] [--seconds S] [--json FILE] [names ...]"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import balls, perturbations, projection, report, sampling
from benchmarks.harness import Harness, Outcome, Settings

FAMILIES = (sampling, projection, balls, perturbations)


def main(arguments: Sequence[str]) -> int:
    """Runs the chosen cases. The exit status is 1 if one failed its equality gate; missed targets are only printed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times the ops beside what people use today: equality gate, interleaved rounds, medians of ratios.",
    )
    parser.add_argument("names", nargs="*", help="parts of case names, e.g. 'linf_step ' or 64x64; all cases if none")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does everything run?")
    parser.add_argument("--seconds", type=float, default=None, help="time budget of a case (5, with --quick 0)")
    parser.add_argument("--cold", action="store_true", help="empty the caches before every call")
    parser.add_argument("--compile", action="store_true", help="include torch.compile of the peers, slow to start")
    parser.add_argument("--device", type=torch.device, default="cpu", help="torch device (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write versions, machine and results there")
    options = parser.parse_args(arguments)
    seconds = options.seconds if options.seconds is not None else (0.0 if options.quick else 5.0)
    min_rounds = 2 if options.quick else 7

    cases = [case for family in FAMILIES for case in family.cases(options.quick, options.device.type)]
    chosen = [case for case in cases if not options.names or any(name in case.name for name in options.names)]
    if not chosen:
        parser.error("names: no case matches; there are\n  " + "\n  ".join(case.name for case in cases))

    settings = Settings(options.device, seconds, min_rounds, options.cold, options.compile, targets=not options.quick)
    try:
        harness = Harness(settings)
    except ValueError as error:
        parser.error(str(error))
    run = report.environment(settings, harness.copy_bandwidth, arguments)
    print(report.heading(run), flush=True)
    outcomes: list[Outcome] = []
    for case in chosen:
        try:
            outcomes.append(harness.measure(case))
        except RuntimeError as error:  # the results of the others are not to be lost
            outcomes.append(Outcome(case.name, moved_bytes=0, tolerance=0, error=f"raised {error}"))
        print(report.table(outcomes[-1]), flush=True)
        if options.json is not None:  # after each case: a run that is stopped keeps what it has
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report.as_json(run, outcomes), indent=1) + "\n")

    failed = [outcome.case for outcome in outcomes if outcome.error is not None]
    verdicts = [timing.met for outcome in outcomes for timing in outcome.timings if timing.met is not None]
    if verdicts:
        print(f"\n{sum(verdicts)} of {len(verdicts)} targets met")
    if failed:
        print("FAILED the equality gate: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
