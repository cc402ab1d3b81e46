r"""Randomised smoothing: the class that a model gives most often under Gaussian noise, and where it provably stays so.

The smoothed classifier is :math:`g(x) = \operatorname{argmax}_c P(f(x + \delta) = c)` with normal noise of standard
deviation :math:`\sigma`. If its class has at least the probability p > 1/2, it is the same within the l2 radius
:math:`\sigma \Phi^{-1}(p)`. Logits with NaN are of no class.

Source: J. Cohen, E. Rosenfeld, Z. Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._checks import check_int, check_real, check_tensor, describe
from .._model_state import frozen
from ..attacks._arguments import check_model
from .expectation import expectation
from .samplers import Gaussian

__all__ = ["ABSTAIN", "Certificate", "smoothed_certify", "smoothed_predict"]

# The "class" of a sample that there was too little evidence for.
ABSTAIN = -1

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Certificate:
    """What is certain of the smoothed classifier at `B` samples.

    Attributes:
        classes: int64 ``[B]``, or `ABSTAIN`.
        radius: float64 ``[B]``: within this l2 distance the class is the same; 0 where it abstains.
        probability: float64 ``[B]``, the lower bound of the probability of the class under noise.
    """

    classes: Tensor
    radius: Tensor
    probability: Tensor


def smoothed_predict(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    samples: int = 1000,
    alpha: float = 0.001,
    chunk: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The class of the smoothed classifier at each sample (PREDICT of the source).

    A class other than the smoothed classifier's is returned with a probability of at most `alpha`, for each sample: it
    abstains unless an exact binomial test tells the most frequent class from the second.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, K]``. It runs in eval mode, and comes back with its flags as they were.
        x: ``[B, ...]``, floating-point.
        sigma: standard deviation of the noise, in units of `x`, above 0.
        samples: evaluations of the model for each sample of `x`, at least 2.
        alpha: probability of an error, between 0 and 1.
        chunk: how many times `x` goes to the model at once.
        generator: source of the noise, for the device of `x`; None is torch's global one.

    Returns:
        int64 ``[B]``: classes, or `ABSTAIN` (-1).

    Raises:
        ModuleNotFoundError: SciPy is not installed.
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> def model(x):  # class 1 where x is above 1/2
    ...     return torch.cat([0.5 - x, x - 0.5], dim=1)
    >>> x = torch.tensor([[0.1], [0.5], [0.9]])
    >>> smoothed_predict(model, x, sigma=0.25, generator=torch.Generator().manual_seed(0)).tolist()
    [0, -1, 1]
    """
    special = _scipy_special()
    _check(model, x, sigma, alpha)
    top = _counts(model, x, sigma, check_int("samples", samples, 2), chunk, generator).topk(2)
    first, second = top.values.unbind(1)
    # Of n fair coins at least k show heads with the probability I_½(k, n - k + 1). Twice, as either may lead by chance.
    p_value = 2 * special.betainc(first.numpy(), second.numpy() + 1, 0.5)
    certain = torch.from_numpy(p_value <= alpha)
    return top.indices[:, 0].where(certain, ABSTAIN).to(x.device)


def smoothed_certify(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    samples: int = 100_000,
    selection: int = 100,
    alpha: float = 0.001,
    chunk: int = 100,
    generator: torch.Generator | None = None,
) -> Certificate:
    """The class of the smoothed classifier at each sample, and an l2 radius within which it stays (CERTIFY).

    The most frequent class of `selection` evaluations is tested on `samples` others. The lower confidence bound p of
    its probability is exact (Clopper and Pearson), so a certificate is wrong with a probability of at most `alpha`, for
    each sample. The radius is ``sigma · Φ⁻¹(p)``, and so at most ``sigma · Φ⁻¹(alpha^(1/samples))``.

    Args:
        model, x, sigma, alpha, chunk, generator: as for `smoothed_predict`.
        samples: evaluations of the model for the bound, at least 2.
        selection: evaluations for the choice of the class, at least 2.

    Returns:
        `Certificate`; it abstains where the bound is not above 1/2.

    Raises:
        ModuleNotFoundError: SciPy is not installed.
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: ``selection + samples`` evaluations of the model for each sample of `x`.

    >>> def model(x):  # class 1 where x is above 1/2
    ...     return torch.cat([0.5 - x, x - 0.5], dim=1)
    >>> x = torch.tensor([[0.1], [0.5], [0.9]])
    >>> result = smoothed_certify(model, x, sigma=0.25, samples=10_000, generator=torch.Generator().manual_seed(0))
    >>> result.classes.tolist(), [round(radius, 2) for radius in result.radius.tolist()]  # truly 0.4, 0, 0.4
    ([0, -1, 1], [0.39, 0.0, 0.38])
    """
    special = _scipy_special()
    _check(model, x, sigma, alpha)
    samples, selection = check_int("samples", samples, 2), check_int("selection", selection, 2)
    classes = _counts(model, x, sigma, selection, chunk, generator).argmax(1)
    hits = _counts(model, x, sigma, samples, chunk, generator).gather(1, classes.unsqueeze(1)).squeeze(1)
    # The p for which k hits or more of n have the probability alpha: I_p(k, n - k + 1) = alpha; 0 for no hit.
    bound = torch.from_numpy(special.betaincinv(hits.clamp(min=1).numpy(), samples - hits.numpy() + 1, alpha))
    bound = bound.where(hits > 0, 0.0)
    radius = sigma * torch.special.ndtri(bound)
    certain = bound > 0.5
    return Certificate(
        classes.where(certain, ABSTAIN).to(x.device), radius.where(certain, 0.0).to(x.device), bound.to(x.device)
    )


def _check(model: Model, x: Tensor, sigma: float, alpha: float) -> None:
    check_model(model)
    check_tensor("x", x)
    if not check_real("sigma", sigma) > 0:
        raise ValueError(f"sigma: expected a number above 0, got {sigma}")
    if not 0 < check_real("alpha", alpha) < 1:
        raise ValueError(f"alpha: expected a probability between 0 and 1, got {alpha}")


def _counts(
    model: Model, x: Tensor, sigma: float, samples: int, chunk: int, generator: torch.Generator | None
) -> Tensor:
    """How often each class wins under noise: int64 ``[B, K]``, on the CPU."""

    def wins(delta: Tensor) -> Tensor:
        logits = check_tensor("model", model((x + delta).flatten(0, 1)))
        if logits.ndim != 2 or len(logits) != delta.shape[:2].numel() or logits.shape[1] < 2:
            expected = f"({delta.shape[:2].numel()}, at least 2)"
            raise ValueError(f"model: expected logits of shape {expected}, got {describe(logits)}")
        won = one_hot(logits.argmax(1), logits.shape[1]) * ~logits.isnan().any(1, keepdim=True)
        return won.view(*delta.shape[:2], -1)

    with torch.no_grad(), frozen(model):
        share = expectation(wins, Gaussian(x, sigma), samples=samples, chunk=chunk, generator=generator).mean
    return (share * samples).round().long().cpu()


def _scipy_special() -> ModuleType:
    try:
        from scipy import special
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "randomised smoothing needs scipy: pip install 'integralrob[smoothing]'", name=error.name
        ) from error
    return special
