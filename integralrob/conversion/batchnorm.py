"""Fusion of batch normalisation, in its evaluation form, into the layer before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .recording import Recording, shape_of
from .tensors import BATCH_NORMS, become, has_integral_form

if TYPE_CHECKING:
    from ..nn.layers import Discrete

__all__ = ["fusable", "fuse"]


def fusable(recording: Recording) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Batch norms, and the layer whose output each reads, where nothing else reads it."""
    nodes = recording.nodes
    outputs = {function for function, _ in recording.outputs}
    for call in recording.calls.values():
        norm = call.module
        source = call.inputs[0] if type(norm) in BATCH_NORMS and call.inputs else None
        layer = recording.calls[source[0]].module if source and source[0] in recording.calls else None
        if (
            source
            and isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))
            and has_integral_form(layer)
            and source[0] not in outputs
            and layer in nodes  # not so where nothing that is made of them is an output
            and norm in nodes
            and set(nodes[layer].outputs) == {nodes[norm]}
            and norm.running_mean is not None
            and norm.num_features == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
            # Behind a linear layer of sequences, channels are not what the norm takes for channels.
            and not (isinstance(layer, nn.Linear) and len(shape_of(source)) > 2)
            and all(recording.called[module] == 1 and not recording.entangled(module) for module in (layer, norm))
        ):
            yield norm, layer


@torch.no_grad()
def fuse(model: nn.Module, producer: str, batchnorm: str) -> None:
    """Folds the running statistics and the affine map of one submodule into another's weight and bias, in place.

    The layer `producer` (linear or convolution) gets the weight ``w · γ/√(σ² + ε)`` and the bias
    ``(b - μ) · γ/√(σ² + ε) + β``; `nn.Identity` takes the place of `batchnorm`. The new parameters are trainable if one
    of those that they are made of is. Arithmetic is in float64.
    """
    layer = cast("Discrete", model.get_submodule(producer))
    norm = cast("nn.BatchNorm2d", model.get_submodule(batchnorm))
    requires_grad = any(p.requires_grad for p in (*layer.parameters(), *norm.parameters()))
    tensors = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, variance, gamma, beta = (None if tensor is None else tensor.double() for tensor in tensors)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, gamma, beta, transposed)
    for name, value in zip(("weight", "bias"), fused, strict=True):
        setattr(layer, name, nn.Parameter(value.to(layer.weight.dtype), requires_grad=requires_grad))
    identity = nn.Identity()
    identity.train(norm.training)
    become(norm, identity)
