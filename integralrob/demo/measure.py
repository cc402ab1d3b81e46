"""What is measured of a network: accuracy, robust accuracy, PSNR, parameters and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from ..attacks import pgd
from ..conversion import IntegralModel
from .report import Row

__all__ = ["Candidate", "accuracy", "at_all_sizes", "fill_cost", "psnr", "robust_accuracy"]


class Candidate(NamedTuple):
    """A discrete network, and the row of the table for what is measured of it."""

    row: Row
    network: nn.Module


def at_all_sizes(
    task: str, sampling: str, integral: IntegralModel, fractions: Sequence[float], *, model: str = "integral"
) -> list[Candidate]:
    """The discretised network at each fraction of the channels; the integral network is at the last one afterwards."""
    candidates = []
    for fraction in fractions:
        integral.resize(fraction)
        candidates.append(Candidate(Row(task, model, sampling, fraction), integral.discretize()))
    return candidates


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of samples whose class is right."""
    return 100 * int((network(x).argmax(1) == y).sum()) / len(y)


def robust_accuracy(
    network: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, steps: int, generator: torch.Generator
) -> float:
    """Percentage of samples that keep their class under PGD in the ball of a norm."""
    result = pgd(network, x, y, norm=norm, eps=eps, steps=steps, generator=generator)
    return 100 * int((~result.success).sum()) / len(y)


def psnr(restored: Tensor, sharp: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]: -10 log10 of the mean squared error."""
    return -10 * mse_loss(restored.clamp(0, 1).cpu().double(), sharp.cpu().double()).log10().item()


@torch.no_grad()
def fill_cost(candidates: Sequence[Candidate], x: Tensor, *, rounds: int, title: str) -> None:
    """Fills in the number of parameters and the median time of a forward pass on `x`.

    All networks take turns, so that a busy moment of the machine meets them alike.
    """
    times: list[list[float]] = [[] for _ in candidates]
    for row, network in candidates:
        row.parameters = sum(parameter.numel() for parameter in network.parameters())
        network(x)
    for _ in tqdm(range(rounds), desc=title, unit="round"):
        for (_, network), taken in zip(candidates, times, strict=True):
            _wait(x.device)
            start = time.perf_counter()
            network(x)
            _wait(x.device)
            taken.append(1e3 * (time.perf_counter() - start))
    for (row, _), taken in zip(candidates, times, strict=True):
        row.milliseconds = median(taken)


def _wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
