"""Running statistics of batch norms for the size that a network has now.

Source: J. Yu, T. Huang, "Universally slimmable networks and improved training techniques", ICCV 2019: statistics that
are exact averages, after training, for each width; Y. Wu, J. Johnson, "Rethinking 'batch' in batchnorm", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._checks import describe
from .._model_state import frozen
from ..nn.sampled import SampledStatistics

__all__ = ["recalibrate_batch_norms_"]


@torch.no_grad()
def recalibrate_batch_norms_(
    model: nn.Module, batches: Iterable[Any], *, forward: Callable[[Any], object] | None = None
) -> None:
    """Sets the running statistics of a network's batch norms to those of all the given batches together, exactly.

    In a network that was trained at many sizes, the statistics that all sizes share fit none of them exactly. A few
    batches, without labels, are enough to find those of one size.

    The mean and the (unbiased) variance of a channel are over all entries that its norm sees; the norms normalise with
    each batch's own statistics meanwhile, as in training, and everything else is in evaluation mode (no dropout).

    Args:
        model: an `IntegralModel`, a discretised one, or any other network, of which nothing but the statistics is
            changed. In an `IntegralModel`, those of norms whose channels are continuous hold at the present sizes, and
            are forgotten in the next training pass and by a resize to others: the functions that they take the place
            of stay as they are, see `integralrob.nn.sampled.SampledStatistics.integral_calibrate`. Norms whose channels
            are discrete have no place for a second set, and are changed for good.
        batches: gone through once. Each is a tensor of inputs, or a tuple or list whose first entry is one, as loaders
            give; it is moved to the model's device.
        forward: runs the model on a batch, where it is anything else.

    Raises:
        TypeError, ValueError: an argument is not as above; no batches. RuntimeError: the batches reached no batch norm,
            as in a compiled model: pass the model itself. Nothing is changed then, or when the model raises.

    Without batch norms with running statistics there is nothing to do, and the batches are not touched. In distributed
    jobs, give all processes the same batches.

    Complexity: a forward pass for each batch.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    >>> x = torch.randn(100, 4)
    >>> recalibrate_batch_norms_(network, x.split(30))
    >>> torch.allclose(network[1].running_mean, network[0](x).mean(0), atol=1e-6)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {describe(model)}")
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected an iterable, got {describe(batches)}")
    if not (forward is None or callable(forward)):
        raise TypeError(f"forward: expected a function of a batch or None, got {describe(forward)}")
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module._buffers.get("running_mean") is not None
    ]
    if not norms:
        return

    seen = {norm: _Moments() for norm in norms}
    empty = True
    with frozen(model), ExitStack() as stack:
        for norm in norms:
            # Normalises with the batch's statistics, and does not touch its own.
            stack.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
            norm.training, norm.track_running_stats = True, False
            stack.callback(norm.register_forward_pre_hook(lambda norm, args: seen[norm].add(args[0])).remove)
        device = cast("Tensor", norms[0]._buffers["running_mean"]).device
        for batch in batches:
            empty = False
            if forward is None:
                model(_inputs(batch).to(device))
            else:
                forward(batch)
    if empty:
        raise ValueError("batches: expected at least one, got none")
    if not any(moments.count for moments in seen.values()):
        raise RuntimeError("model: expected batches that reach a batch norm, got none that does")
    for norm, moments in seen.items():
        if moments.count:
            _set(norm, moments)


def _inputs(batch: Any) -> Tensor:
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        raise TypeError(f"batches: expected tensors, or tuples that begin with one, got {describe(batch)}")
    return inputs


class _Moments:
    """Mean and squared deviations of each channel over several batches, in float64.

    Source: T. Chan, G. Golub, R. LeVeque, "Algorithms for computing the sample variance", 1983.
    """

    count = 0
    mean: Tensor
    deviations: Tensor

    def add(self, x: Tensor) -> None:
        """Adds the entries of ``[N, C, ...]``."""
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = x.numel() // x.shape[1]
        variance, mean = (moment.to(wide) for moment in torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
        if self.count:
            step, share = mean - self.mean, count / (self.count + count)
            self.deviations = self.deviations + variance * count + step.square() * (self.count * share)
            self.mean = self.mean + step * share
        else:
            self.mean, self.deviations = mean, variance * count
        self.count += count


def _set(norm: nn.Module, moments: _Moments) -> None:
    variance = moments.deviations / max(1, moments.count - 1)
    statistics = {
        name: values.to(cast("Tensor", norm._buffers[name]))  # its dtype and device
        for name, values in (("running_mean", moments.mean), ("running_var", variance))
    }
    if isinstance(norm, SampledStatistics):
        norm.integral_calibrate(statistics)
    else:
        for name, values in statistics.items():
            getattr(norm, name).copy_(values)
