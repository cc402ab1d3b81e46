"""Conversion of a discrete network to an integral one: Algorithm 1 of the supplement."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from tqdm.auto import tqdm

from .._checks import check_bool, check_kernel_dtype, describe, has_values
from ..nn.axes import Sampling
from . import batchnorm
from .build import build
from .check import Reference, find_fault, find_faults
from .graph import ChannelGroup, ReportEntry, Traced, trace
from .group_orders import group_orders
from .model import IntegralModel
from .ordering import Order, resolve_order

__all__ = ["convert"]


@torch.inference_mode(False)  # autograd finds the groups, on copies of the inputs, which are no inference tensors
def convert(
    model: nn.Module,
    example_inputs: Any,
    *,
    order: str | Order | None = "shortest_path",
    fuse_bn: bool = True,
    dims: Collection[str] | None = None,
    sampling: Sampling | None = None,
    progress: bool = True,
) -> IntegralModel:
    """Turns a trained network into one that can be sampled at any size, and at full size computes the same.

    The network is run once, and its channels are followed from the layers that make them through what is between
    layers (sums, concatenations, splits, flattenings, permuted dims, pixel shuffles, ...) to the layers that read them.
    Channels that must be reordered and resized together are a group; each branch of a concatenation has its own. The
    channels of each group are put in an order in which neighbours are alike. Then the tensors that carry them become
    functions: those of linear and convolution layers (grouped, depthwise and transposed ones too), embeddings, norms,
    PReLU, and parameters outside of layers. Input channels and outputs stay discrete, and so does every group with
    something in it that has no integral form, such as the heads of an attention: see `IntegralModel.report`.

    Args:
        model: left as it is.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments. The groups
            are traced, and the result is checked, on it; a small one will do.
        order: "shortest_path", the shortest that an iterated local search finds; "two_opt", the classic method, faster
            and longer; None to keep the order; or a function from the distance matrix (NumPy, float64 ``[S, S]``) to a
            permutation (position -> channel). Ctrl-C ends the search for shortest paths, in all groups, and the best
            so far are taken, with a `RuntimeWarning`; at any other time it ends the conversion.
        fuse_bn: fuse batch norms into the layer before them, where there is one, in their evaluation form, as the
            supplement does. Others are sampled along with the channels, and their running statistics too, which go on
            being updated in training: see `integralrob.nn.sampled.SampledStatistics`. Without training over sizes,
            norms that are kept, and recalibrated at each size (`integralrob.training.recalibrate_batch_norms_`), keep
            far more accuracy than fused ones: docs/experiments.md.
        dims: names of the groups to convert, or None for all that can be. A group has the name of the first layer that
            produces its channels, with the first and last of its entries in brackets if others are in other groups.
        sampling: kernel, partition, antialiasing and quadrature of all layers; see `integralrob.nn.Sampling`.
        progress: show a bar with the stage, the group and the length of its path.

    Returns:
        An `IntegralModel` at full size, on the model's device, with its train and `requires_grad` flags.

    Raises:
        TypeError, ValueError: an argument is not as above, an unknown name in `dims`; a model with a ScriptModule, or
                with weights that are not finite, have no values (meta device), no shape (lazy layers) or another
                floating-point type than float16, bfloat16, float32 and float64, or were made in inference mode; an
                example on which no output is finite, or that has no samples.
        RuntimeError: the model does not run on the example, or cannot be traced; or the outputs at full size differ
            from the model's, on the example in evaluation mode, by more than 1e-5 of the largest output (float64:
            1e-10, other dtypes: 64 ε), and by more than the model's own rounding explains. The message names the first
            layer where they part.

    Before, the groups are put in a random order and resized, on copies: those with which the outputs change at full
    size, or which do not run at another size, or compute something else there than their discretisation, stay discrete.

    Complexity: for a group of `S` channels ``O(S²)`` times the weights of one channel, and the ordering's cost.

    Source: "Integral Neural Networks" (CVPR 2023), supplement, appendix C, Algorithm 1.

    >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 10))
    >>> integral = convert(network, torch.zeros(1, 1, 4, 4), progress=False)
    >>> integral.sizes
    {'0': 8}
    >>> integral.resize(0.5)
    >>> integral.discretize()[0]
    Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {describe(model)}")
    orderer = resolve_order(order)
    for name, flag in (("fuse_bn", fuse_bn), ("progress", progress)):
        check_bool(name, flag)
    if sampling is not None and not isinstance(sampling, Sampling):
        raise TypeError(f"sampling: expected a Sampling or None, got {describe(sampling)}")
    if isinstance(dims, str) or not (dims is None or isinstance(dims, Collection)):
        raise TypeError(f"dims: expected a collection of group names or None, got {describe(dims)}")

    _check_model(model)

    with tqdm(desc="tracing channels", unit="group", disable=not progress) as bar:
        reference = Reference(model, example_inputs)
        traced = trace(model, example_inputs, fuse_bn=fuse_bn)
        groups, report = _select(traced, dims)
        fused = copy.deepcopy(model)
        for producer, norm in traced.fusable:
            batchnorm.fuse(fused, producer, norm)
        sampling = sampling or Sampling()

        def fault_of(integral: IntegralModel, *, at_other_sizes: bool) -> str | None:
            return find_fault(integral, reference, dict(traced.fusable), at_other_sizes=at_other_sizes)

        bar.set_description("checking groups")
        # Whatever the order will be: a random one shows whether the groups are what the network takes together.
        random = np.random.default_rng(0)
        shuffled = {group.name: random.permutation(group.full_size) for group in groups}
        faults = find_faults(
            groups, lambda some: fault_of(build(fused, some, shuffled, sampling, []), at_other_sizes=True)
        )
        report += [ReportEntry(name, name, reason) for name, reason in faults.items()]
        groups = [group for group in groups if group.name not in faults]

        bar.total = len(groups)
        bar.set_description("ordering channels")
        orders = group_orders(fused, groups, orderer, bar)
        bar.set_description("checking outputs")
        integral = build(fused, groups, orders, sampling, report)
        remaining = fault_of(copy.deepcopy(integral), at_other_sizes=False)
    if remaining:
        raise RuntimeError(f"model: the converted network {remaining}")
    return integral


def _check_model(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"model: expected modules that are Python code, got the ScriptModule {name!r}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ValueError(f"model: expected a model that has run once, got {name!r} without a shape yet")
        if not has_values(tensor):
            raise ValueError(f"model: expected tensors with values, got {name!r} on the device {tensor.device}")
        if tensor.is_inference():
            raise ValueError(f"model: expected tensors made outside of torch.inference_mode, got {name!r} from inside")
    for name, parameter in model.named_parameters():
        values = torch.view_as_real(parameter) if parameter.is_complex() else parameter
        if values.is_floating_point():
            check_kernel_dtype(f"model: the parameter {name!r}", values)
            # The ends are not finite if something is not, and need no memory for each weight.
            if values.numel() and not torch.stack(values.detach().aminmax()).isfinite().all():
                raise ValueError(f"model: expected finite weights, got NaN or infinity in {name!r}")


def _select(traced: Traced, dims: Collection[str] | None) -> tuple[list[ChannelGroup], list[ReportEntry]]:
    """The groups to convert, and the report on the others."""
    report = list(traced.skipped)
    if dims is None:
        return list(traced.groups), report
    names = {group.name for group in traced.groups} | {entry.name for entry in report}
    unknown = [name for name in dims if name not in names]
    if unknown:
        raise ValueError(f"dims: expected names of groups ({', '.join(sorted(names))}), got {unknown[0]!r}")
    report += [
        ReportEntry(group.name, group.name, "is not in dims") for group in traced.groups if group.name not in dims
    ]
    return [group for group in traced.groups if group.name in dims], report
