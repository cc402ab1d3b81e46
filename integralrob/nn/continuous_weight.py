"""A weight as a continuous function: control values on a grid, sampled on partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .. import ops
from .._checks import check_int, check_tensor, describe
from ..ops._dtypes import arithmetic_dtype
from ..ops.bands import Band
from ..partition import Concatenation, Partition, UniformPartition
from .axes import Axis, Sampling, axis_band
from .kept_sample import KeptSample

__all__ = ["MAX_UPSAMPLING", "ContinuousWeight", "Sampling", "check_dims", "check_size"]

MAX_UPSAMPLING = 64
"""Most points per control value. More would add nothing to a function that the control values fix, so that it can only
be a mistake: one to find before a resize begins, as memory that runs out would leave some of a network's layers at the
new sizes and others at the old ones."""


class ContinuousWeight(nn.Module):
    """Samples control values, in the layout of the weight that they stand for, on one partition per continuous dim.

    The weight is the function that Keys' cubic kernel draws through the control values. Its sample on the partitions is
    a discrete weight of any size; on the input axis it is multiplied by the quadrature weights ``q_i``, relative to
    those of the control values' cells: ``rho_i = q_i · S / |interval|``, which is 1 for equal cells at full size, so
    that a discrete checkpoint can be the control values. The module holds no control values: it is a parametrization
    (`torch.nn.utils.parametrize`) for the weight or bias of any module, and what integral layers call.

    Args:
        shape: shape of the control values.
        dims: the continuous dims of `shape`, increasing; the others stay discrete.
        input_dim: the dim over which the layer sums, where the quadrature applies if it is continuous; None for none.
            With a one-dimensional `shape`, as of a bias, the default 1 means none too.
        blocks: one number ``b`` per entry of `dims` (None: ones): each control value of the dim stands for `b`
            consecutive discrete entries. A linear layer after the flattening of ``[C, H, W]`` has ``b = H · W``.
        partitions: one per entry of `dims`, or None for uniform ones of `sampling.kind` at full size. They may be
            shared with other weights; a centered partition's `nodes` must be the dim's number of control values. With a
            `Concatenation`, the dim holds one function behind the other, each sampled on its part.
        sampling: kernel, padding, antialiasing and quadrature rule.

    Raises:
        TypeError, ValueError: an argument is not as above; a dim of less than 2 control values.

    Complexity: see `integralrob.ops.sample_with_bands`; the bands are kept while no partition is trainable. The first
    forward pass at a size brings them to the GPU and waits for that: run it before a CUDA graph is captured.

    Source: "Integral Neural Networks" (CVPR 2023), supplement, listings 1 and 2.

    >>> from torch.nn.utils import parametrize
    >>> linear = nn.Linear(32, 64)
    >>> _ = parametrize.register_parametrization(linear, "weight", ContinuousWeight((64, 32), dims=(0,)))
    >>> linear.parametrizations.weight[0].resize([48])
    >>> linear.weight.shape
    torch.Size([48, 32])
    """

    def __init__(
        self,
        shape: Sequence[int],
        dims: Sequence[int] = (0, 1),
        *,
        input_dim: int | None = 1,
        blocks: Sequence[int] | None = None,
        partitions: Sequence[Axis | None] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(shape, Sequence):
            raise TypeError(f"shape: expected a sequence of ints, got {describe(shape)}")
        self.shape = tuple(check_int(f"shape[{i}]", size, 1) for i, size in enumerate(shape))
        self.dims = check_dims(dims, len(self.shape))
        self.blocks = _per_dim("blocks", blocks, 1, len(self.dims))
        self.input_dim = None if input_dim is None else check_int("input_dim", input_dim, 0)
        if self.input_dim is not None and self.input_dim >= max(2, len(self.shape)):
            raise ValueError(f"input_dim: expected None or a dim of the shape {self.shape}, got {input_dim}")
        self.sampling = Sampling() if sampling is None else sampling
        if not isinstance(self.sampling, Sampling):
            raise TypeError(f"sampling: expected a Sampling or None, got {describe(sampling)}")
        self.nodes = tuple(
            _check_nodes(dim, self.shape[dim], block) for dim, block in zip(self.dims, self.blocks, strict=True)
        )
        given = _per_dim("partitions", partitions, None, len(self.dims))
        modules = nn.ModuleList(
            UniformPartition(nodes, kind=self.sampling.kind, nodes=nodes)
            if partition is None
            else _check_partition(f"partitions[{i}]", partition, nodes)
            for i, (partition, nodes) in enumerate(zip(given, self.nodes, strict=True))
        )
        self.partitions = cast("Sequence[Axis]", modules)
        self._bands: tuple[Band, ...] | None = None
        self._placed: tuple[Band, ...] = ()
        self._bands_of: Any = None
        self._kept = KeptSample()
        self.refresh()

    # ---------------------------------------------------------------------------------------------------------- sizes

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of points per entry of `dims`."""
        return tuple(partition.num_points for partition in self.partitions)

    @property
    def sampled_shape(self) -> tuple[int, ...]:
        """Shape of the sample at the present sizes."""
        shape = list(self.shape)
        for dim, size, block in zip(self.dims, self.sizes, self.blocks, strict=True):
            shape[dim] = size * block
        return tuple(shape)

    def resize(self, sizes: Sequence[int | None]) -> None:
        """Changes the number of points per entry of `dims`; None leaves one as it is.

        Raises:
            TypeError, ValueError: not one int from 2 to 64 times the control values, or None, per entry of `dims`;
                nothing is changed then.
        """
        given = _per_dim("sizes", sizes, None, len(self.dims))
        wanted = [
            None if size is None else check_size(f"sizes[{i}]", size, nodes)
            for i, (size, nodes) in enumerate(zip(given, self.nodes, strict=True))
        ]
        for i, (partition, size) in enumerate(zip(self.partitions, wanted, strict=True)):
            if size is not None and not isinstance(partition, Partition):
                raise ValueError(f"sizes[{i}]: expected None where parts are concatenated (resize these), got {size}")
        for partition, size in zip(self.partitions, wanted, strict=True):
            if size is not None and isinstance(partition, Partition):
                partition.resize(size)
        self.refresh()

    # ---------------------------------------------------------------------------------------------------------- bands

    def _build(self) -> tuple[Band, ...]:
        """The bands at the present sizes, float64, differentiable in the partitions."""
        # Tensors of a compiled graph, or of a mode such as FakeTensorMode, are not for layers outside of it.
        cached = not torch.compiler.is_compiling() and type(torch.empty(0)) is Tensor
        return tuple(
            axis_band(partition, nodes, dim == self.input_dim, self.sampling, cached=cached)
            for dim, nodes, partition in zip(self.dims, self.nodes, self.partitions, strict=True)
        )

    def refresh(self) -> None:
        """Follows partitions that were resized from outside: builds the bands before the next forward pass needs them.

        A forward pass does so itself, but a compiled one that finds them ready need not. Forgets the kept sample.
        """
        self._placed = ()
        self._kept.drop()
        if next(self.parameters(), None) is not None:
            self._bands = None
            return
        with torch.inference_mode(False), torch.no_grad():
            self._bands = self._build()
        self._bands_of = self._settings()

    def _settings(self) -> tuple[Sampling, list[tuple[int, ...]]]:
        """What the sample depends on beside the tensors."""
        return self.sampling, [
            partition.part_sizes if isinstance(partition, Concatenation) else (partition.num_points,)
            for partition in self.partitions
        ]

    def _bands_for(self, values: Tensor) -> tuple[Band, ...]:
        """The bands on the values' device, in the dtype in which they are sampled."""
        if self._bands is None:
            return tuple((start.to(values.device), weight.to(values.device)) for start, weight in self._build())
        if self._bands_of != self._settings():  # a shared partition was resized elsewhere
            self.refresh()
        device, dtype = values.device, arithmetic_dtype(values.dtype)
        if self._placed and self._placed[0][1].dtype == dtype and self._placed[0][1].device == device:
            return self._placed
        placed = tuple((start.to(device), weight.to(device, dtype)) for start, weight in self._bands)
        # Tensors that are made in inference mode, or by a compiled graph, are not for later use in eager training.
        if not torch.compiler.is_compiling() and not torch.is_inference_mode_enabled():
            self._placed = placed
        return placed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bands": None, "_placed": (), "_kept": KeptSample()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.refresh()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:  # `to`, `float`, `share_memory`, ...
        self._kept.drop()
        return super()._apply(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """See `torch.nn.Module.train`; a change of the mode forgets the kept sample."""
        if mode != self.training:
            self._kept.drop()
        return super().train(mode)

    # ------------------------------------------------------------------------------------------------------- sampling

    def forward(self, control_values: Tensor) -> Tensor:
        """The sample at the present sizes: `shape` -> `sampled_shape`, same dtype; differentiable to any order.

        Where no gradient flows into the control values and partitions (under `torch.no_grad`, in inference mode, or as
        they ask for none), it is made once and kept until they, the sizes or `sampling` change: do not write to it. It
        takes the memory of a discrete weight until the next pass that needs gradients, or change of the train flag.
        What torch does not count as a change of a tensor is not noticed: after writes through ``.data``, NumPy or
        collectives, call `refresh`.

        Raises:
            TypeError, ValueError: `control_values` is no floating-point tensor of the shape `shape`.
        """
        return self.kept(control_values, self.sample)

    def kept(self, control_values: Tensor, sample: Callable[[Tensor], Tensor]) -> Tensor:
        """``sample(control_values)``, which also reads the partitions, kept as `forward` keeps its result."""
        trainable = tuple(self.parameters()) if self._bands is None else ()
        return self._kept.get((control_values, *trainable), self._settings(), lambda: sample(control_values))

    def sample(self, control_values: Tensor) -> Tensor:
        """What `forward` returns, made anew."""
        check_tensor("control_values", control_values)
        self._check_shape("control_values", control_values, self.shape)
        grid, positions = self._grid(self.nodes)
        sampled = ops.sample_with_bands(control_values.view(grid), self._bands_for(control_values), positions)
        return sampled.reshape(self.sampled_shape)

    @torch.no_grad()
    def spread_back(self, changes: Tensor) -> Tensor:
        """Changes of samples as changes of one-dimensional control values: ``Bᵀr / |B|ᵀ1``, in float64.

        Each control value changes by the mean of the changes of the samples that it is part of, weighted by its share
        in them. At full size, where the samples are the control values, that is `changes`.
        """
        rows = changes.double().view(1, self.sizes[0], self.blocks[0])
        ((start, weight),) = self._bands_for(rows)
        share = ops.sample_1d_adjoint(torch.ones_like(rows[..., :1]), start, weight.abs(), self.nodes[0])
        spread = ops.sample_1d_adjoint(rows, start, weight, self.nodes[0])
        return (spread / share.clamp(min=torch.finfo(share.dtype).tiny)).reshape(self.shape)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """The control values whose sample at full size is `weight`, to round-off; `weight` itself where they are equal.

        Raises:
            TypeError, ValueError: `weight` is no floating-point tensor of the shape `shape`; a partition is not at full
                size; or the sample does not determine the control values, as where the rule gives a point the weight 0.

        Complexity: a division, unless a partition's points are not the control values' own: then a dense float64 solve,
        ``O(S³)``.
        """
        check_tensor("weight", weight)
        self._check_shape("weight", weight, self.shape)
        if self.sizes != self.nodes:
            raise ValueError(f"weight: expected the partitions at full size {self.nodes}, got {self.sizes}")
        grid, positions = self._grid(self.nodes)
        values = weight.reshape(grid)
        for position, (start, rows) in zip(positions, self._build(), strict=True):
            values = _solve_axis(values, position, start.to(weight.device), rows.to(weight.device))
        return values.reshape(self.shape).to(weight.dtype)

    def _grid(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """`shape` with each continuous dim split into points and block, and where the points are."""
        grid = list(self.shape)
        positions = list(self.dims)
        for i in reversed(range(len(self.dims))):
            if self.blocks[i] > 1:
                grid[self.dims[i] : self.dims[i] + 1] = [sizes[i], self.blocks[i]]
                positions[i + 1 :] = [position + 1 for position in positions[i + 1 :]]
        return grid, positions

    @staticmethod
    def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {describe(value)}")

    def __repr__(self) -> str:  # on one line: a network has many
        return f"ContinuousWeight(shape={self.shape}, dims={self.dims}, sizes={self.sizes})"


def _solve_axis(values: Tensor, dim: int, start: Tensor, weight: Tensor) -> Tensor:
    """The control values along `dim` whose samples through the band are `values`; `values` itself if they are equal."""
    if not weight.any(dim=1).all():
        raise ValueError(
            "weight: the quadrature rule gives a point the weight 0, so the control values are not determined"
        )
    size, taps = weight.shape
    columns = start[:, None] + torch.arange(taps, device=start.device)
    at_node = columns == torch.arange(size, device=start.device)[:, None]
    factor = (weight * at_node).sum(1)
    all_at_nodes = not (weight * ~at_node).any()
    if all_at_nodes and (factor == 1).all():
        return values
    rows = values.movedim(dim, 0).to(weight.dtype)
    if all_at_nodes:
        solved = rows.reshape(size, -1) / factor[:, None]
    else:
        matrix = weight.new_zeros(size, size).scatter_add(1, columns, weight)
        solved = torch.linalg.solve(matrix, rows.reshape(size, -1))
    return solved.reshape(rows.shape).movedim(0, dim)


def check_size(name: str, size: Any, nodes: int) -> int:
    """A number of points for an axis of `nodes` control values."""
    points = check_int(name, size, 2)
    if points > MAX_UPSAMPLING * nodes:
        raise ValueError(
            f"{name}: expected at most {MAX_UPSAMPLING * nodes}, {MAX_UPSAMPLING} times the full size, got {size}"
        )
    return points


def check_dims(dims: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Different dims below `ndim`, increasing; at least one."""
    if not isinstance(dims, Sequence):
        raise TypeError(f"dims: expected a sequence of ints, got {describe(dims)}")
    listed = tuple(dims)
    valid = all(isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim < ndim for dim in listed)
    if not listed or not valid or list(listed) != sorted(set(listed)):
        raise ValueError(f"dims: expected different ints from 0 to {ndim - 1}, increasing, got {dims!r}")
    return listed


def _check_nodes(dim: int, size: int, block: Any) -> int:
    check_int("blocks", block, 1)
    if size % block:
        raise ValueError(f"blocks: expected a divisor of {size}, the size of dim {dim}, got {block}")
    if size // block < 2:
        raise ValueError(f"shape: expected at least 2 control values along dim {dim}, got {size // block}")
    return int(size // block)


def _check_partition(name: str, partition: Any, nodes: int) -> Axis:
    if not isinstance(partition, Axis):
        raise TypeError(f"{name}: expected a Partition or None, got {describe(partition)}")
    optional = isinstance(partition, Partition) and partition.kind == "endpoints" and partition.nodes is None
    if partition.nodes != nodes and not optional:
        raise ValueError(
            f"{name}: expected a partition with nodes={nodes}, the number of control values, got {partition}"
        )
    return partition


def _per_dim(name: str, values: Sequence[Any] | None, default: Any, count: int) -> tuple[Any, ...]:
    if not (values is None or isinstance(values, Sequence)):
        raise TypeError(f"{name}: expected a sequence of one per continuous dim, got {describe(values)}")
    listed = (default,) * count if values is None else tuple(values)
    if len(listed) != count:
        raise ValueError(f"{name}: expected one per continuous dim, {count}, got {len(listed)}")
    return listed
