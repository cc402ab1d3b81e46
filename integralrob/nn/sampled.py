"""Any module with continuous tensors: it reads samples of them where its code says `self.weight`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .._checks import describe
from .axes import Axis
from .continuous_weight import ContinuousWeight

__all__ = ["STATISTICS", "SampledModule", "SampledStatistics", "make_sampled"]

STATISTICS = ("running_mean", "running_var")


class SampledModule(nn.Module):
    """What `make_sampled` adds to the class of a module, its twin.

    The module's parameters and buffers hold the control values, under their names; reading one as an attribute, as the
    twin's own code does, samples it at the present sizes. `state_dict` and optimizers see the control values. What
    this class adds has names with `integral`, as the twin can be of anyone's making.
    """

    integral_twin: type[nn.Module]
    integral_tensors: nn.ModuleDict
    integral_axes: nn.ModuleDict
    _integral_sizes: dict[str, tuple[str, int]]

    def integral_refresh(self) -> None:
        """Follows partitions that were resized from outside: the twin's sizes, and the bands."""
        for attribute, (axis, factor) in self._integral_sizes.items():
            size = cast("Axis", self.integral_axes[axis]).num_points * factor
            setattr(self, attribute, (size,) if attribute == "normalized_shape" else size)
        for weight in self.integral_tensors.values():
            cast("ContinuousWeight", weight).refresh()

    def _integral_sample(self, name: str) -> Tensor:
        return self.integral_tensors[name](self._integral_values(name))

    def _integral_values(self, name: str) -> Tensor:
        values = self._parameters.get(name)
        return cast("Tensor", self._buffers[name] if values is None else values)

    def integral_discretize_(self) -> None:
        """Turns this module, in place, into its twin at the present sizes, which knows nothing of this package."""
        with torch.no_grad():
            for name in self.integral_tensors:
                sample = self._integral_sample(name).detach().clone()
                if name in self._buffers:
                    self._buffers[name] = sample
                else:
                    given = cast("nn.Parameter", self._parameters[name])
                    self._parameters[name] = nn.Parameter(sample, requires_grad=given.requires_grad)
        del self._modules["integral_tensors"], self._modules["integral_axes"]
        for attribute in ("_integral_sizes", "_integral_updates", "_integral_calibrated"):
            self.__dict__.pop(attribute, None)
        self.__class__ = self.integral_twin  # type: ignore[assignment]  # no longer a SampledModule

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The class is made at run time: copies and pickles name what it is made of."""
        return _empty, (self.integral_twin, tuple(self.integral_tensors)), self.__getstate__()

    def _get_name(self) -> str:
        return f"Sampled{self.integral_twin.__name__}"


class SampledStatistics(SampledModule):
    """A `SampledModule` with running statistics, as a batch norm has.

    The running statistics are functions too. The mean of a sampled channel, a weighted sum of channels,
    is that sum of their means; its standard deviation is that sum of theirs as far as neighbours go up and down
    together, which ordering is for. So means and standard deviations are sampled, and variances are never negative. In
    training, the update that the twin would make of a sample, ``r``, goes back to the control values through the
    transposed sampling ``Bᵀ``, divided by what each control value gives to all samples: ``Δ = Bᵀr / |B|ᵀ1``. At full
    size that is the twin's update; at others it is a step towards the statistics whose samples fit best, in the mean
    square over the sizes that are trained.

    Beside the functions, which serve all sizes, there can be statistics of the present size alone, see
    `integral_calibrate`.
    """

    track_running_stats: bool
    _integral_updates: dict[str, Tensor] | None = None
    _integral_calibrated: Mapping[str, Tensor] = MappingProxyType({})

    def integral_calibrate(self, statistics: Mapping[str, Tensor]) -> None:
        """Sets the statistics that evaluation uses at the present size, in the place of samples; with none, samples.

        They are in the `state_dict`, under names of their own, and in the discretised twin. The first training pass,
        and `IntegralModel.resize` to another size, forget them; the functions stay as they are.

        Args:
            statistics: "running_mean" and "running_var", of the sampled shape; or nothing.
        """
        self._integral_calibrated = dict(statistics)

    def _integral_sample(self, name: str) -> Tensor:
        if self._integral_updates is not None and name in self._integral_updates:
            return self._integral_updates[name]
        if name in self._integral_calibrated:
            return self._integral_calibrated[name]
        if name != "running_var":
            return super()._integral_sample(name)
        continuous = cast("ContinuousWeight", self.integral_tensors[name])
        return continuous.kept(
            self._integral_values(name),
            lambda values: continuous.sample(values.double().sqrt()).square().to(values.dtype),
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The twin's forward pass."""
        if not (self.training and self.track_running_stats):
            return super().forward(*args, **kwargs)
        self.integral_calibrate({})
        before = {name: self._integral_sample(name) for name in STATISTICS}
        self._integral_updates = {name: values.clone() for name, values in before.items()}
        try:
            result = super().forward(*args, **kwargs)
            for name, after in self._integral_updates.items():
                self._integral_pull_back(name, before[name], after)
        finally:
            self._integral_updates = None
        return result

    @torch.no_grad()
    def _integral_pull_back(self, name: str, before: Tensor, after: Tensor) -> None:
        continuous, values = cast("ContinuousWeight", self.integral_tensors[name]), self._integral_values(name)
        if name == "running_var":
            change = after.double().sqrt() - before.double().sqrt()
            values.copy_((values.double().sqrt() + continuous.spread_back(change)).clamp(min=0).square())
        else:
            values.copy_(values + continuous.spread_back(after.double() - before.double()))

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        self.integral_calibrate({name: fn(values) for name, values in self._integral_calibrated.items()})
        return super()._apply(fn, *args, **kwargs)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}integral_{name}": value for name, value in self._integral_calibrated.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # After the model's own state, and so at the sizes that come with these statistics.
        keys = {f"{prefix}integral_{name}": name for name in STATISTICS}
        super()._load_from_state_dict({k: v for k, v in state_dict.items() if k not in keys}, prefix, *args)
        calibrated = {}
        for key, name in keys.items():
            if key in state_dict:
                shape = cast("ContinuousWeight", self.integral_tensors[name]).sampled_shape
                given, values = state_dict[key], self._integral_values(name)
                if not isinstance(given, Tensor) or given.shape != shape:
                    args[-1].append(f"{key}: expected a tensor of shape {shape}, got {describe(given)}")
                    return
                calibrated[name] = given.detach().to(values, copy=True)
        self.integral_calibrate(calibrated)


def make_sampled(
    module: Any,
    tensors: Mapping[str, ContinuousWeight],
    axes: Mapping[str, Axis],
    sizes: Mapping[str, tuple[str, int]],
) -> None:
    """Makes tensors of a module continuous, in place; the module computes the same as before, to round-off.

    Args:
        module: of any type; its class becomes one that extends `SampledModule` and it.
        tensors: how to sample parameters and buffers, by attribute; at full size.
        axes: partitions, by any names.
        sizes: attributes that hold sizes: the name of a partition, and by what its number of points is multiplied.

    >>> from integralrob.partition import UniformPartition
    >>> points = UniformPartition(8, kind="centered", nodes=8)
    >>> norm = nn.LayerNorm(8)
    >>> weight = ContinuousWeight((8,), (0,), input_dim=None, partitions=[points])
    >>> make_sampled(norm, {"weight": weight, "bias": weight}, {"0": points}, {"normalized_shape": ("0", 1)})
    >>> points.resize(4)
    >>> norm.integral_refresh()
    >>> norm(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """
    with torch.no_grad():
        for name, weight in tensors.items():
            values = cast("Tensor", getattr(module, name))
            values.copy_(weight.right_inverse(values))
    if not isinstance(module, SampledModule):
        module.__class__ = _class(type(module), ())
        module.integral_tensors, module.integral_axes, module._integral_sizes = nn.ModuleDict(), nn.ModuleDict(), {}
    module.integral_tensors.update(tensors)
    module.integral_axes.update(axes)
    module._integral_sizes.update(sizes)
    module.__class__ = _class(module.integral_twin, tuple(module.integral_tensors))


_classes: dict[tuple[type[nn.Module], tuple[str, ...]], type[Any]] = {}


def _class(twin: type[nn.Module], names: tuple[str, ...]) -> type[Any]:
    """The class, the same one each time, that reads samples of these tensors in the twin's code."""

    def reader(name: str) -> property:
        return property(lambda module: module._integral_sample(name))

    if (twin, names) not in _classes:
        members: dict[str, Any] = {name: reader(name) for name in names}
        base = SampledStatistics if "running_mean" in names else SampledModule
        _classes[twin, names] = type(f"Sampled{twin.__name__}", (base, twin), {**members, "integral_twin": twin})
    return _classes[twin, names]


def _empty(twin: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls = _class(twin, names)
    return nn.Module.__new__(cls)
