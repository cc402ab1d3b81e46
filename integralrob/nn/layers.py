"""Integral layers: the twins of `torch.nn` layers whose parameters are control values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from .._checks import describe
from ..partition import Partition
from .axes import Sampling
from .continuous_weight import ContinuousWeight, check_dims, check_size

__all__ = ["IntegralConv1d", "IntegralConv2d", "IntegralConv3d", "IntegralLayer", "IntegralLinear", "has_hooks"]

Discrete = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

_AXES = ("out_size", "in_size")


class IntegralLayer(nn.Module):
    """What integral layers add to their `torch.nn` twin.

    The parameters `weight` and `bias` hold the control values, in the twin's layout and under its names; each forward
    pass samples them at the present sizes. Axis 0 of the weight is the output axis, axis 1 the input axis.

    The sizes are no part of the layer's `state_dict`, whose keys and shapes are the twin's; that of
    `integralrob.conversion.IntegralModel` has them. A resize must not run in one thread while another thread runs a
    forward pass of a layer that shares the partitions.

    Args (keyword-only, beside the twin's own, whose sizes are the full sizes):
        dims: the continuous axes of the weight, of 0 and 1; the others keep their size.
        blocks: one number per entry of `dims`, see `ContinuousWeight`.
        partitions: one per entry of `dims`, or None, see `ContinuousWeight`. The bias shares that of axis 0.
        sampling: see `Sampling`.

    Raises:
        TypeError, ValueError: an argument that is not as above; a grouped convolution, whose groups of channels are
            separate functions and cannot be sampled as one.
    """

    twin: ClassVar[type[Discrete]]
    size_names: ClassVar[tuple[str, str]]
    option_names: ClassVar[tuple[str, ...]]

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        *args: Any,
        dims: Sequence[int] = (0, 1),
        blocks: Sequence[int] | None = None,
        partitions: Sequence[Partition | None] | None = None,
        sampling: Sampling | None = None,
        **kwargs: Any,
    ) -> None:
        check_dims(dims, 2)
        super().__init__(*args, **kwargs)
        _check_groups(self)
        self.continuous_weight = ContinuousWeight(
            self.weight.shape, dims, blocks=blocks, partitions=partitions, sampling=sampling
        )
        self.continuous_bias = None
        if self.bias is not None and 0 in self.continuous_weight.dims:
            # Axis 0 is the first continuous dim: the bias follows its partition.
            self.continuous_bias = ContinuousWeight(
                self.bias.shape,
                (0,),
                input_dim=None,
                blocks=self.continuous_weight.blocks[:1],
                partitions=list(self.continuous_weight.partitions[:1]),
                sampling=self.continuous_weight.sampling,
            )
        self.refresh()

    @property
    def sizes(self) -> tuple[int, int]:
        """Present sizes of the output and the input axis, in points (entries where the axis is discrete)."""
        sizes = dict(zip(self.continuous_weight.dims, self.continuous_weight.sizes, strict=True))
        return sizes.get(0, self.weight.shape[0]), sizes.get(1, self.weight.shape[1])

    def resize(self, out_size: int | None = None, in_size: int | None = None) -> None:
        """Samples the layer at other sizes from now on; None leaves an axis as it is.

        Sizes count points: where an axis has blocks, the twin's size is the block times as large.

        Raises:
            TypeError, ValueError: not an int from 2 to 64 times the full size; a size for a discrete axis. Nothing is
                changed then.
        """
        wanted = dict(enumerate((out_size, in_size)))
        nodes = dict(zip(self.continuous_weight.dims, self.continuous_weight.nodes, strict=True))
        for dim, size in wanted.items():
            if size is not None:
                if dim not in nodes:
                    raise ValueError(f"{_AXES[dim]}: expected None, as that axis is discrete in this layer, got {size}")
                check_size(_AXES[dim], size, nodes[dim])
        self.continuous_weight.resize([wanted[dim] for dim in nodes])
        self.refresh()

    def refresh(self) -> None:
        """Follows partitions that were resized from outside, as those that several layers share are."""
        self.continuous_weight.refresh()
        if self.continuous_bias is not None:
            self.continuous_bias.refresh()
        for name, size in zip(self.size_names, reversed(self.continuous_weight.sampled_shape[:2]), strict=True):
            setattr(self, name, size)
        self._sizes_of_twin = self.continuous_weight.sizes

    def sample(self) -> tuple[Tensor, Tensor | None]:
        """The discrete weight and bias at the present sizes; differentiable in the control values.

        Where no gradient flows they are kept for the next pass, see `ContinuousWeight.forward`: do not write to them.

        >>> IntegralLinear(32, 64, sampling=Sampling(a=-0.75)).sample()[0].shape
        torch.Size([64, 32])
        """
        if self.continuous_weight.sizes != self._sizes_of_twin:
            self.refresh()  # a shared partition was resized elsewhere
        bias = self.bias if self.continuous_bias is None else self.continuous_bias(self.bias)
        return self.continuous_weight(self.weight), bias

    @classmethod
    def from_discrete(cls, module: Discrete, **kwargs: Any) -> Self:
        """An integral layer whose sample at full size is the given layer's weight, to round-off.

        Args:
            module: a `torch.nn` layer of the twin's type. It is copied; device, dtype, `requires_grad` and the train
                flag are kept.
            kwargs: `dims`, `blocks`, `partitions` (at full size), `sampling`, see `IntegralLayer`.

        Raises:
            TypeError, ValueError: a module of another type or with hooks, a grouped convolution, partitions that are
                not at full size, or a rule that gives a point the weight 0.

        >>> layer = IntegralLinear.from_discrete(nn.Linear(32, 64))
        >>> layer.resize(48, 24)
        >>> layer(torch.zeros(1, 24)).shape
        torch.Size([1, 48])
        """
        if type(module) is not cls.twin:  # a subclass may compute something else
            raise TypeError(f"module: expected a torch.nn.{cls.twin.__name__}, got {describe(module)}")
        if has_hooks(module):  # `torch.nn.utils.weight_norm` and others compute the weight in one
            raise ValueError("module: expected a layer without hooks, whose effects would be lost, got one with hooks")
        _check_groups(module)
        weight, bias = module.weight, module.bias
        layer = cls(**_arguments(cls, module, weight, bias), **kwargs)
        bias_values = (
            bias if bias is None or layer.continuous_bias is None else layer.continuous_bias.right_inverse(bias)
        )
        _fill(layer, module, layer.continuous_weight.right_inverse(weight), bias_values)
        return layer

    @torch.no_grad()
    def discretize(self) -> Discrete:
        """The `torch.nn` twin at the present sizes, with the sampled weight; it knows nothing of this package.

        Device, dtype, `requires_grad` and the train flag are kept.

        >>> layer = IntegralLinear(32, 64)
        >>> layer.resize(48, 24)
        >>> layer.discretize()
        Linear(in_features=24, out_features=48, bias=True)
        """
        weight, bias = self.sample()
        layer = self.twin(**_arguments(type(self), self, weight, bias))
        _fill(layer, self, weight, bias)
        return layer


def has_hooks(module: nn.Module) -> bool:
    """Whether something that is not the module's own code runs in its passes."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def _check_groups(module: nn.Module) -> None:
    groups = getattr(module, "groups", 1)
    if groups != 1:
        raise ValueError(
            f"groups: expected 1, got {groups}: the channels of different groups belong to separate functions, and "
            "sampling across them would mix these"
        )


def _arguments(cls: type[IntegralLayer], module: nn.Module, weight: Tensor, bias: Tensor | None) -> dict[str, Any]:
    """Constructor arguments of `cls` and of its twin: the options of `module`, the sizes of `weight`, no memory."""
    sizes = dict(zip(cls.size_names, (weight.shape[1], weight.shape[0]), strict=True))
    options = {name: getattr(module, name) for name in cls.option_names}
    return {**sizes, **options, "bias": bias is not None, "device": "meta", "dtype": weight.dtype}


def _fill(layer: nn.Module, source: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Gives `layer` copies of the values, and the flags of `source`."""
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None:
            copy = values.detach().clone(memory_format=torch.contiguous_format)
            setattr(layer, name, nn.Parameter(copy, requires_grad=getattr(source, name).requires_grad))
    layer.train(source.training)


class IntegralLinear(IntegralLayer, nn.Linear):  # type: ignore[misc]  # Linear's bias is declared Any
    """`torch.nn.Linear` with a continuous weight. Arguments: those of `torch.nn.Linear`, and see `IntegralLayer`.

    >>> layer = IntegralLinear(32, 64)
    >>> layer.resize(48, 24)
    >>> layer
    IntegralLinear(
      in_features=24, out_features=48, bias=True
      (continuous_weight): ContinuousWeight(shape=(64, 32), dims=(0, 1), sizes=(48, 24))
      (continuous_bias): ContinuousWeight(shape=(64,), dims=(0,), sizes=(48,))
    )
    """

    twin = nn.Linear
    size_names = ("in_features", "out_features")
    option_names = ()

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``."""
        return F.linear(input, *self.sample())


class _IntegralConv(IntegralLayer):
    _conv_forward: Callable[..., Tensor]
    size_names = ("in_channels", "out_channels")
    option_names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

    def forward(self, input: Tensor) -> Tensor:
        """``[N, in_channels, ...]`` -> ``[N, out_channels, ...]``."""
        return self._conv_forward(input, *self.sample())


class IntegralConv1d(_IntegralConv, nn.Conv1d):
    """`torch.nn.Conv1d` with a continuous weight. Arguments: those of `torch.nn.Conv1d`, and see `IntegralLayer`.

    >>> layer = IntegralConv1d(8, 16, 3, padding=1)
    >>> layer.resize(out_size=12)
    >>> layer(torch.zeros(1, 8, 5)).shape
    torch.Size([1, 12, 5])
    """

    twin = nn.Conv1d


class IntegralConv2d(_IntegralConv, nn.Conv2d):
    """`torch.nn.Conv2d` with a continuous weight. Arguments: those of `torch.nn.Conv2d`, and see `IntegralLayer`.

    >>> layer = IntegralConv2d(3, 64, 3, dims=(0,))  # the image's channels stay discrete
    >>> layer.resize(out_size=48)
    >>> layer(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 48, 6, 6])
    """

    twin = nn.Conv2d


class IntegralConv3d(_IntegralConv, nn.Conv3d):
    """`torch.nn.Conv3d` with a continuous weight. Arguments: those of `torch.nn.Conv3d`, and see `IntegralLayer`.

    >>> layer = IntegralConv3d(8, 16, 3)
    >>> layer.resize(12, 6)
    >>> layer(torch.zeros(1, 6, 4, 4, 4)).shape
    torch.Size([1, 12, 2, 2, 2])
    """

    twin = nn.Conv3d


INTEGRAL_TYPES: dict[type[nn.Module], type[IntegralLayer]] = {
    layer.twin: layer for layer in (IntegralLinear, IntegralConv1d, IntegralConv2d, IntegralConv3d)
}
"""The integral layer of each `torch.nn` layer that has one."""
