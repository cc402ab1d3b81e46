"""Sampling a weight: `ir.ops.sample_weight` against grid_sample and interpolate, permute and multiply included.

On a GPU also the ops alone, in several types: `sample_2d` and its adjoint against grid_sample and its backward,
`sample_1d` of whole rows against interpolate.

Peers keep their control values as images ``[1, kh * kw, out, in]``, which both torch functions ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import integralrob as ir
from benchmarks.harness import NOTHING_PROMISED, Case, Peer, Result, Run, Targets, Work, compiled
from integralrob.partition import UniformPartition
from integralrob.quadrature import Midpoint, Trapezoidal

BICUBIC, ZEROS = 2, 0  # torch's numbers of the modes of grid_sample


@dataclass(frozen=True)
class Sizes:
    """`nodes` control values and `points` samples on both channel axes, and the kernel dims, which are not sampled."""

    nodes: int
    points: int
    kernel: tuple[int, ...] = ()

    def __str__(self) -> str:
        before = "x".join(map(str, (self.nodes, self.nodes, *self.kernel)))
        return f"{before} -> {self.points}x{self.points}"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.points, self.points, *self.kernel)


def cases(quick: bool, device_type: str) -> list[Case]:
    """All cases of this family; `quick` divides the numbers of channels by 8. A GPU has more of them."""
    shrink = 8 if quick else 1
    small = Sizes(64 // shrink, 48 // shrink, (3, 3))
    usual = Sizes(512 // shrink, 384 // shrink, (3, 3))
    middle = Sizes(2048 // shrink, 1536 // shrink)
    large = Sizes(4096 // shrink, 3072 // shrink)
    listed = [
        _listing_case(usual, {"cpu": 14, "cuda": 8}),
        _listing_case(usual, {"cpu": 15, "cuda": 10}, backward=True),
        _listing_case(large, {"cpu": 12, "cuda": 8}),
        _listing_case(large, {"cpu": 15, "cuda": 10}, backward=True),
        _listing_case(small, {"cpu": 1}),
        _listing_case(small, {"cpu": 1}, backward=True),
        _interpolate_case(usual),
        _interpolate_case(usual, {"cpu": 4}, antialias=True),
        _interpolate_case(middle, {"cpu": 2}, antialias=True),
    ]
    if device_type == "cuda":
        largest = Sizes(4096 // shrink, 3072 // shrink, (3, 3))
        listed += [
            _listing_case(largest, {"cuda": 8}),
            _listing_case(largest, {"cuda": 10}, backward=True),
        ]
        for sizes in (usual, middle, large, largest):
            # A launch takes as long as the smaller ones' bytes.
            of_copy = {"forward": 0.7, "adjoint": 0.5} if sizes in (large, largest) else {}
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                listed += [
                    _op_case(sizes, dtype, of_copy.get("forward")),
                    _op_case(sizes, dtype, of_copy.get("adjoint"), adjoint=True),
                ]
        for sizes in (usual, large):
            listed += [_rows_case(sizes, dtype) for dtype in (torch.float32, torch.bfloat16)]
    return listed


# ------------------------------------------------------------------------------------------------------------ the peers


def listing_grid(sizes: Sizes, device: torch.device) -> Tensor:
    """Listing 1's grid ``[1, in, out, 2]``: the first coordinate of grid_sample runs along the input channels."""
    points = torch.linspace(-1, 1, sizes.points, device=device)
    return torch.stack(torch.meshgrid(points, points, indexing="ij"), dim=-1).unsqueeze(0)


def listing(images: Tensor, quadrature: Tensor, sizes: Sizes) -> Tensor:
    """Listings 1 and 2 of "Integral Neural Networks" (CVPR 2023, supplement), the quadrature weights ready-made."""
    weight = F.grid_sample(
        images, listing_grid(sizes, images.device), mode="bicubic", padding_mode="zeros", align_corners=True
    )  # [1, kh * kw, in, out]
    return weight.permute(3, 2, 0, 1).reshape(sizes.weight_shape) * quadrature


def compiled_listing(images: Tensor, quadrature: Tensor, sizes: Sizes) -> Tensor:
    return compiled(listing)(images, quadrature, sizes)


def transposed_grid_sample(images: Tensor, quadrature: Tensor, grid: Tensor, sizes: Sizes) -> Tensor:
    """The listing with its grid ``[1, out, in, 2]`` made once, and read along the rows of the images."""
    weight = F.grid_sample(
        images, grid, mode="bicubic", padding_mode="zeros", align_corners=True
    )  # [1, kh * kw, out, in]
    return weight.permute(2, 3, 0, 1).reshape(sizes.weight_shape) * quadrature


def interpolate(images: Tensor, quadrature: Tensor, antialias: bool, sizes: Sizes) -> Tensor:
    """`F.interpolate` in the place of grid_sample: uniform points only."""
    weight = F.interpolate(
        images, (sizes.points, sizes.points), mode="bicubic", align_corners=not antialias, antialias=antialias
    )
    return weight.permute(2, 3, 0, 1).reshape(sizes.weight_shape) * quadrature


# ------------------------------------------------------------------------------------------------------------ the cases


def _uniform(shape: tuple[int, ...], device: torch.device, seed: int) -> Tensor:
    """Numbers from -1 to 1."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.rand(shape, generator=generator, device=device).mul_(2).sub_(1)


def _as_images(weight: Tensor) -> Tensor:
    """``[out, in, kh, kw]`` -> ``[1, kh * kw, out, in]``."""
    images = weight.reshape(*weight.shape[:2], -1).permute(2, 0, 1).unsqueeze(0)
    return images.clone(memory_format=torch.contiguous_format)


def _control_values(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same control values in our layout ``[out, in, kh, kw]`` and as images ``[1, kh * kw, out, in]``."""
    values = _uniform((sizes.nodes, sizes.nodes, *sizes.kernel), device, seed=0)
    return values, _as_images(values)


def _position_tolerance(sizes: Sizes) -> float:
    """The peers place their points in float32: node positions, and weights with them, are off by a few S · 2^-24."""
    return max(1e-5, 4e-7 * sizes.nodes)


def _moved_bytes(sizes: Sizes, backward: bool, dtype: torch.dtype = torch.float32) -> int:
    """Forward: control values in, weight out. Backward: the weight's gradient in, the control values' out."""
    channels = sizes.nodes**2 + sizes.points**2
    return channels * torch.Size(sizes.kernel).numel() * dtype.itemsize * (2 if backward else 1)


def _as_values(images: Tensor, sizes: Sizes) -> Tensor:
    """A view of images ``[1, kh * kw, out, in]`` in the layout of control values."""
    return images[0].permute(1, 2, 0).reshape(sizes.nodes, sizes.nodes, *sizes.kernel)


def _forward_backward(sample: Callable[[Tensor], Tensor], values: Tensor, weight_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The weight, and the gradient of `values`, which requires one."""
    weight = sample(values)
    (grad,) = torch.autograd.grad(weight, values, weight_grad)
    return weight.detach(), grad


def _listing_case(sizes: Sizes, targets: Targets, backward: bool = False) -> Case:
    def prepare(device: torch.device) -> Work:
        target = targets.get(device.type)
        values, images = (tensor.requires_grad_(backward) for tensor in _control_values(sizes, device))
        points = UniformPartition(sizes.points)(device)
        in_weights = Trapezoidal().weights(points)
        quadrature = in_weights.float().view(-1, *[1] * len(sizes.kernel))
        grid = listing_grid(sizes, device).transpose(1, 2).contiguous()
        generator = torch.Generator(device).manual_seed(1)
        weight_grad = torch.randn(sizes.weight_shape, generator=generator, device=device)

        def sample(values: Tensor) -> Tensor:
            return ir.ops.sample_weight(values, (points, points), (None, in_weights), padding="zeros")

        def ours() -> Result:
            return _forward_backward(sample, values, weight_grad) if backward else sample(values)

        def theirs(sample: Callable[..., Tensor], *arguments: Tensor) -> Run:
            def run() -> Result:
                if not backward:
                    return sample(images, quadrature, *arguments, sizes)
                weight, grad = _forward_backward(
                    lambda images: sample(images, quadrature, *arguments, sizes), images, weight_grad
                )
                return weight, _as_values(grad, sizes)

            return run

        return Work(
            moved_bytes=_moved_bytes(sizes, backward),
            tolerance=_position_tolerance(sizes),
            ours=ours,
            peers=[
                Peer("listing 1+2: grid_sample + permute + multiply", theirs(listing), target),
                Peer("same, grid kept and in the images' order", theirs(transposed_grid_sample, grid)),
                Peer("torch.compile of the listing", theirs(compiled_listing), slow_start=True),
            ],
        )

    return Case(f"sample_weight {sizes}, {'forward+backward' if backward else 'forward'}", prepare)


def _interpolate_case(sizes: Sizes, targets: Targets = NOTHING_PROMISED, antialias: bool = False) -> Case:
    def prepare(device: torch.device) -> Work:
        values, images = _control_values(sizes, device)
        if antialias:
            partition = UniformPartition(sizes.points, kind="centered", nodes=sizes.nodes)
            points = partition(device)
            in_weights = Midpoint().weights(points, partition.interval)
            a = -0.5
        else:
            points = UniformPartition(sizes.points)(device)
            in_weights = Trapezoidal().weights(points)
            a = -0.75
        quadrature = in_weights.float().view(-1, *[1] * len(sizes.kernel))
        name = "F.interpolate(antialias=True)" if antialias else "F.interpolate"
        return Work(
            moved_bytes=_moved_bytes(sizes, backward=False),
            tolerance=_position_tolerance(sizes),
            ours=lambda: ir.ops.sample_weight(values, (points, points), (None, in_weights), a=a, antialias=antialias),
            peers=[
                Peer(
                    f"{name} + permute + multiply",
                    lambda: interpolate(images, quadrature, antialias, sizes),
                    targets.get(device.type),
                )
            ],
        )

    return Case(f"sample_weight {sizes}, {'antialiased' if antialias else 'border'}, forward", prepare)


def _op_case(sizes: Sizes, dtype: torch.dtype, target: float | None, adjoint: bool = False) -> Case:
    """One op alone, without quadrature weights. (grid_sample knows no half type as precise as its grid must be.)"""

    def prepare(device: torch.device) -> Work:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        points = UniformPartition(sizes.points)(device)
        start, weight = ir.ops.cubic_band(points, sizes.nodes, padding="zeros")
        band = (start, weight.to(wide))
        grid = torch.stack(torch.meshgrid(points, points, indexing="xy"), dim=-1).unsqueeze(0).to(wide)
        size = sizes.points if adjoint else sizes.nodes
        given = _uniform((size, size, *sizes.kernel), device, seed=0).to(dtype)
        flat, images = given.view(size, size, -1), _as_images(given)
        blank = torch.empty(1, flat.shape[2], sizes.nodes, sizes.nodes, dtype=wide, device=device) if adjoint else None

        def ours() -> Tensor:
            if adjoint:
                return ir.ops.sample_2d_adjoint(flat, *band, *band, sizes.nodes, sizes.nodes)
            return ir.ops.sample_2d(flat, *band, *band)

        def theirs() -> Tensor:
            if adjoint:
                out, _ = torch.ops.aten.grid_sampler_2d_backward(
                    images.to(wide), blank, grid, BICUBIC, ZEROS, True, [True, False]
                )
            else:
                out = torch.grid_sampler_2d(images.to(wide), grid, BICUBIC, ZEROS, True)
            return out[0].to(dtype).permute(1, 2, 0).contiguous()

        return Work(
            moved_bytes=_moved_bytes(sizes, backward=False, dtype=dtype),
            tolerance=1e-9 if dtype == torch.float64 else _position_tolerance(sizes) + torch.finfo(dtype).eps,
            target=target,
            ours=ours,
            peers=[Peer(f"grid_sample{' backward' if adjoint else ''}, grid kept, and permute", theirs)],
        )

    name = "sample_2d_adjoint" if adjoint else "sample_2d"
    return Case(f"{name} {sizes}, {str(dtype).removeprefix('torch.')}", prepare)


def _rows_case(sizes: Sizes, dtype: torch.dtype) -> Case:
    """`sample_1d` alone: the output channels of a weight, so that samples are sums of whole rows."""
    inner = sizes.nodes * torch.Size(sizes.kernel).numel()

    def prepare(device: torch.device) -> Work:
        start, weight = ir.ops.cubic_band(UniformPartition(sizes.points)(device), sizes.nodes)
        band = (start, weight.float())
        values = _uniform((1, sizes.nodes, inner), device, seed=0).to(dtype)

        def theirs() -> Tensor:
            shape = (sizes.points, inner)
            return F.interpolate(values[None].float(), shape, mode="bicubic", align_corners=True)[0].to(dtype)

        return Work(
            moved_bytes=(sizes.nodes + sizes.points) * inner * dtype.itemsize,
            tolerance=_position_tolerance(sizes) + torch.finfo(dtype).eps,
            ours=lambda: ir.ops.sample_1d(values, *band),
            peers=[Peer("F.interpolate of one axis", theirs)],
        )

    return Case(f"sample_1d {sizes.nodes}x{inner} -> {sizes.points}, {str(dtype).removeprefix('torch.')}", prepare)
