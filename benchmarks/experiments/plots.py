"""The plots, as PNG files: means over the seeds, and bands from the worst to the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from integralrob import IntegralModel

from .runs import FRACTIONS, Run
from .tables import of_variant
from .tasks import TASKS, Conversion, Lab, Task
from .variants import CHANGES_OF_CONVERSION, variants_of

__all__ = ["draw"]

DPI = 100
# The layer whose weight is shown before and after ordering.
SHOWN = {"digits": "conv2", "photos": "map"}


def draw(folder: Path, runs: Sequence[Run]) -> None:
    """Draws what there are runs of."""
    tasks = [task for name, task in TASKS.items() if any(run.task == name for run in runs)]
    _against_pruning(folder / "experiments.png", runs, tasks)
    for task in tasks:
        _conversions(folder / f"experiments-{task.name}.png", runs, task)
    _orders(folder / "experiments-order.png", tasks)


def _against_pruning(path: Path, runs: Sequence[Run], tasks: Sequence[Task]) -> None:
    """The study of pruning, a panel for each task."""
    figure = Figure(figsize=(5.5 * len(tasks), 5), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
        _panel(axis, runs, task, variants_of("pruning", task))
        axis.set(title=task.name, ylabel=task.measure)
    figure.suptitle("Quality against size, without fine-tuning after the resize")
    figure.savefig(path, dpi=DPI)


def _conversions(path: Path, runs: Sequence[Run], task: Task) -> None:
    """The studies of the conversion: converted only in the upper row, trained over sizes in the lower one."""
    studies = [study for study in CHANGES_OF_CONVERSION if _present(runs, task, study)]
    if not studies:
        return
    figure = Figure(figsize=(4 * len(studies), 7.5), layout="constrained")
    grid = figure.subplots(2, len(studies), sharey="row", squeeze=False)
    for row, kind in zip(grid, ("converted", "trained"), strict=True):
        for axis, study in zip(row, studies, strict=True):
            _panel(axis, runs, task, [name for name in variants_of(study, task) if name.startswith(kind)])
            axis.set_title(f"{study}: {kind}")
        row[0].set_ylabel(task.measure)
    figure.savefig(path, dpi=DPI)


def _present(runs: Sequence[Run], task: Task, study: str) -> bool:
    """Whether all of a study has been run."""
    names = variants_of(study, task)
    return bool(names) and all(of_variant(runs, task.name, name) for name in names)


def _panel(axis: Any, runs: Sequence[Run], task: Task, variants: Sequence[str]) -> None:
    """A curve for each variant, and a line at the discrete network's score."""
    percent = [100 * fraction for fraction in FRACTIONS]
    for i, variant in enumerate(variants):
        scores = np.array([run.scores for run in of_variant(runs, task.name, variant)])
        if len(scores):
            axis.plot(percent, scores.mean(0), color=f"C{i}", marker="o", markersize=3, label=variant)
            axis.fill_between(percent, scores.min(0), scores.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
    discrete = np.mean([run.discrete for run in runs if run.task == task.name])
    axis.axhline(discrete, color="0.4", linestyle="--", linewidth=1, label="discrete network, at full size")
    axis.set_xlabel("channels kept (%)")
    axis.invert_xaxis()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="lower left")


def _orders(path: Path, tasks: Sequence[Task]) -> None:
    """A weight of each task's trained network in the given order, and in that of the shortest path."""
    figure = Figure(figsize=(9, 4 * len(tasks)), layout="constrained")
    for row, task in zip(figure.subplots(len(tasks), 2, squeeze=False), tasks, strict=True):
        lab, layer = Lab(task, 0), SHOWN[task.name]
        for axis, (title, order) in zip(row, {"before": None, "after": "shortest_path"}.items(), strict=True):
            network = cast("IntegralModel", lab.integral(Conversion(order=order), None).network).discretize()
            weight = network.get_parameter(f"{layer}.weight").detach()
            values = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
            limit = values.abs().quantile(0.99).item()
            image = axis.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set(title=f"{task.name}, {layer}: {title} ordering", xlabel="input channel", ylabel="output channel")
        figure.colorbar(image, ax=row, label="weight (centre of the kernel)")
    figure.savefig(path, dpi=DPI)
