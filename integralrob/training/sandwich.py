"""The sandwich rule: each step trains the largest size, the smallest, and some between, which learn from the largest.

Source: J. Yu, T. Huang, "Universally slimmable networks and improved training techniques", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map_only

from .._checks import check_int, check_real, check_tensor, describe
from ..conversion import IntegralModel
from ..conversion.example import call

__all__ = ["sandwich_step", "soft_cross_entropy"]


def sandwich_step(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor],
    *,
    distil: Callable[[Any, Any], Tensor] | None,
    smallest: float = 0.25,
    largest: float = 1.0,
    num_random: int = 2,
    multiple_of: int = 8,
    generator: torch.Generator | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> list[Tensor]:
    """Adds the gradients of one batch at several sizes: the largest, the smallest, and random ones between.

    The losses of all sizes count alike. With in-place distillation, all but the largest learn from its outputs on the
    same batch, through which no gradient flows. Each size has its backward pass before the next one's forward pass, so
    that no more than one graph is in memory.

    Args:
        model: an `IntegralModel`, or a module around one, such as `DistributedDataParallel`: gradients are reduced in
            the last backward pass only, all parameters take part in each, and all processes draw the same sizes.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        targets: what `loss` compares the outputs with.
        loss: of outputs and targets, a scalar.
        distil: the loss of the other sizes, of their outputs and the largest's: `soft_cross_entropy` for classifiers;
            for regression, such as `torch.nn.functional.mse_loss`. None: no distillation, all sizes learn from the
            targets, which was better for super-resolution (docs/experiments.md).
        smallest, largest: fractions of the full sizes, ``0 < smallest <= largest <= 1``.
        num_random: how many random sizes; the paper takes two.
        multiple_of: sizes are multiples of this where they can be, see `IntegralModel.resize` and
            `IntegralModel.random_sizes`.
        generator: see `IntegralModel.random_sizes`.
        backward: what is done with each loss; ``lambda loss: scaler.scale(loss).backward()`` for a `GradScaler`, or
            ``lambda loss: (loss / n).backward()`` to accumulate over `n` batches.

    Returns:
        The losses of the largest, the smallest and the random sizes, detached. The model has the sizes from before.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing is changed then.

    Complexity: ``2 + num_random`` forward and backward passes.

    >>> from integralrob import convert
    >>> network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> integral = convert(network, torch.zeros(1, 4), progress=False)
    >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
    >>> losses = sandwich_step(integral, x, y, cross_entropy, distil=soft_cross_entropy)
    >>> len(losses), integral.sizes
    (4, {'0': 16})
    """
    integral = _integral_model(model)
    check_real("smallest", smallest)
    check_real("largest", largest)
    if not 0 < smallest <= largest <= 1:
        raise ValueError(f"smallest, largest: expected 0 < smallest <= largest <= 1, got {smallest} and {largest}")
    check_int("num_random", num_random, 0)
    check_int("multiple_of", multiple_of, 1)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
    for name, function in (("loss", loss), ("distil", distil), ("backward", backward)):
        if not callable(function) and not (name == "distil" and function is None):
            raise TypeError(f"{name}: expected a function, got {describe(function)}")

    def train(loss: Callable[[Any, Any], Tensor], targets: Any, *, last: bool) -> Any:
        # DistributedDataParallel and FSDP: gradients are summed up here, and reduced once.
        without_reduction = nullcontext if last else getattr(model, "no_sync", nullcontext)
        with without_reduction():
            outputs = call(model, inputs, lambda tensor: tensor)
            present = loss(outputs, targets)
            backward(present)
        losses.append(present.detach())
        return outputs

    losses: list[Tensor] = []
    before = integral.sizes
    try:
        integral.resize(float(largest), multiple_of=multiple_of)
        outputs = train(loss, targets, last=False)
        if distil is not None:
            loss, targets = distil, tree_map_only(Tensor, Tensor.detach, outputs)
        del outputs
        integral.resize(float(smallest), multiple_of=multiple_of)
        train(loss, targets, last=num_random == 0)
        for i in range(num_random):
            integral.random_sizes(smallest, largest, multiple_of, generator=generator)
            train(loss, targets, last=i == num_random - 1)
    finally:
        integral.resize(before)
    return losses


def soft_cross_entropy(logits: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross entropy with the class probabilities of a teacher, of both at a temperature: ``T² · H(p(z_t/T), p(z/T))``.

    Args:
        logits, teacher: ``[C]``, or ``[N, C, ...]`` with the classes in dim 1.
        temperature: ``T > 0``. The factor keeps the size of the gradients. To choose one for `sandwich_step`, pass
            ``functools.partial(soft_cross_entropy, temperature=4.0)``.

    Returns:
        The mean over samples (and positions), a scalar; differentiable in both.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    >>> soft_cross_entropy(logits, 50 * logits)
    tensor(0.2201)
    >>> cross_entropy(logits, torch.tensor([1, 0]))
    tensor(0.2201)
    """
    check_tensor("logits", logits)
    check_tensor("teacher", teacher)
    if logits.shape != teacher.shape or not logits.dim():
        raise ValueError(f"teacher: expected the shape of logits {tuple(logits.shape)}, got {describe(teacher)}")
    if not 0 < check_real("temperature", temperature) < math.inf:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    probabilities = (teacher / temperature).softmax(min(1, logits.dim() - 1))
    return cross_entropy(logits / temperature, probabilities) * temperature**2


def _integral_model(model: nn.Module) -> IntegralModel:
    if isinstance(model, nn.Module):
        found = [module for module in model.modules() if isinstance(module, IntegralModel)]
        if len(found) == 1:
            return found[0]
    raise TypeError(f"model: expected an IntegralModel or a module around one, got {describe(model)}")
