"""What tests of the l1 and l2 projections share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import integralrob as ir

OPS = torch.ops.integralrob
REFERENCE = ir.ops.reference
NORMS = ["l1", "l2"]
Box = dict[str, Any]


# 1 + roundings of the storage type, for results that differ in roundings of the arithmetic.
TOLERANCE = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 2e-6, torch.float64: 1e-14}


def project(norm: str, *arguments: Any, **options: Any) -> Tensor:
    result: Tensor = getattr(ir.ops, f"project_{norm}")(*arguments, **options)
    return result


def backward_op(norm: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    op: Callable[..., tuple[Tensor, Tensor, Tensor]] = getattr(OPS, f"project_{norm}_backward")
    return op


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_box(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator, device: str) -> Box:
    """Clean inputs in and a little outside of [0, 1], some on its edge."""
    center = torch.rand(shape, dtype=torch.float64, generator=rng) * 1.4 - 0.2
    edge = torch.rand(shape, generator=rng) < 0.2
    center[edge] = center[edge].round()
    return {"center": center.to(device=device, dtype=dtype), "bounds": (0.0, 1.0)}


SHAPES = [(0, 5), (1,), (7,), (3, 0), (0,), (1, 1), (4, 33), (2, 3, 17, 19), (300, 2)]
