"""What an attack maximises, and the best that it has found."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops._dtypes import arithmetic_dtype
from ._arguments import check_dependence, check_logits, check_losses
from .losses import Loss


class Objective:
    """The gain of samples ``x_adv [B, ...]``: the score of a loss for labels `y`, negated when `y` are targets."""

    def __init__(self, model: Callable[[Tensor], Tensor], y: Tensor, loss: Loss, targeted: bool) -> None:
        self.model = model
        self.y = y
        self.loss = loss
        self.targeted = targeted

    def __call__(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Gain ``[B]``, differentiable, and success, bool ``[B]``."""
        logits = self.model(x_adv.clone())  # a copy that the model may write to, and not a leaf, which it may not
        return self._judge(logits, self.loss.score(logits, self.y))

    def checked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, detached, after a check of what the model and the loss give, which waits for the device."""
        leaf = x.detach().requires_grad_()
        logits = self.model(leaf.clone())
        check_logits(logits, self.y)
        score = self.loss.score(logits, self.y)
        check_losses(score, self.y)
        check_dependence(score, logits, leaf)
        gain, success = self._judge(logits, score)
        return gain.detach(), success

    def _judge(self, logits: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        hit = logits.argmax(1) == self.y
        # argmax takes NaN for the largest logit: no success is claimed from that
        success = (hit if self.targeted else ~hit) & ~score.isnan()
        gain = score.to(arithmetic_dtype(score.dtype))
        return (-gain if self.targeted else gain), success

    def losses(self, gain: Tensor) -> Tensor:
        """The losses ``[...]`` of gains ``[...]``."""
        return self.loss.value(-gain if self.targeted else gain)


class BestSoFar:
    """For each sample the strongest candidate: a success beats a failure, then the higher gain; NaN never wins."""

    def __init__(self, x: Tensor, gain: Tensor, success: Tensor) -> None:
        self.adversarial = x.clone()
        self.gain = gain
        self.success = success

    def update(self, x_adv: Tensor, gain: Tensor, success: Tensor) -> None:
        """Take the samples of ``x_adv [B, ...]`` that are stronger. Nothing here waits for the device."""
        higher = ~(gain <= self.gain) & ~gain.isnan()  # so written, any number beats a NaN
        stronger = torch.where(success == self.success, higher, success)
        rows = stronger.view(-1, *[1] * (x_adv.ndim - 1))
        torch.where(rows, x_adv, self.adversarial, out=self.adversarial)
        self.gain = torch.where(stronger, gain, self.gain)
        self.success = self.success | success
