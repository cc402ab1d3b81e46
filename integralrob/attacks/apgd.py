"""Auto-PGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._checks import check_int, check_real, describe
from ..ops._dtypes import arithmetic_dtype
from ._problem import Problem
from ._rows import Rows
from ._search import Run, higher, searching, where
from .balls import PerSample
from .losses import LOSSES, LossFunction
from .result import AttackResult

_MOMENTUM = 0.25  # of the last move, from the second step on


def apgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: PerSample,
    steps: int = 100,
    targeted: bool = False,
    targets: int | None = None,
    restarts: int = 1,
    loss: str | LossFunction = "ce",
    rho: float = 0.75,
    early_stop: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    index: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> AttackResult:
    r"""Auto-PGD: projected ascent with momentum that chooses its step sizes by itself.

    With P a step of the ball (`integralrob.ops.linf_step`, `l2_step`) of size η from the iterate ``x^k``,

    .. math:: x^{k+1} = \Pi\big(x^k + 0.75\,(P(x^k) - x^k) + 0.25\,(x^k - x^{k-1})\big)

    η starts at ``2 · eps``. At checkpoints, closer and closer together, a sample whose gain rose in fewer than `rho` of
    the steps, or whose η and best gain are those of the last checkpoint, halves η and returns to its best iterate.

    In ``l1`` a step moves the k entries of the largest gradients. 30 % of the steps are in the ball of radius
    ``3 · eps``, 30 % in ``2 · eps``, the rest in `eps`; only these last can be the result. Each part starts from a
    projection: of normal numbers, their standard deviation the width of `bounds` (1 without), then of the best before.
    There, and at checkpoints every 4 % of the part's steps, k becomes the number of entries that the start, or the best
    iterate, has moved, divided by 1.5. Where the best has moved less than 95 % of before, the search returns to it with
    η the radius, else η is divided by 1.5, to a tenth of the radius at least. There is no momentum in l1.

    Against the published code: in linf and l2 starts are uniform in the ball, not on its surface, the first checkpoint
    counts a rise from the start, not from a loss of 0, and rising in exactly `rho` of the steps is enough, as in the
    paper; in l2 and l1, entries at a bound that the gradient points to take no part of a step, and in l1 k is rounded
    down, not up; the loss "ce" is climbed as log odds, whose gradient does not vanish.

    Args:
        model, x, y, norm, eps, loss, early_stop, bounds, mean, std, index, generator, progress: as in `pgd`.
        steps: gradient steps of each run.
        targeted: steer towards the classes `y`.
        targets: steer to each of so many classes in turn, those with the highest logits at `x` but for `y`, by the
            targeted DLR loss; untargeted otherwise: any class but `y` is a success. With ``loss="dlr"``; at most K - 1.
        restarts: number of runs, of runs for each target.
        rho: share of steps that must raise the gain, from 0 to 1.
        cuda_graph: as in `pgd`. There is a graph for the steps of a run, without the first one and the checkpoints; in
            l1, for each radius, one for the steps that end at a checkpoint and one for those that do not.

    Returns:
        `AttackResult`; its trace is ``[restarts · targets, points, B]``, with ``steps + 1`` points, in l1 those in the
        ball of radius `eps` only.

    Raises:
        TypeError, ValueError, RuntimeError: as in `pgd`.

    Complexity: ``restarts · targets · steps`` gradients (in l1 with one evaluation more for each new radius), and as
    many evaluations as runs, and with `targets` one more. The loop never waits for the device, but with `early_stop`
    and `cuda_graph`.

    Sources: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020; l1: "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers",
    ICML 2021.

    >>> def model(x):
    ...     total = x.sum(1)
    ...     return torch.stack([total, 1 - total], dim=1)
    >>> x = torch.tensor([[0.3, 0.4], [0.6, 0.8]])
    >>> result = apgd(model, x, torch.tensor([0, 0]), eps=0.2, steps=10)
    >>> result.success.tolist()
    [True, False]
    >>> result.adversarial[1]
    tensor([0.4000, 0.6000])
    """
    problem = Problem.checked(
        model, x, y, norm=norm, eps=eps, loss=loss, targeted=targeted, bounds=bounds, mean=mean, std=std
    )
    sparse = problem.ball.k is not None
    steps = check_int("steps", steps, 1)
    restarts = check_int("restarts", restarts, 1)
    rho = check_real("rho", rho, 0)
    if rho > 1:
        raise ValueError(f"rho: expected a number from 0 to 1, got {rho}")
    if targets is not None:
        targets = check_int("targets", targets, 1)
        if targeted or problem.loss is not LOSSES["dlr"]:
            raise ValueError(
                f"targets: expected None but for loss='dlr' and targeted=False, got loss={describe(loss)}, "
                f"targeted={targeted}"
            )
        problem = replace(problem, targets=targets)
    with searching(
        problem,
        title="apgd",
        runs=restarts * (targets or 1),
        points=1 + (_stages(steps)[-1][1] if sparse else steps),
        evaluations=steps + len(_stages(steps)) if sparse else None,
        index=index,
        generator=generator,
        early_stop=early_stop,
        progress=progress,
        cuda_graph=cuda_graph,
    ) as search:
        for run in search.runs(_likeliest(problem, targets) if targets else None):
            if sparse:
                _run_sparse(run, steps)
            else:
                _run(run, steps, rho)
        return search.result()


def _likeliest(problem: Problem, count: int) -> Tensor:
    """The classes ``[count, B]`` with the highest logits but for `y`."""
    if not len(problem.x):
        return problem.y.new_empty(count, 0)
    with torch.no_grad():
        logits = problem.logits(problem.x)
    return logits.scatter(1, problem.y[:, None], -torch.inf).topk(count, dim=1).indices.T


@dataclass(frozen=True)
class _Iterate(Rows):
    x_adv: Tensor  # [B, ...]
    height: Tensor  # [B], of what is climbed
    grad: Tensor  # [B, ...]

    def where(self, rows: Tensor, other: _Iterate) -> _Iterate:
        """These in `rows`, bool ``[B]``, the others elsewhere."""
        return _Iterate(
            where(rows, self.x_adv, other.x_adv),
            torch.where(rows, self.height, other.height),
            where(rows, self.grad, other.grad),
        )


@dataclass(frozen=True)
class _State(Rows):
    now: _Iterate
    previous: Tensor  # the samples [B, ...] of one step ago
    best: _Iterate  # of this run
    step_size: Tensor  # [B]

    def back_to_best(self, rows: Tensor) -> _Iterate:
        """The best iterate in `rows`, the one of now elsewhere."""
        return self.best.where(rows, self.now)


S = TypeVar("S", bound=_State)


def _advance(run: Run, state: S, momentum: float, **options: Tensor) -> S:
    """The state after a step."""
    x_adv = _step(run, state, momentum, **options)
    now = _Iterate(x_adv, *run.climb(x_adv))
    best = now.where(higher(now.height, state.best.height), state.best)
    return replace(state, now=now, previous=state.now.x_adv, best=best)


def _step(run: Run, state: _State, momentum: float, **options: Any) -> Tensor:
    if momentum:
        options |= {"momentum": momentum, "previous": state.previous}
    return run.problem.step(state.now.x_adv, state.now.grad, state.step_size, **options)


def _radius(run: Run, like: Tensor) -> Tensor:
    eps = run.problem.eps
    return eps if isinstance(eps, Tensor) else torch.full_like(like, eps)


@dataclass(frozen=True)
class _DenseState(_State):
    rises: Tensor  # int64 [B], steps up since the last checkpoint
    checked: Tensor  # [B], the best height at the last checkpoint
    halved: Tensor  # bool [B], whether the step size was halved there


def _checkpoints(steps: int) -> list[int]:
    """``w_j = ⌈p_j · steps⌉`` with ``p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``."""
    percent, length = [0, 22], 22
    while percent[-1] < 100:
        length = max(length - 3, 6)
        percent.append(percent[-1] + length)
    return [-(-p * steps // 100) for p in percent]


def _run(run: Run, steps: int, rho: float) -> None:
    """In a ball whose steps move all entries."""
    x_adv = run.random_start()
    now = _Iterate(x_adv, *run.climb(x_adv))
    none = torch.zeros_like(now.height)
    state = _DenseState(now, x_adv, now, 2 * _radius(run, now.height), none.long(), now.height, none.bool())
    lengths = {end: end - begin for begin, end in pairwise(_checkpoints(steps)) if end > begin}
    advance = run.repeated(partial(_advance_dense, run, _MOMENTUM))
    for step in range(1, steps):
        state = advance(state) if step > 1 else _advance_dense(run, 0, state)
        if step in lengths:
            state = _check(state, rho * lengths[step])
        state = run.go_on(state)
        if not len(state.previous):
            return
    run.evaluate(_step(run, state, _MOMENTUM if steps > 1 else 0))


def _advance_dense(run: Run, momentum: float, state: _DenseState) -> _DenseState:
    after = _advance(run, state, momentum)
    return replace(after, rises=state.rises + (after.now.height > state.now.height))


def _check(state: _DenseState, enough: float) -> _DenseState:
    """Halve the step size, and return to the best iterate, where the search oscillates or stands still."""
    stands = ~state.halved & ~(state.best.height > state.checked)
    halved = (state.rises < enough) | stands
    return replace(
        state,
        now=state.back_to_best(halved),
        step_size=torch.where(halved, state.step_size / 2, state.step_size),
        rises=torch.zeros_like(state.rises),
        checked=state.best.height,
        halved=halved,
    )


@dataclass(frozen=True)
class _SparseState(_State):
    k: Tensor  # int64 [B], how many entries a step moves
    moved: Tensor  # int64 [B], how many the best iterate had moved at the last checkpoint


def _run_sparse(run: Run, steps: int) -> None:
    """In l1, in balls that shrink to their radius."""
    x, bounds = run.problem.x, run.problem.bounds
    delta = run.noise.normal(tuple(x.shape[1:]), arithmetic_dtype(x.dtype))
    if bounds is not None:
        delta *= bounds[1] - bounds[0]
    for radii, count in _stages(steps):
        stage = run.within(radii)
        x_adv = stage.problem.project(delta)
        moved = _moved(x_adv, run)
        now = _Iterate(x_adv, *stage.climb(x_adv))
        state = _SparseState(now, x_adv, now, _radius(stage, now.height), _fewer(moved), moved)
        period = max(count // 25, 1)
        advance = {check: stage.repeated(partial(_advance_sparse, stage, check)) for check in (False, True)}
        for step in range(1, count + (radii > 1)):
            state = stage.go_on(advance[step % period == 0](state))
            if not len(state.previous):
                return
        delta = state.best.x_adv - run.problem.x
    run.evaluate(_step(run, state, 0, k=state.k))


def _advance_sparse(run: Run, check: bool, state: _SparseState) -> _SparseState:
    state = _advance(run, state, 0, k=state.k)
    return _check_sparse(run, state) if check else state


def _stages(steps: int) -> list[tuple[int, int]]:
    """Radii, in units of eps, and how many of the steps are for each."""
    some = 3 * steps // 10
    return [(radii, count) for radii, count in ((3, some), (2, some), (1, steps - 2 * some)) if count]


def _moved(x_adv: Tensor, run: Run) -> Tensor:
    """Int64 ``[B]``, the number of entries that differ."""
    return (x_adv != run.problem.x).reshape(len(x_adv), -1).sum(1)


def _fewer(moved: Tensor) -> Tensor:
    """How many entries a step moves, after that number."""
    return (moved / 1.5).long().clamp(min=1)


def _check_sparse(run: Run, state: _SparseState) -> _SparseState:
    """Fewer entries a step where the best iterate has become sparser, else a shorter step."""
    moved = _moved(state.best.x_adv, run)
    sparser = moved < 0.95 * state.moved
    longest = _radius(run, state.step_size)
    shorter = torch.maximum(state.step_size / 1.5, longest / 10)
    return replace(
        state,
        now=state.back_to_best(sparser),
        step_size=torch.where(sparser, longest, shorter),
        k=_fewer(moved),
        moved=moved,
    )
