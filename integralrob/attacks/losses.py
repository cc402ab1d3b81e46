"""The losses that an attack can climb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import check_choice, describe
from ..ops._dtypes import arithmetic_dtype

LossFunction = Callable[[Tensor, Tensor], Tensor]


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""Log odds against class `y`: ``t = log Σ_{k≠y} exp(z_k) - z_y``, of logits ``z [B, K]`` and labels ``y [B]``.

    Cross entropy is ``softplus(t)``, and its gradient that of `t` times ``sigmoid(t) > 0``. A confident model has
    ``t ≪ 0``: there the softmax rounds to 0 and 1, the gradient of cross entropy loses its `z_y` part (in float32 from
    ``t = -17`` on) and then vanishes, while that of `t` keeps its size and direction.

    >>> log_odds(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
    tensor([-200.])
    """
    logits = _wide(logits)
    return _others(logits, y).logsumexp(1) - _of_class(logits, y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """``max_{k≠y} z_k - z_y``: positive where the class is not `y` (Carlini and Wagner 2017).

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-1.])
    """
    logits = _wide(logits)
    return _others(logits, y).amax(1) - _of_class(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over ``z_(1) - z_(3)``, of logits in descending order.

    It does not change where logits are scaled or shifted. Croce and Hein, "Reliable evaluation of adversarial
    robustness with an ensemble of diverse parameter-free attacks", ICML 2020, equation 6.

    >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    first, _, third = _wide(logits).topk(3, dim=1).values.unbind(1)
    return _ratio(margin(logits, y), first - third)


def dlr_between(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted one: ``(z_target - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`` (equation 7 there).

    >>> dlr_between(torch.tensor([[3.0, 1.0, 2.0, 1.0]]), torch.tensor([0]), torch.tensor([2]))
    tensor([-0.5000])
    """
    return _ratio(margin_between(logits, y, target), _spread(_wide(logits)))


def _dlr_targeted(logits: Tensor, target: Tensor) -> Tensor:
    """`dlr_between` where no label is known: from the strongest other class, and the sign changed.

    (`dlr` itself is constant, and gives no gradient, where the target comes third.)
    """
    return _ratio(margin(logits, target), _spread(_wide(logits)))


def margin_between(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``z_target - z_y``: how far the target is above the label.

    >>> margin_between(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), torch.tensor([2]))
    tensor([-1.])
    """
    logits = _wide(logits)
    return _of_class(logits, target) - _of_class(logits, y)


def _spread(logits: Tensor) -> Tensor:
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return first - (third + fourth) / 2


def _ratio(value: Tensor, scale: Tensor) -> Tensor:
    return value / (scale + 1e-12)  # as published


def _wide(logits: Tensor) -> Tensor:
    return logits.to(arithmetic_dtype(logits.dtype))


def _of_class(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y.unsqueeze(1)).squeeze(1)


def _others(logits: Tensor, y: Tensor) -> Tensor:
    """The logits, with ``-inf`` for class `y`."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf)


def _softplus(score: Tensor) -> Tensor:
    # F.softplus returns its argument from 20 on, where log(1 + exp(-20)) = 2e-9 still counts in float64
    return torch.logaddexp(score, torch.zeros_like(score))


def _same(score: Tensor) -> Tensor:
    return score


@dataclass(frozen=True)
class Loss:
    """A per-sample loss, written as an increasing function of a score that is better behaved.

    A step that depends on no more than the direction of a sample's gradient is the same for the loss and for its score,
    so attacks climb the score and report the loss.

    Attributes:
        score: ``(logits [B, K], y [B]) -> [B]``, which untargeted attacks raise.
        value: ``score [...] -> loss [...]``, elementwise and increasing.
        targeted: ``(logits [B, K], target [B]) -> [B]``, which targeted attacks lower; None: `score`.
        between: ``(logits [B, K], y [B], target [B]) -> [B]``, raised on the way from `y` to a target.
        classes: the number K that `score` needs at least.
        targeted_classes: the number K that `targeted` and `between` need at least.
    """

    score: LossFunction
    value: Callable[[Tensor], Tensor] = _same
    targeted: LossFunction | None = None
    between: Callable[[Tensor, Tensor, Tensor], Tensor] = margin_between
    classes: int = 2
    targeted_classes: int = 2


LOSSES = {
    "ce": Loss(log_odds, _softplus),
    "dlr": Loss(dlr, targeted=_dlr_targeted, between=dlr_between, classes=3, targeted_classes=4),
    "margin": Loss(margin),
}


def resolve_loss(loss: str | LossFunction) -> Loss:
    """The `Loss` of a name, or of a callable ``(logits [B, K], y [B]) -> [B]``."""
    if isinstance(loss, str):
        return LOSSES[check_choice("loss", loss, LOSSES)]
    if not callable(loss):
        raise TypeError(f"loss: expected a name or a callable (logits, y) -> one loss per sample, got {describe(loss)}")
    return Loss(loss)
