"""The tensors of layers: which of their dims carry the channels of an axis."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from ..nn.layers import INTEGRAL_TYPES

__all__ = [
    "BATCH_NORMS",
    "Member",
    "become",
    "channel_groups",
    "has_integral_form",
    "is_depthwise",
    "maps_channels",
    "owner_of",
    "sizes_of",
    "tensors_of",
]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CHANNELWISE = (*BATCH_NORMS, *_INSTANCE_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)

_SIZES: list[tuple[Any, str]] = [
    ((nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm), "num_features"),
    (nn.GroupNorm, "num_channels"),
    ((nn.LayerNorm, nn.RMSNorm), "normalized_shape"),
    (nn.PReLU, "num_parameters"),
    (nn.Embedding, "embedding_dim"),
]


@dataclass(frozen=True)
class Member:
    """Entries of an axis that carry a group's channels.

    Attributes:
        layer: qualified name of a layer, or of a parameter outside of layers.
        dim: 0, the layer's output axis or its only one, or 1, the input axis; of a parameter, its dim.
        block: consecutive entries of the axis that belong to one channel; more than 1 after a flattening.
        start: the first entry; other channels are before it where the axis is a concatenation.
    """

    layer: str
    dim: int
    block: int = 1
    start: int = 0


def maps_channels(module: nn.Module) -> bool:
    """Whether a layer reads channels along one axis of its weight and makes others along the other."""
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or _is_gpt2_conv1d(module)


def _is_gpt2_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer in the package transformers, whose weight is ``(in, out)``."""
    return (type(module).__module__, type(module).__name__) == ("transformers.pytorch_utils", "Conv1D")


def has_integral_form(module: nn.Module) -> bool:
    """Whether channels of the module's axes can be continuous; its very type, as a subclass may compute else."""
    if type(module) is nn.Embedding:
        return module.max_norm is None and not module.sparse  # the one writes to the weight, the other to its gradient
    if type(module) in _TRANSPOSED:  # whose weight has the groups of its output channels along another dim
        return channel_groups(module) == 1 or (is_depthwise(module) and module.in_channels == module.out_channels)
    return type(module) in (*INTEGRAL_TYPES, *_CHANNELWISE) or _is_gpt2_conv1d(module)


def channel_groups(module: nn.Module) -> int:
    """The number of groups of a grouped convolution, else 1."""
    return int(getattr(module, "groups", 1))


def is_depthwise(module: nn.Module) -> bool:
    """Whether each input channel of a convolution has output channels of its own."""
    return channel_groups(module) == getattr(module, "in_channels", 0) > 1


def tensors_of(module: nn.Module, dim: int) -> list[tuple[str, int]]:
    """Attributes of a layer, and their dims, that carry the channels of its output (0) or input axis (1).

    >>> tensors_of(nn.ConvTranspose2d(3, 8, 2), 0)
    [('weight', 1), ('bias', 0)]
    """
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) and not is_depthwise(module)
    if transposed or _is_gpt2_conv1d(module):
        pairs = [("weight", 1), ("bias", 0)] if dim == 0 else [("weight", 0)]
    elif dim == 1 or isinstance(module, nn.Embedding):
        pairs = [("weight", 1)]
    else:
        pairs = [(name, 0) for name in ("weight", "bias", "running_mean", "running_var")]
    return [(name, at) for name, at in pairs if getattr(module, name, None) is not None]


def sizes_of(module: nn.Module) -> dict[str, tuple[int, Fraction]]:
    """Attributes of a layer that hold sizes: the axis, and the size relative to that axis of its tensors."""
    one = Fraction(1)
    if isinstance(module, nn.modules.conv._ConvNd) and is_depthwise(module):
        each = Fraction(module.in_channels, module.out_channels)
        return {"out_channels": (0, one), "in_channels": (0, each), "groups": (0, each)}
    if isinstance(module, nn.modules.conv._ConvNd):
        return {"out_channels": (0, one), "in_channels": (1, Fraction(channel_groups(module)))}
    if _is_gpt2_conv1d(module):
        return {"nf": (0, one), "nx": (1, one)}
    for kinds, name in _SIZES:
        if isinstance(module, kinds):
            return {name: (0, one)}
    return {}


def axis_size(module: nn.Module, dim: int) -> int:
    """Number of entries of the output (0) or input axis (1) in a layer's tensors."""
    for name, at in tensors_of(module, dim):
        return int(getattr(module, name).shape[at])
    ((name, _),) = sizes_of(module).items()  # a norm without tensors
    size = getattr(module, name)
    return int(size[0] if isinstance(size, tuple) else size)


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str | None]:
    """What `Member.layer` names: a layer, and None; or the module that owns a parameter, and the attribute."""
    parent, _, attribute = name.rpartition(".")
    owner = model.get_submodule(parent)
    return (owner, attribute) if attribute in owner._parameters else (model.get_submodule(name), None)


def become(module: nn.Module, other: nn.Module) -> None:
    """Makes a module what another one is, in place, for whatever refers to it: a model may have it by several names."""
    module.__class__ = type(other)
    module.__dict__ = other.__dict__
