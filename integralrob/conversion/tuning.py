"""Tuning of partitions: where a network is sampled, at fixed sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from .._checks import check_bool, check_int, check_real, describe
from .._model_state import frozen
from ..partition import TrainablePartition
from .example import call

if TYPE_CHECKING:
    from .model import IntegralModel

__all__ = ["tune_partition"]

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@torch.inference_mode(False)
def tune_partition(
    integral: IntegralModel,
    batches: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    iterations: int,
    learning_rate: float,
    decay: float,
    decay_every: int,
    biases: bool,
    norms: bool,
    progress: bool,
) -> Tensor:
    """See `IntegralModel.tune_partition`."""
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected an iterable of pairs of inputs and targets, got {describe(batches)}")
    if not callable(loss):
        raise TypeError(f"loss: expected a function of outputs and targets, got {describe(loss)}")
    check_int("iterations", iterations, 1)
    for name, value in (("learning_rate", learning_rate), ("decay", decay)):
        if not 0 < check_real(name, value) < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    check_int("decay_every", decay_every, 1)
    for name, flag in (("biases", biases), ("norms", norms), ("progress", progress)):
        check_bool(name, flag)
    if not integral.groups:
        raise ValueError("tune_partition: expected a model with groups of channels, got one that has none")

    device = next(integral.parameters()).device
    stream = _repeated(batches)
    losses: list[Tensor] = []
    affine = _affine_parameters(integral, biases=biases, norms=norms)
    with _put_back_on_failure(integral, affine):
        parameters = affine + _make_trainable(integral, device)
        with frozen(integral), torch.enable_grad(), _asking_for_gradients(parameters):
            optimizer = torch.optim.Adam(parameters, learning_rate)
            scheduler = StepLR(optimizer, decay_every, decay)
            for _ in tqdm(range(iterations), desc="tuning partitions", unit="step", disable=not progress):
                inputs, targets = tree_map_only(Tensor, lambda tensor: tensor.to(device), next(stream))
                present = loss(call(integral, inputs, lambda tensor: tensor), targets)
                if not isinstance(present, Tensor) or present.dim() != 0:
                    raise ValueError(f"loss: expected a scalar tensor, got {describe(present)}")
                if not present.isfinite():
                    raise ValueError(f"loss: expected a finite number, got {present.item()} at step {len(losses)}")
                # Not `backward`, which would add to the gradients of whatever else the loss depends on.
                gradients = torch.autograd.grad(present, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                scheduler.step()
                losses.append(present.detach())
    return torch.stack(losses)


def _repeated(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The batches, again and again."""
    given = 0
    while True:
        start = given
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"batches: expected pairs of inputs and targets, got {describe(batch)}")
            given += 1
            yield batch[0], batch[1]
        if given == start:
            raise ValueError(
                f"batches: expected an iterable that can be gone through again, got one that ended after {given}"
            )


def _affine_parameters(integral: IntegralModel, *, biases: bool, norms: bool) -> list[nn.Parameter]:
    """The biases of layers, and the weights and biases of norms, each once."""
    found = {}
    for module in integral.modules():
        for name, parameter in module._parameters.items():
            wanted = norms if isinstance(module, _NORMS) else biases and name.endswith("bias")
            if wanted and parameter is not None:
                found[id(parameter)] = parameter
    return list(found.values())


def _make_trainable(integral: IntegralModel, device: torch.device) -> list[nn.Parameter]:
    """Gives each group a trainable partition with the points of its own, and returns their parameters."""
    parameters: list[nn.Parameter] = []
    for name, group in integral.groups.items():
        partition = TrainablePartition.like(group.partition).to(device).requires_grad_(False)
        if isinstance(group.partition, TrainablePartition):
            partition.load_state_dict(group.partition.state_dict())
        integral.set_partition(name, partition)
        parameters.append(partition.logits)
    return parameters


@contextmanager
def _asking_for_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Flags and gradients are as they were afterwards."""
    before = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, (flag, gradient) in zip(parameters, before, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = gradient


@contextmanager
def _put_back_on_failure(integral: IntegralModel, affine: list[nn.Parameter]) -> Iterator[None]:
    """After an exception the parameters have the values, and the groups the partitions, that they had."""
    partitions = {name: group.partition for name, group in integral.groups.items()}
    values = [(parameter, parameter.detach().clone()) for parameter in affine]
    try:
        yield
    except BaseException:
        for name, partition in partitions.items():
            integral.set_partition(name, partition)
        with torch.no_grad():
            for parameter, value in values:
                parameter.copy_(value)
        raise
