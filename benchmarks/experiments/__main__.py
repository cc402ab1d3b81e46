"""python -m benchmarks.experiments [study ...] [--tasks digits photos] [--seeds 4] [--out build/experiments]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import plots
from .runs import load, make_missing
from .tables import table
from .tasks import TASKS
from .variants import STUDIES, variants_of


def main(arguments: Sequence[str]) -> int:
    """Makes the missing runs of the chosen studies, then prints their tables and draws all that there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="study", help=f"{', '.join(STUDIES)}; all if none")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="how many (%(default)s); 0 shows what there is")
    parser.add_argument("--first-seed", type=int, default=50, help="no setting was chosen on the default, %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/experiments"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = [study for study in options.studies if study not in STUDIES]
    if unknown:
        parser.error(f"study: expected {', '.join(STUDIES)}, got {unknown[0]!r}")
    torch.set_num_threads(1)  # more would change the sums; the layers are too small to gain from them
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    file = options.out / "runs.jsonl"
    studies = options.studies or list(STUDIES)
    tasks = [TASKS[name] for name in options.tasks]
    for task in tasks:
        variants = list(dict.fromkeys(name for study in studies for name in variants_of(study, task)))
        for run in make_missing(file, task, variants, seeds):
            print(f"{run.task}, seed {run.seed}, {run.variant}:", *run.scores, file=sys.stderr)

    runs = load(file)
    for task in tasks:
        for study in studies:
            if names := variants_of(study, task):
                print(f"\n{task.name}, {task.measure}: {study}\n\n{table(runs, task, names)}")
    plots.draw(options.out, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
