"""The result of a conversion: a network whose groups of channels can have any size."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._checks import check_int, check_real, describe
from ..nn.layers import IntegralLayer
from ..partition import Partition
from .graph import Member, ReportEntry

__all__ = ["Group", "IntegralModel"]


@dataclass
class Group:
    """Connected channels, continuous along one axis.

    Attributes:
        name: qualified name of the first layer that produces the channels.
        full_size: number of control values, which is that of the discrete network's channels.
        members: the axes of layers that carry the channels.
        order: channel of the discrete network at each position.
        partition: where all members are sampled.
    """

    name: str
    full_size: int
    members: tuple[Member, ...]
    order: tuple[int, ...]
    partition: Partition

    @property
    def size(self) -> int:
        """Present number of channels."""
        return self.partition.num_points


class IntegralModel(nn.Module):
    """A network with integral layers, made by `integralrob.convert`; called like the network that it was made from.

    Attributes:
        module: the network; some of its layers are integral layers.
        groups: name -> `Group`, in the order of the network's modules.
        report: why other groups of channels stay discrete.

    `state_dict` holds the sizes and orders, and `load_state_dict` restores them; `copy.deepcopy`, `pickle` and
    `torch.save` work.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], report: Sequence[ReportEntry]) -> None:
        super().__init__()
        self.module = module
        self.groups = {group.name: group for group in groups}
        self.report = list(report)
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward pass at the present sizes."""
        return self.module(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------------------- sizes

    @property
    def sizes(self) -> dict[str, int]:
        """Present number of channels of each group."""
        return {name: group.size for name, group in self.groups.items()}

    def resize(self, size: float | Mapping[str, int | float]) -> None:
        """Samples the network at other sizes from now on. Cheap; the control values stay as they are.

        Args:
            size: a fraction of the full sizes, for all groups; or for some groups, by name, a number of channels (int)
                or a fraction (float). Fractions give the nearest number of channels of at least 2, and can exceed 1.

        Raises:
            TypeError, ValueError: an unknown group, an int below 2, a fraction that is not positive and finite; nothing
                is changed then.
        """
        if isinstance(size, float):
            size = dict.fromkeys(self.groups, _check_fraction("size", size))
        elif not isinstance(size, Mapping):
            raise TypeError(f"size: expected a fraction (float) or sizes by group, got {describe(size)}")
        wanted = {name: self._points(name, value) for name, value in size.items()}
        for name, points in wanted.items():
            self.groups[name].partition.resize(points)
        for layer in {member.layer: None for name in wanted for member in self.groups[name].members}:
            self.layer(layer).refresh()

    def _points(self, name: str, size: Any) -> int:
        if name not in self.groups:
            raise ValueError(
                f"size: expected names of groups ({', '.join(self.groups) or 'there are none'}), got {name!r}"
            )
        if not isinstance(size, float):
            return check_int(f"size[{name!r}]", size, 2)
        return max(2, round(_check_fraction(f"size[{name!r}]", size) * self.groups[name].full_size))

    def random_sizes(
        self, low: float, high: float, multiple_of: int = 8, *, generator: torch.Generator | None = None
    ) -> dict[str, int]:
        """Draws a size for each group and resizes to it: one step of training over random discretisations (appendix C).

        Args:
            low, high: bounds as fractions of the full size, ``0 < low <= high <= 1``.
            multiple_of: sizes are multiples of this, or the full size. A group that has no such size within the bounds
                takes the next multiple, or its full size if that is smaller.
            generator: source of the random numbers; None for torch's default one.

        Returns:
            The sizes by group, each uniform over what is possible.

        Raises:
            TypeError, ValueError: an argument is not as above; nothing is changed then.
        """
        check_real("low", low)
        check_real("high", high)
        check_int("multiple_of", multiple_of, 1)
        if not 0 < low <= high <= 1:
            raise ValueError(f"low, high: expected 0 < low <= high <= 1, got {low} and {high}")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
        device = "cpu" if generator is None else generator.device
        sizes = {}
        for name, group in self.groups.items():
            choices = _possible_sizes(group.full_size, low, high, multiple_of)
            drawn = torch.randint(len(choices), (), generator=generator, device=device)
            sizes[name] = choices[int(drawn)]
        self.resize(sizes)
        return sizes

    # -------------------------------------------------------------------------------------------------------- results

    def discretize(self) -> nn.Module:
        """A copy of the network at the present sizes, with `torch.nn` layers only and smaller tensors.

        It needs and knows nothing of this package; flags (train, `requires_grad`) are kept.
        """
        memo: dict[int, Any] = {}
        for layer in self.module.modules():
            if isinstance(layer, IntegralLayer):
                memo[id(layer)] = layer.discretize()
        return copy.deepcopy(self.module, memo)

    def layer(self, name: str) -> IntegralLayer:
        """The integral layer of this qualified name, as in `Member.layer`."""
        layer = self.module.get_submodule(name)
        if not isinstance(layer, IntegralLayer):
            raise ValueError(f"name: expected the name of an integral layer, got {name!r}")
        return layer

    # ---------------------------------------------------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """Sizes and orders of the groups, for `state_dict`."""
        return {name: {"size": group.size, "order": list(group.order)} for name, group in self.groups.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores sizes and orders.

        Raises:
            ValueError: other groups, or other full sizes, than this model's; nothing is changed then.
        """
        if set(state) != set(self.groups):
            different = sorted(set(state) ^ set(self.groups))
            raise ValueError(f"state_dict: expected the groups of this model; not in both: {', '.join(different)}")
        for name, entry in state.items():
            if len(entry["order"]) != self.groups[name].full_size:
                raise ValueError(
                    f"state_dict: expected {self.groups[name].full_size} channels in the group {name!r}, "
                    f"got {len(entry['order'])}"
                )
        self.resize({name: entry["size"] for name, entry in state.items()})
        for name, entry in state.items():
            self.groups[name].order = tuple(entry["order"])


def _check_fraction(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive finite fraction, got {value}")
    return value


def _possible_sizes(full_size: int, low: float, high: float, multiple_of: int) -> list[int]:
    """The sizes within the bounds that are multiples or full, else the one that comes closest from above.

    >>> _possible_sizes(20, 0.5, 1.0, 8), _possible_sizes(64, 0.25, 0.3, 8), _possible_sizes(4, 0.5, 1.0, 8)
    ([16, 20], [16], [4])
    """
    # Rounded first: 0.7 · 10 is 7 and a bit less, and 0.3 · 10 is not more than 3.
    first = max(2, math.ceil(round(low * full_size, 9)))
    last = max(first, math.floor(round(high * full_size, 9)))
    sizes = [size for size in range(first, last + 1) if size % multiple_of == 0 or size == full_size]
    return sizes or [min(full_size, -(-first // multiple_of) * multiple_of)]
