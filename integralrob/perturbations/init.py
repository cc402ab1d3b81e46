"""Random points of balls, with which perturbations start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import check_kernel_dtype, check_real, check_tensor, describe
from ..optim._arguments import per_row
from ..optim._batches import batch_shape, check_param_ndim


@torch.no_grad()
def uniform_like_l1_n_ball_(
    x: Tensor,
    epsilon: float | Tensor = 1.0,
    param_ndim: int | None = -1,
    generator: torch.Generator | None = torch.default_generator,
) -> None:
    """Overwrites `x` with points that are uniform in the l1 ball.

    Args:
        x: ``[N, ...]`` for N points; floating-point, on any device.
        epsilon: radius, above 0: a number, or one per point ``[N]``.
        param_ndim: the number of axes, counted from the last, that make up one point; negative: of the first axes that
            do not. None: all of `x` is one point.
        generator: source of the numbers, drawn on its device and then copied, so that they do not depend on that of
            `x`. None is torch's global one, on the CPU.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: one sort of each point.

    Source: the gaps between sorted uniform numbers are uniform in the part of the ball with positive entries: L.
    Devroye, "Non-uniform random variate generation", 1986, chapter V; the signs are drawn after them.

    >>> x = torch.zeros(2, 3)
    >>> uniform_like_l1_n_ball_(x, epsilon=2.0, generator=torch.Generator().manual_seed(0))
    >>> x
    tensor([[-0.1770,  0.8156, -0.5439],
            [ 0.2641, -0.3508, -0.6533]])
    >>> x.abs().sum(dim=1) <= 2
    tensor([True, True])
    """
    shape, radius, generator = _check(x, epsilon, param_ndim, generator)
    length = shape[1:].numel()
    position = _empty(shape, x, generator).view(shape[0], length).uniform_(generator=generator).sort(dim=1).values
    gap = position.clone()
    gap[:, 1:] -= position[:, :-1]
    sign = torch.empty_like(gap).uniform_(-1, 1, generator=generator).sign_()
    x.copy_(sign.mul_(gap).mul_(per_row(radius, gap)).view(x.shape))


@torch.no_grad()
def uniform_like_l2_n_ball_(
    x: Tensor,
    epsilon: float | Tensor = 1.0,
    param_ndim: int | None = -1,
    generator: torch.Generator | None = torch.default_generator,
) -> None:
    """Overwrites `x` with points that are uniform in the l2 ball.

    Args:
        x, epsilon, param_ndim, generator: as of `uniform_like_l1_n_ball_`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: two normal numbers for a point, and one for each of its entries.

    Source: d of the d + 2 coordinates of a uniform point on a sphere are uniform in the ball: A. Voelker, J. Gosmann,
    T. Stewart, "Efficiently sampling vectors and coordinates from the n-sphere and n-ball", 2017.

    >>> x = torch.zeros(2, 3)
    >>> uniform_like_l2_n_ball_(x, epsilon=2.0, generator=torch.Generator().manual_seed(0))
    >>> x
    tensor([[ 1.0445, -0.1989, -1.4767],
            [-1.4949,  0.4311,  0.8958]])
    >>> x.norm(dim=1) <= 2
    tensor([True, True])
    """
    shape, radius, generator = _check(x, epsilon, param_ndim, generator)
    length = shape[1:].numel()
    sphere = _empty((shape[0], length + 2), x, generator).normal_(generator=generator)
    sphere /= torch.linalg.vector_norm(sphere, dim=1, keepdim=True)
    x.copy_(sphere[:, :length].mul_(per_row(radius, sphere)).reshape(x.shape))


@torch.no_grad()
def uniform_like_linf_n_ball_(
    x: Tensor,
    epsilon: float | Tensor = 1.0,
    param_ndim: int | None = None,
    generator: torch.Generator | None = torch.default_generator,
) -> None:
    """Overwrites `x` with points that are uniform in the l-infinity ball.

    Args:
        x, epsilon, generator: as of `uniform_like_l1_n_ball_`.
        param_ndim: as there; entries being independent, it matters to one radius per point only.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> x = torch.zeros(2, 3)
    >>> uniform_like_linf_n_ball_(x, epsilon=2.0, generator=torch.Generator().manual_seed(0))
    >>> x
    tensor([[-0.0150,  1.0729, -1.6461],
            [-1.4719, -0.7703,  0.5363]])
    """
    if not isinstance(epsilon, Tensor):
        param_ndim = None
    shape, radius, generator = _check(x, epsilon, param_ndim, generator)
    if not isinstance(radius, Tensor) and x.is_contiguous() and x.device == generator.device:
        x.uniform_(-radius, radius, generator=generator)
        return
    uniform = torch.empty_like(x, device=generator.device)  # with the strides of x: numbers come in the order of memory
    uniform.uniform_(-1, 1, generator=generator)
    x.copy_((uniform.reshape(shape) * per_row(radius, uniform.new_empty(shape))).view(x.shape))


def _check(x: Any, epsilon: Any, param_ndim: Any, generator: Any) -> tuple[torch.Size, float | Tensor, torch.Generator]:
    """The shape of `x` as ``[N, ...]``, the radius in the place where the numbers are drawn, and their source."""
    check_tensor("x", x)
    check_kernel_dtype("x", x)
    check_param_ndim(param_ndim)
    shape = batch_shape(x.shape, param_ndim)
    if generator is None:
        generator = torch.default_generator
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
    if not isinstance(epsilon, Tensor):
        epsilon = check_real("epsilon", epsilon)
        if not 0 < epsilon < torch.inf:
            raise ValueError(f"epsilon: expected a finite number above 0, got {epsilon}")
        return shape, epsilon, generator
    check_tensor("epsilon", epsilon)
    if epsilon.dim() > 1 or (epsilon.dim() == 1 and len(epsilon) not in (1, shape[0])):
        raise ValueError(f"epsilon: expected a number or shape [{shape[0]}], one per point, got {describe(epsilon)}")
    epsilon = epsilon.to(generator.device, x.dtype)
    if not bool(((epsilon > 0) & epsilon.isfinite()).all()):
        raise ValueError(f"epsilon: expected finite numbers above 0, got {describe(epsilon.tolist())}")
    return shape, epsilon, generator


def _empty(shape: torch.Size | tuple[int, ...], x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=generator.device)
