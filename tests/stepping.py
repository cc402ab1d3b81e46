"""What tests of the fused steps share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import integralrob as ir

REFERENCE = ir.ops.reference
NORMS = ["linf", "l1", "l2"]
SHAPES = [(0, 5), (1,), (7,), (3, 0), (1, 1), (4, 33), (2, 3, 17, 19), (300, 2)]
BOUNDS = [None, (0.0, 1.0), (-0.25, math.inf), (0.5, 0.5)]
Bounds = tuple[float, float] | None


# Some roundings of the arithmetic, of numbers around 1, and for half types one of the result.
ROUNDING = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 2e-6, torch.float64: 1e-14}


def step(norm: str, *arguments: Any, **options: Any) -> Tensor:
    out: Tensor = getattr(ir.ops, f"{norm}_step")(*arguments, **options)
    return out


def step_(norm: str, *arguments: Any, **options: Any) -> Tensor:
    out: Tensor = getattr(ir.ops, f"{norm}_step_")(*arguments, **options)
    return out


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def kept(norm: str, k: Any) -> dict[str, Any]:
    """The argument k, of the only step that has it."""
    return {"k": k} if norm == "l1" else {}


def batch(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator, device: str) -> list[Tensor]:
    """`x_adv`, a gradient with ties and zeros, `x` in [0, 1], and `previous`."""
    x = torch.rand(shape, dtype=torch.float64, generator=rng)
    grad, offset, before = (torch.randn(shape, dtype=torch.float64, generator=rng) for _ in range(3))
    grad[torch.rand(shape, generator=rng) < 0.3] = 0.5
    grad[torch.rand(shape, generator=rng) < 0.1] = 0
    return [t.to(device=device, dtype=dtype) for t in (x + offset / 8, grad, x, x + before / 8)]
