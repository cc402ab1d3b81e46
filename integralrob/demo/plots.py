"""The figures, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..attacks import pgd
from ..conversion import convert
from .data import Split
from .measure import Candidate, psnr
from .report import Row
from .tasks import DEFAULT, SUPPLEMENT

__all__ = ["plot_accuracy", "plot_adversarial_examples", "plot_photos", "plot_psnr", "plot_weight_maps"]

# Sampling of a row -> how its curve is labelled and drawn.
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{DEFAULT}, adversarial": ("antialiased, trained over random sizes under attack", {"color": "C3", "marker": "^"}),
    f"{DEFAULT}, trained": ("antialiased, trained over random sizes", {"color": "C0", "marker": "o"}),
    f"{SUPPLEMENT}, trained": ("supplement's sampling, trained likewise", {"color": "C1", "marker": "s"}),
    f"{DEFAULT}, converted": ("antialiased, converted only", {"color": "C0", "marker": "o", "ls": ":"}),
    f"{SUPPLEMENT}, converted": ("supplement's sampling, converted only", {"color": "C1", "marker": "s", "ls": ":"}),
}
# Norm -> how its ball is called.
BALLS = {"linf": r"$\ell_\infty$", "l1": r"$\ell_1$", "l2": r"$\ell_2$"}
DPI = 130


def find(candidates: Sequence[Candidate], sampling: str | None, fraction: float) -> Candidate:
    """The candidate of a sampling (None: the discrete network) at a fraction."""
    return next(c for c in candidates if c.row.sampling == sampling and c.row.fraction == fraction)


def plot_accuracy(path: Path, candidates: Sequence[Candidate], radii: Mapping[str, float]) -> None:
    """Clean and robust accuracy against size."""
    titles = {"clean": "Clean test images"}
    titles |= {norm: f"Under attack: PGD, {BALLS[norm]} ball of {eps:g}" for norm, eps in radii.items()}
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    rows = [candidate.row for candidate in candidates]
    for axis, (measure, title) in zip(axes.flat, titles.items(), strict=True):
        _curves(axis, rows, measure)
        axis.set(title=title, ylabel="accuracy (%)", ylim=(-2, 102))
        axis.label_outer()
    _legend(figure, axes[0, 0])
    figure.suptitle("Digits: one network, sampled at any size")
    figure.savefig(path, dpi=DPI)


def plot_psnr(path: Path, candidates: Sequence[Candidate], bicubic: float) -> None:
    """PSNR against size."""
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axis = figure.subplots()
    _curves(axis, [candidate.row for candidate in candidates], "psnr")
    axis.axhline(bicubic, color="C2", linestyle="-.", label="bicubic interpolation")
    axis.set(title="Photographs, enlarged twofold", ylabel="PSNR of held-out parts (dB)")
    _legend(figure, axis)
    figure.savefig(path, dpi=DPI)


def plot_weight_maps(path: Path, candidates: Sequence[Candidate], data: Split) -> None:
    """The central weights of the second convolution: before and after ordering, and trained over random sizes."""
    # Without ordering, but with the batch norms fused as in the others.
    unordered = convert(find(candidates, None, 1.0).network, data.test_x[:4], order=None, progress=False)
    panels = {
        "converted, not ordered": unordered.discretize(),
        "converted, ordered": find(candidates, f"{DEFAULT}, converted", 1.0).network,
        "trained over random sizes": find(candidates, f"{DEFAULT}, trained", 1.0).network,
    }
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axis, (title, network) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        weight = network.get_parameter("conv2.weight").detach().cpu()
        values = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
        limit = values.abs().quantile(0.99).item()
        image = axis.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set(title=f"{title}\nroughness {_roughness(weight):.2f}", xlabel="input channel", ylabel="output channel")
        figure.colorbar(image, ax=axis, shrink=0.8, label="weight")
    figure.suptitle(
        "Second convolution, centre of each 3×3 kernel (roughness: difference of neighbours / size of a weight)"
    )
    figure.savefig(path, dpi=DPI)


def _roughness(weight: Tensor) -> float:
    """Mean difference between weights of neighbouring channels, relative to the mean size of a weight."""
    steps = (weight.diff(dim=0).abs().mean() + weight.diff(dim=1).abs().mean()) / 2
    return (steps / weight.abs().mean()).item()


def plot_adversarial_examples(
    path: Path, candidates: Sequence[Candidate], data: Split, *, eps: float, steps: int, seed: int, count: int = 10
) -> None:
    """Test images, what an attack adds (ten times amplified), and the result, at the largest and smallest size."""
    x, y = data.test_x[:count], data.test_y[:count]
    smallest = min(candidate.row.fraction for candidate in candidates)
    figure = Figure(figsize=(1.05 * count + 1, 6.6), layout="constrained")
    grid = figure.subplots(5, count)
    _image_row(grid[0], x, "image", [str(label) for label in y.tolist()])
    for rows, fraction in ((grid[1:3], 1.0), (grid[3:5], smallest)):
        network = find(candidates, f"{DEFAULT}, trained", fraction).network
        generator = torch.Generator(x.device).manual_seed(seed)
        adversarial = pgd(network, x, y, eps=eps, steps=steps, generator=generator).adversarial
        with torch.no_grad():
            classes = network(adversarial).argmax(1)
        _image_row(rows[0], 10 * (adversarial - x), f"10 × δ\n{fraction:.0%} size", [""] * count, signed=True)
        marks = ["" if wrong else " ✓" for wrong in (classes != y).tolist()]
        titles = [f"→ {c}{mark}" for c, mark in zip(classes.tolist(), marks, strict=True)]
        _image_row(rows[1], adversarial, f"attacked\n{fraction:.0%} size", titles)
    figure.suptitle(
        f"Adversarial examples, $\\ell_\\infty$ ball of {eps:g}. Red: brighter, blue: darker. ✓: class still right"
    )
    figure.savefig(path, dpi=DPI)


@torch.no_grad()
def plot_photos(path: Path, candidates: Sequence[Candidate], data: Split, size: int = 96) -> None:
    """A part of each held-out image: interpolated, restored by networks of different sizes, and the original."""
    restored = {
        "bicubic": data.test_x,
        "discrete network": find(candidates, None, 1.0).network(data.test_x),
        **{
            f"integral, {fraction:.0%}": find(candidates, f"{DEFAULT}, trained", fraction).network(data.test_x)
            for fraction in _full_half_smallest(candidates)
        },
        "original": data.test_y,
    }
    figure = Figure(figsize=(2.4 * len(restored), 5.4), layout="constrained")
    grid = figure.subplots(len(data.test_y), len(restored))
    for k, axes in enumerate(grid):
        top, left = _most_detailed(data.test_y[k, 0], size)
        for axis, (title, images) in zip(axes, restored.items(), strict=True):
            part = images[k, 0, top : top + size, left : left + size]
            axis.imshow(part.cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            decibels = "" if images is data.test_y else f"\n{psnr(images[k], data.test_y[k]):.2f} dB"
            axis.set_title(title + decibels, fontsize=10)
    figure.suptitle("Enlarged twofold: parts of the held-out images, PSNR of the whole held-out image")
    figure.savefig(path, dpi=DPI)


def _full_half_smallest(candidates: Sequence[Candidate]) -> list[float]:
    fractions = sorted({candidate.row.fraction for candidate in candidates}, reverse=True)
    return [fraction for fraction in fractions if fraction in (1.0, 0.5, fractions[-1])]


def _most_detailed(image: Tensor, size: int) -> tuple[int, int]:
    """Top and left of the square with the strongest differences between neighbouring pixels, on a coarse grid."""
    detail = (image.diff(dim=0)[:, 1:] ** 2 + image.diff(dim=1)[1:] ** 2).unfold(0, size, 8).unfold(1, size, 8)
    sums = detail.sum((2, 3))
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return 8 * row, 8 * column


def _curves(axis: Any, rows: Sequence[Row], measure: str) -> None:
    """A curve for each sampling in `rows`, and a line at the discrete network's value."""
    for sampling, (label, style) in CURVES.items():
        points = [(100 * row.fraction, getattr(row, measure)) for row in rows if row.sampling == sampling]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, markersize=4, **style)
    discrete = next(row for row in rows if row.model == "discrete")
    axis.axhline(getattr(discrete, measure), color="0.4", linestyle="--", linewidth=1, label="discrete network")
    axis.set_xlabel("channels kept (%)")
    axis.invert_xaxis()
    axis.grid(alpha=0.3)


def _legend(figure: Figure, axis: Any) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def _image_row(axes: Sequence[Any], images: Tensor, label: str, titles: Sequence[str], *, signed: bool = False) -> None:
    """A row of images within [0, 1], or within [-1, 1] in red and blue."""
    colours = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1} if signed else {"cmap": "gray", "vmin": 0, "vmax": 1}
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(image[0].cpu().numpy(), **colours)
        axis.set_title(title, fontsize=10)
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
