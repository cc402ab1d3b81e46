"""`integralrob.integration`: closed forms, rates of convergence, honest standard errors, gradients, bad input."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import integralrob as ir
from integralrob.integration import ABSTAIN, Gaussian, UniformBall, expectation, smoothed_certify, smoothed_predict

NORMS = ["linf", "l1", "l2"]
METHODS = ["mc", "antithetic", "sobol"]
ORDERS = {"linf": math.inf, "l1": 1.0, "l2": 2.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def second_moment(norm: str, d: int) -> float:
    """E δ_i² of δ uniform in the unit ball of d dimensions."""
    return {"linf": 1 / 3, "l2": 1 / (d + 2), "l1": 2 / ((d + 1) * (d + 2))}[norm]


def quadratic(d: int, seed: int = 0) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """A vector, a matrix, and the function ``3 + a · δ + δᵀ A δ`` of perturbations ``[m, B, d]``: ``[m, B]``."""
    a = torch.randn(d, dtype=torch.float64, generator=rng(seed))
    matrix = torch.randn(d, d, dtype=torch.float64, generator=rng(seed + 1))
    return a, matrix, lambda delta: 3 + delta @ a + torch.einsum("mbi,ij,mbj->mb", delta, matrix, delta)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 2, 7])
def test_quadratic_functions_have_their_closed_form_mean(norm: str, method: str, d: int) -> None:
    _, matrix, fn = quadratic(d)
    eps = torch.tensor([0.5, 2.0], dtype=torch.float64)
    estimate = expectation(fn, UniformBall(norm, zeros(2, d), eps), samples=2**14, method=method, generator=rng())
    expected = 3 + matrix.trace() * eps**2 * second_moment(norm, d)
    assert estimate.n == 2**14
    assert estimate.mean.dtype == estimate.stderr.dtype == torch.float64
    assert (estimate.stderr > 0).all()
    assert (estimate.stderr < 0.15).all()
    assert ((estimate.mean - expected).abs() < 4 * estimate.stderr).all()


@pytest.mark.parametrize("method", METHODS)
def test_exponentials_of_gaussian_noise_have_their_closed_form_mean(method: str) -> None:
    """``E exp(a · δ) = exp(σ² ‖a‖² / 2)``, for each sample with its own σ."""
    a = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    sigma = torch.tensor([0.1, 1.0], dtype=torch.float64)
    noise = Gaussian(zeros(2, 3), sigma)
    estimate = expectation(
        lambda delta: (delta @ a).exp(), noise, samples=2**13, method=method, chunk=1000, generator=rng()
    )
    assert ((estimate.mean - (sigma**2 * a.square().sum() / 2).exp()).abs() < 4 * estimate.stderr).all()
    assert (estimate.stderr < 0.03).all()


@pytest.mark.parametrize("norm", NORMS)
def test_antithetic_pairs_integrate_linear_functions_exactly(norm: str) -> None:
    a, _, _ = quadratic(5)
    estimate = expectation(
        lambda delta: 3 + delta @ a, UniformBall(norm, zeros(1, 5), 0.5), samples=10, method="antithetic"
    )
    torch.testing.assert_close(estimate.mean, 3 + zeros(1), rtol=0, atol=1e-14)
    assert (estimate.stderr < 1e-14).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 3, 6])
def test_the_radius_and_the_entries_are_distributed_as_in_a_ball(norm: str, d: int) -> None:
    """``(‖δ‖ / eps)^d`` is uniform, and so, marginally, is a coordinate in l-infinity; in l1 and l2 a beta variable."""
    delta = UniformBall(norm, zeros(1, d), 0.5)(4000, rng(1))[:, 0] / 0.5
    radius = torch.linalg.vector_norm(delta, ORDERS[norm], dim=1)
    assert radius.max() <= 1 + 1e-12
    assert stats.kstest(radius.numpy() ** d, "uniform").pvalue > 1e-3
    marginal = {"linf": stats.beta(1, 1), "l2": stats.beta((d + 1) / 2, (d + 1) / 2), "l1": stats.beta(1, d)}[norm]
    entries = delta.abs() if norm == "l1" else (delta + 1) / 2
    for entry in entries.T:
        assert stats.kstest(entry.numpy(), marginal.cdf).pvalue > 1e-3
    assert stats.binomtest(int((delta > 0).sum()), delta.numel()).pvalue > 1e-3


def test_gaussian_noise() -> None:
    delta = Gaussian(zeros(3, 2), torch.tensor([0.5, 1.0, 3.0]))(3000, rng())
    for row, sigma in zip(delta.unbind(1), (0.5, 1.0, 3.0), strict=True):
        assert stats.kstest(row.flatten().numpy() / sigma, "norm").pvalue > 1e-3


@given(
    st.sampled_from(NORMS),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
    st.integers(1, 5),
    st.floats(0, 100),
)
def test_draws_have_the_samples_type_and_stay_in_the_ball(norm: str, dtype: torch.dtype, d: int, eps: float) -> None:
    ball = UniformBall(norm, torch.zeros(2, d, 1, dtype=dtype), eps)
    corners = torch.tensor(list(itertools.product([0.0, 0.5, 1.0], repeat=ball.dimension)), dtype=torch.float64)
    for delta in (ball(20, rng()), ball.from_cube(corners)):
        assert delta.dtype == dtype
        assert delta.shape[1:] == (2, d, 1)
        size = torch.linalg.vector_norm(delta.double().flatten(2), ORDERS[norm], dim=2)
        assert size.max() <= eps * (1 + d * torch.finfo(dtype).eps) + d * torch.finfo(dtype).tiny


def test_any_sampler_and_values_of_any_type() -> None:
    def exponential(n: int, generator: torch.Generator | None) -> Tensor:
        return torch.empty(n).exponential_(generator=generator)

    share = expectation(lambda delta: delta > 1, exponential, samples=10_000, chunk=999, generator=rng())
    assert abs(share.mean - math.exp(-1)) < 4 * share.stderr
    assert share.stderr == pytest.approx(math.sqrt(share.mean * (1 - share.mean) / 9_999), rel=1e-9)
    single = expectation(torch.vmap(lambda delta: delta * 2), exponential, samples=10_000, generator=rng())
    assert abs(single.mean - 2) < 4 * single.stderr
    assert share.mean.shape == single.mean.shape == ()


# -------------------------------------------------------------------------------------------------- errors, and rates


def repeated(method: str, samples: int, repeats: int, fn: Callable[[Tensor], Tensor], ball: Any) -> tuple[Tensor, ...]:
    estimates = [expectation(fn, ball, samples=samples, method=method, generator=rng(k)) for k in range(repeats)]
    return torch.stack([e.mean for e in estimates]), torch.stack([e.stderr for e in estimates])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_standard_errors_are_honest(norm: str, method: str) -> None:
    """The mean square of (mean - truth) / stderr is 1, or a little more where the stderr is of few values."""
    d, repeats = 4, 300
    _, matrix, fn = quadratic(d)
    means, stderrs = repeated(method, 512, repeats, fn, UniformBall(norm, zeros(1, d), 1.0))
    truth = 3 + matrix.trace() * second_moment(norm, d)
    z = ((means - truth) / stderrs).flatten()
    assert abs(z.mean()) < 4 / math.sqrt(repeats)
    assert 0.75 < z.square().mean() < 1.4


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("method", "steepest", "flattest"), [("mc", -0.6, -0.4), ("sobol", -2.0, -0.8)])
def test_rates_of_convergence(norm: str, method: str, steepest: float, flattest: float) -> None:
    """The slope of log error against log n: -1/2 for random points, about -1 and steeper for Sobol's."""
    d = 3
    a = torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64)
    ball = UniformBall(norm, zeros(1, d), 1.0)

    def fn(delta: Tensor) -> Tensor:
        return (delta[:, 0] @ a).exp()

    truth = expectation(fn, ball, samples=2**18, method="sobol", generator=rng(99)).mean
    sizes = [2**k for k in range(7, 13)]
    errors = [(repeated(method, n, 40, fn, ball)[0] - truth).square().mean().sqrt().item() for n in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert steepest < slope < flattest


@pytest.mark.parametrize("method", METHODS)
def test_chunks_do_not_change_the_result(method: str) -> None:
    """On the CPU uniform numbers come one after the other, however many are drawn at once."""
    _, _, fn = quadratic(3)
    ball = UniformBall("linf", zeros(2, 3), 0.5)
    seen: list[int] = []

    def counted(delta: Tensor) -> Tensor:
        seen.append(len(delta))
        return fn(delta)

    whole = expectation(fn, ball, samples=320, method=method, generator=rng())
    parts = expectation(counted, ball, samples=320, method=method, chunk=6, generator=rng())
    assert max(seen) == 6
    assert sum(seen) == 320
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.stderr, whole.stderr, rtol=1e-9, atol=0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(1, 30), st.floats(-1e8, 1e8))
def test_streamed_moments_equal_those_of_all_values(values: list[float], chunk: int, offset: float) -> None:
    drawn = iter(values)

    def sampler(n: int, _: Any) -> Tensor:
        return torch.tensor(list(itertools.islice(drawn, n)), dtype=torch.float64)

    estimate = expectation(lambda delta: delta + offset, sampler, samples=len(values), chunk=chunk)
    everything = np.array(values) + offset
    assert estimate.mean.item() == pytest.approx(everything.mean(), rel=1e-12, abs=1e-9)
    assert estimate.stderr.item() == pytest.approx(everything.std(ddof=1) / math.sqrt(len(values)), rel=1e-6, abs=1e-6)


def test_float16_values_are_summed_in_float64() -> None:
    estimate = expectation(lambda delta: delta.half() + 100, UniformBall("linf", zeros(1, 1), 1.0), samples=100_000)
    assert abs(estimate.mean - 100) < 0.02


def test_a_generator_decides_and_the_global_one_is_left_alone() -> None:
    _, _, fn = quadratic(2)
    state = torch.get_rng_state()
    for method in METHODS:
        ball = UniformBall("l2", zeros(1, 2), 1.0)
        first, again, other = (
            expectation(fn, ball, samples=64, method=method, generator=rng(seed)).mean for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients(norm: str, method: str) -> None:
    _, matrix, _ = quadratic(3)
    x = torch.randn(2, 3, dtype=torch.float64, generator=rng(5)).requires_grad_()
    eps = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)

    def mean(x: Tensor, matrix: Tensor, eps: Tensor) -> Tensor:
        def fn(delta: Tensor) -> Tensor:
            moved = x + delta
            return torch.einsum("mbi,ij,mbj->mb", moved, matrix, moved)

        ball = UniformBall(norm, x, eps)
        estimate = expectation(fn, ball, samples=32, method=method, chunk=8, generator=rng())
        assert not estimate.stderr.requires_grad
        return estimate.mean

    assert torch.autograd.gradcheck(mean, (x, matrix.requires_grad_(), eps))


def test_antithetic_pairs_give_the_exact_gradient_of_a_quadratic() -> None:
    _, matrix, fn = quadratic(3)
    x = torch.randn(1, 3, dtype=torch.float64, generator=rng(5)).requires_grad_()
    ball = UniformBall("l2", x, 0.5)
    estimate = expectation(lambda delta: fn(x + delta) - 3, ball, samples=8, method="antithetic", generator=rng())
    (grad,) = torch.autograd.grad(estimate.mean.sum(), x)
    a, _, _ = quadratic(3)
    torch.testing.assert_close(grad, a + x.detach() @ (matrix + matrix.T), rtol=1e-12, atol=1e-12)


def test_without_gradients_only_a_chunk_is_kept() -> None:
    network = nn.Linear(3, 1).double()

    def fn(delta: Tensor) -> Tensor:
        return network(delta)[:, 0, 0]

    ball = UniformBall("l2", zeros(1, 3), 1.0)
    with torch.no_grad():
        assert not expectation(fn, ball, samples=8).mean.requires_grad
    expectation(fn, ball, samples=8).mean.backward()
    assert network.weight.grad is not None


# ---------------------------------------------------------------------------------------------------------- bad input

BALL = UniformBall("l2", torch.zeros(1, 2), 1.0)
GOOD: dict[str, Any] = {"fn": lambda delta: delta.sum((1, 2)), "sampler": BALL, "samples": 32}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("fn", {"fn": 1}),
    ("fn", {"fn": lambda delta: 1.0}),
    ("fn", {"fn": lambda delta: delta.sum()}),
    ("fn", {"fn": lambda delta: delta[1:]}),
    ("fn", {"fn": lambda delta: torch.zeros(len(delta), len(delta)), "chunk": 31}),
    ("fn", {"fn": lambda delta: delta.to(torch.complex64)}),
    ("sampler", {"sampler": 1}),
    ("sampler", {"sampler": lambda n, generator: torch.zeros(n + 1)}),
    ("sampler", {"sampler": lambda n, generator: 0.0}),
    ("sampler", {"sampler": lambda n, generator: torch.zeros(n), "method": "sobol"}),
    ("samples", {"samples": 1}),
    ("samples", {"samples": 32.0}),
    ("samples", {"samples": 33, "method": "antithetic"}),
    ("samples", {"samples": 24, "method": "sobol"}),
    ("method", {"method": "halton"}),
    ("method", {"method": "sobol", "sampler": UniformBall("linf", torch.zeros(1, 21202), 1.0)}),
    ("method", {"method": "sobol", "sampler": UniformBall("l1", torch.zeros(1, 21201), 1.0)}),
    ("chunk", {"chunk": 0}),
    ("chunk", {"chunk": 3, "method": "antithetic"}),
    ("generator", {"generator": 0}),
]


@pytest.mark.parametrize(("name", "bad"), BAD, ids=[f"{name}{k}" for k, (name, _) in enumerate(BAD)])
def test_bad_arguments_name_themselves(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
        expectation(**GOOD | bad)


def test_the_largest_dimension_of_sobol_points_works() -> None:
    class DrawnError(Exception):
        pass

    def fn(delta: Tensor) -> Tensor:
        assert delta.shape == (2, 1, 21201)
        raise DrawnError

    with pytest.raises(DrawnError):
        expectation(fn, UniformBall("linf", torch.zeros(1, 21201), 1.0), samples=32, method="sobol")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("norm", lambda: UniformBall("l3", torch.zeros(1, 2), 1.0)),
        ("x", lambda: UniformBall("l2", torch.zeros(0, 2), 1.0)),
        ("x", lambda: UniformBall("l2", torch.zeros(()), 1.0)),
        ("x", lambda: UniformBall("l2", torch.zeros(2, 2, dtype=torch.int64), 1.0)),
        ("eps", lambda: UniformBall("l2", torch.zeros(1, 2), -1.0)),
        ("eps", lambda: UniformBall("l2", torch.zeros(1, 2), math.inf)),
        ("eps", lambda: UniformBall("l2", torch.zeros(2, 2), torch.tensor([1.0, math.nan]))),
        ("eps", lambda: UniformBall("l2", torch.zeros(2, 2), torch.ones(3))),
        ("sigma", lambda: Gaussian(torch.zeros(1, 2), -1.0)),
        ("points", lambda: BALL.from_cube(torch.zeros(1, 7, dtype=torch.float64))),
        ("points", lambda: BALL.from_cube(torch.ones(1, 3))),
    ],
)
def test_bad_samplers_name_their_argument(name: str, make: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
        make()


# --------------------------------------------------------------------------------------------------------- smoothing


@pytest.fixture
def linear() -> nn.Module:
    """Three classes, of which the third never wins: the smoothed classifier is the model itself."""
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 1.0], [-1.0, 2.0, -0.5, -1.0], [0.0, 0.0, 0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.1, -0.1, -1e9]))
    return model


def test_the_certificate_of_a_linear_model_is_nearly_its_true_radius(linear: nn.Module) -> None:
    x = torch.randn(40, 4, dtype=torch.float64, generator=rng(2)) / 2
    logits = linear(x).detach()
    truth = (logits[:, 0] - logits[:, 1]).abs() / (linear.weight[0] - linear.weight[1]).detach().norm()
    sigma = 0.5
    result = smoothed_certify(linear, x, sigma=sigma, samples=20_000, chunk=2000, generator=rng())
    sure = result.classes != ABSTAIN
    assert sure[truth > 0.05].all()
    assert torch.equal(result.classes[sure], logits.argmax(1)[sure])
    assert (result.radius[~sure] == 0).all()
    assert (result.radius <= truth).all()
    near = (truth > 0.05) & (truth < 2 * sigma)
    assert (truth - result.radius)[near].max() < 0.1
    # No certificate of so many evaluations can reach farther.
    assert result.radius.max() <= sigma * stats.norm.ppf(0.001 ** (1 / 20_000)) * (1 + 1e-9)
    predicted = smoothed_predict(linear, x, sigma=sigma, generator=rng())
    assert torch.equal(predicted[truth > 0.1], logits.argmax(1)[truth > 0.1])
    assert smoothed_predict(linear, -linear.bias[0] / 5 * torch.eye(4)[:1].double() * 5, sigma=1.0) == ABSTAIN


class Scripted(nn.Module):
    """Class 1 for the first `hits` images that it sees after those of the selection, else class 0."""

    def __init__(self, selection: int, hits: int) -> None:
        super().__init__()
        self.left = selection + hits

    def forward(self, x: Tensor) -> Tensor:
        won = torch.arange(len(x)) < self.left
        self.left -= len(x)
        return torch.stack([~won, won], dim=1).float()


@pytest.mark.parametrize(("hits", "samples"), [(1000, 1000), (990, 1000), (560, 1000), (500, 1000), (0, 1000), (7, 8)])
def test_bounds_are_those_of_clopper_and_pearson(hits: int, samples: int) -> None:
    result = smoothed_certify(
        Scripted(10, hits), torch.zeros(1, 1), sigma=2.0, samples=samples, selection=10, alpha=0.01, chunk=10
    )
    # One-sided: half of a two-sided interval's error is on either side.
    bound = stats.binomtest(hits, samples).proportion_ci(confidence_level=0.98, method="exact").low
    assert result.probability.item() == pytest.approx(bound, rel=1e-9)
    assert result.radius.item() == pytest.approx(2 * stats.norm.ppf(bound) if bound > 0.5 else 0, rel=1e-9)
    assert result.classes.item() == (1 if bound > 0.5 else ABSTAIN)
    p_value = stats.binomtest(hits, samples, 0.5).pvalue
    for alpha in (1e-4, 0.01, 0.2, p_value * (1 - 1e-9), min(p_value * (1 + 1e-9), 0.9)):
        predicted = smoothed_predict(Scripted(0, hits), torch.zeros(1, 1), sigma=2.0, samples=samples, alpha=alpha)
        sure = p_value <= alpha
        assert predicted.item() == (int(hits > samples / 2) if sure else ABSTAIN)


def test_smoothing_gives_the_model_back_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(2, 1, 2, 2, generator=rng())
    smoothed_predict(model, x, sigma=0.5, samples=20, generator=rng())
    smoothed_certify(model, x, sigma=0.5, samples=20, generator=rng())
    assert [module.training for module in (model, *model)] == [True, True, False, True, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_is_certain_of_nan() -> None:
    def broken(x: Tensor) -> Tensor:  # whenever the first value is negative: for half of the noise
        return torch.stack([torch.zeros(len(x)), x[:, 0].sqrt()], dim=1)

    x = torch.tensor([[0.0], [math.nan]])
    result = smoothed_certify(broken, x, sigma=1.0, samples=1000, generator=rng())
    assert (result.classes == ABSTAIN).all()
    assert (result.radius == 0).all()
    assert smoothed_predict(broken, x, sigma=1.0, generator=rng()).tolist() == [1, ABSTAIN]


@pytest.mark.parametrize("function", [smoothed_predict, smoothed_certify])
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("model", {"model": 1}),
        ("model", {"model": lambda x: x.sum(1)}),
        ("model", {"model": lambda x: x[:, :1]}),
        ("x", {"x": [0.0]}),
        ("sigma", {"sigma": 0}),
        ("alpha", {"alpha": 1.0}),
        ("samples", {"samples": 1}),
        ("chunk", {"chunk": 0}),
        ("generator", {"generator": 1}),
    ],
)
def test_bad_arguments_of_smoothing(function: Callable[..., Any], name: str, bad: dict[str, Any]) -> None:
    good = {"model": lambda x: x, "x": torch.zeros(2, 3), "sigma": 0.5, "samples": 10}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
        function(**good | bad)


def test_smoothing_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs scipy: pip install 'integralrob\[smoothing\]'"):
        ir.integration.smoothed_predict(lambda x: x, torch.zeros(1, 2), sigma=1.0)
