"""The plots, as PNG files: means over the seeds, and bands from the worst to the best of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from integralrob import IntegralModel

from .runs import FRACTIONS, Run
from .tables import of_variant
from .tasks import TASKS, Conversion, Lab, Task
from .variants import CHANGES_OF_CONVERSION, STUDIES, variants_of

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
    figure = Figure(figsize=(5.5 * len(tasks), 6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)
    for axis, task in zip(panels.flat, tasks, strict=True):
        _panel(axis, runs, task, {name: name for name in STUDIES["pruning"]})
        axis.set(title=task.name, ylabel=task.measure)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("Quality against size, without fine-tuning after the resize")
    _save(figure, path)


def _conversions(path: Path, runs: Sequence[Run], task: Task) -> None:
    """The studies of the conversion: converted only in the upper row, trained over sizes in the lower one."""
    studies = [study for study in CHANGES_OF_CONVERSION if _present(runs, task, study)]
    if not studies:
        return
    figure = Figure(figsize=(3.6 * len(studies), 7), layout="constrained")
    grid = figure.subplots(2, len(studies), sharey="row", squeeze=False)
    for row, kind in zip(grid, ("converted", "trained"), strict=True):
        for axis, study in zip(row, studies, strict=True):
            names = [name for name in variants_of(study, task) if name.startswith(kind)]
            labels = {name: "as by default" if name == kind else name.removeprefix(f"{kind}, ") for name in names}
            _panel(axis, runs, task, labels)
            axis.set_title(f"{study}: {kind}")
            axis.legend(loc="lower left")
        row[0].set_ylabel(task.measure)
    _save(figure, path)


def _present(runs: Sequence[Run], task: Task, study: str) -> bool:
    """Whether there are runs that differ from the base, both converted and trained."""
    changed = [name for name in variants_of(study, task) if of_variant(runs, task.name, name) and "," in name]
    return all(any(name.startswith(kind) for name in changed) for kind in ("converted", "trained"))


def _panel(axis: Any, runs: Sequence[Run], task: Task, labels: Mapping[str, str]) -> None:
    """A curve for each variant that there are runs of, and a line at the discrete network's score."""
    percent = [100 * fraction for fraction in FRACTIONS]
    for i, (variant, label) in enumerate(labels.items()):
        scores = np.array([run.scores for run in of_variant(runs, task.name, variant)])
        if len(scores):
            axis.plot(percent, scores.mean(0), color=f"C{i}", marker="o", markersize=3, label=label)
            axis.fill_between(percent, scores.min(0), scores.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
    discrete = np.mean([run.discrete for run in runs if run.task == task.name])
    axis.axhline(discrete, color="0.4", linestyle="--", linewidth=1, label="discrete network, at full size")
    axis.set_xlabel("channels kept (%)")
    axis.invert_xaxis()
    axis.grid(alpha=0.3)


def _orders(path: Path, tasks: Sequence[Task]) -> None:
    """A weight of each task's trained network in the given order, and in that of the shortest path."""
    figure = Figure(figsize=(9, 3.7 * len(tasks)), layout="constrained")
    for row, task in zip(figure.subplots(len(tasks), 2, squeeze=False), tasks, strict=True):
        lab, layer = Lab(task, 0), SHOWN[task.name]
        for axis, (title, order) in zip(row, {"before": None, "after": "shortest_path"}.items(), strict=True):
            network = cast("IntegralModel", lab.integral(Conversion(order=order), None).network).discretize()
            weight = network.get_parameter(f"{layer}.weight").detach()
            values = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
            limit = values.abs().quantile(0.99).item()
            image = axis.imshow(
                values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto"
            )
            axis.set(title=f"{task.name}, {layer}: {title} ordering", xlabel="input channel", ylabel="output channel")
        figure.colorbar(image, ax=row, label="weight (centre of the kernel)")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """As a PNG with a palette, a third as large as one of all colours; thin lines keep theirs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
