"""A network with continuous layers from a discrete one, its groups of channels and their orders."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn.axes import Axis, Sampling
from ..nn.continuous_weight import ContinuousWeight
from ..nn.layers import INTEGRAL_TYPES
from ..nn.sampled import make_sampled
from ..partition import Concatenation, Partition, UniformPartition
from .graph import ChannelGroup, ReportEntry
from .model import Group, IntegralModel
from .ordering import Permutation
from .tensors import Member, axis_size, become, channel_groups, owner_of, sizes_of, tensors_of
from .transformer_layers import avoid_fused_kernels

__all__ = ["build", "slices_of"]

Carried = Sequence[tuple[Member, Group]]


def build(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    orders: Mapping[str, Permutation],
    sampling: Sampling,
    report: Sequence[ReportEntry],
) -> IntegralModel:
    """A copy of the model with the groups' channels permuted and their layers made continuous.

    Parameters without channels of these groups are the model's own, not copies.

    Source: "Integral Neural Networks" (CVPR 2023), supplement, Algorithm 1, lines 7 to 14.
    """
    model = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    continuous = []
    axes: dict[str, dict[int, list[tuple[Member, Group]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        order = tuple(int(channel) for channel in orders[group.name])
        partition = UniformPartition(group.full_size, kind=sampling.kind, nodes=group.full_size)
        continuous.append(Group(group.name, group.full_size, group.members, order, partition))
        for member in group.members:
            axes[member.layer][member.dim].append((member, continuous[-1]))
    for name, carried in axes.items():
        layer, parameter = owner_of(model, name)
        for dim, its_members in carried.items():
            for tensor, at in _tensors(layer, parameter, dim):
                _permute(layer, tensor, at, its_members)
        if parameter is None and type(layer) in INTEGRAL_TYPES and channel_groups(layer) == 1 and _is_plain(layer):
            become(layer, _integral(layer, carried, sampling))
        else:
            _make_sampled(layer, parameter, carried, sampling)
    avoid_fused_kernels(model)
    return IntegralModel(model, continuous, report)


def slices_of(model: nn.Module, group: ChannelGroup) -> list[Tensor]:
    """What each parameter of the group holds for each channel: tensors ``[S, F]``."""
    slices = []
    for member in group.members:
        layer, parameter = owner_of(model, member.layer)
        for name, dim in _tensors(layer, parameter, member.dim):
            if name in layer._parameters:  # running statistics tell of the data
                entries = getattr(layer, name).narrow(dim, member.start, group.full_size * member.block)
                slices.append(entries.unflatten(dim, (-1, member.block)).movedim(dim, 0).flatten(1))
    return slices


def _tensors(layer: nn.Module, parameter: str | None, dim: int) -> list[tuple[str, int]]:
    """The tensors, and their dims, that a member's axis stands for."""
    return tensors_of(layer, dim) if parameter is None else [(parameter, dim)]


@torch.no_grad()
def _permute(layer: nn.Module, name: str, dim: int, carried: Carried) -> None:
    """Puts entries of a layer's tensor into the orders of the groups whose channels they carry, in a new tensor."""
    values = getattr(layer, name)
    index = torch.arange(values.shape[dim], device=values.device)
    for member, group in carried:
        entries = index.narrow(0, member.start, group.full_size * member.block)
        entries.copy_(entries.view(-1, member.block)[list(group.order)].flatten())
    permuted = values.index_select(dim, index)
    if name in layer._parameters:
        permuted = nn.Parameter(permuted, requires_grad=values.requires_grad)
    setattr(layer, name, permuted)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer has what its type gives it and no more: nothing that code outside of it may look for."""
    plain = type(layer)(*[1] * (2 if isinstance(layer, nn.Linear) else 3), device="meta")
    return all(
        getattr(layer, kind).keys() <= getattr(plain, kind).keys()
        for kind in ("__dict__", "_parameters", "_buffers", "_modules")
    )


def _integral(layer: nn.Module, carried: Mapping[int, Carried], sampling: Sampling) -> nn.Module:
    dims = sorted(carried)
    axes = [_axis(layer, None, carried[dim]) for dim in dims]
    return INTEGRAL_TYPES[type(layer)].from_discrete(
        layer,  # type: ignore[arg-type]  # it is of one of these types
        dims=dims,
        blocks=[block for _, block in axes],
        partitions=[axis for axis, _ in axes],
        sampling=sampling,
    )


def _make_sampled(layer: nn.Module, parameter: str | None, carried: Mapping[int, Carried], sampling: Sampling) -> None:
    """Makes a layer of another type, or a parameter outside of layers, continuous in place."""
    axes = {dim: _axis(layer, parameter, members) for dim, members in carried.items()}
    axis_at: dict[str, dict[int, int]] = defaultdict(dict)  # tensor -> its dim -> the layer's axis
    for dim in axes:
        for name, at in _tensors(layer, parameter, dim):
            axis_at[name][at] = dim
    tensors = {
        name: ContinuousWeight(
            getattr(layer, name).shape,
            sorted(at),
            input_dim=next((i for i, dim in at.items() if dim == 1 and parameter is None), None),
            blocks=[axes[at[i]][1] for i in sorted(at)],
            partitions=[axes[at[i]][0] for i in sorted(at)],
            sampling=sampling,
        )
        for name, at in axis_at.items()
    }
    sizes = {}
    if parameter is None:
        for name, (dim, times) in sizes_of(layer).items():
            if dim in axes:
                sizes[name] = (str(dim), int(axes[dim][1] * times))
    make_sampled(layer, tensors, {parameter or str(dim): axis for dim, (axis, _) in axes.items()}, sizes)


def _axis(layer: nn.Module, parameter: str | None, carried: Carried) -> tuple[Axis, int]:
    """The partition of an axis, or the concatenation of those of its members and of entries that stay discrete.

    And how many entries of the axis make one of it: the largest block that divides all of them.
    """
    parts: list[tuple[Partition | None, int]] = []  # and the number of entries of each channel, or of all
    end = 0
    for member, group in sorted(carried, key=lambda pair: pair[0].start):
        parts.append((None, member.start - end))
        parts.append((group.partition, member.block))
        end = member.start + group.full_size * member.block
    size = (
        axis_size(layer, carried[0][0].dim) if parameter is None else getattr(layer, parameter).shape[carried[0][0].dim]
    )
    parts.append((None, size - end))
    parts = [part for part in parts if part[1]]
    block = math.gcd(*(length for _, length in parts))
    if len(parts) == 1 and parts[0][0]:
        return parts[0][0], block
    return Concatenation(
        [partition or length // block for partition, length in parts],
        [1 if partition is None else length // block for partition, length in parts],
    ), block
