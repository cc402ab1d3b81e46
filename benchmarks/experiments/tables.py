"""Markdown tables of runs: mean and standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from .runs import FRACTIONS, Run
from .tasks import Task

__all__ = ["of_variant", "table"]


def of_variant(runs: Iterable[Run], task: str, variant: str) -> list[Run]:
    """The runs of a variant."""
    return [run for run in runs if (run.task, run.variant) == (task, variant)]


def table(runs: Sequence[Run], task: Task, variants: Sequence[str]) -> str:
    """A row for each variant that has runs: its score at each fraction, and the training's cost.

    The cost is in trainings of the discrete network, beside which it comes.
    """
    lines = [_line("fraction of channels", *(f"{fraction:g}" for fraction in FRACTIONS), "cost", "seeds")]
    lines.append("|---" * (len(FRACTIONS) + 3) + "|")
    for variant in variants:
        chosen = of_variant(runs, task.name, variant)
        if chosen:
            columns = zip(*(run.scores for run in chosen), strict=True)
            scores = [_cell(column, task.decimals) for column in columns]
            cost = mean(run.seconds / run.discrete_seconds for run in chosen)
            lines.append(_line(variant, *scores, f"{cost:.1f}", str(len(chosen))))
    return "\n".join(lines)


def _cell(values: Sequence[float], decimals: int) -> str:
    spread = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{mean(values):.{decimals}f}{spread}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
