"""The l∞ ball: `ir.ops.linf_step` and `ir.ops.project_linf` against the eager chains that attacks are written in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import integralrob as ir
from benchmarks.harness import NOTHING_PROMISED, Case, Peer, Targets, Work, compiled

EPS, STEP_SIZE = 8 / 255, 2 / 255


def _tolerance(dtype: torch.dtype) -> float:
    """Every contender does the same additions; their order differs, and in how many steps half types are rounded.

    An end of the ball, ``x ± eps``, which peers round to nearest, is rounded towards x by `linf_step` where the nearest
    number is outside: one unit in the last place, 6e-8 below 1 in float32, apart.
    """
    return 1e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps


def cases(quick: bool, device_type: str) -> list[Case]:
    """All cases of this family: ImageNet, CIFAR and single-image batches; `quick` divides the batches by 32.

    On a GPU one in bfloat16 too.
    """
    shrink = 32 if quick else 1
    large, imagenet = ((count // shrink, 3, 224, 224) for count in (512, 128))
    rows, image = (512 // shrink, 3072), (1, 3, 32, 32)
    listed = [
        _linf_step_case(large, speedup={"cpu": 5}, of_copy={"cuda": 0.9}),
        _linf_step_case(rows),
        _linf_step_case(image, speedup={"cpu": 1}),
        _linf_step_inplace_case(imagenet),
        _project_linf_case(imagenet),
        _project_linf_case(rows),
        _project_linf_case(image),
    ]
    if device_type == "cuda":
        listed.append(_linf_step_case(large, of_copy={"cuda": 0.9}, dtype=torch.bfloat16))
    return listed


# ------------------------------------------------------------------------------------------------------------ the peers


def clip_step(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """PGD's step as in AutoAttack: sign step, ball by min and max, box by clamp."""
    moved = x_adv + STEP_SIZE * torch.sign(grad)
    return torch.clamp(torch.min(torch.max(moved, x - EPS), x + EPS), 0.0, 1.0)


def delta_step(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """PGD's step as in torchattacks: the perturbation is clamped, then the image."""
    delta = torch.clamp(x_adv + STEP_SIZE * grad.sign() - x, min=-EPS, max=EPS)
    return torch.clamp(x + delta, min=0, max=1)


def clip_step_(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """`clip_step` with in-place ops wherever there is one."""
    x_adv.add_(grad.sign(), alpha=STEP_SIZE)
    return torch.min(torch.max(x_adv, x - EPS, out=x_adv), x + EPS, out=x_adv).clamp_(0, 1)


def clamp_projection(delta: Tensor, x: Tensor) -> Tensor:
    """Ball, then box, as in fast adversarial training: ``clamp(delta, lower_limit - X, upper_limit - X)``."""
    return torch.max(torch.min(torch.clamp(delta, -EPS, EPS), 1 - x), 0 - x)


# ------------------------------------------------------------------------------------------------------------ the cases


def shape_name(shape: tuple[int, ...]) -> str:
    """``2x3x4``."""
    return "x".join(map(str, shape))


def moved_bytes(shape: tuple[int, ...], tensors: int, dtype: torch.dtype = torch.float32) -> int:
    """Of so many tensors."""
    return tensors * math.prod(shape) * dtype.itemsize


def _batch(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, a gradient, and a perturbation that leaves the ball about half of the time."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(shape, generator=generator, device=device)
    grad = torch.randn(shape, generator=generator, device=device)
    delta = (4 * EPS) * torch.rand(shape, generator=generator, device=device) - 2 * EPS
    return x.to(dtype), grad.to(dtype), delta.to(dtype)


def _linf_step_case(
    shape: tuple[int, ...],
    *,
    speedup: Targets = NOTHING_PROMISED,
    of_copy: Targets = NOTHING_PROMISED,
    dtype: torch.dtype = torch.float32,
) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, delta = _batch(shape, device, dtype)
        x_adv = ir.ops.project_linf(delta, EPS, center=x, bounds=(0, 1)) + x
        target = speedup.get(device.type)
        return Work(
            moved_bytes=moved_bytes(shape, tensors=4, dtype=dtype),
            tolerance=_tolerance(dtype),
            target=of_copy.get(device.type),
            ours=lambda: ir.ops.linf_step(x_adv, grad, x, EPS, STEP_SIZE, bounds=(0, 1)),
            peers=[
                Peer("sign, max, min, clamp (AutoAttack's)", lambda: clip_step(x_adv, grad, x), target),
                Peer("sign, clamp, clamp (torchattacks')", lambda: delta_step(x_adv, grad, x)),
                Peer("torch.compile of the first", lambda: compiled(clip_step)(x_adv, grad, x), slow_start=True),
            ],
        )

    suffix = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return Case(f"linf_step {shape_name(shape)}{suffix}", prepare)


def _linf_step_inplace_case(shape: tuple[int, ...]) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, _ = _batch(shape, device)
        # Each contender moves its own batch, from the same start; all are called once before they are compared.
        own, theirs = x.clone(), x.clone()
        return Work(
            moved_bytes=moved_bytes(shape, tensors=4),
            tolerance=_tolerance(torch.float32),
            ours=lambda: ir.ops.linf_step_(own, grad, x, EPS, STEP_SIZE, bounds=(0, 1)),
            peers=[Peer("sign, max, min, clamp, in place", lambda: clip_step_(theirs, grad, x))],
        )

    return Case(f"linf_step_ {shape_name(shape)}", prepare)


def _project_linf_case(shape: tuple[int, ...]) -> Case:
    def prepare(device: torch.device) -> Work:
        x, _, delta = _batch(shape, device)
        return Work(
            moved_bytes=moved_bytes(shape, tensors=3),
            tolerance=_tolerance(torch.float32),
            ours=lambda: ir.ops.project_linf(delta, EPS, center=x, bounds=(0, 1)),
            peers=[Peer("clamp, min, max", lambda: clamp_projection(delta, x))],
        )

    return Case(f"project_linf {shape_name(shape)}, with box", prepare)
