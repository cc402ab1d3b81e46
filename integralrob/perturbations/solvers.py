"""Searches for the perturbation that a loss is most, or least, hurt by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from .._checks import check_bool, check_int, check_tensor, describe
from .._model_state import frozen
from ..ops._arguments import Bounds, check_bounds
from ..optim.projected import staying_within
from .models import AdditivePerturbation, PerturbationModel

Solver = Callable[..., tuple[Tensor, Tensor]]


def gradient_ascent(
    *,
    model: Callable[[Tensor], Tensor],
    data: Any,
    target: Any,
    optimizer: Optimizer | Callable[..., Optimizer],
    steps: int,
    perturbation_model: PerturbationModel | Callable[[Tensor], PerturbationModel] = AdditivePerturbation,
    targeted: bool = False,
    use_best: bool = False,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    reduction_fn: Callable[[Tensor], Tensor] = torch.sum,
    bounds: Bounds = None,
    **optim_kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Optimises a perturbation of data, by default away from the target, and applies it.

    ::

        optim = optimizer(perturbation_model(data).parameters(), **optim_kwargs)
        for _ in range(steps):
            loss = reduction_fn(criterion(model(perturb(data)), target))
            optim.step(gradient of -loss, or, targeted, of loss)

    A model that is an `nn.Module` runs in eval mode with its parameters frozen. It comes back with the train/eval flag
    of each submodule, `requires_grad` and `.grad` as they were, also if it raises. Works under `torch.no_grad` and
    `torch.inference_mode`.

    Args:
        model: differentiable, ``[N, ...] -> outputs``.
        data: ``[N, ...]``, a tensor or what `torch.as_tensor` takes; of a dtype that `perturbation_model` takes, by
            default floating-point or complex.
        target: for `criterion`; a tensor or what `torch.as_tensor` takes, then put on the device of `data`.
        optimizer: a type, or another callable ``(parameters, **optim_kwargs) -> Optimizer``; or an optimizer of the
            parameters of a `perturbation_model` that exists.
        steps: gradient steps, at least 0.
        perturbation_model: a type, or another callable ``data -> PerturbationModel``; or one that exists, which is
            changed in place.
        targeted: minimise the loss instead.
        use_best: per sample return the best of all steps, the start included, not the last. A NaN loss never is.
        criterion: ``(outputs, target) -> losses [N]``; None is cross entropy.
        reduction_fn: losses to a scalar; with a universal perturbation `torch.mean`.
        bounds: ``(lo, hi)`` of `data`, to which perturbed data keep too; for optimizers that project
            (`LinfProjectedOptim`, `L2ProjectedOptim`, `L1ProjectedOptim`, or a chain with one) a perturbation of the
            shape of `data`. The start is projected as well.
        **optim_kwargs: for `optimizer`.

    Returns:
        The perturbed data ``[N, ...]`` and the losses ``[N]`` of them, detached.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: `steps` gradients and one more evaluation of the model.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    >>> from torch.optim import SGD
    >>> problem = dict(
    ...     data=[-1.0, 2.0],
    ...     target=0.0,
    ...     model=lambda data: data,
    ...     criterion=lambda output, target: (output - target).abs(),
    ...     optimizer=SGD,
    ...     lr=0.1,
    ...     steps=5,
    ... )
    >>> perturbed, losses = gradient_ascent(**problem)
    >>> perturbed
    tensor([-1.5000,  2.5000])
    >>> gradient_ascent(**problem, targeted=True)[0]
    tensor([-0.5000,  1.5000])

    With a perturbation of one's own, to look at what was found:

    >>> perturb = AdditivePerturbation(data_or_shape=(2,))
    >>> perturbed, losses = gradient_ascent(**problem, perturbation_model=perturb)
    >>> perturb.delta
    Parameter containing:
    tensor([-0.5000,  0.5000], requires_grad=True)
    """
    if not callable(model):
        raise TypeError(f"model: expected a module or another callable, got {describe(model)}")
    for name, function in (("criterion", criterion), ("reduction_fn", reduction_fn)):
        if not callable(function) and not (name == "criterion" and function is None):
            raise TypeError(f"{name}: expected a function, got {describe(function)}")
    steps = check_int("steps", steps, minimum=0)
    targeted, use_best = check_bool("targeted", targeted), check_bool("use_best", use_best)
    bounds = check_bounds(bounds)
    losses_of = criterion or functools.partial(F.cross_entropy, reduction="none")

    with frozen(model), torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        data = torch.as_tensor(data)
        additive = perturbation_model is AdditivePerturbation  # others may take indices, bytes, ...
        data = _usable(check_tensor("data", data, floating=additive and not data.is_complex()))
        target = _usable(target if isinstance(target, Tensor) else torch.as_tensor(target, device=data.device))
        perturb = _instantiated(perturbation_model, data, optimizer)
        optim = _optimizer_of(perturb, optimizer, optim_kwargs)
        if bounds is not None:
            _check_within(data, bounds)
            stack.enter_context(staying_within(optim, data, bounds))

        best = _Best(targeted)
        for _ in range(steps):
            optim.zero_grad()
            perturbed = perturb(data)
            losses = losses_of(model(perturbed), target)
            if use_best:
                _check_per_sample(losses, data)
                best.update(_clamped(perturbed.detach(), bounds), losses.detach())
            loss = reduction_fn(losses)
            (loss if targeted else -loss).backward()
            optim.step()
        optim.zero_grad()
        with torch.no_grad():
            perturbed = _clamped(perturb(data), bounds)
            losses = losses_of(model(perturbed), target)
        if not use_best:
            return perturbed.detach(), losses.detach()
        best.update(perturbed.detach(), losses.detach())
        return best.data, best.losses


def random_restart(solver: Solver, repeats: int) -> Solver:
    """A solver that runs another several times and keeps the best result of each sample.

    Best is the highest loss, the lowest with ``targeted=True`` among its keyword arguments, also those of a
    `functools.partial`; a NaN never is.

    Each run starts anew: before all runs but the first a `perturbation_model` that exists is reset by its
    ``reset_parameters()``, or, without such a method, put back to the state in which it came; and so is an `optimizer`
    that exists. They hold the last run's state in the end.

    Args:
        solver: ``(...) -> (data [N, ...], losses [N])``, such as `gradient_ascent`.
        repeats: number of runs, at least 1.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    >>> from functools import partial
    >>> from torch.optim import SGD
    >>> from integralrob.perturbations import uniform_like_l1_n_ball_
    >>> generator = torch.Generator().manual_seed(0)
    >>> perturbed, losses = random_restart(gradient_ascent, 3)(
    ...     perturbation_model=partial(AdditivePerturbation, init_fn=uniform_like_l1_n_ball_, generator=generator),
    ...     data=[-1.0, 2.0],
    ...     target=0.0,
    ...     model=lambda data: data,
    ...     criterion=lambda output, target: (output - target).abs(),
    ...     optimizer=SGD,
    ...     lr=0.1,
    ...     steps=1,
    ... )
    >>> perturbed
    tensor([-1.5963,  2.7341])
    >>> losses
    tensor([1.5963, 2.7341])
    """
    if not callable(solver):
        raise TypeError(f"solver: expected a function that returns data and losses, got {describe(solver)}")
    repeats = check_int("repeats", repeats, minimum=1)

    @functools.wraps(solver)
    def restarting(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        given = {**solver.keywords, **kwargs} if isinstance(solver, functools.partial) else kwargs
        restart = _restart_of(given)
        best = _Best(bool(given.get("targeted", False)))
        for run in range(repeats):
            if run:
                restart()
            best.update(*solver(*args, **kwargs))
        return best.data, best.losses

    return restarting


class _Best:
    """For each sample the data with the highest loss, the lowest if targeted; the first of equals. NaN never wins."""

    data: Tensor
    losses: Tensor

    def __init__(self, targeted: bool) -> None:
        self.targeted = targeted
        self.empty = True

    def update(self, data: Tensor, losses: Tensor) -> None:
        """Take what is better of ``data [N, ...]`` by losses ``[N]``, or one loss for all."""
        if self.empty:
            # copies: a perturbation model may return its parameter itself, which steps and restarts change
            self.data, self.losses, self.empty = data.clone(), losses.clone(), False
            return
        worse = losses >= self.losses if self.targeted else losses <= self.losses
        better = ~worse & ~losses.isnan()  # so written, any number beats a NaN
        self.losses = torch.where(better, losses, self.losses)
        rows = better.reshape(better.shape + (1,) * (data.dim() - better.dim()))
        self.data = torch.where(rows, data, self.data)


def _usable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor  # autograd refuses to save inference tensors


def _check_per_sample(losses: Tensor, data: Tensor) -> None:
    if losses.shape != data.shape[: losses.dim()] or (losses.dim() == 0 and data.dim() > 0):
        raise ValueError(
            f"criterion: expected a loss per sample with use_best, shape [{len(data) if data.dim() else ''}], got "
            f"{describe(losses)}"
        )


def _check_within(data: Tensor, bounds: tuple[float, float]) -> None:
    lowest, highest = torch.tensor(bounds, dtype=data.dtype).tolist()  # so that values clipped to the bounds pass
    if not bool(((data >= lowest) & (data <= highest)).all()):
        low, high = data.min().item(), data.max().item()
        raise ValueError(f"data: expected values within bounds {bounds}, got values from {low:.6g} to {high:.6g}")


def _clamped(perturbed: Tensor, bounds: Bounds) -> Tensor:
    """Within the bounds to the last bit, which ``data + delta`` may leave by a rounding."""
    return perturbed if bounds is None else perturbed.clamp(*bounds)


def _instantiated(perturbation_model: Any, data: Tensor, optimizer: Any) -> PerturbationModel:
    # a type of them has the methods too
    exists = isinstance(perturbation_model, PerturbationModel) and not isinstance(perturbation_model, type)
    if isinstance(optimizer, Optimizer) and not exists:
        raise TypeError(
            "optimizer: expected a type with a perturbation_model that is one, got an optimizer that exists"
        )
    made = perturbation_model
    if not exists and callable(perturbation_model):
        made = perturbation_model(data)
    if not isinstance(made, PerturbationModel):
        raise TypeError(f"perturbation_model: expected a PerturbationModel, or what makes one, got {describe(made)}")
    return made


def _optimizer_of(perturb: PerturbationModel, optimizer: Any, optim_kwargs: dict[str, Any]) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        if optim_kwargs:
            raise TypeError(f"optimizer: expected a type to go with {', '.join(optim_kwargs)}, got one that exists")
        return optimizer
    parameters = list(perturb.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"perturbation_model: expected parameters that require gradients, got {describe(parameters)}")
    made = optimizer(parameters, **optim_kwargs) if callable(optimizer) else optimizer
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, or what makes one, got {describe(made)}")
    return made


def _restart_of(kwargs: dict[str, Any]) -> Callable[[], None]:
    """Puts the perturbation model and the optimizer among keyword arguments back to a start, where they exist."""
    perturb, optimizer = kwargs.get("perturbation_model"), kwargs.get("optimizer")
    reset = None if isinstance(perturb, type) else getattr(perturb, "reset_parameters", None)
    came = deepcopy(perturb.state_dict()) if reset is None and isinstance(perturb, nn.Module) else None
    optimizer_came = deepcopy(optimizer.state_dict()) if isinstance(optimizer, Optimizer) else None

    def restart() -> None:
        if reset is not None:
            reset()
        elif came is not None:
            perturb.load_state_dict(came)  # type: ignore[union-attr]
        if optimizer_came is not None:
            optimizer.load_state_dict(optimizer_came)  # type: ignore[union-attr]

    return restart
