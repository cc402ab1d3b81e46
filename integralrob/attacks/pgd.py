"""Projected gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .._checks import check_bool, check_choice, check_int
from ._arguments import check_finite_per_sample, check_k
from ._problem import Problem
from ._rows import Rows
from ._search import Run, searching
from .balls import PerSample
from .losses import LossFunction
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
    keep: str = "best",
    early_stop: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    index: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> AttackResult:
    r"""Projected gradient descent: the worst case of a loss over a ball of perturbations, searched by projected ascent.

    .. math:: \max_\delta \ell(f(x + \delta), y) \quad\text{subject to}\quad
        \|\delta\| \le \epsilon,\ \text{lo} \le x + \delta \le \text{hi}

    With `targeted` the loss with respect to the target `y` is minimised instead. A step in the ball of each norm:

    * ``linf``: ``x_adv ← clip(clip(x_adv + step_size · sign(grad), x - eps, x + eps), lo, hi)``.
    * ``l2``: along ``grad / ‖grad‖₂``, scaled back into the ball, then clipped to the box (`integralrob.ops.l2_step`).
    * ``l1``: along the signs of the k largest entries of the gradient, each by ``step_size / k``, then the exact
      projection on ball ∩ box (`integralrob.ops.l1_step`).

    In l2 and l1, `grad` is 0 in entries that cannot move, at a bound which it points to: their part goes to the others.

    For each sample the strongest candidate over all steps and restarts is returned, `x` itself included: a success
    beats a failure, then the higher loss wins (the lower if targeted). More restarts with the same generator state
    never weaken the result. Where a gradient becomes NaN, that sample keeps what it had found; others do not notice.

    The model runs in eval mode with its parameters frozen. It comes back with every train/eval flag, `requires_grad`
    and `.grad` as they were, also if it raises. Works under `torch.no_grad` and `torch.inference_mode`.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, K]``, K ≥ 2. It gets a copy of its own, which it may write to. A
            function that calls a module finds it in the mode that it is in.
        x: ``[B, ...]`` samples, finite, within `bounds`. Under mixed precision keep them float32 and let autocast run
            the model: float16 and bfloat16 samples resolve steps near 1 to no more than 5e-4 and 4e-3.
        y: int64 ``[B]``, the labels, or with `targeted` the target classes.
        norm: the ball: ``"linf"``, ``"l1"`` or ``"l2"``.
        eps: the ball's radius in units of `x`, a number of at least 0 or one per sample, ``[B]``.
        steps: gradient steps of each run.
        step_size: length of a step in that norm, in units of `x`, a number or one per sample, ``[B]``. None: ``2.5 ·
            eps / steps``, with which a run can cross the ball from any start and still move along its surface; in l1
            ``5 · eps / steps``, as a path along few entries at a time is a longer one; in l2 ``10 · eps / steps``, as
            the best point is far along the surface.
        k: in l1 only: how many entries a step moves, an int from 1 to the number of a sample's entries, a float as
            their share, or a tensor of either, one per sample ``[B]``. None: 0.05.
        targeted: steer towards the classes `y` instead of away from them.
        random_start: start each run at random in the ball inside `bounds`, instead of at `x`. In linf uniformly in
            both; in l1 and l2 at the projection, on what of the ball is inside `bounds`, of a point that is uniform in
            the ball: what lay outside is on the bounds.
        restarts: number of runs; with ``random_start=False`` all would be the same, so it has to be 1.
        loss: ``"ce"`` (cross entropy), ``"dlr"`` (difference of logits ratio, K ≥ 3, with `targeted` 4), ``"margin"``
            (largest other logit minus that of `y`), or a callable ``(logits [B, K], y [B]) -> [B]``, one value per
            sample.
        keep: ``"best"``, or ``"last"``: the end of the run, or the strongest of the ends of several; where the loss of
            these is NaN, `x` with that loss.
        early_stop: let samples go with their first success, so that the model works on the others only. To see how
            many are left is to wait for the device at each step.
        bounds: lowest and highest value of a valid sample, or None.
        mean, std: the model expects ``(x - mean) / std``; numbers, or one per channel of ``x [B, C, ...]``. `x`, `eps`
            and `bounds` stay in units of the samples.
        index: int64 ``[B]``, the numbers of the samples in their data set; None: 0 to B - 1. The random numbers of a
            sample follow from the generator's state and its own number, however samples are split into batches.
        generator: source of randomness, one number of it, for the CPU or the device of `x`; None is torch's global one.
        progress: show a bar with the steps.
        cuda_graph: launch a step as one CUDA graph instead of kernel by kernel: the same result, sooner where kernels
            are shorter than their launches, as those of small models or batches are. For `x` on a GPU, without
            `early_stop`. A graph has to be able to hold model and loss: all on the device of `x`, no wait for it
            (`.item()`, branches on values, masks as indices), no numbers from the host, shapes and addresses that stay.
            In each run the first three steps are launched as ever, on another stream, and one is captured, which waits
            for the device; after that the Python code of model and loss, hooks included, does not run until the end.
            Takes the memory of one more step, and of two more tensors of the size of `x`.

    Returns:
        `AttackResult`; its trace is ``[restarts, steps + 1, B]``, NaN where a sample had gone. An empty batch gives an
        empty result.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it. Nothing has run then, but the model
            once where its output or the range of `y` is at fault.
        RuntimeError: with `cuda_graph`, a graph cannot hold the model or the loss.

    Complexity: ``restarts · steps + 1`` gradients and ``restarts`` more evaluations of the model; memory for the graph
    of one batch and six tensors of the size of `x`. The loop never waits for the device, but as `early_stop` and
    `cuda_graph` say.

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
    problem = Problem.checked(
        model, x, y, norm=norm, eps=eps, loss=loss, targeted=targeted, bounds=bounds, mean=mean, std=std
    )
    x = problem.x
    random_start = check_bool("random_start", random_start)
    steps = check_int("steps", steps, 1)
    if step_size is None:
        step_size = problem.ball.path * problem.eps / steps
    step_size = check_finite_per_sample("step_size", step_size, x)
    start = _State(x, step_size, check_k(norm, problem.ball, k, x))
    restarts = check_int("restarts", restarts, 1)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts: expected 1 with random_start=False, where all would be the same, got {restarts}")
    last_only = check_choice("keep", keep, ("best", "last")) == "last"
    if last_only and early_stop:
        raise ValueError("early_stop: expected False with keep='last', which takes all steps, got True")

    with searching(
        problem,
        title="pgd",
        runs=restarts,
        points=steps + 1,
        index=index,
        generator=generator,
        early_stop=early_stop,
        last_only=last_only,
        progress=progress,
        cuda_graph=cuda_graph,
    ) as search:
        for run in search.runs():
            state = run.take(start)
            if random_start:
                state = replace(state, x_adv=run.random_start())
            advance = run.repeated(partial(_advance, run))
            for _ in range(steps):
                state = run.go_on(advance(state))
                if not len(state.x_adv):
                    break
            else:
                run.evaluate(state.x_adv)
        return search.result()


@dataclass(frozen=True)
class _State(Rows):
    x_adv: Tensor
    step_size: PerSample
    k: int | Tensor | None


def _advance(run: Run, state: _State) -> _State:
    """The state after a step."""
    _, grad = run.climb(state.x_adv)
    options = {} if state.k is None else {"k": state.k}
    return replace(state, x_adv=run.problem.step(state.x_adv, grad, state.step_size, **options))
