"""The variants, and the studies: each lists the variants that differ from a base in one choice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import torch_pruning
from torch import nn

from integralrob import IntegralModel
from integralrob.nn import Sampling
from integralrob.quadrature import LeftRiemann, Trapezoidal
from integralrob.training import recalibrate_batch_norms_

from .tasks import Conversion, Lab, Task, Training

__all__ = ["CHANGES_OF_CONVERSION", "STUDIES", "VARIANTS", "Variant", "variants_of"]


class Variant(Protocol):
    """What is done with a trained discrete network to have it at smaller sizes."""

    @property
    def needs_norms(self) -> bool:
        """Whether it differs from others only where there are batch norms."""
        ...

    def run(self, lab: Lab, fractions: Sequence[float]) -> tuple[list[float], float]:
        """Its score at each fraction of the channels, and the seconds that training it took."""
        ...


# Of tuning a partition. The supplement has 1,000 steps at a rate of 1e-4, which moves the points little.
TUNING_STEPS, TUNING_RATE = 50, 1e-2


@dataclass(frozen=True)
class Integral:
    """Converted, trained over sizes, and resized; then the partitions are tuned, and batch norms recalibrated."""

    conversion: Conversion = field(default_factory=Conversion)
    training: Training | None = None
    recalibrate: bool = False
    tune: bool = False

    @property
    def needs_norms(self) -> bool:
        return self.recalibrate or not self.conversion.fuse_bn

    def run(self, lab: Lab, fractions: Sequence[float]) -> tuple[list[float], float]:
        network, seconds = lab.integral(self.conversion, self.training)
        scores = []
        for fraction in fractions:
            integral = copy.deepcopy(cast("IntegralModel", network))
            integral.resize(fraction)
            if self.tune:
                batches = list(zip(lab.data.train_x.split(64), lab.data.train_y.split(64), strict=True))
                integral.tune_partition(
                    batches, lab.task.loss, iterations=TUNING_STEPS, learning_rate=TUNING_RATE, progress=False
                )
            scores.append(_score(lab, integral.discretize(), self.recalibrate))
        return scores, seconds


@dataclass(frozen=True)
class Pruned:
    """The discrete network without the channels whose weights are smallest (torch-pruning).

    The importance of a channel is the mean over the group's tensors of the Euclidean norm of what they hold for it,
    relative to the group's mean: torch-pruning's default.

    Attributes:
        as_long: the network is trained as long as the discrete and the integral network together.
    """

    as_long: bool = False
    recalibrate: bool = False

    @property
    def needs_norms(self) -> bool:
        return self.recalibrate

    def run(self, lab: Lab, fractions: Sequence[float]) -> tuple[list[float], float]:
        network, seconds = lab.discrete(as_long=self.as_long)
        return [_score(lab, self._pruned(network, fraction, lab), self.recalibrate) for fraction in fractions], seconds

    def _pruned(self, network: nn.Module, fraction: float, lab: Lab) -> nn.Module:
        pruned = copy.deepcopy(network)
        layers = [layer for layer in pruned.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        widths = {layer: layer.weight.shape[0] for layer in layers}
        torch_pruning.pruner.BasePruner(
            pruned,
            lab.data.test_x[:1, :, :16, :16],
            importance=torch_pruning.importance.GroupMagnitudeImportance(),
            # As many channels as an integral model has after `resize(fraction)`.
            pruning_ratio_dict={layer: 1 - max(2, round(fraction * width)) / width for layer, width in widths.items()},
            ignored_layers=layers[-1:],
        ).step()
        return pruned


def _score(lab: Lab, network: nn.Module, recalibrate: bool) -> float:
    if recalibrate:
        recalibrate_batch_norms_(network, lab.data.train_x.split(256))
    return lab.task.score(network, lab.data)


# --------------------------------------------------------------------------------------------------------- the variants

BASE = Sampling()
SUPPLEMENT = Sampling(kind="endpoints", rule=Trapezoidal(), a=-0.75, padding="zeros", antialias=False)
# What is changed -> the conversion.
CONVERSIONS = {
    "": Conversion(),
    "not ordered": Conversion(order=None),
    "random order": Conversion(order="random"),
    "2-opt": Conversion(order="two_opt"),
    "a = -0.75": Conversion(sampling=replace(BASE, a=-0.75)),
    "trapezoidal": Conversion(sampling=replace(BASE, rule=Trapezoidal(), kind="endpoints")),
    "left Riemann": Conversion(sampling=replace(BASE, rule=LeftRiemann())),
    "not antialiased": Conversion(sampling=replace(BASE, antialias=False)),
    "as in the supplement": Conversion(sampling=SUPPLEMENT),
}
SANDWICH = Training(distil=True)
# How it is trained -> over which sizes.
TRAININGS = {
    "at full size alone": Training("full"),
    "at random sizes alone": Training("random"),
    "at random sizes alone, three times as long": Training("random", length=3),
    "without distillation": Training(),
}
KEPT, UNFUSED = "batch norms kept", Conversion(fuse_bn=False)
SLOWER = replace(SANDWICH, rate=1 / 3)  # the full rate is too much for kept norms: docs/decisions.md


def _named(kind: str, change: str) -> str:
    return f"{kind}, {change}" if change else kind


VARIANTS: dict[str, Variant] = {
    **{_named("converted", change): Integral(conversion) for change, conversion in CONVERSIONS.items()},
    **{_named("trained", change): Integral(conversion, SANDWICH) for change, conversion in CONVERSIONS.items()},
    **{f"trained {how}": Integral(training=training) for how, training in TRAININGS.items()},
    f"converted, {KEPT}": Integral(UNFUSED),
    f"converted, {KEPT} and recalibrated": Integral(UNFUSED, recalibrate=True),
    f"trained, {KEPT}": Integral(UNFUSED, SLOWER),
    f"trained, {KEPT} and recalibrated": Integral(UNFUSED, SLOWER, recalibrate=True),
    "converted, partition tuned": Integral(tune=True),
    "trained, partition tuned": Integral(training=SANDWICH, tune=True),
    "pruned": Pruned(),
    "pruned and recalibrated": Pruned(recalibrate=True),
    "trained as long, pruned": Pruned(as_long=True),
    "trained as long, pruned and recalibrated": Pruned(as_long=True, recalibrate=True),
}


def _both(*changes: str) -> tuple[str, ...]:
    return tuple(_named(kind, change) for kind in ("converted", "trained") for change in ("", *changes))


# Studies of what `convert` does, and all studies -> their variants.
CHANGES_OF_CONVERSION: dict[str, tuple[str, ...]] = {
    "order": _both("not ordered", "random order", "2-opt"),
    "antialiasing": _both("not antialiased", "as in the supplement"),
    "kernel": _both("a = -0.75"),
    "quadrature": _both("trapezoidal", "left Riemann"),
    "batch norms": _both(KEPT, f"{KEPT} and recalibrated"),
    "partition": _both("partition tuned"),
}
STUDIES = {
    "pruning": (
        *("converted", f"converted, {KEPT} and recalibrated", "trained", f"trained, {KEPT} and recalibrated"),
        *("trained without distillation", "pruned", "pruned and recalibrated"),
        *("trained as long, pruned", "trained as long, pruned and recalibrated"),
    ),
    "training": ("converted", *(f"trained {how}" for how in TRAININGS), "trained"),
    **CHANGES_OF_CONVERSION,
}


def variants_of(study: str, task: Task) -> list[str]:
    """The variants of a study that make a difference for a task; none if only what they are compared with is left."""
    names = [name for name in STUDIES[study] if task.has_norms or not VARIANTS[name].needs_norms]
    return names if set(names) - {"converted", "trained"} else []
