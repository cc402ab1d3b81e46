"""The square attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import check_int, check_real
from ..ops._dtypes import arithmetic_dtype
from ._noise import Noise
from ._problem import Problem
from ._rows import Rows
from ._search import Run, higher, searching, where
from .balls import PerSample, per_row
from .losses import LossFunction
from .result import AttackResult

_TINY = 1e-12


def square(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: PerSample,
    queries: int = 5000,
    share: float = 0.8,
    targeted: bool = False,
    restarts: int = 1,
    loss: str | LossFunction = "margin",
    early_stop: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    index: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AttackResult:
    """The square attack: a random search that asks for no gradient, and so is not misled by one.

    Each query changes the perturbation in a random square window of the image, smaller and smaller, and keeps what
    raises the gain:

    * ``linf``: each channel of the window goes to ``x - eps`` or ``x + eps``; the start is such stripes.
    * ``l1``, ``l2``: what a second window holds is moved into the first one, together with what `eps` leaves unused, in
      the shape of two pyramids of opposite signs, added to what the first one has; the start is a tiling by pyramids.
      The result is scaled to the radius and projected on ball ∩ box.

    Against the published code: each sample has windows of its own, and they reach the last row and column; their shares
    follow from the part of the `queries` that is done, where AutoAttack's follow from their number, as if there were
    10,000; sides may be even; in l1 the pyramids are those of l2, and what is scaled to the radius is then projected.

    A sample of shape ``[C, H, W]`` is an image; of ``[C, L]`` it is one of height 1 and of ``[F]`` one of a single
    channel too, whose windows are intervals; further axes are folded into H.

    Args:
        model: as in `pgd`, but need not be differentiable.
        x, y, norm, eps, targeted, early_stop, bounds, mean, std, index, generator, progress: as in `pgd`.
        queries: evaluations of the model in each run.
        share: share of an image that the first windows have, above 0 and at most 1; it is halved after 0.1, 0.5, 2, 5,
            10, 20, 40, 60 and 80 % of the queries.
        restarts: number of runs.
        loss: as in `pgd`; ``"margin"`` is the published one.

    Returns:
        `AttackResult`; its trace is ``[restarts, queries, B]``, of what was asked, better or not.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: ``restarts · queries`` evaluations of the model and one more. The loop never waits for the device, but
    with `early_stop`.

    Source: M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020.

    >>> def model(x):
    ...     total = x.sum(dim=(1, 2, 3))
    ...     return torch.stack([total, 8 - total], dim=1)
    >>> x = torch.full((1, 1, 4, 4), 0.27)
    >>> square(model, x, torch.tensor([0]), eps=0.1, queries=100).success
    tensor([True])
    """
    problem = Problem.checked(
        model, x, y, norm=norm, eps=eps, loss=loss, targeted=targeted, bounds=bounds, mean=mean, std=std
    )
    queries = check_int("queries", queries, 1)
    restarts = check_int("restarts", restarts, 1)
    share = check_real("share", share, 0)
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number above 0 and at most 1, got {share}")
    with (
        searching(
            problem,
            title="square",
            runs=restarts,
            points=queries,
            index=index,
            generator=generator,
            early_stop=early_stop,
            progress=progress,
            differentiable=False,
        ) as search,
        torch.no_grad(),
    ):
        for run in search.runs():
            _run(run, queries, share)
        return search.result()


@dataclass(frozen=True)
class _State(Rows):
    x_adv: Tensor
    gain: Tensor
    success: Tensor


def _run(run: Run, queries: int, share: float) -> None:
    shape = _image_shape(run.problem.x)
    start, propose = (_stripes, _flat_window) if run.problem.ball.order == math.inf else (_tiles, _moved_window)
    x_adv = start(run.problem, shape, run.noise.stream(0))
    state = _State(x_adv, *run.evaluate(x_adv))
    for query in range(1, queries):
        area = _share(share, query / queries) * shape[1] * shape[2]
        x_adv = propose(run.problem, state.x_adv, shape, area, run.noise.stream(query))
        gain, success = run.evaluate(x_adv)
        better = torch.where(success == state.success, higher(gain, state.gain), success)
        state = run.go_on(
            _State(
                where(better, x_adv, state.x_adv),
                torch.where(better, gain, state.gain),
                state.success | success,
            )
        )
        if not len(state.gain):
            return


def _share(first: float, progress: float) -> float:
    """The share of the image that a window has, after a part of the queries."""
    return first / 2 ** sum(progress > part for part in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))


def _image_shape(x: Tensor) -> tuple[int, int, int]:
    """Channels, height and width."""
    sample = x.shape[1:]
    channels = sample[0] if len(sample) > 1 else 1
    return channels, math.prod(sample[1:-1]), sample[-1] if sample else 1


def _side(area: float, shape: tuple[int, int, int], least: int) -> tuple[int, int]:
    """Height and width of a window of that area: square, but of height 1 where the image is."""
    _, height, width = shape
    side = max(round(area if height == 1 else area**0.5), least)
    return min(side, height), min(side, width)


def _place(noise: Noise, size: tuple[int, int], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Where rows ``[B, H]`` and columns ``[B, W]`` of images are in a random window, counted from its corner."""
    return tuple(  # type: ignore[return-value]
        torch.arange(length, device=noise.keys.device) - (noise.stream(axis).uniform((1,)) * (length - side + 1)).long()
        for axis, (side, length) in enumerate(zip(size, shape[1:], strict=True))
    )


def _mask(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool ``[B, 1, H, W]``: what is in the window."""
    inside = [(at >= 0) & (at < side) for at, side in zip((rows, columns), size, strict=True)]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _signed(problem: Problem, sign: Tensor) -> Tensor:
    """``x ± eps`` within the box."""
    x = problem.x
    delta = sign.expand(len(x), *sign.shape[1:]).reshape(x.shape) * per_row(problem.eps, x)
    return problem.project(delta)


def _stripes(problem: Problem, shape: tuple[int, int, int], noise: Noise) -> Tensor:
    channels, height, width = shape
    sign = noise.sign((channels, 1, width)).expand(-1, -1, height, -1)
    return _signed(problem, sign)


def _flat_window(problem: Problem, x_adv: Tensor, shape: tuple[int, int, int], area: float, noise: Noise) -> Tensor:
    size = _side(area, shape, 1)
    inside = _mask(*_place(noise.stream(0), size, shape), size).expand(-1, *shape).reshape(x_adv.shape)
    sign = noise.stream(1).sign((shape[0], 1, 1)).expand(-1, *shape)
    return torch.where(inside, _signed(problem, sign), x_adv)


def _tiles(problem: Problem, shape: tuple[int, int, int], noise: Noise) -> Tensor:
    channels, *lengths = shape
    size = _side((min(lengths) / 5) ** 2 if lengths[0] > 1 else lengths[1] / 5, shape, 1)
    counts = [length // side for length, side in zip(lengths, size, strict=True)]
    like = problem.x.new_empty(0, dtype=arithmetic_dtype(problem.x.dtype))
    delta = _pyramids(size, problem.ball.order, like).repeat(*counts)
    sign = noise.sign((channels, *counts), like.dtype)
    for axis, side in enumerate(size):
        sign = sign.repeat_interleave(side, dim=2 + axis)
    delta = sign * delta
    rest = [length - covered for length, covered in zip(lengths, delta.shape[2:], strict=True)]
    return _scaled(problem, torch.nn.functional.pad(delta, (0, rest[1], 0, rest[0])))


def _moved_window(problem: Problem, x_adv: Tensor, shape: tuple[int, int, int], area: float, noise: Noise) -> Tensor:
    order = problem.ball.order
    delta = (x_adv.to(arithmetic_dtype(x_adv.dtype)) - problem.x).reshape(-1, *shape)
    size = _side(area, shape, 3)
    places = [_place(noise.stream(number), size, shape) for number in range(2)]
    to, source = (_mask(*place, size) for place in places)

    def norms(delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta, order, dim=(2, 3), keepdim=True)

    eps = per_row(problem.eps, delta)
    unused = (eps**order - (norms(delta) ** order).sum(1, keepdim=True)).clamp(min=0) / shape[0]
    length = (unused + norms(delta * (to | source)) ** order) ** (1 / order)
    shaped = _placed(_pyramids(size, order, delta), *places[0], noise.stream(2))
    held = delta * to
    moved = (shaped * noise.stream(3).sign((shape[0], 1, 1), delta.dtype) + held / (norms(held) + _TINY)) * to
    moved = moved / (norms(moved) + _TINY) * length
    return _scaled(problem, torch.where(to, moved, delta * ~source))


def _scaled(problem: Problem, delta: Tensor) -> Tensor:
    """``x + delta [B, C, H, W]``, of the norm of the radius, within ball ∩ box."""
    size = problem.ball.norm(delta) + _TINY
    delta = delta * per_row(problem.eps / size, delta)
    return problem.project(delta.reshape(problem.x.shape))


def _pyramid(height: int, width: int, like: Tensor) -> Tensor:
    """``[height, width]``, at Chebyshev distance r from the middle ``1/(r + 1)² + 1/(r + 2)² + ...`` to the border."""
    rows, columns = ((torch.arange(side, device=like.device) - side // 2).abs() for side in (height, width))
    distance = torch.maximum(rows[:, None], columns)
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=like.dtype, device=like.device).square()
    return terms.flip(0).cumsum(0).flip(0)[distance]


def _pyramids(size: tuple[int, int], order: float, like: Tensor) -> Tensor:
    """``[height, width]``: a pyramid in the left half, a negative one in the right half, together of norm 1."""
    height, width = size
    pair = torch.cat([_pyramid(height, width // 2, like), -_pyramid(height, width - width // 2, like)], dim=1)
    return pair / torch.linalg.vector_norm(pair, order)


def _placed(pattern: Tensor, rows: Tensor, columns: Tensor, noise: Noise) -> Tensor:
    """A pattern, turned by a quarter for half of the samples if it is square, in their windows: ``[B, 1, H, W]``."""
    height, width = pattern.shape
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    placed = pattern[rows, columns]
    if height == width:
        placed = torch.where(noise.uniform((1, 1)) < 0.5, placed, pattern.T[rows, columns])
    return placed[:, None]
