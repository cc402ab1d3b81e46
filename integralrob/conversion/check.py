"""Does a converted network compute what the discrete one does?"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .example import outputs_by_module, outputs_of
from .model import IntegralModel

__all__ = ["find_fault", "relative_difference"]


def find_fault(
    model: nn.Module, integral: IntegralModel, example_inputs: Any, expected: Sequence[Tensor], fused: Mapping[str, str]
) -> str | None:
    """What is wrong with a converted network, if something is; works on copies, in evaluation mode.

    Args:
        model: the discrete network.
        integral: what was made from it, at full size.
        example_inputs: see `integralrob.convert`.
        expected: the discrete network's outputs.
        fused: layers, and the batch norms that were fused into them.

    Returns:
        The first layer whose output at full size differs, or why the network does not run at other sizes; or None.
    """
    integral = copy.deepcopy(integral).eval()
    actual = outputs_of(integral, example_inputs)
    if len(actual) != len(expected) or not all(map(_close, actual, expected)):
        return _first_difference(copy.deepcopy(model).eval(), integral, example_inputs, fused)
    integral.resize({name: size + 1 for name, size in integral.sizes.items()})
    try:
        outputs_of(integral, example_inputs)
    except Exception as error:  # whatever the model's own code raises
        return f"does not run at other sizes: {error}"
    return None


def _first_difference(model: nn.Module, integral: IntegralModel, example_inputs: Any, fused: Mapping[str, str]) -> str:
    before = outputs_by_module(model, example_inputs)
    after = outputs_by_module(integral.module, example_inputs)
    orders = {
        fused.get(member.layer, member.layer): (group.order, integral.layer(member.layer).weight.dim())
        for group in integral.groups.values()
        for member in group.members
        if member.dim == 0
    }
    with_parameters = {name for name, module in model.named_modules() if any(True for _ in module.parameters(False))}
    for name, output in before.items():
        if name in fused or name not in with_parameters or name not in after:
            continue
        if name in orders:
            order, weight_dim = orders[name]
            # Channels come before the weight's spatial dims: the last dim of a linear layer's output.
            output = output.index_select(output.dim() - weight_dim + 1, torch.tensor(order, device=output.device))
        if not _close(after[name], output):
            return f"differs from the model at full size, first at the layer {name!r}"
    return "differs from the model at full size, at its outputs"


def _close(actual: Tensor, expected: Tensor) -> bool:
    tolerance = max(1e-4, 64 * torch.finfo(expected.dtype).eps)
    return relative_difference(actual, expected) <= tolerance


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """``max |actual - expected| / max |expected|``; infinite where shapes, NaNs or infinities differ.

    >>> relative_difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    0.25
    """
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.detach().double(), expected.detach().double()
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    difference = torch.where(same, 0.0, (actual - expected).abs()).nan_to_num(nan=float("inf"))
    largest = torch.where(expected.isfinite(), expected.abs(), 0.0).max()
    return float(difference.max() / largest)
