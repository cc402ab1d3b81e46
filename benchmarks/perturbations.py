"""Optimizers for perturbations and random starts: `ir.optim` and `ir.perturbations` against rai_toolbox.

There are no cases where rai_toolbox is not installed (``pip install --no-deps rai-toolbox torchmetrics
lightning-utilities``).
"""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import integralrob as ir
from benchmarks.harness import Case, Peer, Run, Work
from benchmarks.projection import moved_bytes, shape_name

Shape = tuple[int, ...]

# One digit, digits, CIFAR, ImageNet.
SHAPES: tuple[Shape, ...] = ((1, 1, 8, 8), (64, 1, 8, 8), (512, 3, 32, 32), (16, 3, 224, 224))
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SignedGradientOptim": {"lr": 0.01},
    "L1NormedGradientOptim": {"lr": 0.1},
    "L2NormedGradientOptim": {"lr": 0.1},
    "L1qNormedGradientOptim": {"lr": 0.1, "q": 0.95},
    "TopQGradientOptimizer": {"lr": 0.01, "q": 0.95},
    "ClampedGradientOptimizer": {"lr": 0.01, "clamp_max": 0.5},
    "ClampedParameterOptimizer": {"lr": 0.01, "clamp_max": 0.5},
    "LinfProjectedOptim": {"lr": 0.01, "epsilon": 0.03},
    "L2ProjectedOptim": {"lr": 0.1, "epsilon": 0.5},
    "L2FrankWolfe": {"epsilon": 0.5},
    "LinfFrankWolfe": {"epsilon": 0.03},
    "L1qFrankWolfe": {"epsilon": 12.0, "q": 0.95},
}
# That of rai_toolbox takes samples with one axis only.
ON_ROWS = {"L1FrankWolfe": {"epsilon": 12.0}}


def cases(quick: bool, device_type: str) -> list[Case]:
    """A step of each optimizer, and each random start, from one digit to 16 ImageNet images; `quick`: digits only."""
    if importlib.util.find_spec("rai_toolbox") is None:
        return []
    shapes = SHAPES[:2] if quick else SHAPES
    listed = [_step_case(name, options, shape) for name, options in OPTIMIZERS.items() for shape in shapes]
    for name, options in ON_ROWS.items():
        listed += [_step_case(name, options, (shape[0], torch.Size(shape[1:]).numel())) for shape in shapes]
    listed += [_start_case(ball, shape) for ball in ("l1", "l2", "linf") for shape in shapes]
    return [*listed, *(_solver_case(shape) for shape in shapes[:3])]


def _rai_toolbox() -> SimpleNamespace:
    return SimpleNamespace(
        optim=importlib.import_module("rai_toolbox.optim"),
        perturbations=importlib.import_module("rai_toolbox.perturbations"),
    )


def _step_case(name: str, options: dict[str, Any], shape: Shape) -> Case:
    """One step, with the gradient laid out anew before it, as it is overwritten."""

    def prepare(device: torch.device) -> Work:
        generator = torch.Generator(device).manual_seed(0)
        gradient = torch.randn(shape, generator=generator, device=device)

        def stepping(package: Any) -> Run:
            param = torch.zeros(shape, device=device, requires_grad=True)
            param.grad = gradient.clone()
            optimizer = getattr(package.optim, name)([param], **options)

            def run() -> Tensor:
                assert param.grad is not None
                param.grad.copy_(gradient)
                optimizer.step()
                return param.detach()

            return run

        return Work(
            moved_bytes=moved_bytes(shape, tensors=6),
            tolerance=1e-5,
            ours=stepping(ir),
            peers=[Peer("rai_toolbox", stepping(_rai_toolbox()), target=1)],
        )

    return Case(f"{name} {shape_name(shape)}", prepare)


def _start_case(ball: str, shape: Shape) -> Case:
    def prepare(device: torch.device) -> Work:
        def drawing(package: Any) -> Run:
            sample = getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")
            x = torch.zeros(shape, device=device)

            def run() -> Tensor:
                sample(x, epsilon=0.5, generator=torch.Generator().manual_seed(0))
                return x

            return run

        return Work(
            moved_bytes=moved_bytes(shape, tensors=1),
            tolerance=1e-6,
            ours=drawing(ir),
            peers=[Peer("rai_toolbox", drawing(_rai_toolbox()), target=1)],
        )

    return Case(f"uniform_like_{ball}_n_ball_ {shape_name(shape)}", prepare)


def _solver_case(shape: Shape) -> Case:
    """Ten steps on a small network."""

    def prepare(device: torch.device) -> Work:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape[1:]).numel(), 10)).to(device)
        data = torch.rand(shape, device=device)
        target = torch.randint(0, 10, shape[:1], device=device)

        def solving(package: Any) -> Run:
            def run() -> Any:
                return package.perturbations.gradient_ascent(
                    model=model,
                    data=data,
                    target=target,
                    optimizer=package.optim.L2ProjectedOptim,
                    epsilon=0.5,
                    lr=0.1,
                    steps=10,
                )

            return run

        return Work(
            moved_bytes=moved_bytes(shape, tensors=10 * 6),
            tolerance=1e-4,
            ours=solving(ir),
            peers=[Peer("rai_toolbox", solving(_rai_toolbox()), target=1)],
        )

    return Case(f"gradient_ascent {shape_name(shape)}", prepare)
