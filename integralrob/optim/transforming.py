"""An optimizer around another one, that transforms parameters and their gradients before and after its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from .._checks import check_real, describe
from ._arguments import Group, check_defaults
from ._batches import as_batch, batch_shape, check_param_ndim, write_back

Params = Iterable[Any]
InnerOptimizer = Optimizer | Callable[..., Optimizer]


class ParamTransformingOptimizer(Optimizer):
    """Transforms each parameter's gradient, lets an inner optimizer step, and transforms each parameter.

    ::

        _pre_step_transform_(param)      # then grad = grad_scale · grad + grad_bias
        inner_opt.step()
        _post_step_transform_(param)

    The transformations, none here, are for subclasses; both write in place. They see each parameter, and its gradient,
    as a batch ``[N, ...]`` and treat its N rows alike and apart; `param_ndim` says what a row is:

    * an int n ≥ 0: the last n axes. A parameter ``[2, 3, 4]`` becomes ``[6, 4]`` with 1, ``[2, 3, 4]`` with 2, ``[1, 2,
      3, 4]`` with 3, and with 0 ``[24, 1]``, where each element is a row;
    * an int n < 0: all but the first -n axes. With -1 the first axis is the batch;
    * None: all axes; the parameter is one row.

    `param_groups`, `state` and `defaults` are those of the inner optimizer, `inner_opt`: state dicts, learning rate
    schedulers and groups added later work as with that one. `param_ndim`, `grad_scale` and `grad_bias` may differ per
    group. Can be copied and pickled.

    A closure is called by the inner optimizer; the gradient is transformed after each call.

    Args:
        params: parameters, named parameters or dicts that define groups; None only with an `InnerOpt` that exists.
        InnerOpt: what steps: a type, or another callable ``(groups, **inner_opt_kwargs) -> Optimizer``, or an optimizer
            of the same parameters.
        param_ndim: as above.
        grad_scale, grad_bias: applied to each gradient, in this order, after its transformation.
        defaults: more values for groups that do not say otherwise; they go before the other arguments.
        **inner_opt_kwargs: for `InnerOpt`.

    Raises:
        TypeError, ValueError: an argument is not as above, or a parameter has fewer axes than `param_ndim` asks for;
            the message names it. The latter also in `step`, before any change, where a group was changed.
        RuntimeError: in `step`, before any change: a gradient is sparse.

    >>> class MaxNormed(ParamTransformingOptimizer):
    ...     def _pre_step_transform_(self, param, optim_group):
    ...         param.grad /= param.grad.abs().amax(dim=1, keepdim=True).clamp(min=1e-20)
    >>> x = torch.tensor([[1.0, 2.0], [20.0, 10.0]], requires_grad=True)
    >>> optimizer = MaxNormed([x], torch.optim.SGD, lr=1.0, param_ndim=1)
    >>> x.square().sum().backward()
    >>> optimizer.step()
    >>> x.grad
    tensor([[0.5000, 1.0000],
            [1.0000, 0.5000]])
    >>> x
    tensor([[ 0.5000,  1.0000],
            [19.0000,  9.5000]], requires_grad=True)
    """

    inner_opt: Optimizer

    def __init__(
        self,
        params: Params | None = None,
        InnerOpt: InnerOptimizer = SGD,
        *,
        param_ndim: int | None = -1,
        grad_scale: float = 1.0,
        grad_bias: float = 0.0,
        defaults: Group | None = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        defaults = {
            "param_ndim": param_ndim,
            "grad_scale": grad_scale,
            "grad_bias": grad_bias,
            **check_defaults(defaults),
        }
        if isinstance(InnerOpt, Optimizer):
            self._wrap(InnerOpt, params, defaults, inner_opt_kwargs)
        else:
            self._create(InnerOpt, params, defaults, inner_opt_kwargs)

    def _create(self, InnerOpt: Any, params: Params | None, defaults: Group, inner_opt_kwargs: Group) -> None:
        if not callable(InnerOpt):
            raise TypeError(f"InnerOpt: expected an Optimizer or a callable that makes one, got {describe(InnerOpt)}")
        if params is None:
            raise TypeError("params: expected parameters with an InnerOpt that is not an Optimizer yet, got None")
        super().__init__(params, defaults)
        inner = InnerOpt(self.param_groups, **inner_opt_kwargs)
        if not isinstance(inner, Optimizer):
            raise TypeError(f"InnerOpt: expected an Optimizer or a callable that makes one, got {describe(inner)}")
        if _members(inner) != _members(self) or any(self.defaults.keys() - group for group in inner.param_groups):
            raise ValueError("InnerOpt: expected an optimizer of the groups that it is given, got one of others")
        inner.defaults.update(self.defaults)
        self._share(inner)

    def _wrap(self, inner: Optimizer, params: Params | None, defaults: Group, inner_opt_kwargs: Group) -> None:
        if inner_opt_kwargs:
            names = ", ".join(inner_opt_kwargs)
            raise TypeError(f"InnerOpt: expected a type to go with {names}, got {type(inner).__name__} that exists")
        super().__init__(inner.param_groups if params is None else params, defaults)
        if _members(self) != _members(inner):
            raise ValueError("params: expected those of the InnerOpt that exists, or None, got others")
        completed = [{**self.defaults, **group} for group in inner.param_groups]
        for group in completed:
            self._check_group(group)
        for group, values in zip(inner.param_groups, completed, strict=True):
            group.update(values)
        for name, value in self.defaults.items():
            inner.defaults.setdefault(name, value)
        self._share(inner)

    def _share(self, inner: Optimizer) -> None:
        self.inner_opt = inner
        self.defaults, self.param_groups, self.state = inner.defaults, inner.param_groups, inner.state

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not say is taken from `defaults`."""
        group = {**self.defaults, **param_group}
        if "inner_opt" in self.__dict__:
            self.inner_opt.add_param_group(group)
        else:
            super().add_param_group(group)
        try:
            self._check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: Group) -> None:
        """Raise what is wrong with a group's values: subclasses add their own."""
        check_param_ndim(group["param_ndim"])
        check_real("grad_scale", group["grad_scale"])
        check_real("grad_bias", group["grad_bias"])
        for param in group["params"]:
            if not (param.is_floating_point() or param.is_complex()):
                raise TypeError(f"params: expected floating-point tensors, got {describe(param)}")
            batch_shape(param.shape, group["param_ndim"])

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        """Change ``param.grad [N, ...]``, or `param`, in place before the step. Called where there is a gradient."""

    def _post_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        """Change ``param [N, ...]`` in place after the step."""

    def _apply_pre_step_transform_(self) -> None:
        for group, param in self._checked():
            if param.grad is None:
                continue
            if self._transforms("_pre_step_transform_"):
                batch = as_batch(param, group["param_ndim"])
                grad: Any = batch.grad
                self._pre_step_transform_(batch, optim_group=group)
                if batch.grad is None or (batch is not param and batch.grad.data_ptr() != grad.data_ptr()):
                    raise ValueError(
                        f"{type(self).__name__}._pre_step_transform_: expected it to write to param.grad, "
                        "got another tensor in its place"
                    )
                write_back(batch, param)
            if group["grad_scale"] != 1:
                param.grad.mul_(group["grad_scale"])
            if group["grad_bias"] != 0:
                param.grad.add_(group["grad_bias"])

    def _apply_post_step_transform_(self) -> None:
        if self._transforms("_post_step_transform_"):
            for group, param in self._checked():
                batch = as_batch(param, group["param_ndim"])
                self._post_step_transform_(batch, optim_group=group)
                write_back(batch, param)

    def _transforms(self, name: str) -> bool:
        """Whether there is such a transformation, of a subclass or of this object."""
        return getattr(getattr(self, name), "__func__", None) is not getattr(ParamTransformingOptimizer, name)

    @torch.no_grad()
    def project(self) -> None:
        """Transform the parameters as after a step, without one: a start that is outside of a ball is put inside."""
        self._apply_post_step_transform_()

    def _checked(self) -> list[tuple[Group, Tensor]]:
        """All parameters with their groups: what is wrong with one shows before any is changed."""
        members = [(group, param) for group in self.param_groups for param in group["params"]]
        for group, param in members:
            batch_shape(param.shape, group["param_ndim"])
            if param.grad is not None and param.grad.layout != torch.strided:
                raise RuntimeError(f"{type(self).__name__}: expected dense gradients, got {param.grad.layout}")
        return members

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, as above; returns what the inner optimizer's step does, with a closure its value."""
        if closure is None:
            self._apply_pre_step_transform_()
            loss = self.inner_opt.step()
        else:
            loss = self.inner_opt.step(partial(self._transformed, closure))
        self._apply_post_step_transform_()
        return loss

    def _transformed(self, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            self._apply_pre_step_transform_()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return state_to_copy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.inner_opt.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        head = f"{type(self).__name__} "
        return super().__repr__().replace(head, f"{self._name()} [{type(self.inner_opt).__name__}]", 1)


class ChainedParamTransformingOptimizer(ParamTransformingOptimizer):
    """Several transforming optimizers as one: the transformations of each, from left to right, around one inner step.

    Args:
        *transforming_optimizers: types of `ParamTransformingOptimizer`, or `functools.partial` of them with the values
            of their own groups; `param_ndim`, `grad_scale` and `grad_bias` are those given here.
        params, InnerOpt, param_ndim, grad_scale, grad_bias, defaults, **inner_opt_kwargs: as of
            `ParamTransformingOptimizer`. Scale and bias come once, after all transformations of a gradient.

    All share `param_groups`, `state` and `defaults`, so that a group may set the values of each.

    Raises:
        TypeError, ValueError: as `ParamTransformingOptimizer` does.

    >>> from functools import partial
    >>> from integralrob.optim import ClampedGradientOptimizer, TopQGradientOptimizer
    >>> x = torch.ones(3, requires_grad=True)
    >>> optimizer = ChainedParamTransformingOptimizer(
    ...     partial(TopQGradientOptimizer, q=0.33),
    ...     partial(ClampedGradientOptimizer, clamp_max=2.8),
    ...     params=[x],
    ...     lr=1.0,
    ...     param_ndim=None,
    ... )
    >>> (torch.tensor([1.0, 2.0, 3.0]) * x).sum().backward()
    >>> optimizer.step()
    >>> x.grad  # the smallest third is 0, the rest at most 2.8
    tensor([0.0000, 2.0000, 2.8000])
    >>> x
    tensor([ 1.0000, -1.0000, -1.8000], requires_grad=True)
    """

    def __init__(
        self,
        *transforming_optimizers: Callable[..., ParamTransformingOptimizer],
        params: Params | None = None,
        InnerOpt: InnerOptimizer = SGD,
        param_ndim: int | None = -1,
        grad_scale: float = 1,
        grad_bias: float = 0,
        defaults: Group | None = None,
        **inner_opt_kwargs: Any,
    ) -> None:
        self.chain: tuple[ParamTransformingOptimizer, ...] = ()
        for made in transforming_optimizers:
            kind = made.func if isinstance(made, partial) else made
            if not (isinstance(kind, type) and issubclass(kind, ParamTransformingOptimizer)):
                raise TypeError(
                    "transforming_optimizers: expected types of ParamTransformingOptimizer, or partials of them, got "
                    f"{describe(made)}"
                )
        super().__init__(
            params,
            InnerOpt,
            param_ndim=param_ndim,
            grad_scale=grad_scale,
            grad_bias=grad_bias,
            defaults=defaults,
            **inner_opt_kwargs,
        )
        # of the same parameters: those of the inner optimizer, whose groups they complete
        self.chain = tuple(made(self.param_groups, InnerOpt=self.inner_opt) for made in transforming_optimizers)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        for link in self.chain:
            link._check_group(group)

    def _pre_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        for link in self.chain:
            link._pre_step_transform_(param, optim_group=optim_group)

    def _post_step_transform_(self, param: Tensor, optim_group: Group) -> None:
        for link in self.chain:
            link._post_step_transform_(param, optim_group=optim_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for link in self.chain:
            link.param_groups, link.state = self.param_groups, self.state

    def _name(self) -> str:
        return " ○ ".join(link._name() for link in reversed(self.chain))


def _members(optimizer: Optimizer) -> list[int]:
    return [id(param) for group in optimizer.param_groups for param in group["params"]]


def state_to_copy(optimizer: Optimizer) -> dict[str, Any]:
    """What a copy takes over: all but hooks and the `step` that a scheduler wraps, which torch makes anew.

    (Torch's own `__getstate__` leaves out what subclasses add, too.)
    """
    return {
        name: value for name, value in vars(optimizer).items() if not name.startswith("_optimizer_") and name != "step"
    }
