"""The result of a conversion: a network whose groups of channels can have any size."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_bool, check_int, check_real, describe
from ..nn.continuous_weight import MAX_UPSAMPLING, check_size
from ..nn.layers import IntegralLayer
from ..nn.sampled import SampledModule, SampledStatistics
from ..partition import Partition, TrainablePartition, UniformPartition
from .graph import ReportEntry
from .ordering import check_permutation
from .size_draws import SizeDraws
from .state import rehearse_load
from .tensors import Member, owner_of
from .transformer_layers import allow_fused_kernels
from .tuning import tune_partition

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
        report: why other groups of channels, and layers in no group, stay discrete.
        size_draws: what `random_sizes` draws from; set its `seed` for other sizes.

    `state_dict` holds the sizes and orders, which partitions are trainable, and where `random_sizes` is, and
    `load_state_dict` restores them; `copy.deepcopy`, `pickle` and `torch.save` work.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], report: Sequence[ReportEntry]) -> None:
        super().__init__()
        self.module = module
        self.groups = {group.name: group for group in groups}
        self.report = list(report)
        self.size_draws = SizeDraws()
        self._norms = [layer for layer in module.modules() if isinstance(layer, SampledStatistics)]
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward pass at the present sizes."""
        return self.module(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------------------- sizes

    @property
    def sizes(self) -> dict[str, int]:
        """Present number of channels of each group."""
        return {name: group.size for name, group in self.groups.items()}

    def resize(self, size: float | Mapping[str, int | float], *, multiple_of: int = 1) -> None:
        """Samples the network at other sizes from now on. Cheap; the control values stay as they are.

        Args:
            size: a fraction of the full sizes, for all groups; or for some groups, by name, a number of channels (int)
                or a fraction (float). Fractions give the nearest number of channels of at least 2, and can exceed 1.
                NumPy's ints and floats will do.
            multiple_of: fractions give the nearest multiple of this, or the full size where that is nearer; of two
                that are as near, the larger (with 1, the even one). Numbers of channels are taken as they are.

        Raises:
            TypeError, ValueError: an unknown group, a size that is not from 2 to 64 times the full size, a fraction
                that is not above 0 and at most 64, a `multiple_of` below 1; nothing is changed then.

        >>> from integralrob import convert
        >>> integral = convert(nn.Sequential(nn.Linear(4, 20), nn.Linear(20, 2)), torch.zeros(1, 4), progress=False)
        >>> integral.resize(0.7, multiple_of=8)
        >>> integral.sizes
        {'0': 16}
        """
        check_int("multiple_of", multiple_of, 1)
        if _is_fraction(size):
            size = dict.fromkeys(self.groups, _check_fraction("size", size))
        elif not isinstance(size, Mapping):
            raise TypeError(
                f"size: expected a fraction (float, 1.0 for full size) or sizes by group, got {describe(size)}"
            )
        wanted = {name: self._points(name, value, multiple_of) for name, value in size.items()}
        before = self.sizes
        for name, points in wanted.items():
            self.groups[name].partition.resize(points)
        self._refresh(wanted)
        if self.sizes != before:  # what is upstream of a norm changes its statistics too
            for norm in self._norms:
                norm.integral_calibrate({})

    def _refresh(self, names: Iterable[str]) -> None:
        """The layers of these groups follow their partitions."""
        for layer in {member.layer: None for name in names for member in self.groups[name].members}:
            integral = self.layer(layer)
            if isinstance(integral, SampledModule):
                integral.integral_refresh()
            else:
                integral.refresh()

    def set_partition(self, name: str, partition: Partition) -> None:
        """Samples all members of a group on another partition of the same number of points, kind and nodes.

        Raises:
            TypeError, ValueError: an unknown group, or a partition that is not as above; nothing is changed then.
        """
        group = self.groups.get(name)
        if group is None:
            raise ValueError(f"name: expected the name of a group, got {name!r}")
        before = group.partition
        if not isinstance(partition, Partition) or any(
            getattr(partition, attribute) != getattr(before, attribute) for attribute in ("num_points", "kind", "nodes")
        ):
            raise ValueError(f"partition: expected one like {before}, got {describe(partition)}")
        for module in list(self.modules()):
            for attribute, child in module._modules.items():
                if child is before:
                    module._modules[attribute] = partition
        group.partition = partition
        self._refresh([name])

    def tune_partition(
        self,
        batches: Iterable[tuple[Any, Any]],
        loss: Callable[[Any, Any], Tensor],
        *,
        iterations: int = 1000,
        learning_rate: float = 1e-4,
        decay: float = 0.33,
        decay_every: int = 300,
        biases: bool = False,
        norms: bool = False,
        progress: bool = True,
    ) -> Tensor:
        """Trains where the groups are sampled, at the present sizes; the control values stay as they are.

        The partitions of all groups become trainable ones, which all members of a group share, and are trained with
        Adam in evaluation mode (no dropout, running statistics as they are). Afterwards they ask for no gradient, so
        that training goes on as before; another call tunes on. A resize samples the curve of the points anew.

        Args:
            batches: pairs of inputs (a tensor, a tuple of positional or a dict of keyword arguments) and targets. They
                are moved to the model's device, and gone through again and again.
            loss: of the outputs and the targets, a scalar.
            iterations: number of steps, one batch each.
            learning_rate: at first; multiplied by `decay` after every `decay_every` steps.
            biases: train the biases of layers too.
            norms: train the weights and biases of norms too.
            progress: show a progress bar.

        Returns:
            The loss of each step, before it: ``[iterations]``.

        Raises:
            TypeError, ValueError: an argument is not as above; no groups; batches that come to an end and cannot be
                gone through again. The model is as before then, as after any other exception.

        Complexity: a step is a forward and a backward pass, and builds the bands of each member anew.

        Source: "Integral Neural Networks" (CVPR 2023), supplement, appendix D, which the defaults are from, and
        listing 3.

        >>> from integralrob import convert
        >>> network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> integral = convert(network, torch.zeros(1, 4), progress=False)
        >>> integral.resize(0.5)
        >>> x = torch.randn(32, 4)
        >>> losses = integral.tune_partition(
        ...     [(x, network(x).detach())], nn.functional.mse_loss, iterations=20, learning_rate=0.01, progress=False
        ... )
        >>> bool(losses[-1] < losses[0])
        True
        """
        return tune_partition(
            self, batches, loss, iterations, learning_rate, decay, decay_every, biases, norms, progress
        )

    def _points(self, name: str, size: Any, multiple_of: int) -> int:
        if name not in self.groups:
            raise ValueError(
                f"size: expected names of groups ({', '.join(self.groups) or 'there are none'}), got {name!r}"
            )
        full_size = self.groups[name].full_size
        if _is_fraction(size):
            return _nearest_size(full_size, _check_fraction(f"size[{name!r}]", size), multiple_of)
        return check_size(f"size[{name!r}]", size, full_size)

    def random_sizes(
        self, low: float, high: float, multiple_of: int = 8, *, generator: torch.Generator | None = None
    ) -> dict[str, int]:
        """Draws a size for each group and resizes to it: one step of training over random discretisations (appendix C).

        Args:
            low, high: bounds as fractions of the full size, ``0 < low <= high <= 1``. Sizes stay within them, but are
                at least 2, and where no whole number is within them they are the next one above `low`.
            multiple_of: sizes are multiples of this, or the full size. A group that has no such size within the bounds
                takes any size within them.
            generator: source of the random numbers; None for `size_draws`, which draws the same on all processes that
                draw equally often, and goes on after `load_state_dict` where it was.

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
        generator = self.size_draws.next() if generator is None else generator
        sizes = {}
        for name, group in self.groups.items():
            choices = _possible_sizes(group.full_size, low, high, multiple_of)
            drawn = torch.randint(len(choices), (), generator=generator, device=generator.device)
            sizes[name] = choices[int(drawn)]
        self.resize(sizes)
        return sizes

    # -------------------------------------------------------------------------------------------------------- results

    @torch.inference_mode(False)  # its parameters are for training too
    def discretize(self) -> nn.Module:
        """A copy of the network at the present sizes, with `torch.nn` layers only and smaller tensors.

        It needs and knows nothing of this package; flags (train, `requires_grad`) are kept.

        `torch.save`, `torch.export`, `torch.compile` and `torch.onnx.export` take it as they would take the network
        that was converted. (All but the last take the `IntegralModel` too: an exported one keeps its sizes.)
        """
        memo: dict[int, Any] = {}
        for layer in self.module.modules():
            if isinstance(layer, IntegralLayer):
                memo[id(layer)] = layer.discretize()
        module = copy.deepcopy(self.module, memo)
        for layer in module.modules():
            if isinstance(layer, SampledModule):
                layer.integral_discretize_()
        allow_fused_kernels(module)
        return module

    def layer(self, name: str) -> IntegralLayer | SampledModule:
        """The integral layer of this name, as in `Member.layer`; of a parameter's name, the module that owns it."""
        layer, _ = owner_of(self.module, name)
        if not isinstance(layer, (IntegralLayer, SampledModule)):
            raise ValueError(f"name: expected the name of an integral layer, got {name!r}")
        return layer

    # ---------------------------------------------------------------------------------------------------------- state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See `torch.nn.Module.load_state_dict`; an error names the groups that are at fault, and nothing is changed.

        With `strict=False`, and a state without them, sizes and orders stay as they are; a wrong one is an error
        nonetheless. Parameters keep their identity (unless `assign`), so that optimizers made before go on, but for
        those of partitions that change their size or kind.

        As a part of another module, whose `load_state_dict` does not call this one, sizes and orders are all checked
        before anything of this model is changed; tensors are not, as torch looks at each when it copies it.

        Raises:
            TypeError, ValueError: sizes, orders or kinds of partitions, as of `set_extra_state`.
            RuntimeError: keys or shapes, as of torch's.

        Complexity: beside torch's own, a copy of the modules without their tensors.
        """
        rehearse_load(self, state_dict, strict)
        return super().load_state_dict(state_dict, strict, assign)

    def get_extra_state(self) -> dict[str, Any]:
        """Sizes and orders of the groups, and whether their partitions are trainable, for `state_dict`."""
        return {
            name: {
                "size": group.size,
                "order": list(group.order),
                "trainable": isinstance(group.partition, TrainablePartition),
            }
            for name, group in self.groups.items()
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores sizes, orders and kinds of partitions; the parameters of trainable ones are in the state as well.

        Raises:
            TypeError, ValueError: other groups, or other full sizes, than this model's; an entry that is not a size and
                a permutation of the channels; nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict: expected sizes and orders by group, got {describe(state)}")
        if set(state) != set(self.groups):
            different = sorted(set(state) ^ set(self.groups))
            raise ValueError(f"state_dict: expected the groups of this model; not in both: {', '.join(different)}")
        sizes, orders, trainable = {}, {}, {}
        for name, entry in state.items():
            where, full_size = f"state_dict: the group {name!r}", self.groups[name].full_size
            if not isinstance(entry, Mapping) or set(entry) != {"size", "order", "trainable"}:
                raise TypeError(f"{where}: expected a dict of size, order and trainable, got {describe(entry)}")
            sizes[name] = check_size(f"{where}: size", entry["size"], full_size)
            orders[name] = check_permutation(f"{where}: order", entry["order"], full_size)
            trainable[name] = check_bool(f"{where}: trainable", entry["trainable"])
        for name, wanted in trainable.items():
            if wanted != isinstance(self.groups[name].partition, TrainablePartition):
                kind = TrainablePartition if wanted else UniformPartition
                partition = kind.like(self.groups[name].partition).requires_grad_(False)
                self.set_partition(name, partition.to(next(self.parameters()).device))
        self.resize(sizes)
        for name, order in orders.items():
            self.groups[name].order = tuple(order.tolist())


def _is_fraction(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)


def _check_fraction(name: str, value: Any) -> float:
    if not 0 < value <= MAX_UPSAMPLING:
        raise ValueError(f"{name}: expected a fraction above 0 and at most {MAX_UPSAMPLING}, got {value}")
    return float(value)


def _nearest_size(full_size: int, fraction: float, multiple_of: int) -> int:
    """The multiple, or full size, that is nearest to a fraction of the full size, of the possible ones.

    >>> [_nearest_size(20, fraction, 8) for fraction in (0.01, 0.5, 0.7, 0.9, 1.0, 1.1, 64.0)]
    [8, 8, 16, 20, 20, 24, 1280]
    >>> _nearest_size(4, 0.25, 8), _nearest_size(5, 0.5, 1)
    (4, 2)
    """
    wanted = fraction * full_size
    if multiple_of == 1:
        return max(2, round(wanted))
    below = math.floor(wanted / multiple_of) * multiple_of
    sizes = [below, below + multiple_of, full_size]
    return min((s for s in sizes if 2 <= s <= MAX_UPSAMPLING * full_size), key=lambda s: (abs(s - wanted), -s))


def _possible_sizes(full_size: int, low: float, high: float, multiple_of: int) -> list[int]:
    """The sizes within the bounds that are multiples or full; all that are within them if none is.

    >>> _possible_sizes(20, 0.5, 1.0, 8), _possible_sizes(20, 0.5, 0.6, 8), _possible_sizes(4, 0.5, 1.0, 8)
    ([16, 20], [10, 11, 12], [4])
    """
    # Rounded first: 0.7 · 10 is 7 and a bit less, and 0.3 · 10 is not more than 3.
    first = max(2, math.ceil(round(low * full_size, 9)))
    last = max(first, math.floor(round(high * full_size, 9)))
    sizes = range(first, last + 1)
    return [size for size in sizes if size % multiple_of == 0 or size == full_size] or list(sizes)
