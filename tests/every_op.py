"""Each ``integralrob::`` op, with arguments to call it on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STEPS = [
    f"{norm}_{step}.{which}"
    for norm in ("l1", "l2", "linf")
    for step in ("step", "step_")
    for which in ("default", "per_sample")
]
NAMES = [
    *STEPS,
    "project_l1.default",
    "project_l1_backward.default",
    "project_l2.default",
    "project_l2_backward.default",
    "project_linf.default",
    "project_linf_backward.default",
    "sample_1d.default",
    "sample_1d_adjoint.default",
    "sample_1d_weight_grad.default",
    "sample_2d.default",
    "sample_2d_adjoint.default",
    "sample_2d_weight0_grad.default",
    "sample_2d_weight1_grad.default",
]


def overload(name: str) -> Any:
    """The op of one of these names."""
    packet, _, which = name.partition(".")
    return getattr(getattr(torch.ops.integralrob, packet), which)


def tensors(result: Any) -> tuple[Tensor, ...]:
    """What an op returns: None, a tensor, or some."""
    return () if result is None else result if isinstance(result, tuple) else (result,)


def arguments(name: str, dtype: torch.dtype, rng: torch.Generator, device: str = "cpu") -> tuple[Any, ...]:
    """Arguments of one op; factors need gradients where the op has any."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def factor(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype).requires_grad_(name[0] in "ps")

    size0, size1, points0, points1, inner = 5, 6, 3, 4, 2
    start0, start1 = (
        torch.randint(0, size - 2, (m,), generator=rng) for size, m in ((size0, points0), (size1, points1))
    )
    values, grad, rows = factor(size0, size1, inner), factor(points0, points1, inner), factor(size0, points1, inner)
    weight0, weight1 = factor(points0, 3, dtype=wide), factor(points1, 3, dtype=wide)
    x = [factor(points0, 7) for _ in range(4)]
    per_sample = torch.rand(points0, generator=rng).to(wide)
    numbers = (0.3, 0.1, 3)
    one_each = (per_sample, per_sample, torch.randint(1, 8, (points0,), generator=rng))
    projection = (x[0], per_sample.clone().requires_grad_(), x[1], 0.0, 1.0)
    given: dict[str, tuple[Any, ...]] = {}
    for step in STEPS:
        parameters = one_each if step.endswith("per_sample") else numbers
        given[step] = (*x, *parameters[: 3 if step.startswith("l1") else 2], 0.25, 0.0, 1.0)
    given |= {
        **{f"project_{norm}.default": projection for norm in ("linf", "l1", "l2")},
        "project_linf_backward.default": (x[2], *projection),
        **{f"project_{norm}_backward.default": (x[2], x[0], x[0] / 2, *projection[1:]) for norm in ("l1", "l2")},
        "sample_1d.default": (values, start1, weight1),
        "sample_1d_adjoint.default": (rows, start1, weight1, size1),
        "sample_1d_weight_grad.default": (rows, values, start1, 3),
        "sample_2d.default": (values, start0, weight0, start1, weight1),
        "sample_2d_adjoint.default": (grad, start0, weight0, start1, weight1, size0, size1),
        "sample_2d_weight0_grad.default": (grad, values, start0, start1, weight1, 3),
        "sample_2d_weight1_grad.default": (grad, values, start0, weight0, start1, 3),
    }
    return tuple(
        x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in given[name]
    )
