"""Sampling a weight: `ir.ops.sample_weight` against grid_sample and interpolate, permute and multiply included.

Peers keep their control values as images ``[1, kh * kw, out, in]``, which both torch functions ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import integralrob as ir
from benchmarks.harness import Case, Peer, Result, Run, Work, compiled
from integralrob.partition import UniformPartition
from integralrob.quadrature import Midpoint, Trapezoidal


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


def cases(quick: bool) -> list[Case]:
    """All cases of this family; `quick` divides the numbers of channels by 8."""
    shrink = 8 if quick else 1
    small = Sizes(64 // shrink, 48 // shrink, (3, 3))
    usual = Sizes(512 // shrink, 384 // shrink, (3, 3))
    middle = Sizes(2048 // shrink, 1536 // shrink)
    large = Sizes(4096 // shrink, 3072 // shrink)
    return [
        _listing_case(usual, target=14),
        _listing_case(usual, target=15, backward=True),
        _listing_case(large, target=12),
        _listing_case(large, target=15, backward=True),
        _listing_case(small, target=1),
        _listing_case(small, target=1, backward=True),
        _interpolate_case(usual, target=None),
        _interpolate_case(usual, target=4, antialias=True),
        _interpolate_case(middle, target=2, antialias=True),
    ]


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


def _control_values(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same control values in our layout ``[out, in, kh, kw]`` and as images ``[1, kh * kw, out, in]``."""
    shape = (sizes.nodes, sizes.nodes, *sizes.kernel)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).to(device)
    images = values.reshape(sizes.nodes, sizes.nodes, -1).permute(2, 0, 1).unsqueeze(0)
    return values, images.clone(memory_format=torch.contiguous_format)


def _position_tolerance(sizes: Sizes) -> float:
    """The peers place their points in float32: node positions, and weights with them, are off by a few S · 2^-24."""
    return max(1e-5, 4e-7 * sizes.nodes)


def _moved_bytes(sizes: Sizes, backward: bool) -> int:
    """Forward: control values in, weight out. Backward: the weight's gradient in, the control values' out."""
    channels = sizes.nodes**2 + sizes.points**2
    return channels * torch.Size(sizes.kernel).numel() * torch.float32.itemsize * (2 if backward else 1)


def _as_values(images: Tensor, sizes: Sizes) -> Tensor:
    """A view of images ``[1, kh * kw, out, in]`` in the layout of control values."""
    return images[0].permute(1, 2, 0).reshape(sizes.nodes, sizes.nodes, *sizes.kernel)


def _forward_backward(sample: Callable[[Tensor], Tensor], values: Tensor, weight_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The weight, and the gradient of `values`, which requires one."""
    weight = sample(values)
    (grad,) = torch.autograd.grad(weight, values, weight_grad)
    return weight.detach(), grad


def _listing_case(sizes: Sizes, target: float, backward: bool = False) -> Case:
    def prepare(device: torch.device) -> Work:
        values, images = (tensor.requires_grad_(backward) for tensor in _control_values(sizes, device))
        points = UniformPartition(sizes.points)(device)
        in_weights = Trapezoidal().weights(points)
        quadrature = in_weights.float().view(-1, *[1] * len(sizes.kernel))
        grid = listing_grid(sizes, device).transpose(1, 2).contiguous()
        weight_grad = torch.randn(sizes.weight_shape, generator=torch.Generator().manual_seed(1)).to(device)

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


def _interpolate_case(sizes: Sizes, target: float | None, antialias: bool = False) -> Case:
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
                Peer(f"{name} + permute + multiply", lambda: interpolate(images, quadrature, antialias, sizes), target)
            ],
        )

    return Case(f"sample_weight {sizes}, {'antialiased' if antialias else 'border'}, forward", prepare)
