"""Optimizers that constrain parameters after a step: to a ball, to a box around it, to a range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from .._checks import describe
from ..ops import project_l1, project_l2, project_linf
from ..ops._arguments import Bounds, check_bounds, check_like
from ._arguments import TINY, Group, check_defaults, check_per_row, per_row
from .gradients import (
    ClampingOptimizer,
    L1NormedGradientOptim,
    L2NormedGradientOptim,
    NormedGradientOptim,
    SignedGradientOptim,
)
from .transforming import ChainedParamTransformingOptimizer, InnerOptimizer, Params, ParamTransformingOptimizer


class _ProjectedOptim(ParamTransformingOptimizer):
    """Projects each row of a parameter on ``{‖δ‖ ≤ epsilon} ∩ {lo ≤ center + δ ≤ hi}``."""

    _project: Callable[..., Tensor]

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_per_row("epsilon", group["epsilon"], group)
        center, bounds = group.get("center"), check_bounds(group.get("bounds"))
        if (center is None) != (bounds is None):
            raise ValueError("center: expected center and bounds together, or neither; got one of them")
        if center is not None:
            for param in group["params"]:
                check_like("center", center, "the parameter", param)

    def _post_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        center = optim_group.get("center")
        if center is not None:
            box = {"center": center.detach().reshape(param.shape), "bounds": optim_group["bounds"]}
            param.copy_(self._project(param.detach(), optim_group["epsilon"], **box))
        else:
            self._project_on_ball_(param, optim_group["epsilon"])

    def _project_on_ball_(self, param: Tensor, epsilon: float | Tensor) -> None:
        param.copy_(self._project(param.detach(), epsilon))


def _with_ball(epsilon: float | Tensor, center: Tensor | None, bounds: Bounds, defaults: Group | None) -> Group:
    """Defaults of groups, without those of the box where there is none: they are state dicts of rai_toolbox then."""
    box = {} if center is None and bounds is None else {"center": center, "bounds": bounds}
    return {"epsilon": epsilon, **box, **check_defaults(defaults)}


@contextmanager
def staying_within(optimizer: Optimizer, center: Tensor, bounds: Bounds) -> Iterator[None]:
    """Inside the context a projecting optimizer keeps ``center + parameter`` within `bounds`, from now on.

    On leaving, also by an exception, its groups have the box that they had.

    Raises:
        TypeError, ValueError: it does not project, or a parameter has another shape than `center`.
    """
    links = optimizer.chain if isinstance(optimizer, ChainedParamTransformingOptimizer) else (optimizer,)
    projects = any(isinstance(link, _ProjectedOptim) for link in links)
    if not (isinstance(optimizer, ParamTransformingOptimizer) and projects):
        raise TypeError(
            "bounds: expected an optimizer that projects (LinfProjectedOptim, L2ProjectedOptim, L1ProjectedOptim), got "
            f"{type(optimizer).__name__}"
        )
    for param in (param for group in optimizer.param_groups for param in group["params"]):
        if (param.shape, param.dtype, param.device) != (center.shape, center.dtype, center.device):
            raise ValueError(
                f"bounds: expected a perturbation like the data, {describe(center)} on {center.device}, got "
                f"{describe(param)} on {param.device}"
            )
    groups = optimizer.param_groups
    had: list[Group] = [{name: group[name] for name in ("center", "bounds") if name in group} for group in groups]
    try:
        for group in groups:
            group["center"], group["bounds"] = center, bounds
        optimizer.project()
        yield
    finally:
        for group, box in zip(groups, had, strict=True):
            del group["center"], group["bounds"]
            group.update(box)


class LinfProjectedOptim(_ProjectedOptim, SignedGradientOptim):
    """Steps along the sign of the gradient, then clips each entry to ``[-epsilon, epsilon]``, and to a box if given.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        epsilon: radius, at least 0: a number, or one per row ``[N]``. May differ per group.
        param_ndim: entries are independent, so that it matters to one `epsilon` per row only: -1 gives each sample, on
            the first axis, its own.
        center, bounds: with both, ``lo ≤ center + δ ≤ hi`` too, for parameters δ of the shape of `center`, the clean
            inputs, and ``bounds = (lo, hi)``.

    >>> x = torch.tensor([-1.0, 0.5], requires_grad=True)
    >>> optimizer = LinfProjectedOptim([x], epsilon=1.8, InnerOpt=torch.optim.SGD, lr=1.0)
    >>> (torch.tensor([2.0, -2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([ 1., -1.])
    >>> x
    tensor([-1.8000,  1.5000], requires_grad=True)
    """

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        epsilon: float | Tensor = 0.001,
        param_ndim: int | None = None,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        center: Tensor | None = None,
        bounds: Bounds = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        super().__init__(
            params,
            InnerOpt,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            defaults=_with_ball(epsilon, center, bounds, defaults),
            **inner_opt_kwargs,
        )

    _project = staticmethod(project_linf)

    def _project_on_ball_(self, param: Tensor, epsilon: float | Tensor) -> None:
        limit: Any = per_row(epsilon, param)
        param.clamp_(-limit, limit)


class _NormedProjectedOptim(_ProjectedOptim, NormedGradientOptim):
    """Steps along the gradient divided by the norm of each row, then projects."""

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        epsilon: float | Tensor = 0.001,
        param_ndim: int | None = -1,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        div_by_zero_eps: float = TINY,
        center: Tensor | None = None,
        bounds: Bounds = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        super().__init__(
            params,
            InnerOpt,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            div_by_zero_eps=div_by_zero_eps,
            defaults=_with_ball(epsilon, center, bounds, defaults),
            **inner_opt_kwargs,
        )


class L2ProjectedOptim(_NormedProjectedOptim, L2NormedGradientOptim):
    """Steps along the gradient divided by its l2 norm, then projects on the l2 ball, within a box if given.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        epsilon: radius, at least 0: a number, or one per row ``[N]``. May differ per group.
        param_ndim: what has a norm of its own, as of `ParamTransformingOptimizer`.
        div_by_zero_eps: smaller norms of gradients count as this.
        center, bounds: with both, ``lo ≤ center + δ ≤ hi`` too, for parameters δ of the shape of `center`, the clean
            inputs, and ``bounds = (lo, hi)``: the nearest point of ball and box, `integralrob.ops.project_l2`.

    >>> x = torch.tensor([-1.0, 1.0], requires_grad=True)
    >>> optimizer = L2ProjectedOptim([x], param_ndim=None, InnerOpt=torch.optim.SGD, lr=1.0, epsilon=0.8)
    >>> (torch.tensor([2.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([0.7071, 0.7071])
    >>> x
    tensor([-0.7885,  0.1353], requires_grad=True)
    """

    _project = staticmethod(project_l2)

    def _project_on_ball_(self, param: Tensor, epsilon: float | Tensor) -> None:
        if isinstance(epsilon, Tensor) or param.dtype in (torch.float16, torch.bfloat16):
            super()._project_on_ball_(param, epsilon)
        else:
            param.renorm_(p=2, dim=0, maxnorm=epsilon)  # in place, at the speed of memory


class L1ProjectedOptim(_NormedProjectedOptim, L1NormedGradientOptim):
    """Steps along the gradient divided by its l1 norm, then projects on the l1 ball, within a box if given.

    The projection is the exact, Euclidean one, `integralrob.ops.project_l1`, which makes perturbations sparse. With
    sparse steps too: ``ChainedParamTransformingOptimizer(partial(TopQGradientOptimizer, q=0.95), SignedGradientOptim,
    partial(L1ProjectedOptim, epsilon=12))``.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        epsilon: radius, at least 0: a number, or one per row ``[N]``. May differ per group.
        param_ndim: what has a norm of its own, as of `ParamTransformingOptimizer`.
        div_by_zero_eps: smaller norms of gradients count as this.
        center, bounds: with both, ``lo ≤ center + δ ≤ hi`` too, for parameters δ of the shape of `center`, the clean
            inputs, and ``bounds = (lo, hi)``.

    >>> x = torch.tensor([-1.0, 0.5, 0.0], requires_grad=True)
    >>> optimizer = L1ProjectedOptim([x], param_ndim=None, lr=0.5, epsilon=1.0)
    >>> (torch.tensor([2.0, 2.0, 0.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([-1.,  0.,  0.], requires_grad=True)
    """

    _project = staticmethod(project_l1)


class ClampedParameterOptimizer(ClampingOptimizer):
    """Limits each entry of a parameter to a range after a step.

    Args:
        params, InnerOpt, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        clamp_min, clamp_max: the range; one of them may be None.
        param_ndim: without effect, entries being independent; for subclasses.

    >>> x = torch.ones(2, requires_grad=True)
    >>> optimizer = ClampedParameterOptimizer([x], lr=1.0, clamp_min=-1.0, clamp_max=3.0)
    >>> x.backward(gradient=torch.tensor([0.5, -10.0]))
    >>> optimizer.step()
    >>> x
    tensor([0.5000, 3.0000], requires_grad=True)
    """

    def _post_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        param.clamp_(optim_group["clamp_min"], optim_group["clamp_max"])
