"""The mean of a function over random perturbations, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from .._checks import check_choice, check_int, check_tensor, describe
from .samplers import CubeSampler, check_cube_sampler

__all__ = ["Estimate", "expectation"]

Sampler = Callable[[int, torch.Generator | None], Tensor]

# Independent scramblings of the Sobol sequence that a standard error is estimated from.
SCRAMBLINGS = 16


@dataclass(frozen=True)
class Estimate:
    """A mean over random samples.

    Attributes:
        mean: float64 ``[...]``, the shape of one value; differentiable if the values were.
        stderr: float64 ``[...]``, the estimated standard deviation of `mean`, detached.
        n: number of samples.
    """

    mean: Tensor
    stderr: Tensor
    n: int


def expectation(
    fn: Callable[[Tensor], Tensor],
    sampler: Sampler,
    *,
    samples: int,
    method: str = "mc",
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""The mean of a function of a random perturbation: an integral over a ball divided by the ball's volume.

    .. math:: \mathbb{E}\, f(\delta) = \frac{1}{|\Delta|} \int_\Delta f(\delta)\, d\delta

    for δ uniform in Δ (`UniformBall`), or of any other distribution. Three ways to choose n points:

    * ``"mc"``: independent ones. The error falls as ``n^-1/2``, in any dimension.
    * ``"antithetic"``: half of them, and their negatives. Exact for odd functions, and better than ``"mc"`` where the
      values at δ and -δ are negatively correlated; for even functions half of the samples are wasted.
    * ``"sobol"``: 16 Sobol sequences, each scrambled at random, so that the mean has no bias and the spread of their 16
      means is a sound standard error (of 15 degrees of freedom). For smooth functions of few dimensions the error falls
      nearly as ``n^-1`` and faster; take ``samples = 16 · 2^m``, for which the points are balanced.

    Values and their squared deviations are summed in float64, as they come (Chan's update of Welford's sums).

    Args:
        fn: maps perturbations ``[m, ...]`` to one value each, ``[m, *out]``, which are bool, integer or floating-point.
            A function of one perturbation becomes such a function by `torch.vmap`.
        sampler: ``(m, generator) -> [m, ...]`` draws m independent perturbations: `UniformBall`, `Gaussian` or a
            function. With ``"antithetic"`` its distribution has to be symmetric about 0; with ``"sobol"`` it is a
            `CubeSampler`, whose samples all get the same perturbations, but for their size.
        samples: how many perturbations: with ``"mc"`` at least 2, with ``"antithetic"`` an even number of at least 4,
            with ``"sobol"`` a multiple of 16.
        chunk: at most so many go to `fn` at once (with ``"antithetic"`` an even number); None for all of them, with
            ``"sobol"`` for those of a sequence. Sobol points do not depend on it; what a generator draws for the others
            may.
        generator: source of the random numbers, for the device that the sampler draws on; None is torch's global one.

    Returns:
        `Estimate`. Its mean is differentiable in whatever the values are: parameters, inputs, or the sampler's size.
        The graph of all chunks is kept then; `torch.utils.checkpoint` around `fn` trades its memory for time.

    Raises:
        TypeError, ValueError: an argument is not as above, `fn` gives no such tensor, or Sobol points would need more
            than 21,201 dimensions; the message names it. But for what `fn` and the sampler give, nothing has run then.

    Complexity: `samples` evaluations of the function. Without gradients memory for one chunk.

    Sources: T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 37, 1983; A. B. Owen, "Monte Carlo theory, methods and examples", 2013, chapters 8, 15 to 17; P.
    L'Ecuyer et al., "Confidence intervals for randomized quasi-Monte Carlo estimators", WSC 2023.

    >>> from integralrob.integration import UniformBall
    >>> x, direction = torch.zeros(1, 3), torch.tensor([1.0, 2.0, 3.0])
    >>> ball = UniformBall("linf", x, eps=0.5)
    >>> estimate = expectation(
    ...     lambda delta: (delta[:, 0] @ direction) ** 2,  # [m, 1, 3] -> [m]
    ...     ball, samples=4096, method="sobol", generator=torch.Generator().manual_seed(0),
    ... )
    >>> print(f"{estimate.mean:.4f} ± {estimate.stderr:.4f}, exactly {0.5**2 / 3 * 14:.4f}")
    1.1666 ± 0.0005, exactly 1.1667
    """
    if not callable(fn):
        raise TypeError(f"fn: expected a callable, got {describe(fn)}")
    if not callable(sampler):
        raise TypeError(f"sampler: expected a callable (n, generator) -> [n, ...], got {describe(sampler)}")
    method = check_choice("method", method, _METHODS)
    least, divisor, points = _METHODS[method]
    samples = check_int("samples", samples, least)
    chunk = samples if chunk is None else check_int("chunk", chunk, 1)
    if samples % divisor:
        raise ValueError(f"samples: expected a multiple of {divisor} with method={method!r}, got {samples}")
    if method == "antithetic" and chunk % 2:
        raise ValueError(f"chunk: expected an even number with method='antithetic', got {chunk}")
    if method == "sobol":
        dimension = check_cube_sampler(sampler).dimension
        if dimension > SobolEngine.MAXDIM:
            raise ValueError(
                f"method: expected 'mc' or 'antithetic' for perturbations that take {dimension} uniform numbers each, "
                f"got 'sobol', which has at most {SobolEngine.MAXDIM}"
            )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")
    total = reduce(_Moments.joined, points(fn, sampler, samples, chunk, generator))
    return Estimate(total.mean, total.stderr(), samples)


@dataclass(frozen=True)
class _Moments:
    """Number, mean ``[...]`` and sum of squared deviations ``[...]`` of values; the latter detached."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Moments:
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).detach().square().sum(0))

    def joined(self, other: _Moments) -> _Moments:
        """Of both: Chan's formula."""
        if self.mean.shape != other.mean.shape:
            shapes = f"{tuple(self.mean.shape)}, then {tuple(other.mean.shape)}"
            raise ValueError(f"fn: expected values of one shape from all chunks, got {shapes}")
        count, step = self.count + other.count, other.mean - self.mean
        between = step.detach().square() * (self.count * other.count / count)
        return _Moments(count, self.mean + step * (other.count / count), self.squares + other.squares + between)

    def stderr(self) -> Tensor:
        """Standard deviation of the mean, if the values are independent."""
        return (self.squares / ((self.count - 1) * self.count)).sqrt()


def _independent_points(
    fn: Callable[[Tensor], Tensor], sampler: Sampler, samples: int, chunk: int, generator: torch.Generator | None
) -> Iterator[_Moments]:
    for size in _sizes(samples, chunk):
        yield _Moments.of(_evaluate(fn, _draw(sampler, size, generator)))


def _pairs(
    fn: Callable[[Tensor], Tensor], sampler: Sampler, samples: int, chunk: int, generator: torch.Generator | None
) -> Iterator[_Moments]:
    """A pair counts as one value: its members depend on each other."""
    for size in _sizes(samples // 2, chunk // 2):
        delta = _draw(sampler, size, generator)
        values = _evaluate(fn, torch.cat([delta, -delta]))
        yield _Moments.of((values[:size] + values[size:]) / 2)


def _scramblings(
    fn: Callable[[Tensor], Tensor], sampler: CubeSampler, samples: int, chunk: int, generator: torch.Generator | None
) -> Iterator[_Moments]:
    """The mean of a scrambled sequence counts as one value."""
    device = None if generator is None else generator.device
    seeds = torch.randint(2**62, (SCRAMBLINGS,), generator=generator, device=device).tolist()
    for seed in seeds:
        engine = SobolEngine(sampler.dimension, scramble=True, seed=seed)
        # A point stands for the middle of its cell: it has no digits beyond MAXBIT.
        points = (
            engine.draw(size, dtype=torch.float64) + 0.5 ** (engine.MAXBIT + 1)
            for size in _sizes(samples // SCRAMBLINGS, chunk)
        )
        parts = (_Moments.of(_evaluate(fn, sampler.from_cube(part))) for part in points)
        yield _Moments.of(reduce(_Moments.joined, parts).mean.unsqueeze(0))


# Method -> fewest samples, what their number has to be a multiple of, and how they are chosen.
_METHODS: dict[str, tuple[int, int, Callable[..., Iterator[_Moments]]]] = {
    "mc": (2, 1, _independent_points),
    "antithetic": (4, 2, _pairs),
    "sobol": (SCRAMBLINGS, SCRAMBLINGS, _scramblings),
}


def _sizes(samples: int, chunk: int) -> Iterator[int]:
    for start in range(0, samples, chunk):
        yield min(chunk, samples - start)


def _draw(sampler: Sampler, size: int, generator: torch.Generator | None) -> Tensor:
    delta = check_tensor("sampler", sampler(size, generator))
    if not delta.ndim or len(delta) != size:
        raise ValueError(f"sampler: expected {size} perturbations along the first axis, got {describe(delta)}")
    return delta


def _evaluate(fn: Callable[[Tensor], Tensor], delta: Tensor) -> Tensor:
    values: Any = fn(delta)
    check_tensor("fn", values, floating=False)
    if values.is_complex():
        raise TypeError(f"fn: expected real values, got {describe(values)}")
    if not values.ndim or len(values) != len(delta):
        raise ValueError(f"fn: expected one value per perturbation, shape ({len(delta)}, ...), got {describe(values)}")
    return values.double()
