"""Perturbations as modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .._checks import check_int, describe


@runtime_checkable
class PerturbationModel(Protocol):
    """What `gradient_ascent` asks of a perturbation: parameters, and a call that applies it to data.

    It does not write to the data. One with a method ``reset_parameters()`` can be started anew by `random_restart`.

    >>> isinstance(AdditivePerturbation((2,)), PerturbationModel), isinstance(torch.sin, PerturbationModel)
    (True, False)
    """

    def __call__(self, data: Tensor) -> Tensor:
        """The perturbed data, in the shape of ``data [N, ...]``."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What is optimised."""


class AdditivePerturbation(nn.Module):
    """A trainable perturbation that is added to data: ``x → x + δ``.

    Args:
        data_or_shape: a tensor, whose shape, dtype and device `delta` takes, or a shape.
        init_fn: writes the start of `delta`, which is 0 before, in place: ``init_fn(delta, **init_fn_kwargs)``.
        device, dtype: of `delta`, before those of `data_or_shape`.
        delta_ndim: the number of axes of `delta`, counted from the last of the shape; negative: how many of the first
            it lacks. With -1 one perturbation is added to each sample of a batch ("universal").
        **init_fn_kwargs: for `init_fn`.

    Attributes:
        delta: the parameter δ.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    With a loss that is summed, the gradient of a universal perturbation grows with the batch: take the mean of the
    losses, and ``param_ndim=None`` in the optimizers of `integralrob.optim`, as there is no batch axis.

    >>> from integralrob.perturbations import uniform_like_l1_n_ball_
    >>> data = torch.ones(3, 2, 2)
    >>> perturb = AdditivePerturbation(
    ...     data_or_shape=data,
    ...     init_fn=uniform_like_l1_n_ball_,
    ...     generator=torch.Generator().manual_seed(0),  # for init_fn
    ... )
    >>> perturb.delta
    Parameter containing:
    tensor([[[-0.0885, -0.0436],
             [-0.3642,  0.2720]],
    <BLANKLINE>
            [[ 0.3074,  0.1827],
             [-0.1440, -0.2624]],
    <BLANKLINE>
            [[ 0.3489,  0.0528],
             [-0.0539,  0.1767]]], requires_grad=True)
    >>> perturbed = perturb(data)
    >>> perturbed
    tensor([[[0.9115, 0.9564],
             [0.6358, 1.2720]],
    <BLANKLINE>
            [[1.3074, 1.1827],
             [0.8560, 0.7376]],
    <BLANKLINE>
            [[1.3489, 1.0528],
             [0.9461, 1.1767]]], grad_fn=<AddBackward0>)
    >>> (perturbed**2).sum().backward()
    >>> perturb.delta.grad
    tensor([[[1.8230, 1.9129],
             [1.2715, 2.5439]],
    <BLANKLINE>
            [[2.6148, 2.3653],
             [1.7120, 1.4753]],
    <BLANKLINE>
            [[2.6978, 2.1056],
             [1.8922, 2.3534]]])

    One perturbation for all samples:

    >>> universal = AdditivePerturbation(
    ...     data_or_shape=data,
    ...     delta_ndim=-1,
    ...     init_fn=uniform_like_l1_n_ball_,
    ...     generator=torch.Generator().manual_seed(1),
    ... )
    >>> universal.delta
    Parameter containing:
    tensor([[-0.2793,  0.4783],
            [-0.4031,  0.3316]], requires_grad=True)
    >>> (universal(data) ** 2).mean().backward()
    >>> universal.delta.grad
    tensor([[0.3603, 0.7392],
            [0.2985, 0.6658]])
    """

    def __init__(
        self,
        data_or_shape: Tensor | Iterable[int],
        init_fn: Callable[..., Any] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        delta_ndim: int | None = None,
        **init_fn_kwargs: Any,
    ) -> None:
        super().__init__()
        if isinstance(data_or_shape, Tensor):
            device = data_or_shape.device if device is None else device
            dtype = data_or_shape.dtype if dtype is None else dtype
            shape = data_or_shape.shape
        else:
            shape = _check_shape(data_or_shape)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype: expected a torch.dtype or None, got {describe(dtype)}")
        if not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(f"data_or_shape: expected a dtype, or dtype=, that can have a gradient, got {dtype}")
        if delta_ndim is not None:
            shape = _last_axes(shape, delta_ndim)
        if init_fn is None and init_fn_kwargs:
            raise TypeError(f"init_fn: expected a function for the keyword arguments {init_fn_kwargs}, got None")
        if init_fn is not None and not callable(init_fn):
            raise TypeError(f"init_fn: expected a function that writes to a tensor, or None, got {describe(init_fn)}")
        self._init_fn = init_fn
        self._init_fn_kwargs = init_fn_kwargs
        self.delta = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start anew: 0, then what `init_fn` writes."""
        self.delta.zero_()
        if self._init_fn is not None:
            self._init_fn(self.delta, **self._init_fn_kwargs)

    def forward(self, data: Tensor) -> Tensor:
        """``data + delta``, broadcast where `delta` has fewer axes."""
        return data + self.delta


def _check_shape(shape: Any) -> torch.Size:
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"data_or_shape: expected a tensor or a sequence of ints, got {describe(shape)}")
    return torch.Size([check_int("data_or_shape", size, minimum=0) for size in shape])


def _last_axes(shape: torch.Size, delta_ndim: Any) -> torch.Size:
    ndim = check_int("delta_ndim", delta_ndim, minimum=-len(shape))
    if ndim > len(shape):
        raise ValueError(f"delta_ndim: expected at most {len(shape)}, the axes of {tuple(shape)}, got {ndim}")
    return shape[len(shape) - ndim if ndim >= 0 else -ndim :]
