"""The Frank-Wolfe algorithm: steps towards the point of a ball that lies furthest down the gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .._checks import check_bool, check_real
from ._arguments import TINY, Group, check_per_row, check_share, per_row
from ._batches import as_batch, write_back
from .gradients import L1qNormedGradientOptim, L2NormedGradientOptim, SignedGradientOptim
from .transforming import Params, ParamTransformingOptimizer, state_to_copy


class FrankWolfe(Optimizer):
    r"""Moves parameters towards the point that a linear minimisation oracle names: ``w ← (1 - l) w + l · c · s``.

    It expects the *negative* of the oracle's point s in ``.grad``, in place of a gradient; `L1FrankWolfe` and the
    others put it there. They never leave a convex set that holds the start and all s.

    Args:
        params: parameters, or dicts that define groups.
        lr: at least 0. With the schedule, ``l = lr / (lr + k)`` in a parameter's step k = 0, 1, ...; else ``l = lr``,
            at most 1.
        lmo_scaling_factor: c, a number, or one per row ``[N]``.
        use_default_lr_schedule: see `lr`.
        div_by_zero_eps: least divisor in the schedule.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Source: M. Frank, P. Wolfe, "An algorithm for quadratic programming", Naval Research Logistics 3, 1956; M. Jaggi,
    "Revisiting Frank-Wolfe", ICML 2013.

    >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = FrankWolfe([x], lr=0.5, use_default_lr_schedule=False)
    >>> x.grad = torch.tensor([1.0, 0.0])
    >>> optimizer.step()
    >>> x
    tensor([0.0000, 0.5000], requires_grad=True)
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 2.0,
        lmo_scaling_factor: float | Tensor = 1.0,
        use_default_lr_schedule: bool = True,
        div_by_zero_eps: float = TINY,
    ) -> None:
        self.use_default_lr_schedule = check_bool("use_default_lr_schedule", use_default_lr_schedule)
        self.div_by_zero_eps = check_real("div_by_zero_eps", div_by_zero_eps, minimum=0)
        super().__init__(params, {"lr": lr, "lmo_scaling_factor": lmo_scaling_factor})

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not say is taken from `defaults`."""
        super().add_param_group({**self.defaults, **param_group})
        group = self.param_groups[-1]
        try:
            if self.use_default_lr_schedule:
                check_real("lr", group["lr"], minimum=0)
            else:
                check_share("lr", group["lr"])
            if isinstance(group["lmo_scaling_factor"], Tensor):
                check_per_row("lmo_scaling_factor", group["lmo_scaling_factor"], {"param_ndim": -1, **group})
            else:
                check_real("lmo_scaling_factor", group["lmo_scaling_factor"])
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, group)
        return loss

    def _move(self, param: Tensor, group: Group) -> None:
        state = self.state[param]
        taken = state.get("step", 0)
        state["step"] = taken + 1
        weight = group["lr"]
        if self.use_default_lr_schedule:
            weight /= max(weight + taken, self.div_by_zero_eps)
        scale = group["lmo_scaling_factor"]
        if isinstance(scale, Tensor):
            batch = as_batch(param, group.get("param_ndim", -1))
            batch.mul_(1 - weight).addcmul_(per_row(scale, batch), batch.grad, value=-weight)  # type: ignore[arg-type]
            write_back(batch, param)
        else:
            param.mul_(1 - weight).add_(param.grad, alpha=-weight * scale)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return state_to_copy(self)


class _FrankWolfeInBall(ParamTransformingOptimizer):
    """`FrankWolfe` in a ball of radius `epsilon` around 0, with the oracle that a subclass makes of gradients."""

    def __init__(
        self,
        params: Params,
        *,
        epsilon: float | Tensor,
        lr: float = 2.0,
        use_default_lr_schedule: bool = True,
        param_ndim: int | None = -1,
        div_by_zero_eps: float = TINY,
    ) -> None:
        super().__init__(
            params,
            _frank_wolfe(lr, use_default_lr_schedule, div_by_zero_eps),
            param_ndim=param_ndim,
            defaults={"lmo_scaling_factor": epsilon},
        )

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, whose radius is `epsilon`; what it does not say is taken from `defaults`."""
        if "epsilon" in param_group:
            param_group = {**param_group}
            param_group["lmo_scaling_factor"] = param_group.pop("epsilon")
        super().add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_per_row("epsilon", group["lmo_scaling_factor"], group)


def _frank_wolfe(lr: Any, use_default_lr_schedule: Any, div_by_zero_eps: Any) -> Callable[..., Optimizer]:
    return partial(FrankWolfe, lr=lr, use_default_lr_schedule=use_default_lr_schedule, div_by_zero_eps=div_by_zero_eps)


class L1FrankWolfe(_FrankWolfeInBall):
    """Frank-Wolfe in the l1 ball around 0: steps towards ``-epsilon · sign(g_i)`` at the largest entry i of a gradient.

    Args:
        params: parameters, or dicts that define groups.
        epsilon: radius, at least 0: a number, or one per row ``[N]``. May differ per group.
        lr, use_default_lr_schedule, div_by_zero_eps: as of `FrankWolfe`.
        param_ndim: what has a norm of its own, as of `ParamTransformingOptimizer`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = L1FrankWolfe([x], epsilon=1.8, param_ndim=None)
    >>> (torch.tensor([1.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.0000, -1.8000], requires_grad=True)
    """

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        if param.grad is None or param.grad.numel() == 0:
            return
        rows = param.grad.flatten(1)  # the same memory, where strides allow it
        largest = rows.abs().argmax(dim=1, keepdim=True)
        sign = rows.gather(1, largest).sign_()
        rows.zero_().scatter_(1, largest, sign)
        if rows.data_ptr() != param.grad.data_ptr():
            param.grad.copy_(rows.view(param.grad.shape))


class L2FrankWolfe(_FrankWolfeInBall, L2NormedGradientOptim):
    """Frank-Wolfe in the l2 ball around 0: steps towards ``-epsilon · g / ‖g‖₂``.

    Args:
        params, epsilon, lr, use_default_lr_schedule, param_ndim, div_by_zero_eps: as of `L1FrankWolfe`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = L2FrankWolfe([x], epsilon=1.8, param_ndim=None)
    >>> (torch.tensor([1.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([-0.8050, -1.6100], requires_grad=True)
    """


class LinfFrankWolfe(_FrankWolfeInBall, SignedGradientOptim):
    """Frank-Wolfe in the l-infinity ball around 0: steps towards ``-epsilon · sign(g)``.

    Args:
        params, epsilon, lr, use_default_lr_schedule, param_ndim, div_by_zero_eps: as of `L1FrankWolfe`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = LinfFrankWolfe([x], epsilon=1.8, param_ndim=None)
    >>> (torch.tensor([1.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([-1.8000, -1.8000], requires_grad=True)
    """


class L1qFrankWolfe(_FrankWolfeInBall, L1qNormedGradientOptim):
    """Frank-Wolfe in the l1 ball around 0, towards the mean of ``-epsilon · sign(g_i)`` at the largest entries i.

    Args:
        params, epsilon, lr, use_default_lr_schedule, param_ndim, div_by_zero_eps: as of `L1FrankWolfe`.
        q, dq, generator: which entries of the gradient are kept, as of `TopQGradientOptimizer`.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> x = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    >>> optimizer = L1qFrankWolfe([x], q=0.30, epsilon=1.8, param_ndim=None)
    >>> (torch.tensor([0.0, 1.0, 2.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.0000, -0.9000, -0.9000], requires_grad=True)
    """

    def __init__(
        self,
        params: Params,
        *,
        q: float,
        epsilon: float | Tensor,
        dq: float = 0.0,
        lr: float = 2.0,
        use_default_lr_schedule: bool = True,
        param_ndim: int | None = -1,
        div_by_zero_eps: float = TINY,
        generator: torch.Generator = torch.default_generator,
    ) -> None:
        L1qNormedGradientOptim.__init__(
            self,
            params,
            _frank_wolfe(lr, use_default_lr_schedule, div_by_zero_eps),
            q=q,
            dq=dq,
            param_ndim=param_ndim,
            defaults={"lmo_scaling_factor": epsilon},
            generator=generator,
        )
