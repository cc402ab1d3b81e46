"""The tasks, which are the demo's, and the trained networks that the variants of one task and seed start from."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from integralrob import IntegralModel, convert
from integralrob.conversion.ordering import Distance, Permutation
from integralrob.demo.data import Split, digit_images, photo_patches
from integralrob.demo.measure import accuracy, psnr
from integralrob.demo.networks import DigitsNet, SuperResolutionNet, seeded
from integralrob.demo.tasks import DigitsSettings, PhotosSettings
from integralrob.demo.training import Loss, Schedule, optimise, train
from integralrob.nn import Sampling
from integralrob.training import sandwich_step, soft_cross_entropy

__all__ = ["SMALLEST", "TASKS", "Conversion", "Lab", "Task", "Trained", "Training"]

SMALLEST = 0.25  # fraction of the channels, in training and in the tables


@dataclass(frozen=True)
class Task:
    """A data set, a network, and how they are trained and scored.

    Attributes:
        name: "digits" or "photos".
        data, network: make the images, and an untrained network.
        loss: of outputs and targets.
        distil: the loss of outputs and those at full size.
        score: of a discrete network on the test images.
        measure: what the score is, with its unit.
        decimals: of the score.
        has_norms: whether the network has batch norms.
        discrete, over_sizes: schedules of the two trainings.
    """

    name: str
    data: Callable[[], Split]
    network: Callable[[], nn.Module]
    loss: Loss
    distil: Loss
    score: Callable[[nn.Module, Split], float]
    measure: str
    decimals: int
    has_norms: bool
    discrete: Schedule
    over_sizes: Schedule


@torch.no_grad()
def _test_psnr(network: nn.Module, data: Split) -> float:
    return psnr(network(data.test_x), data.test_y)


TASKS = {
    task.name: task
    for task in (
        Task(
            name="digits",
            data=digit_images,
            network=DigitsNet,
            loss=cross_entropy,
            distil=soft_cross_entropy,
            score=lambda network, data: accuracy(network, data.test_x, data.test_y),
            measure="accuracy in %",
            decimals=1,
            has_norms=True,
            discrete=DigitsSettings().discrete,
            over_sizes=DigitsSettings().integral,
        ),
        Task(
            name="photos",
            data=photo_patches,
            network=SuperResolutionNet,
            loss=mse_loss,
            distil=mse_loss,
            score=_test_psnr,
            measure="PSNR in dB",
            decimals=2,
            has_norms=False,
            # Half as long as in the demo.
            discrete=replace(PhotosSettings().discrete, epochs=10),
            over_sizes=replace(PhotosSettings().integral, epochs=6),
        ),
    )
}


@dataclass(frozen=True)
class Conversion:
    """Arguments of `integralrob.convert`; `order` is also None, for the given order, or "random"."""

    order: str | None = "shortest_path"
    sampling: Sampling = field(default_factory=Sampling)
    fuse_bn: bool = True


@dataclass(frozen=True)
class Training:
    """Training of an integral network.

    Attributes:
        sizes: of each step. "full"; "random", one from `SMALLEST` to 1; or "sandwich", full, smallest and a random one.
        distil: whether the smaller sizes of a sandwich learn from full size.
        length: how many times as many epochs as in the task's schedule.
        rate: how many times its learning rate.
    """

    sizes: str = "sandwich"
    distil: bool = False
    length: int = 1
    rate: float = 1


class Trained(NamedTuple):
    """A network, and the seconds of the processor that its training took."""

    network: nn.Module
    seconds: float


class Lab:
    """What the variants of one task and seed start from. Each network is trained once; users leave it as it is."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed, self.data = task, seed, task.data()
        self._made: dict[Hashable, Trained] = {}

    def discrete(self, *, as_long: bool = False) -> Trained:
        """The discrete network; if asked for, trained with as many passes as are spent on an integral one in all."""
        schedule = self.task.discrete
        if as_long:
            schedule = replace(schedule, epochs=schedule.epochs + 3 * self.task.over_sizes.epochs)

        def make() -> nn.Module:
            network = seeded(self.task.network, self.seed)
            train(network, self.data, self.task.loss, schedule, self._generator(), title="discrete")
            return network

        return self._once(schedule, make)

    def integral(self, conversion: Conversion, training: Training | None) -> Trained:
        """The network converted, and trained over sizes if asked for: an `IntegralModel` in evaluation mode."""

        def make() -> nn.Module:
            integral = convert(
                self.discrete().network,
                self.data.test_x[:1, :, :16, :16],
                order=self._random_order if conversion.order == "random" else conversion.order,
                sampling=conversion.sampling,
                fuse_bn=conversion.fuse_bn,
                progress=False,
            )
            if training is not None:
                self._train_over_sizes(integral, training)
            return integral

        return self._once((conversion, training), make)

    def _train_over_sizes(self, integral: IntegralModel, training: Training) -> None:
        loss, schedule, generator = self.task.loss, self.task.over_sizes, self._generator()
        schedule = replace(
            schedule,
            epochs=training.length * schedule.epochs,
            learning_rate=training.rate * schedule.learning_rate,
        )

        def sandwich(x: Tensor, y: Tensor) -> None:
            distil = self.task.distil if training.distil else None
            sandwich_step(
                integral,
                *(x, y, loss),
                distil=distil,
                smallest=SMALLEST,
                num_random=1,
                multiple_of=1,
                generator=generator,
            )

        def one_size(x: Tensor, y: Tensor) -> None:
            if training.sizes == "random":
                integral.random_sizes(SMALLEST, 1.0, multiple_of=1, generator=generator)
            loss(integral(x), y).backward()

        step = sandwich if training.sizes == "sandwich" else one_size
        integral.train()
        optimise(integral, self.data, step, schedule, generator, title="over sizes")
        integral.resize(1.0)
        integral.eval()

    def _once(self, key: Hashable, make: Callable[[], nn.Module]) -> Trained:
        if key not in self._made:
            begin = time.process_time()
            self._made[key] = Trained(make(), time.process_time() - begin)
        return self._made[key]

    def _generator(self) -> torch.Generator:
        """The same numbers for each training, whatever was trained before."""
        return torch.Generator().manual_seed(self.seed)

    def _random_order(self, distance: Distance) -> Permutation:
        return np.random.default_rng(self.seed).permutation(len(distance))
