"""The two tasks: train a network, convert it, train the result over random sizes, and measure all at all sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy, mse_loss
from tqdm import tqdm

from ..conversion import convert
from ..nn import Sampling
from ..quadrature import Trapezoidal
from .data import Split
from .measure import Candidate, accuracy, at_all_sizes, fill_cost, psnr, robust_accuracy
from .networks import DigitsNet, SuperResolutionNet, seeded
from .report import Row
from .training import Schedule, train, train_against_attacks, train_over_sizes

__all__ = ["DEFAULT", "SUPPLEMENT", "DigitsSettings", "PhotosSettings", "Settings", "classify_digits", "sharpen_photos"]

# The conversion's default, and the layers of the supplement of "Integral Neural Networks" (listings 1 and 2).
DEFAULT = "antialiased a=-0.5 centered midpoint"
SUPPLEMENT = "a=-0.75 endpoints trapezoidal"
SAMPLINGS = {
    DEFAULT: Sampling(),
    SUPPLEMENT: Sampling(kind="endpoints", rule=Trapezoidal(), a=-0.75, padding="zeros", antialias=False),
}


@dataclass(frozen=True)
class DigitsSettings:
    """How large and how long.

    Attributes:
        channels: of each of the three convolutions.
        discrete, integral: training of the discrete network, and of the integral ones over random sizes.
        adversarial: further training of the default integral one, against attacks in the ball of radius `linf`.
        linf, l1, l2: radius of the ball of that norm around images in [0, 1].
        attack_steps, training_attack_steps: gradient steps of PGD, in the measurements and in training.
        timing_rounds: number of forward passes of which the median time is taken.
        timed_images: their batch.
    """

    channels: int = 64
    # Batch norm makes the scale of a weight irrelevant, so that a strong decay costs no accuracy. It wipes out what is
    # left of the random initial values, which is what makes channels with the same task look different.
    discrete: Schedule = field(default_factory=lambda: Schedule(epochs=15, learning_rate=3e-3, weight_decay=5.0))
    integral: Schedule = field(default_factory=lambda: Schedule(epochs=25, learning_rate=1e-2))
    adversarial: Schedule = field(default_factory=lambda: Schedule(epochs=16, learning_rate=1e-2))
    linf: float = 0.1
    l1: float = 1.0
    l2: float = 0.4
    attack_steps: int = 10
    training_attack_steps: int = 3
    timing_rounds: int = 15
    timed_images: int = 128

    @property
    def radii(self) -> dict[str, float]:
        """Norm -> radius."""
        return {"linf": self.linf, "l1": self.l1, "l2": self.l2}


@dataclass(frozen=True)
class PhotosSettings:
    """How large and how long.

    Attributes:
        features: channels of the first layer; the second one has half as many.
        discrete, integral: training of the discrete network, and of the integral one over random sizes.
        timing_rounds: number of forward passes on one photograph of which the median time is taken.
    """

    features: int = 64
    discrete: Schedule = field(default_factory=lambda: Schedule(epochs=20, learning_rate=1e-3, batch=8))
    integral: Schedule = field(default_factory=lambda: Schedule(epochs=12, learning_rate=1e-3, batch=8))
    timing_rounds: int = 7


@dataclass(frozen=True)
class Settings:
    """What is measured, and how large and how long.

    Attributes:
        fractions: of the channels, at which to measure, from 1 to the smallest size in training.
        digits, photos: of the two tasks.
    """

    fractions: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)
    digits: DigitsSettings = field(default_factory=DigitsSettings)
    photos: PhotosSettings = field(default_factory=PhotosSettings)


def classify_digits(data: Split, fractions: tuple[float, ...], settings: DigitsSettings, seed: int) -> list[Candidate]:
    """Classification of handwritten digits: clean and robust accuracy at each fraction of the channels.

    The last fraction is the smallest size in training.
    """
    device, generator = data.train_x.device, torch.Generator().manual_seed(seed)
    network = seeded(lambda: DigitsNet(settings.channels), seed).to(device)
    train(network, data, cross_entropy, settings.discrete, generator, title="digits: discrete")
    candidates, trained = [Candidate(Row("digits", "discrete", None, 1.0), network)], {}
    for name, sampling in SAMPLINGS.items():
        integral = convert(network, data.test_x[:4], sampling=sampling, progress=False)
        candidates += at_all_sizes("digits", f"{name}, converted", integral, fractions)
        train_over_sizes(
            integral,
            data,
            cross_entropy,
            settings.integral,
            generator,
            smallest=fractions[-1],
            distil=True,
            title=f"digits: {name}",
        )
        candidates += at_all_sizes("digits", f"{name}, trained", integral, fractions)
        trained[name] = integral

    attack = torch.Generator(device).manual_seed(seed)
    train_against_attacks(
        trained[DEFAULT],
        data,
        settings.adversarial,
        generator,
        smallest=fractions[-1],
        attack={"norm": "linf", "eps": settings.linf, "steps": settings.training_attack_steps, "generator": attack},
        title="digits: against attacks",
    )
    candidates += at_all_sizes(
        "digits", f"{DEFAULT}, adversarial", trained[DEFAULT], fractions, model="integral-adversarial"
    )

    x, y = data.test_x, data.test_y
    for row, candidate in tqdm(candidates, desc="digits: clean and robust accuracy", unit="network"):
        row.clean = accuracy(candidate, x, y)
        for norm, eps in settings.radii.items():
            attack.manual_seed(seed)
            robust = robust_accuracy(candidate, x, y, norm=norm, eps=eps, steps=settings.attack_steps, generator=attack)
            setattr(row, norm, robust)
    fill_cost(candidates, x[: settings.timed_images], rounds=settings.timing_rounds, title="digits: time")
    return candidates


def sharpen_photos(data: Split, fractions: tuple[float, ...], settings: PhotosSettings, seed: int) -> list[Candidate]:
    """Super-resolution of photographs: PSNR at each fraction of the channels.

    The last fraction is the smallest size in training.
    """
    generator = torch.Generator().manual_seed(seed)
    network = seeded(lambda: SuperResolutionNet(settings.features), seed).to(data.train_x.device)
    train(network, data, mse_loss, settings.discrete, generator, title="photos: discrete")
    candidates = [Candidate(Row("photos", "discrete", None, 1.0), network)]
    integral = convert(network, data.test_x[:1, :, :16, :16], sampling=SAMPLINGS[DEFAULT], progress=False)
    candidates += at_all_sizes("photos", f"{DEFAULT}, converted", integral, fractions)
    train_over_sizes(
        integral,
        data,
        mse_loss,
        settings.integral,
        generator,
        smallest=fractions[-1],
        distil=False,
        title=f"photos: {DEFAULT}",
    )
    candidates += at_all_sizes("photos", f"{DEFAULT}, trained", integral, fractions)

    for row, candidate in candidates:
        with torch.no_grad():
            row.psnr = psnr(candidate(data.test_x), data.test_y)
    fill_cost(candidates, data.test_x[:1], rounds=settings.timing_rounds, title="photos: time")
    return candidates
