"""The losses that an attack can climb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import check_choice, describe
from ..ops._dtypes import arithmetic_dtype

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """A per-sample loss, written as an increasing function of a score that is better behaved.

    A step that depends on no more than the direction of a sample's gradient is the same for the loss and for its score,
    so attacks climb the score and report the loss.

    Attributes:
        score: ``(logits [B, K], y [B]) -> [B]``.
        value: ``score [...] -> loss [...]``, elementwise and increasing.
    """

    score: LossFunction
    value: Callable[[Tensor], Tensor]


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""Log odds against class `y`: ``t = log Σ_{k≠y} exp(z_k) - z_y``, of logits ``z [B, K]`` and labels ``y [B]``.

    Cross entropy is ``softplus(t)``, and its gradient that of `t` times ``sigmoid(t) > 0``. A confident model has
    ``t ≪ 0``: there the softmax rounds to 0 and 1, the gradient of cross entropy loses its `z_y` part (in float32 from
    ``t = -17`` on) and then vanishes, while that of `t` keeps its size and direction.

    >>> log_odds(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
    tensor([-200.])
    """
    logits = logits.to(arithmetic_dtype(logits.dtype))
    index = y.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf).logsumexp(1)
    return others - logits.gather(1, index).squeeze(1)


def _softplus(score: Tensor) -> Tensor:
    # F.softplus returns its argument from 20 on, where log(1 + exp(-20)) = 2e-9 still counts in float64
    return torch.logaddexp(score, torch.zeros_like(score))


LOSSES = {"ce": Loss(log_odds, _softplus)}


def resolve_loss(loss: str | LossFunction) -> Loss:
    """The `Loss` of a name, or of a callable ``(logits [B, K], y [B]) -> [B]``."""
    if isinstance(loss, str):
        return LOSSES[check_choice("loss", loss, LOSSES)]
    if not callable(loss):
        raise TypeError(f"loss: expected a name or a callable (logits, y) -> one loss per sample, got {describe(loss)}")
    return Loss(loss, lambda score: score)
