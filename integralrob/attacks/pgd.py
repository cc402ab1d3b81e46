"""Projected gradient descent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from .._checks import check_bool, check_choice, check_int
from .._model_state import frozen
from ..ops._arguments import check_bounds
from ..ops._dtypes import arithmetic_dtype
from ._arguments import check_finite_per_sample, check_generator, check_model, check_samples, check_step_options
from ._objective import BestSoFar, Objective
from .balls import BALLS, PerSample
from .losses import LossFunction, resolve_loss
from .result import AttackResult


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: PerSample,
    steps: int = 40,
    step_size: PerSample | None = None,
    k: int | float | Tensor | None = None,
    targeted: bool = False,
    random_start: bool = True,
    restarts: int = 1,
    loss: str | LossFunction = "ce",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AttackResult:
    r"""Projected gradient descent: the worst case of a loss over a ball of perturbations, searched by projected ascent.

    .. math:: \max_\delta \ell(f(x + \delta), y) \quad\text{subject to}\quad
        \|\delta\| \le \epsilon,\ \text{lo} \le x + \delta \le \text{hi}

    With `targeted` the loss with respect to the target `y` is minimised instead. A step in the ball of each norm:

    * ``linf``: ``x_adv ← clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``.
    * ``l2``: along ``grad / ‖grad‖₂``, scaled back into the ball, then clipped to the box (`integralrob.ops.l2_step`).
    * ``l1``: along the signs of the k largest entries of the gradient, each by ``step_size / k``, then the exact
      projection on ball ∩ box (`integralrob.ops.l1_step`). The k are chosen among the entries that can move: not those
      that are at a bound which the gradient points to.

    For each sample the strongest candidate over all steps and restarts is returned, `x` itself included: a success
    beats a failure, then the higher loss wins (the lower if targeted). More restarts with the same generator state
    never weaken the result. Where a gradient becomes NaN, that sample keeps what it had found; others do not notice.

    The model runs in eval mode with its parameters frozen. It comes back with every train/eval flag, `requires_grad`
    and `.grad` as they were, also if it raises. Works under `torch.no_grad` and `torch.inference_mode`.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, K]``, K ≥ 2. It gets a copy of its own, which it may write to.
        x: ``[B, ...]`` samples, finite, within `bounds`. Under mixed precision keep them float32 and let autocast run
            the model: float16 and bfloat16 samples resolve steps near 1 to no more than 5e-4 and 4e-3.
        y: int64 ``[B]``, the labels, or with `targeted` the target classes.
        norm: the ball: ``"linf"``, ``"l1"`` or ``"l2"``.
        eps: the ball's radius in units of `x`, a number of at least 0 or one per sample, ``[B]``.
        steps: gradient steps of each run.
        step_size: length of a step in that norm, in units of `x`, a number or one per sample, ``[B]``. None: ``2.5 ·
            eps / steps``, with which a run can cross the ball from any start and still move along its surface; in l1
            ``5 · eps / steps``, as a path along few entries at a time is a longer one.
        k: in l1 only: how many entries a step moves, an int from 1 to the number of a sample's entries, a float as
            their share, or a tensor of either, one per sample ``[B]``. None: 0.05.
        targeted: steer towards the classes `y` instead of away from them.
        random_start: start each run at random in the ball inside `bounds`, instead of at `x`. In linf uniformly in
            both; in l1 and l2 at the projection, on what of the ball is inside `bounds`, of a point that is uniform in
            the ball: what lay outside is on the bounds.
        restarts: number of runs; with ``random_start=False`` all would be the same, so it has to be 1.
        loss: ``"ce"`` (cross entropy), or a callable ``(logits [B, K], y [B]) -> [B]``, one value per sample.
        bounds: lowest and highest value of a valid sample, or None.
        generator: source of the random starts, for the device of `x`; None is torch's global one.
        progress: show a bar with the steps.

    Returns:
        `AttackResult`; its trace is ``[restarts, steps + 1, B]``. An empty batch gives an empty result.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it. Nothing has run then, but the model
            once where its output or the range of `y` is at fault.

    Complexity: ``restarts · steps + 1`` gradients and ``restarts`` more evaluations of the model; memory for the graph
    of one batch and six tensors of the size of `x`. The loop never waits for the device.

    Sources: A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; l1: F. Tramèr,
    D. Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019, and F. Croce, M. Hein,
    "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021.

    >>> def model(x):  # class 0 where the two values add up to more than 1/2
    ...     total = x.sum(1)
    ...     return torch.stack([total, 1 - total], dim=1)
    >>> x = torch.tensor([[0.3, 0.4], [0.6, 0.8]])
    >>> result = pgd(model, x, torch.tensor([0, 0]), eps=0.2)
    >>> result.success.tolist()
    [True, False]
    >>> result.adversarial
    tensor([[0.1000, 0.2000],
            [0.4000, 0.6000]])
    """
    ball = BALLS[check_choice("norm", norm, BALLS)]
    check_model(model)
    targeted, random_start = check_bool("targeted", targeted), check_bool("random_start", random_start)
    progress = check_bool("progress", progress)
    bounds = check_bounds(bounds)
    x, y = check_samples(x, y, bounds)
    eps = check_finite_per_sample("eps", eps, x)
    steps = check_int("steps", steps, 1)
    step_size = ball.path * eps / steps if step_size is None else check_finite_per_sample("step_size", step_size, x)
    options = check_step_options(norm, ball, k, x)
    restarts = check_int("restarts", restarts, 1)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts: expected 1 with random_start=False, where all would be the same, got {restarts}")
    objective_loss = resolve_loss(loss)
    check_generator(generator, x.device)

    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        if len(x) == 0:
            return _empty_result(x, restarts, steps)
        objective = Objective(model, y, objective_loss, targeted)
        best = BestSoFar(x, *objective.checked(x))
        trace = best.gain.new_empty(restarts, steps + 1, len(x))
        with tqdm(total=restarts * steps, desc="pgd", unit="step", disable=not progress) as bar:
            for run in trace:
                x_adv = ball.random_start(x, eps, bounds, generator) if random_start else x.detach()
                for step in range(steps):
                    gain, success = objective(x_adv.requires_grad_())
                    (grad,) = torch.autograd.grad(gain.sum(), x_adv)
                    x_adv = x_adv.detach()
                    best.update(x_adv, gain.detach(), success)
                    run[step] = gain.detach()
                    x_adv = ball.step(x_adv, grad, x, eps, step_size, bounds=bounds, **options)
                    bar.update()
                with torch.no_grad():
                    gain, success = objective(x_adv)
                best.update(x_adv, gain, success)
                run[steps] = gain
        return AttackResult(
            adversarial=best.adversarial,
            success=best.success,
            loss=objective.losses(best.gain),
            norm=ball.norm(best.adversarial.to(arithmetic_dtype(x.dtype)) - x),
            trace=objective.losses(trace),
        )


def _empty_result(x: Tensor, restarts: int, steps: int) -> AttackResult:
    losses = x.new_empty(0, dtype=arithmetic_dtype(x.dtype))
    return AttackResult(
        adversarial=x.clone(),
        success=losses.bool(),
        loss=losses,
        norm=losses.clone(),
        trace=losses.new_empty(restarts, steps + 1, 0),
    )
