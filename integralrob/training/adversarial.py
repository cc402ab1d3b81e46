"""Losses for training against attacks, and so, with random sizes, over sizes and perturbations at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from .._checks import check_int, check_real, check_tensor, describe
from .._model_state import frozen
from ..attacks import AttackResult, pgd
from ..attacks._arguments import check_model, normalisation

__all__ = ["adversarial_loss", "trades_loss"]

Model = Callable[[Tensor], Tensor]
Attack = Callable[..., AttackResult]


def adversarial_loss(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    starts: int = 1,
    clean: float = 0.0,
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    attack: Attack = pgd,
    **options: Any,
) -> Tensor:
    r"""The loss under attack, to train on: of the perturbations that an attack finds from several starts, and of none.

    .. math:: \frac{1 - c}{S} \sum_{s=1}^S \ell(f_\theta(x + \delta_s), y) + c\, \ell(f_\theta(x), y), \qquad
        \delta_s \approx \operatorname{argmax}_\delta \ell(f_\theta(x + \delta), y)

    The perturbations are constants for autograd: by Danskin's theorem the gradient of a maximum is that of the function
    at the maximiser. An attack only comes near it, and from elsewhere each time; several starts and some clean loss
    make training steadier.

    The attack runs in eval mode with frozen parameters, and the model comes back as it was. The losses are then
    computed in the mode that it is in: a batch norm in training sees each perturbed batch, and the clean one, on its
    own.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, K]``.
        x: ``[B, ...]`` samples.
        y: int64 ``[B]``, the labels.
        starts: S, independent runs of the attack, whose losses are averaged. (With ``restarts=`` the strongest of
            several runs counts alone.)
        clean: c, the share of the loss without perturbation, from 0 to 1.
        criterion: ``(logits, y) -> loss``, a scalar. The attack climbs cross entropy unless it is given a ``loss=``.
        attack: called as ``attack(model, x, y, **options)``.
        options: for the attack, as ``norm="l2", eps=0.5, steps=7, generator=...``; ``mean`` and ``std`` for the model
            wherever it is evaluated.

    Returns:
        The loss, a scalar that is differentiable in the model's parameters.

    Raises:
        TypeError, ValueError: an argument is not as above or not as the attack wants it; the message names it.

    Complexity: that of `starts` attacks, and ``starts + (clean > 0)`` evaluations with a graph.

    Sources: A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018 (appendix A for
    Danskin's theorem); clean samples mixed in: A. Kurakin et al., "Adversarial machine learning at scale", ICLR 2017.

    Training an integral network over random sizes and perturbations at once:

    >>> import integralrob as ir
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> integral = ir.convert(network, torch.rand(4, 8), progress=False)
    >>> optimizer = torch.optim.Adam(integral.parameters())
    >>> x, y = torch.rand(16, 8), torch.arange(16) % 2
    >>> for step in range(2):
    ...     sizes = integral.random_sizes(0.25, 1.0)  # one size for the attack and for the loss
    ...     loss = adversarial_loss(integral, x, y, norm="l2", eps=0.1, steps=5, clean=0.5)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    """
    check_model(model)
    check_tensor("x", x)
    starts = check_int("starts", starts, 1)
    if not 0 <= check_real("clean", clean) <= 1:
        raise ValueError(f"clean: expected a share from 0 to 1, got {clean}")
    _check_callables(criterion=criterion, attack=attack)
    known = _options(attack, options)
    if starts > 1 and not known.get("random_start", True):
        raise ValueError(f"starts: expected 1 with random_start=False, where all would be the same, got {starts}")
    normalise = normalisation(known.get("mean"), known.get("std"), x)

    def loss(x: Tensor) -> Tensor:
        value = check_tensor("criterion", criterion(model(normalise(x)), y))
        if value.ndim:
            raise ValueError(f"criterion: expected a scalar loss, got {describe(value)}")
        return value

    if clean == 1:
        return loss(x)
    found = [attack(model, x, y, **options).adversarial for _ in range(starts)]
    attacked = torch.stack([loss(adversarial) for adversarial in found]).mean()
    return attacked if clean == 0 else (1 - clean) * attacked + clean * loss(x)


def trades_loss(
    model: Model, x: Tensor, y: Tensor, *, beta: float = 6.0, attack: Attack = pgd, **options: Any
) -> Tensor:
    r"""TRADES: cross entropy without perturbation, and how far the predicted probabilities can be moved by one.

    .. math:: \operatorname{CE}(f(x), y) + \beta \max_\delta \operatorname{KL}(p(x) \,\|\, p(x + \delta)), \qquad
        p = \operatorname{softmax} f

    The attack climbs the divergence, in eval mode, from random starts by default (where the source starts a thousandth
    off `x`: at `x` the divergence has no gradient). As always, a misclassified point beats one that is not. The model
    comes back as it was; the loss is computed in the mode that it is in, and both probabilities are differentiated.

    Args:
        model, x, y: as for `adversarial_loss`.
        beta: weight of the divergence, at least 0: ``1/λ`` of the source, which takes 1 to 6 and more.
        attack: called as ``attack(model, x, y, loss=..., **options)`` with a callable loss.
        options: for the attack, as ``norm="linf", eps=8 / 255, steps=10``; ``mean`` and ``std`` for the model wherever
            it is evaluated. Not ``loss``, nor ``early_stop``: the divergence can still grow where the class is wrong.

    Returns:
        The loss, a scalar that is differentiable in the model's parameters.

    Raises:
        TypeError, ValueError: an argument is not as above or not as the attack wants it; the message names it.

    Complexity: that of the attack, one more evaluation, and two with a graph.

    Source: H. Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019.

    >>> model = torch.nn.Linear(4, 3)
    >>> x, y = torch.rand(8, 4), torch.arange(8) % 3
    >>> bool(trades_loss(model, x, y, eps=0.1, steps=3) > cross_entropy(model(x), y))
    True
    """
    check_model(model)
    check_tensor("x", x)
    beta = check_real("beta", beta, minimum=0)
    _check_callables(attack=attack)
    if "loss" in options:
        raise TypeError(f"loss: expected none, as the attack climbs the divergence, got {describe(options['loss'])}")
    known = _options(attack, options)
    if known.get("early_stop"):
        raise ValueError("early_stop: expected False, as the divergence of all samples is climbed to the end, got True")
    normalise = normalisation(known.get("mean"), known.get("std"), x)
    with torch.no_grad(), frozen(model):
        before = model(normalise(x))
    found = attack(model, x, y, loss=lambda logits, _: _divergence(before, logits), **options).adversarial
    logits = model(normalise(x))
    return cross_entropy(logits, y) + beta * _divergence(logits, model(normalise(found))).mean()


def _options(attack: Attack, options: dict[str, Any]) -> dict[str, Any]:
    """What an attack is called with, as far as can be seen."""
    return {**_options(attack.func, attack.keywords), **options} if isinstance(attack, partial) else options


def _divergence(logits: Tensor, moved: Tensor) -> Tensor:
    """``KL(softmax(logits) ‖ softmax(moved))`` of each row, ``[B]``."""
    return kl_div(moved.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="none").sum(1)


def _check_callables(**arguments: Any) -> None:
    for name, value in arguments.items():
        if not callable(value):
            raise TypeError(f"{name}: expected a callable, got {describe(value)}")
