"""Fusion of batch normalisation, in its evaluation form, into the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

if TYPE_CHECKING:
    from ..nn.layers import Discrete

__all__ = ["BATCH_NORMS", "fuse"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, gamma, beta)
    for name, value in zip(("weight", "bias"), fused, strict=True):
        setattr(layer, name, nn.Parameter(value.to(layer.weight.dtype), requires_grad=requires_grad))
    identity = nn.Identity()
    identity.train(norm.training)
    model.set_submodule(batchnorm, identity)
