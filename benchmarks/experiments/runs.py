"""Runs of variants, kept as JSON lines, so that none is made twice."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .tasks import Lab, Task
from .variants import VARIANTS

__all__ = ["FRACTIONS", "Run", "load", "make_missing"]

FRACTIONS = (1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25)


@dataclass(frozen=True)
class Run:
    """What came of one variant with one seed.

    Attributes:
        task, variant, seed: which.
        discrete: score of the discrete network that it was made from.
        scores: at each of `FRACTIONS`.
        seconds: of the processor, for the training of what was resized; 0 if that is the discrete network.
        discrete_seconds: for training the discrete network.
    """

    task: str
    variant: str
    seed: int
    discrete: float
    scores: tuple[float, ...]
    seconds: float
    discrete_seconds: float


def load(file: Path) -> list[Run]:
    """The runs in a file; none if it is not there."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [Run(**{**line, "scores": tuple(line["scores"])}) for line in lines]


def make_missing(file: Path, task: Task, variants: Collection[str], seeds: Sequence[int]) -> Iterator[Run]:
    """Makes the runs that are not in the file, adds each to it as it ends, and yields it."""
    done = {(run.variant, run.seed) for run in load(file) if run.task == task.name}
    for seed in seeds:
        missing = [variant for variant in variants if (variant, seed) not in done]
        if not missing:
            continue
        lab = Lab(task, seed)
        for variant in missing:
            run = _make(lab, variant)
            with file.open("a") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            yield run


def _make(lab: Lab, variant: str) -> Run:
    network, discrete_seconds = lab.discrete()
    scores, seconds = VARIANTS[variant].run(lab, FRACTIONS)
    rounded = tuple(round(score, 4) for score in scores)
    discrete = round(lab.task.score(network, lab.data), 4)
    return Run(lab.task.name, variant, lab.seed, discrete, rounded, round(seconds, 2), round(discrete_seconds, 2))
