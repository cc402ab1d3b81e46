"""The fast gradient sign method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ._problem import Problem
from ._search import searching
from .balls import PerSample
from .losses import LossFunction
from .result import AttackResult


def fgsm(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: PerSample,
    targeted: bool = False,
    loss: str | LossFunction = "ce",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
) -> AttackResult:
    r"""The fast gradient sign method: where the loss, linearised at `x`, is greatest over ball and box.

    ``argmax_δ grad · δ`` subject to ``‖δ‖ ≤ eps, lo ≤ x + δ ≤ hi``:

    * ``linf``: ``δ = eps · sign(grad)``, clipped to the box.
    * ``l2``: ``δ = clip(s · grad)``, with the greatest s for which it is in the ball.
    * ``l1``: the entries of the largest gradients go to their bounds, one after another, until `eps` is spent.

    All three are the projection on ball ∩ box of a point that is far away along the gradient. On a linear model with
    two classes that is the worst case itself.

    Args, errors: as in `pgd`.

    Returns:
        `AttackResult`: ``x + δ``, whether or not that is stronger than `x`; its trace is ``[1, 2, B]``.

    Complexity: one gradient and two more evaluations of the model.

    Source: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.

    >>> import torch
    >>> def model(x):
    ...     return torch.stack([x.sum(1), -x.sum(1)], dim=1)
    >>> x = torch.tensor([[0.25, 0.5]])
    >>> fgsm(model, x, torch.tensor([0]), eps=0.25).adversarial
    tensor([[0.0000, 0.2500]])
    """
    problem = Problem.checked(
        model, x, y, norm=norm, eps=eps, loss=loss, targeted=targeted, bounds=bounds, mean=mean, std=std
    )
    with searching(problem, title="fgsm", runs=1, points=2, last_only=True) as search:
        for run in search.runs():
            _, grad = run.climb(problem.x)
            run.evaluate(problem.ball.steepest(grad, problem.x, problem.eps, problem.bounds))
        return search.result()
