"""Training of a discrete network, and of an integral one over random sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from ..conversion import IntegralModel
from ..training import adversarial_loss, sandwich_step, soft_cross_entropy
from .data import Split

__all__ = ["Schedule", "optimise", "train", "train_against_attacks", "train_over_sizes"]

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW, whose learning rate rises to its maximum and falls to zero (one cycle).

    Sources: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019; L. N. Smith, N. Topin,
    "Super-convergence: very fast training of neural networks using large learning rates", 2018.
    """

    epochs: int
    learning_rate: float
    batch: int = 64
    weight_decay: float = 0.0


def train(
    network: nn.Module, data: Split, loss: Loss, schedule: Schedule, generator: torch.Generator, *, title: str
) -> None:
    """Trains a discrete network with `loss(output, target)`; afterwards it is in eval mode."""

    def step(x: Tensor, y: Tensor) -> None:
        loss(network(x), y).backward()

    network.train()
    optimise(network, data, step, schedule, generator, title)
    network.eval()


def train_over_sizes(
    integral: IntegralModel,
    data: Split,
    loss: Loss,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    smallest: float,
    distil: bool,
    title: str,
) -> None:
    """Trains an integral network so that it works at all sizes from `smallest` to 1; afterwards it is at full size.

    Each step adds up the gradients at three sizes (the sandwich rule): full, smallest, and one between them at random.
    The supplement of "Integral Neural Networks", appendix C, trains with random sizes alone.

    Args:
        distil: for classifiers: below full size the targets are the class probabilities at full size (in-place
            distillation).
    """
    soft = soft_cross_entropy if distil else None

    def step(x: Tensor, y: Tensor) -> None:
        sandwich_step(
            integral, x, y, loss, distil=soft, smallest=smallest, num_random=1, multiple_of=1, generator=generator
        )

    integral.resize(1.0)
    optimise(integral, data, step, schedule, generator, title)


def train_against_attacks(
    integral: IntegralModel,
    data: Split,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    smallest: float,
    attack: Mapping[str, Any],
    title: str,
) -> None:
    """Trains an integral classifier under attack over random sizes from `smallest` to 1; afterwards it is at full size.

    Each step draws a size for each group, and attacks the network at these sizes with the arguments `attack` of `pgd`.
    """

    def step(x: Tensor, y: Tensor) -> None:
        integral.random_sizes(smallest, 1.0, multiple_of=1, generator=generator)
        adversarial_loss(integral, x, y, **attack).backward()

    optimise(integral, data, step, schedule, generator, title)
    integral.resize(1.0)


def optimise(
    model: nn.Module,
    data: Split,
    step: Callable[[Tensor, Tensor], None],
    schedule: Schedule,
    generator: torch.Generator,
    title: str,
) -> None:
    """Runs `step`, which adds gradients, and the optimiser on the batches of each epoch."""
    count = len(data.train_x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    total = schedule.epochs * -(-count // schedule.batch)
    scheduler = OneCycleLR(optimizer, schedule.learning_rate, total_steps=total, pct_start=0.1)
    for _ in tqdm(range(schedule.epochs), desc=title, unit="epoch"):
        for index in torch.randperm(count, generator=generator).to(data.train_x.device).split(schedule.batch):
            optimizer.zero_grad()
            step(data.train_x[index], data.train_y[index])
            optimizer.step()
            scheduler.step()
