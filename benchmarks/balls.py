"""The l1 and l2 balls: `ir.ops.project_l1`, `project_l2`, `l1_step` and `l2_step` against the same work in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import integralrob as ir
from benchmarks.harness import NOTHING_PROMISED, Case, Peer, Targets, Work
from benchmarks.projection import moved_bytes, shape_name

# Radii of the literature (Croce and Hein, 2021) for CIFAR-10 and ImageNet.
CIFAR, IMAGENET = (512, 3072), (16, 3 * 224 * 224)
L1_EPS = {CIFAR[1]: 12.0, IMAGENET[1]: 60.0}
L2_EPS = {CIFAR[1]: 0.5, IMAGENET[1]: 2.0}
KEPT = 0.05  # of the entries of a row, in l1_step


def cases(quick: bool, device_type: str) -> list[Case]:
    """All cases of this family: CIFAR and ImageNet rows; `quick` divides the batches by 16.

    On a GPU batches that fill it, too.
    """
    shrink = 16 if quick else 1
    listed = []
    for rows, length in (CIFAR, IMAGENET):
        shape = (rows // shrink, length)
        listed += [
            _project_l1_case(shape, speedup={"cpu": 90}, over_ball={"cpu": 50}),
            _project_l2_case(shape),
            _l1_step_case(shape, speedup={"cpu": 60} if length == CIFAR[1] else NOTHING_PROMISED),
            _l2_step_case(shape),
        ]
    if device_type == "cuda":
        for rows, length, of_copy in ((16384, CIFAR[1], 0.75), (512, IMAGENET[1], 0.6)):
            shape = (rows // (16 * shrink) if quick else rows, length)
            for dtype in (torch.float32, torch.bfloat16):
                listed += [
                    _project_l1_case(shape, dtype=dtype),
                    _l1_step_case(shape, of_copy={"cuda": of_copy}, dtype=dtype),
                    _l2_step_case(shape, dtype=dtype),
                ]
    return listed


# ------------------------------------------------------------------------------------------------------------ the peers


def duchi(delta: Tensor, eps: float) -> Tensor:
    """l1 projection without a box by one sort (Duchi et al., 2008, figure 1)."""
    a = delta.abs()
    descending = a.sort(dim=1, descending=True).values
    excess = descending.cumsum(1) - eps
    count = torch.arange(1, a.shape[1] + 1, device=a.device)
    last = (descending * count > excess).sum(1, keepdim=True).clamp_(min=1)
    theta = (excess.gather(1, last - 1) / last).clamp_(min=0)
    return delta.sign() * (a - theta).clamp_(min=0)


def sorted_breakpoints(delta: Tensor, center: Tensor, eps: float) -> Tensor:
    """Exact l1 projection on ball and box ``[0, 1]`` by one sort of the 2d breakpoints, whose slopes are ±1.

    ``φ(θ) = Σ clip(a - θ, 0, b)`` grows, as θ falls, by 1 from each ``a_i`` on until ``a_i - b_i``. Two sorts of d
    entries, with bisection between them, took longer.
    """
    a, b = delta.abs(), torch.where(delta > 0, 1 - center, center).clamp_(min=0)
    points, index = torch.cat([a, (a - b).clamp_(min=0)], dim=1).sort(dim=1, descending=True)
    slope = torch.where(index < a.shape[1], 1.0, -1.0).cumsum(1)
    phi = (slope[:, :-1] * (points[:, :-1] - points[:, 1:])).cumsum(1)
    following = (phi <= eps).sum(1, keepdim=True)  # the piece of the root begins where phi is at most eps the last time
    start = (following - 1).clamp_(min=0)
    filled = phi.gather(1, start).masked_fill_(following == 0, 0)
    theta = (points.gather(1, following) - (eps - filled) / slope.gather(1, following).clamp_(min=1)).clamp_(min=0)
    return delta.sign() * torch.minimum((a - theta).clamp_(min=0), b)


def sparse_step(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float, step_size: float) -> Tensor:
    """`l1_step` in torch: the k-th largest by a sort, and `sorted_breakpoints`."""
    size = grad.abs()
    kept = round(KEPT * size.shape[1])
    threshold = size.sort(dim=1, descending=True).values[:, kept - 1, None]
    sign = torch.where(size >= threshold, grad.sign(), 0)
    moved = x_adv + step_size * sign / sign.abs().sum(1, keepdim=True)
    return x + sorted_breakpoints(moved - x, x, eps)


def scale_to_ball(delta: Tensor, eps: float) -> Tensor:
    """l2 projection without a box."""
    return delta * (eps / torch.linalg.vector_norm(delta, dim=1, keepdim=True)).clamp_(max=1)


def bisected_scale(delta: Tensor, center: Tensor, eps: float) -> Tensor:
    """l2 projection on ball and box ``[0, 1]``: 40 bisections of the scale."""
    a, b = delta.abs(), torch.where(delta > 0, 1 - center, center)
    low = torch.zeros_like(a[:, :1])
    high = torch.ones_like(low)
    for _ in range(40):
        middle = (low + high) / 2
        fits = torch.linalg.vector_norm(torch.minimum(middle * a, b), dim=1, keepdim=True) <= eps
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return delta.sign() * torch.minimum(high * a, b)


def normalised_step(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float, step_size: float) -> Tensor:
    """`l2_step` in torch, as attacks are written: normalised step, ball, then box."""
    moved = x_adv + step_size * grad / torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    return (x + scale_to_ball(moved - x, eps)).clamp(0, 1)


def in_float32(function: Callable[..., Tensor], *tensors: Tensor, **numbers: float) -> Tensor:
    """In half types, in which no row can be added up, as users do."""
    return function(*(tensor.float() for tensor in tensors), **numbers).to(tensors[0].dtype)


# ------------------------------------------------------------------------------------------------------------ the cases


def _tolerance(dtype: torch.dtype) -> float:
    """The peers add up whole rows in the type of the data."""
    return 2e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps


def _tensors(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Images, a gradient, and a perturbation that is far outside of the balls."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(shape, generator=generator, device=device)
    grad = torch.randn(shape, generator=generator, device=device)
    delta = 0.5 * torch.randn(shape, generator=generator, device=device)
    return x.to(dtype), grad.to(dtype), delta.to(dtype)


def _case_name(op: str, shape: tuple[int, int], dtype: torch.dtype) -> str:
    suffix = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return f"{op} {shape_name(shape)}{suffix}"


def _project_l1_case(
    shape: tuple[int, int],
    *,
    speedup: Targets = NOTHING_PROMISED,
    over_ball: Targets = NOTHING_PROMISED,
    dtype: torch.dtype = torch.float32,
) -> Case:
    def prepare(device: torch.device) -> Work:
        x, _, delta = _tensors(shape, device, dtype)
        eps = L1_EPS[shape[1]]
        return Work(
            moved_bytes=moved_bytes(shape, tensors=3, dtype=dtype),
            tolerance=_tolerance(dtype),
            ours=lambda: ir.ops.project_l1(delta, eps, center=x, bounds=(0, 1)),
            peers=[
                Peer(
                    "exact, by a sort",
                    lambda: in_float32(sorted_breakpoints, delta, x, eps=eps),
                    speedup.get(device.type),
                ),
                Peer(
                    "ball without box, by a sort (Duchi)",
                    lambda: in_float32(duchi, delta, eps=eps),
                    over_ball.get(device.type),
                    same_as=lambda: ir.ops.project_l1(delta, eps),
                ),
            ],
        )

    return Case(_case_name("project_l1", shape, dtype) + ", with box", prepare)


def _project_l2_case(shape: tuple[int, int]) -> Case:
    def prepare(device: torch.device) -> Work:
        x, _, delta = _tensors(shape, device, torch.float32)
        eps = L2_EPS[shape[1]]
        return Work(
            moved_bytes=moved_bytes(shape, tensors=3),
            tolerance=_tolerance(torch.float32),
            ours=lambda: ir.ops.project_l2(delta, eps, center=x, bounds=(0, 1)),
            peers=[
                Peer("exact, by bisection", lambda: bisected_scale(delta, x, eps)),
                Peer(
                    "ball without box: norm, scale",
                    lambda: scale_to_ball(delta, eps),
                    same_as=lambda: ir.ops.project_l2(delta, eps),
                ),
            ],
        )

    return Case(_case_name("project_l2", shape, torch.float32) + ", with box", prepare)


def _l1_step_case(
    shape: tuple[int, int],
    *,
    speedup: Targets = NOTHING_PROMISED,
    of_copy: Targets = NOTHING_PROMISED,
    dtype: torch.dtype = torch.float32,
) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, delta = _tensors(shape, device, dtype)
        eps = L1_EPS[shape[1]]
        step_size = eps / 4
        x_adv = x + ir.ops.project_l1(delta, eps, center=x, bounds=(0, 1))
        return Work(
            moved_bytes=moved_bytes(shape, tensors=4, dtype=dtype),
            tolerance=_tolerance(dtype),
            target=of_copy.get(device.type),
            ours=lambda: ir.ops.l1_step(x_adv, grad, x, eps, step_size, k=KEPT),
            peers=[
                Peer(
                    "sort, step, exact projection by a sort",
                    lambda: in_float32(sparse_step, x_adv, grad, x, eps=eps, step_size=step_size),
                    speedup.get(device.type),
                )
            ],
        )

    return Case(_case_name("l1_step", shape, dtype), prepare)


def _l2_step_case(shape: tuple[int, int], *, dtype: torch.dtype = torch.float32) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, delta = _tensors(shape, device, dtype)
        eps = L2_EPS[shape[1]]
        step_size = eps / 4
        x_adv = x + ir.ops.project_l2(delta, eps, center=x, bounds=(0, 1))
        return Work(
            moved_bytes=moved_bytes(shape, tensors=4, dtype=dtype),
            tolerance=_tolerance(dtype),
            ours=lambda: ir.ops.l2_step(x_adv, grad, x, eps, step_size),
            peers=[
                Peer(
                    "norm, step, norm, scale, clamp",
                    lambda: in_float32(normalised_step, x_adv, grad, x, eps=eps, step_size=step_size),
                )
            ],
        )

    return Case(_case_name("l2_step", shape, dtype), prepare)
