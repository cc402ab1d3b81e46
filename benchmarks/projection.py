"""The l∞ ball: `ir.ops.linf_step` and `ir.ops.project_linf` against the eager chains that attacks are written in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import integralrob as ir
from benchmarks.harness import Case, Peer, Work, compiled

EPS, STEP_SIZE = 8 / 255, 2 / 255

# Every contender does the same additions in float32; only their order differs.
TOLERANCE = 1e-6


def cases(quick: bool) -> list[Case]:
    """All cases of this family: ImageNet, CIFAR and single-image batches; `quick` divides the batches by 32."""
    shrink = 32 if quick else 1
    imagenet, rows, image = (128 // shrink, 3, 224, 224), (512 // shrink, 3072), (1, 3, 32, 32)
    return [
        _linf_step_case(imagenet, target=5),
        _linf_step_case(rows),
        _linf_step_case(image, target=1),
        _linf_step_inplace_case(imagenet),
        _project_linf_case(imagenet),
        _project_linf_case(rows),
        _project_linf_case(image),
    ]


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


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _bytes(shape: tuple[int, ...], tensors: int) -> int:
    return tensors * math.prod(shape) * torch.float32.itemsize


def _batch(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images, a gradient, and a perturbation that leaves the ball about half of the time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    grad = torch.randn(shape, generator=generator)
    delta = (4 * EPS) * torch.rand(shape, generator=generator) - 2 * EPS
    return x.to(device), grad.to(device), delta.to(device)


def _linf_step_case(shape: tuple[int, ...], target: float | None = None) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, delta = _batch(shape, device)
        x_adv = ir.ops.project_linf(delta, EPS, center=x, bounds=(0, 1)) + x
        return Work(
            moved_bytes=_bytes(shape, tensors=4),
            tolerance=TOLERANCE,
            ours=lambda: ir.ops.linf_step(x_adv, grad, x, EPS, STEP_SIZE, bounds=(0, 1)),
            peers=[
                Peer("sign, max, min, clamp (AutoAttack's)", lambda: clip_step(x_adv, grad, x), target),
                Peer("sign, clamp, clamp (torchattacks')", lambda: delta_step(x_adv, grad, x)),
                Peer("torch.compile of the first", lambda: compiled(clip_step)(x_adv, grad, x), slow_start=True),
            ],
        )

    return Case(f"linf_step {_name(shape)}", prepare)


def _linf_step_inplace_case(shape: tuple[int, ...]) -> Case:
    def prepare(device: torch.device) -> Work:
        x, grad, _ = _batch(shape, device)
        # Each contender moves its own batch, from the same start; all are called once before they are compared.
        own, theirs = x.clone(), x.clone()
        return Work(
            moved_bytes=_bytes(shape, tensors=4),
            tolerance=TOLERANCE,
            ours=lambda: ir.ops.linf_step_(own, grad, x, EPS, STEP_SIZE, bounds=(0, 1)),
            peers=[Peer("sign, max, min, clamp, in place", lambda: clip_step_(theirs, grad, x))],
        )

    return Case(f"linf_step_ {_name(shape)}", prepare)


def _project_linf_case(shape: tuple[int, ...]) -> Case:
    def prepare(device: torch.device) -> Work:
        x, _, delta = _batch(shape, device)
        return Work(
            moved_bytes=_bytes(shape, tensors=3),
            tolerance=TOLERANCE,
            ours=lambda: ir.ops.project_linf(delta, EPS, center=x, bounds=(0, 1)),
            peers=[Peer("clamp, min, max", lambda: clamp_projection(delta, x))],
        )

    return Case(f"project_linf {_name(shape)}, with box", prepare)
