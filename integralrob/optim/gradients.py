"""Optimizers that transform gradients before a step: to signs, to unit length, to their largest entries, to a range."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from .._checks import check_real
from ..ops import l1_step
from ..ops._dtypes import arithmetic_dtype
from ._arguments import TINY, Group, check_defaults, check_generator, check_share
from .transforming import InnerOptimizer, Params, ParamTransformingOptimizer

# Sums of squares are numbers of float32 where norms are in this range, ...
_LEAST, _GREATEST = 1e-15, 1e15
# ... which is not looked into for fewer entries.
_SMALL = 16384
_CACHED = 2**17  # entries


class SignedGradientOptim(ParamTransformingOptimizer):
    """Steps along the sign of each entry of the gradient (0 where it is 0 or NaN).

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        param_ndim: without effect, entries being independent; for subclasses.

    >>> x = torch.tensor([-1.5, 1.5], requires_grad=True)
    >>> optimizer = SignedGradientOptim([x], InnerOpt=torch.optim.SGD, lr=1.0)
    >>> (torch.tensor([-2.0, 20.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([-1.,  1.])
    >>> x
    tensor([-0.5000,  0.5000], requires_grad=True)
    """

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        param_ndim: int | None = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        super().__init__(
            params,
            InnerOpt,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            defaults=defaults,
            **inner_opt_kwargs,
        )

    def _pre_step_transform_(self, param: Tensor, optim_group: Group | None = None) -> None:
        if param.grad is not None:
            param.grad.sign_()


class NormedGradientOptim(ParamTransformingOptimizer):
    """Steps along the gradient divided by the norm of each row; rows of zeros stay."""

    p: int

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        param_ndim: int | None = -1,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        div_by_zero_eps: float = TINY,
        **inner_opt_kwargs: Any,
    ) -> None:
        self.div_by_zero_eps = check_real("div_by_zero_eps", div_by_zero_eps, minimum=0)
        super().__init__(
            params,
            InnerOpt,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            defaults=defaults,
            **inner_opt_kwargs,
        )

    def per_datum_norm(self, x: Tensor) -> Tensor:
        """The norm ``[N]`` of each row of a gradient ``[N, d]``; subclasses may have another."""
        return row_norms(x, self.p)

    def _pre_step_transform_(self, param: Tensor, optim_group: Group | None = None) -> None:
        if param.grad is not None:
            norms = self.per_datum_norm(param.grad.flatten(1)).clamp(min=self.div_by_zero_eps)
            norms = norms.view(-1, *[1] * (param.grad.dim() - 1))
            param.grad.mul_(norms.reciprocal_())  # half as long as a division


class L1NormedGradientOptim(NormedGradientOptim):
    """Steps along the gradient divided by its l1 norm.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        param_ndim: what has a norm of its own, as of `ParamTransformingOptimizer`.
        div_by_zero_eps: smaller norms count as this.

    A NaN makes its row NaN and no other.

    >>> x = torch.tensor([-1.0, 1.0], requires_grad=True)
    >>> optimizer = L1NormedGradientOptim([x], param_ndim=None, InnerOpt=torch.optim.SGD, lr=1.0)
    >>> (torch.tensor([2.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([0.5000, 0.5000])
    >>> x
    tensor([-1.5000,  0.5000], requires_grad=True)
    """

    p = 1


class L2NormedGradientOptim(NormedGradientOptim):
    """Steps along the gradient divided by its l2 norm, also where its squares are beyond the range of its type.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        param_ndim: what has a norm of its own, as of `ParamTransformingOptimizer`.
        div_by_zero_eps: smaller norms count as this.

    A NaN makes its row NaN and no other.

    >>> x = torch.tensor([-1.0, 1.0], requires_grad=True)
    >>> optimizer = L2NormedGradientOptim([x], param_ndim=None, InnerOpt=torch.optim.SGD, lr=1.0)
    >>> (torch.tensor([2.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([0.7071, 0.7071])
    >>> x
    tensor([-1.7071,  0.2929], requires_grad=True)
    """

    p = 2


class _SparseGradientOptim(ParamTransformingOptimizer):
    """Keeps the largest entries of each row, a share ``1 - q`` of them."""

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer,
        q: float,
        dq: float,
        generator: torch.Generator,
        defaults: Group | None,
        **options: Any,
    ) -> None:
        self.generator = check_generator(generator)
        super().__init__(params, InnerOpt, defaults={"q": q, "dq": dq, **check_defaults(defaults)}, **options)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_share("q", group["q"])
        check_share("dq", group["dq"])

    def _largest(self, grad: Tensor, group: Group) -> Tensor:
        """Signs of the largest entries of each row, divided by their number, 0 elsewhere.

        With dq, q is drawn anew for each parameter.
        """
        q, dq = group["q"], group["dq"]
        if dq > 0:
            least, most = max(q - dq, 0.0), min(q + dq, 1.0)
            draw = torch.rand(1, generator=self.generator, device=self.generator.device).item()
            q = least + (most - least) * draw
        length = grad.shape[1:].numel()
        k = round((1 - q) * length)
        origin = torch.zeros_like(grad)
        if k == 0 or grad.numel() == 0:
            return origin
        kept = l1_step(origin, grad, origin, eps=torch.inf, step_size=1.0, k=k, bounds=None)
        surplus = kept.flatten(1).count_nonzero(1) > k
        if grad.device.type == "cpu" and not surplus.any():  # elsewhere, to look would be to wait
            return kept
        first = _first(kept.flatten(1), grad.abs().flatten(1), k)
        return torch.where(surplus[:, None], first, kept.flatten(1)).view_as(kept)


def _first(kept: Tensor, size: Tensor, k: int) -> Tensor:
    """k of the entries that are kept in each row ``[N, d]``: of those that tie with the least of them, the first."""
    least = size.masked_fill(kept == 0, torch.inf).amin(1, keepdim=True)
    above, ties = size > least, size == least
    chosen = above | (ties & (ties.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return torch.where(kept.isnan().any(1, keepdim=True), kept, kept.sign() * chosen / k)


class TopQGradientOptimizer(_SparseGradientOptim):
    """Steps along the largest entries of the gradient; the others are set to 0.

    Args:
        params, InnerOpt, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        q: the share of entries that is dropped, from 0 to 1: of d entries ``round((1 - q) · d)`` are kept, the largest
            in magnitude, of equal ones the first.
        dq: where above 0, each step draws q uniformly from ``[q - dq, q + dq]``, limited to ``[0, 1]``.
        param_ndim: what is sparse by itself, as of `ParamTransformingOptimizer`.
        generator: source of these draws. One on a GPU makes each step wait for it.

    A row with a NaN keeps all its entries.

    Complexity: a few passes over each row, none of which sorts.

    >>> x = torch.ones(2, 2, requires_grad=True)
    >>> optimizer = TopQGradientOptimizer([x], lr=1.0, q=0.5, param_ndim=None)
    >>> x.backward(gradient=torch.tensor([[0.5, 1.0], [-2.5, 0.30]]))
    >>> optimizer.step()
    >>> x.grad
    tensor([[ 0.0000,  1.0000],
            [-2.5000,  0.0000]])
    >>> x
    tensor([[1.0000, 0.0000],
            [3.5000, 1.0000]], requires_grad=True)
    """

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        q: float = 0.001,
        dq: float = 0.0,
        param_ndim: int | None = -1,
        defaults: Group | None = None,
        generator: torch.Generator = torch.default_generator,
        **inner_opt_kwargs: Any,
    ) -> None:
        super().__init__(params, InnerOpt, q, dq, generator, defaults, param_ndim=param_ndim, **inner_opt_kwargs)

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        if param.grad is not None:
            real = param.grad.abs() if param.grad.is_complex() else param.grad
            param.grad.masked_fill_(self._largest(real, optim_group) == 0, 0)


class L1qNormedGradientOptim(_SparseGradientOptim):
    """Steps along the signs of the largest entries of the gradient, divided by their number.

    The direction of steepest descent in l1 is the single largest entry; a few of them, to share the step, do better:
    F. Tramèr, D. Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019.

    Args:
        params, InnerOpt, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`;
            `grad_scale` is the l1 norm of the gradient then.
        q, dq, generator: which entries are kept, as of `TopQGradientOptimizer`.
        param_ndim: what is sparse and has a norm by itself, as of `ParamTransformingOptimizer`.
        div_by_zero_eps: without effect: what is divided by is a number of entries, at least 1.

    A NaN makes its row NaN and no other.

    Complexity: a few passes over each row, none of which sorts: the kernel of `integralrob.ops.l1_step`.

    >>> x = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    >>> optimizer = L1qNormedGradientOptim([x], q=0.30, grad_scale=1.8, lr=1.0, param_ndim=None)
    >>> x.backward(gradient=torch.tensor([0.0, 1.0, 2.0]))
    >>> optimizer.step()
    >>> x.grad
    tensor([0.0000, 0.9000, 0.9000])
    >>> x
    tensor([1.0000, 0.1000, 0.1000], requires_grad=True)
    """

    def __init__(
        self,
        params: Params | None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        q: float = 0.001,
        dq: float = 0.0,
        param_ndim: int | None = -1,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        div_by_zero_eps: float = TINY,
        generator: torch.Generator = torch.default_generator,
        **inner_opt_kwargs: Any,
    ) -> None:
        check_real("div_by_zero_eps", div_by_zero_eps, minimum=0)
        super().__init__(
            params,
            InnerOpt,
            q,
            dq,
            generator,
            defaults,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            **inner_opt_kwargs,
        )

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        if param.grad is not None:
            param.grad.copy_(self._largest(param.grad, optim_group))


class ClampingOptimizer(ParamTransformingOptimizer):
    """Groups with a range ``clamp_min <= clamp_max``, of which one may be None."""

    def __init__(
        self,
        params: Params | None = None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        clamp_min: float | None = None,
        clamp_max: float | None = None,
        defaults: Group | None = None,
        param_ndim: int | None = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        defaults = {"clamp_min": clamp_min, "clamp_max": clamp_max, **check_defaults(defaults)}
        super().__init__(params, InnerOpt, param_ndim=param_ndim, defaults=defaults, **inner_opt_kwargs)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        least, most = group["clamp_min"], group["clamp_max"]
        if least is None and most is None:
            raise ValueError("clamp_min: expected a number for it, for clamp_max or for both, got None")
        if least is not None:
            check_real("clamp_min", least)
        if most is not None:
            check_real("clamp_max", most)
        if least is not None and most is not None and least > most:
            raise ValueError(f"clamp_min: expected at most clamp_max, {most}, got {least}")


class ClampedGradientOptimizer(ClampingOptimizer):
    """Steps along the gradient with each entry limited to a range.

    Args:
        params, InnerOpt, defaults, **inner_opt_kwargs: as of `ParamTransformingOptimizer`.
        clamp_min, clamp_max: the range; one of them may be None.
        param_ndim: without effect, entries being independent; for subclasses.

    >>> x = torch.ones(2, requires_grad=True)
    >>> optimizer = ClampedGradientOptimizer([x], lr=1.0, clamp_min=-1.0, clamp_max=3.0)
    >>> x.backward(gradient=torch.tensor([-0.5, 10]))
    >>> optimizer.step()
    >>> x.grad
    tensor([-0.5000,  3.0000])
    >>> x
    tensor([ 1.5000, -2.0000], requires_grad=True)
    """

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        if param.grad is not None:
            param.grad.clamp_(optim_group["clamp_min"], optim_group["clamp_max"])


def row_norms(rows: Tensor, p: int) -> Tensor:
    """The norm of order p, 1 or 2, of each row of ``[N, d]``, as ``[N]``, in the type of sums."""
    if rows.is_complex():
        rows = rows.abs()
    dtype = arithmetic_dtype(rows.dtype)
    on_cpu = rows.device.type == "cpu"
    if p == 1 and on_cpu:  # a quarter of the time of the norm, by parts that stay in the cache
        parts = rows.split(max(1, _CACHED // max(1, rows.shape[1])))
        return torch.cat([part.abs().sum(1, dtype=dtype) for part in parts])
    norms_in = functools.partial(torch.linalg.vector_norm, rows, p, dim=1)
    if p == 1 or dtype == torch.float64:
        return norms_in(dtype=dtype)
    if not on_cpu or rows.numel() < _SMALL:  # float64 costs nothing where memory or calls are the limit
        return norms_in(dtype=torch.float64).to(dtype)
    norms = norms_in(dtype=dtype)
    doubtful = ~((norms > _LEAST) & (norms < _GREATEST))
    if doubtful.any():
        norms[doubtful] = torch.linalg.vector_norm(rows[doubtful], p, dim=1, dtype=torch.float64).to(dtype)
    return norms
