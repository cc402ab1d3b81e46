"""Does a converted network compute what the discrete one does?"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .channels import layer_axes
from .example import outputs_by_module, outputs_of
from .graph import ChannelGroup
from .model import IntegralModel
from .tensors import Member

__all__ = ["Reference", "find_fault", "find_faults", "relative_difference"]


class Reference:
    """The outputs of the discrete network on the example, in evaluation mode, and how closely they can be met.

    That is to 1e-10 of the largest output in float64, to 1e-5 in float32, and to 64 ε in other dtypes. Where the
    network itself rounds more than that, which its outputs in float64 tell, it is to 4 times what they are off: sums in
    another order are off as much.

    Raises:
        RuntimeError: the model does not run on the example.
        ValueError: its outputs on it are empty, or not finite throughout.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model = model
        self.example_inputs = example_inputs
        try:
            self.outputs = outputs_of(copy.deepcopy(model).eval(), example_inputs)
        except Exception as error:  # whatever the model's own code raises
            raise RuntimeError(f"example_inputs: the model does not run on them: {error}") from error
        if self.outputs and not any(bool(output.isfinite().any()) for output in self.outputs):
            raise ValueError("example_inputs: expected some with finite outputs, which can be compared, got none")

    def is_met_by(self, outputs: Sequence[Tensor]) -> bool:
        """Whether these are the network's outputs."""
        if len(outputs) != len(self.outputs):
            return False
        differences = list(map(relative_difference, outputs, self.outputs))
        return all(
            difference <= _tolerance(expected) or difference <= 4 * self._rounding[i]
            for i, (difference, expected) in enumerate(zip(differences, self.outputs, strict=True))
        )

    @functools.cached_property
    def _rounding(self) -> list[float]:
        """How far the outputs are from those in float64; nothing if the network does not run in it."""
        try:
            exact = outputs_of(copy.deepcopy(self.model).eval().double(), self.example_inputs, torch.float64)
        except Exception:  # whatever the model's own code raises
            return [0.0] * len(self.outputs)
        off = map(relative_difference, self.outputs, exact)
        return [difference if difference < 1e-3 else 0.0 for difference in off]  # more is not rounding


def find_faults(
    groups: Sequence[ChannelGroup], fault_of: Callable[[Sequence[ChannelGroup]], str | None]
) -> dict[str, str]:
    """The groups that a converted network does not work with, by name, and why; by bisection.

    Args:
        groups: all groups.
        fault_of: what is wrong with the network when these groups are continuous.
    """
    fault = fault_of(groups) if groups else None
    if fault is None:
        return {}
    if len(groups) == 1:
        return {groups[0].name: fault}
    half = len(groups) // 2
    faults = find_faults(groups[:half], fault_of) | find_faults(groups[half:], fault_of)
    faults = faults or {group.name: fault for group in groups}  # each half works alone
    others = [group for group in groups if group.name not in faults]
    return faults | find_faults(others, fault_of)


def find_fault(
    integral: IntegralModel,
    reference: Reference,
    fused: Mapping[str, str],
    *,
    at_other_sizes: bool,
) -> str | None:
    """What is wrong with a converted network, if something is; in evaluation mode.

    Args:
        integral: at full size. It is run, resized and left in evaluation mode.
        reference: of the network that it was made from.
        fused: layers, and the batch norms that were fused into them.
        at_other_sizes: look at another size too.

    Returns:
        Why the network does not run at full size, or the first layer whose output differs there; or why it does not run
        at other sizes, or that its discretisation differs there; or None.
    """
    integral.eval()
    example_inputs = reference.example_inputs
    try:
        outputs = outputs_of(integral, example_inputs)
    except Exception as error:  # whatever the model's own code raises
        return f"does not run at full size: {error}"
    if not reference.is_met_by(outputs):
        return _first_difference(copy.deepcopy(reference.model).eval(), integral, example_inputs, fused)
    if not at_other_sizes:
        return None
    # Not the same change for all, as some code may take groups for equally large.
    integral.resize({name: size + 1 + i % 3 for i, (name, size) in enumerate(integral.sizes.items())})
    try:
        other = outputs_of(integral, example_inputs)
        discrete = outputs_of(integral.discretize(), example_inputs)
    except Exception as error:  # whatever the model's own code raises
        return f"does not run at other sizes: {error}"
    if not all(map(_close, other, discrete)):
        return "computes something else at other sizes when it is discretised"
    return None


def _first_difference(model: nn.Module, integral: IntegralModel, example_inputs: Any, fused: Mapping[str, str]) -> str:
    before = outputs_by_module(model, example_inputs)
    after = outputs_by_module(integral.module, example_inputs)
    orders: dict[str, list[tuple[Member, Sequence[int]]]] = defaultdict(list)
    for group in integral.groups.values():
        for member in group.members:
            if member.dim == 0:
                orders[fused.get(member.layer, member.layer)].append((member, group.order))
    with_parameters = {name for name, module in model.named_modules() if any(True for _ in module.parameters(False))}
    for name, output in before.items():
        if name in fused or name not in with_parameters or name not in after:
            continue
        for member, order in orders.get(name, ()):
            output = _permuted(output, model.get_submodule(name), member, order)
        if not _close(after[name], output):
            return f"differs from the model at full size, first at the layer {name!r}"
    return "differs from the model at full size, at its outputs"


def _permuted(output: Tensor, layer: nn.Module, member: Member, order: Sequence[int]) -> Tensor:
    """A layer's output with the channels of a member in another order."""
    axes = layer_axes(layer, output.dim())
    dim = output.dim() + (axes.dim if axes else -1)
    index = torch.arange(output.shape[dim], device=output.device)
    entries = index.narrow(0, member.start, len(order) * member.block)
    entries.copy_(entries.view(-1, member.block)[list(order)].flatten())
    return output.index_select(dim, index)


def _close(actual: Tensor, expected: Tensor) -> bool:
    return relative_difference(actual, expected) <= _tolerance(expected)


def _tolerance(expected: Tensor) -> float:
    return {torch.float64: 1e-10, torch.float32: 1e-5}.get(expected.dtype, 64 * torch.finfo(expected.dtype).eps)


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
