"""What an attack is asked to solve: the greatest gain of each sample over ball ∩ box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import check_bool, check_choice
from ..ops._arguments import Bounds, check_bounds
from ..ops._dtypes import arithmetic_dtype
from ._arguments import (
    check_dependence,
    check_finite_per_sample,
    check_logits,
    check_losses,
    check_model,
    check_samples,
    normalisation,
)
from ._rows import Rows
from .balls import BALLS, Ball, PerSample
from .losses import Loss, LossFunction, resolve_loss


@dataclass(frozen=True)
class Problem(Rows):
    """The gain is the score of a loss for labels `y`, negated when `y` are targets.

    With a `target`, the class to go to from the label `y`, another score is climbed to raise the gain; a search with
    several `targets` sets it for each run.
    """

    model: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    loss: Loss
    targeted: bool
    ball: Ball
    bounds: Bounds
    x: Tensor
    y: Tensor
    eps: PerSample
    target: Tensor | None = None
    targets: int = 0  # how many others there will be

    @classmethod
    def checked(
        cls,
        model: Any,
        x: Any,
        y: Any,
        *,
        norm: str,
        eps: Any,
        loss: str | LossFunction,
        targeted: bool,
        bounds: Any,
        mean: Any,
        std: Any,
    ) -> Problem:
        """A problem from the arguments that all attacks have in common."""
        ball = BALLS[check_choice("norm", norm, BALLS)]
        check_model(model)
        targeted = check_bool("targeted", targeted)
        bounds = check_bounds(bounds)
        x, y = check_samples(x, y, bounds)
        eps = check_finite_per_sample("eps", eps, x)
        return cls(model, normalisation(mean, std, x), resolve_loss(loss), targeted, ball, bounds, x, y, eps)

    def logits(self, x_adv: Tensor) -> Tensor:
        """``[B, K]``. The model gets a copy, which it may write to, and not a leaf, which it may not."""
        return self.model(self.normalise(x_adv))

    def evaluate(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Gain ``[B]`` and success, bool ``[B]``."""
        with torch.no_grad():
            return self._judge(self.logits(x_adv))

    def climb(self, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The height ``[B]``, which is the gain unless the problem has a target, its gradient, gain and success."""
        leaf = x_adv.detach().requires_grad_()
        logits = self.logits(leaf)
        gain, success = self._judge(logits)
        height = gain if self.target is None else self.loss.between(logits, self.y, self.target)
        (grad,) = torch.autograd.grad(height.sum(), leaf)
        return height.detach(), grad, gain.detach(), success

    def check_at_start(self, differentiable: bool) -> tuple[Tensor, Tensor]:
        """Gain and success at `x`, after a check of what the model and the loss give, which waits for the device."""
        leaf = self.x.detach().requires_grad_(differentiable)
        with torch.set_grad_enabled(differentiable):
            logits = self.logits(leaf)
            check_logits(logits, self.y, differentiable)
            self._check_classes(logits.shape[1])
            score = self._score(logits)
            check_losses(score, self.y, differentiable)
            if differentiable:
                check_dependence(score, logits, leaf)
            gain, success = self._judge(logits)
        return gain.detach(), success

    def _check_classes(self, classes: int) -> None:
        least = self.loss.targeted_classes if self.targeted or self.targets else self.loss.classes
        if classes < least:
            raise ValueError(f"loss: expected one for {classes} classes, got one that needs {least}")
        if self.targets >= classes:
            raise ValueError(f"targets: expected at most {classes - 1}, the other classes, got {self.targets}")

    def step(self, x_adv: Tensor, grad: Tensor, step_size: PerSample, **options: Any) -> Tensor:
        """A step of the ball from `x_adv`."""
        return self.ball.step(x_adv, grad, self.x, self.eps, step_size, bounds=self.bounds, **options)

    def project(self, delta: Tensor) -> Tensor:
        """The point of ball ∩ box that is nearest to ``x + delta``."""
        return self.ball.project(delta.to(arithmetic_dtype(self.x.dtype)), self.x, self.eps, self.bounds)

    def value(self, gain: Tensor) -> Tensor:
        """The losses ``[...]`` of gains ``[...]``."""
        return self.loss.value(-gain if self.targeted else gain)

    def _score(self, logits: Tensor) -> Tensor:
        score = self.loss.targeted if self.targeted and self.loss.targeted else self.loss.score
        return score(logits, self.y)

    def _judge(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        score = self._score(logits)
        hit = logits.argmax(1) == self.y
        # argmax takes NaN for the largest logit: no success is claimed from that
        success = (hit if self.targeted else ~hit) & ~(score.isnan() | logits.isnan().any(1))
        gain = score.to(arithmetic_dtype(score.dtype))
        return (-gain if self.targeted else gain), success
