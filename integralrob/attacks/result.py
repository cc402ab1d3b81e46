"""What every attack returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """The strongest adversarial sample that an attack found for each of `B` samples, and how the search went.

    All tensors are detached and on the device of the samples. Losses are float32, or float64 of float64 logits.

    Attributes:
        adversarial: ``[B, ...]``, shape and dtype of the attacked samples, contiguous; inside the ball and the bounds,
            to the rounding of its dtype.
        success: bool ``[B]``; the model's class for `adversarial` is the target (targeted), or is not the label
            (untargeted). False where a logit or the loss is NaN.
        loss: ``[B]``, loss of `adversarial` with respect to the given `y`: high is a strong untargeted attack, low a
            strong targeted one.
        norm: ``[B]``, size of ``adversarial - x`` in the attack's norm.
        trace: ``[runs, points, B]``, the loss at every iterate: the start of each run, then after each step. NaN where
            a sample was let go because it was a success.
    """

    adversarial: Tensor
    success: Tensor
    loss: Tensor
    norm: Tensor
    trace: Tensor
