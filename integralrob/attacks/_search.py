"""The runs of an attack, and the best that they have found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from .._checks import check_bool
from .._model_state import frozen
from ..ops._dtypes import arithmetic_dtype
from ._arguments import check_generator, check_index
from ._graph import Replayed, check_cuda_graph
from ._noise import Noise
from ._problem import Problem
from ._rows import Rows
from .result import AttackResult

State = TypeVar("State", bound=Rows)


class Strongest:
    """For each sample the strongest candidate: a success beats a failure, then the higher gain; NaN never wins."""

    def __init__(self, x: Tensor, gain: Tensor, success: Tensor) -> None:
        self.adversarial = x.clone()
        self.gain = gain
        self.success = success

    def update(self, x_adv: Tensor, gain: Tensor, success: Tensor, rows: Tensor | None = None) -> None:
        """Take those of ``x_adv [B, ...]``, candidates for the samples `rows` (all), that are stronger.

        Nothing here waits for the device. The tensors stay where they are in memory.
        """
        if rows is None:
            stronger = torch.where(success == self.success, higher(gain, self.gain), success)
            torch.where(_like(stronger, x_adv), x_adv, self.adversarial, out=self.adversarial)
            torch.where(stronger, gain, self.gain, out=self.gain)
            self.success |= success
        else:
            part = Strongest(self.adversarial[rows], self.gain[rows], self.success[rows])
            part.update(x_adv, gain, success)
            self.adversarial[rows], self.gain[rows], self.success[rows] = part.adversarial, part.gain, part.success


def higher(gain: Tensor, than: Tensor) -> Tensor:
    """Bool ``[B]``: a number is higher than a NaN, a NaN than nothing."""
    return ~(gain <= than) & ~gain.isnan()


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (x.ndim - 1))


def where(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The samples ``[B, ...]`` of `first` where `rows`, bool ``[B]``, says so, else those of `second`."""
    return torch.where(_like(rows, first), first, second)


@dataclass
class Run:
    """One run of an attack over the samples that are left."""

    search: Search
    number: int
    problem: Problem
    noise: Noise
    rows: Tensor | None  # which of the batch's samples the problem has; None: all
    point: Tensor  # int64 [1], that of the next candidate in the trace
    records: bool = True

    def within(self, radii: float) -> Run:
        """The run in a ball of so many radii, where iterates are no candidates; the run itself for one radius."""
        if radii == 1:
            return self
        return replace(self, problem=replace(self.problem, eps=radii * self.problem.eps), records=False)

    def random_start(self) -> Tensor:
        """A random point of ball ∩ box."""
        problem = self.problem
        return problem.ball.random_start(problem.x, problem.eps, problem.bounds, self.noise)

    def climb(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Height ``[B]`` and its gradient at an iterate, which is a candidate unless only the last one is."""
        height, grad, gain, success = self.problem.climb(x_adv)
        self._record(x_adv, gain, success, candidate=not self.search.last_only)
        return height, grad

    def evaluate(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and success ``[B]`` of an iterate, which is a candidate."""
        gain, success = self.problem.evaluate(x_adv)
        self._record(x_adv, gain, success)
        return gain, success

    def _record(self, x_adv: Tensor, gain: Tensor, success: Tensor, candidate: bool = True) -> None:
        """Which point this is, the device counts: a step of a graph is the same each time."""
        search = self.search
        if not self.records:
            return
        if search.early_stop:  # as if broken samples left at once: when they do depends on the rest of the batch
            broken = search.best.success if self.rows is None else search.best.success[self.rows]
            gain, success = gain.masked_fill(broken, torch.nan), success & ~broken
        at = (self.point,) if self.rows is None else (self.point, self.rows)
        search.trace[self.number][at] = gain
        self.point += 1
        if not candidate:
            return
        if search.last_only and self.number == 0:  # `x` itself is no candidate
            search.best.gain.fill_(torch.nan)
            search.best.success.fill_(False)
        search.best.update(x_adv, gain, success, self.rows)

    def take(self, state: State) -> State:
        """The part of a batch's state that is about the run's samples."""
        return state if self.rows is None else state.take(self.rows)

    def repeated(self, iteration: Callable[[State], State]) -> Callable[[State], State]:
        """The iteration; with `cuda_graph` as one launch, whose state is in memory that the next overwrites."""
        return Replayed(iteration, self.problem.x.device) if self.search.cuda_graph else iteration

    def go_on(self, state: State) -> State:
        """After an iteration: the bar moves, and this is the state of the samples that are left.

        With `early_stop`, broken ones leave once they are a quarter of the batch, so that its size seldom changes. To
        look at that is the one thing in a run that waits for the device.
        """
        search = self.search
        search.bar.update()
        if not (search.early_stop and self.records):
            return state
        kept = ~(search.best.success if self.rows is None else search.best.success[self.rows])
        left = int(kept.sum())
        if left <= 0.75 * len(kept):  # none left is among that
            self.rows = kept.nonzero()[:, 0] if self.rows is None else self.rows[kept]
            self.problem, self.noise, state = self.problem.take(kept), self.noise.take(kept), state.take(kept)
        return state


@dataclass
class Search:
    """All runs of an attack on one batch."""

    problem: Problem
    noise: Noise
    best: Strongest
    trace: Tensor  # [runs, points, B], of gains
    bar: Any
    early_stop: bool
    last_only: bool
    cuda_graph: bool

    def runs(self, targets: Tensor | None = None) -> Iterator[Run]:
        """One after another, on the samples that are left; none for an empty batch.

        With ``targets [T, B]`` the runs go to these classes in turn.
        """
        for number in range(len(self.trace)):
            problem, noise, rows = self.problem, self.noise.stream(number), None
            if targets is not None:
                problem = replace(problem, target=targets[number % len(targets)])
            if self.early_stop and bool(self.best.success.any()):
                rows = (~self.best.success).nonzero()[:, 0]
                problem, noise = problem.take(rows), noise.take(rows)
            if not len(problem.x):
                return
            yield Run(self, number, problem, noise, rows, point=problem.y.new_zeros(1))
            self.bar.update((number + 1) * self.bar.total // len(self.trace) - self.bar.n)

    def result(self) -> AttackResult:
        """What the attack returns."""
        problem, best = self.problem, self.best
        return AttackResult(
            adversarial=best.adversarial,
            success=best.success,
            loss=problem.value(best.gain),
            norm=problem.ball.norm(best.adversarial.to(arithmetic_dtype(problem.x.dtype)) - problem.x),
            trace=problem.value(self.trace),
        )


@contextmanager
def searching(
    problem: Problem,
    *,
    title: str,
    runs: int,
    points: int,
    evaluations: int | None = None,
    index: Any = None,
    generator: torch.Generator | None = None,
    early_stop: bool = False,
    last_only: bool = False,
    cuda_graph: bool = False,
    progress: bool = False,
    differentiable: bool = True,
) -> Iterator[Search]:
    """A search of `runs` runs through as many `points` each, its model in eval mode and frozen.

    A run takes as many `evaluations` as points unless said otherwise.

    Arguments are checked first, then model and loss, at `x`; only then a number is drawn from the generator.
    """
    progress, early_stop = check_bool("progress", progress), check_bool("early_stop", early_stop)
    x = problem.x
    cuda_graph = check_cuda_graph(cuda_graph, x, early_stop)
    index = check_index(index, x)
    check_generator(generator, x.device)
    with torch.inference_mode(False), torch.enable_grad(), frozen(problem.model):
        if len(x):
            gain, success = problem.check_at_start(differentiable)
        else:
            gain = x.new_empty(0, dtype=arithmetic_dtype(x.dtype))
            success = gain.bool()
        on = x.device if generator is None else generator.device
        seed = torch.randint(-(2**63), 2**63 - 1, (), device=on, generator=generator).to(x.device)
        trace = gain.new_full((runs, points, len(x)), torch.nan)
        with tqdm(total=runs * (evaluations or points), desc=title, unit="evaluation", disable=not progress) as bar:
            best = Strongest(x, gain, success)
            yield Search(problem, Noise.of(seed, index), best, trace, bar, early_stop, last_only, cuda_graph)
