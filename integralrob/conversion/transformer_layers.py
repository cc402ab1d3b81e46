"""torch's transformer layers have a fused kernel that reads weights itself, where integral layers would sample them."""

from __future__ import annotations

from torch import nn

__all__ = ["allow_fused_kernels", "avoid_fused_kernels"]

_BEFORE = "_integral_activation_relu_or_gelu"


def avoid_fused_kernels(model: nn.Module) -> None:
    """Makes the layers of a network run their own code, until `allow_fused_kernels`."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.__dict__.setdefault(_BEFORE, module.activation_relu_or_gelu)
            module.activation_relu_or_gelu = 0  # which only says whether that kernel has the activation


def allow_fused_kernels(model: nn.Module) -> None:
    """Gives the layers back what `avoid_fused_kernels` took."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = module.__dict__.pop(_BEFORE)
