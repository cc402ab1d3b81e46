"""What all of `integralrob.attacks` have in common, and what `fgsm`, `apgd` and `square` do by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks import Recorder, batch, best_of_a_linear_function, blobs, linear, rng
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import integralrob as ir
from integralrob.attacks import apgd, fgsm, pgd, square
from integralrob.attacks._noise import Noise
from integralrob.attacks.losses import LOSSES

__all__ = ["blobs"]  # a fixture


NORMS = ["linf", "l1", "l2"]


ORDER = {"linf": torch.inf, "l1": 1, "l2": 2}


SHORT: dict[str, Callable[..., ir.attacks.AttackResult]] = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=4),
    "apgd": partial(apgd, steps=7),
    "apgd targets": partial(apgd, steps=4, loss="dlr", targets=2),
    "square": partial(square, queries=5),
}


RANDOM = {name: attack for name, attack in SHORT.items() if name != "fgsm"}


class RowByRow(nn.Module):
    """A smooth network that computes the same bits for a sample in every batch: there is no matrix product in it."""

    def __init__(self, features: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, features, dtype=torch.float64, generator=rng(5)))
        self.second = nn.Parameter(torch.randn(classes, 8, dtype=torch.float64, generator=rng(6)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x.reshape(len(x), 1, -1).double() * self.first).sum(2).sin()
        return (hidden[:, None] * self.second).sum(2)


def margin_of_two(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, 1 - y[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]


# -------------------------------------------------------------------------------------------------- how strong they are


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("attack", "each", "together"),
    [(fgsm, 1 - 1e-8, 1 - 1e-8), (partial(apgd, steps=150), 0.93, 0.99)],
    ids=["fgsm", "apgd"],
)
def test_linear_model_reaches_the_closed_form_optimum(
    attack: Any, each: float, together: float, norm: str, bounds: Any, targeted: bool
) -> None:
    model = linear(features=20, dtype=torch.float64)
    x, y = batch(shape=(20,), dtype=torch.float64)
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    w = -away if targeted else away
    eps = {"linf": 0.2, "l1": 2.0, "l2": 0.8}[norm]
    options = {} if attack is fgsm else {"generator": rng()}
    result = attack(model, x, y, norm=norm, eps=eps, targeted=targeted, bounds=bounds, loss=margin_of_two, **options)
    reached = (w * (result.adversarial - x)).sum(1)
    optimum = best_of_a_linear_function(norm, w, x, eps, bounds)
    hit = model(x).argmax(1) == y
    lasting = ~hit if targeted else hit  # else a success of little gain beats a failure of more
    if attack is fgsm:
        lasting |= True
    assert (reached <= optimum * (1 + 1e-9)).all()
    assert (reached >= each * optimum)[lasting].all()
    assert reached[lasting].sum() >= together * optimum[lasting].sum()


@pytest.mark.parametrize(("norm", "share"), [("linf", 0.99), ("l1", 0.6), ("l2", 0.8)])
def test_square_comes_near_the_closed_form_optimum(norm: str, share: float) -> None:
    model = linear(features=6, dtype=torch.float64)
    x, _ = batch(8, shape=(6,), dtype=torch.float64)
    y = model(x).argmax(1)
    w = (model.weight[1 - y] - model.weight[y]).detach()
    result = square(model, x, y, norm=norm, eps=0.3, queries=300, loss=margin_of_two, generator=rng())
    reached = (w * (result.adversarial - x)).sum(1)
    optimum = best_of_a_linear_function(norm, w, x, 0.3, (0.0, 1.0))
    assert (reached <= optimum * (1 + 1e-9)).all()
    assert reached.sum() >= share * optimum.sum()


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_is_at_least_as_strong_as_pgd(norm: str, blobs: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = blobs
    eps = {"linf": 0.15, "l1": 0.22, "l2": 0.18}[norm]
    options: dict[str, Any] = {"norm": norm, "eps": eps, "steps": 20, "restarts": 3}
    best = pgd(model, x, y, generator=rng(), **options).success
    share = best.double().mean()
    assert 0.1 < share < 0.9
    for loss in ("ce", "dlr"):
        found = apgd(model, x, y, loss=loss, generator=rng(), **options).success
        assert found.double().mean() >= share - 0.03


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=6, deadline=None)
@given(
    eps=st.floats(0, 2),
    bounds=st.sampled_from([None, (0.0, 1.0), (-0.5, 1.25)]),
    shape=st.sampled_from([(), (6,), (2, 3), (1, 4, 3), (2, 1, 2, 3)]),
    seed=st.integers(0, 1000),
)
def test_results_are_in_ball_and_box(
    name: str, norm: str, eps: float, bounds: Any, shape: tuple[int, ...], seed: int
) -> None:
    model = RowByRow(max(1, torch.Size(shape).numel()))
    x, y = batch(5, shape, 3, torch.float64)
    x[0] = 0
    options = {"generator": rng(seed)} if name in RANDOM else {}
    result = SHORT[name](model, x, y, norm=norm, eps=eps, bounds=bounds, **options)
    distance = torch.linalg.vector_norm((result.adversarial - x).reshape(5, -1), ORDER[norm], dim=1)
    assert result.adversarial.shape == x.shape
    assert distance.max() <= eps + 4e-16 * (1 + eps)
    torch.testing.assert_close(result.norm, distance, rtol=1e-15, atol=0)
    if bounds is not None:
        assert result.adversarial.min() >= bounds[0]
        assert result.adversarial.max() <= bounds[1]
    wrong = model(result.adversarial).argmax(1) != y
    assert torch.equal(result.success, wrong)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 8 / 255, 0.3])
def test_no_rounding_leaves_the_linf_ball(name: str, dtype: torch.dtype, eps: float) -> None:
    """Nor the box: of every batch that the model sees, with float64 distances; eps is rounded to float32."""
    seen: list[Tensor] = []
    network = RowByRow(48)

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    x, y = batch(6, (3, 4, 4), 4, dtype)
    options = {"generator": rng()} if name in RANDOM else {}
    seen.append(SHORT[name](model, x, y, eps=eps, **options).adversarial)
    for iterate in seen:
        assert (iterate.double() - x.double()).abs().max() <= torch.tensor(eps).double()
        assert iterate.min() >= 0
        assert iterate.max() <= 1


# ----------------------------------------------------------------------------------------- samples and their randomness


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("early_stop", [False, True])
def test_a_sample_does_not_depend_on_its_batch(name: str, norm: str, early_stop: bool) -> None:
    model = RowByRow()
    x, _ = batch(40, (2, 3), 4, torch.float64)
    y = model(x).argmax(1)
    eps = {"linf": 0.1, "l1": 0.3, "l2": 0.2}[norm]
    run = partial(RANDOM[name], model, norm=norm, eps=eps, restarts=2, early_stop=early_stop)
    together = run(x, y, generator=rng())
    assert 0 < together.success.sum() < 40
    for rows in (*([row] for row in range(8)), [3, 11, 0], [39, 30, 9, 8, 7, 6]):
        index = torch.tensor(rows)
        apart = run(x[index], y[index], index=index, generator=rng())
        assert torch.equal(apart.adversarial, together.adversarial[index])
        assert torch.equal(apart.success, together.success[index])
        torch.testing.assert_close(apart.trace, together.trace[:, :, index], rtol=1e-12, atol=0, equal_nan=True)
    other = run(x, y, index=torch.arange(40) + 1, generator=rng())
    assert not torch.equal(other.trace, together.trace)


def test_noise_is_uniform_and_independent() -> None:
    noise = Noise.of(torch.tensor(3), torch.arange(400))
    numbers = noise.uniform((500,), torch.float64)
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 50, 0, 1)
    assert ((counts - 4000).square() / 4000).sum() < 95  # chi square of 49 degrees of freedom: 1 in 10,000
    for others in (noise.stream(0), noise.stream(1), Noise.of(torch.tensor(4), torch.arange(400))):
        both = torch.stack([numbers.flatten(), others.uniform((500,), torch.float64).flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 0.01
    assert torch.corrcoef(numbers)[0, 1:].abs().max() < 0.2  # neighbours in the data set
    assert torch.corrcoef(numbers.T)[0, 1:].abs().max() < 0.25
    single = noise.uniform((500,))
    torch.testing.assert_close(single.double(), numbers, rtol=0, atol=2**-22)
    assert 0 < single.min() < single.max() < 1
    normal = noise.normal((500,), torch.float64)
    moments = torch.stack([normal.mean(), normal.square().mean(), (normal**4).mean()])
    torch.testing.assert_close(moments, torch.tensor([0.0, 1, 3]).double(), rtol=0, atol=0.05)


def test_streams_are_told_apart_by_every_number() -> None:
    noise = Noise.of(torch.tensor(0), torch.arange(3))
    keys = [noise.stream(*numbers).keys for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (-1,))]
    assert len({tuple(key.tolist()) for key in (*keys, noise.keys)}) == 7


@pytest.mark.parametrize("name", RANDOM)
def test_one_number_is_drawn_from_the_generator(name: str) -> None:
    x, y = batch(4, (2, 3), 4, torch.float64)
    generators = [rng(), rng()]
    RANDOM[name](RowByRow(), x, y, eps=0.1, generator=generators[0])
    torch.randint(-(2**63), 2**63 - 1, (), generator=generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("norm", NORMS)
def test_early_stop_lets_samples_go(name: str, norm: str) -> None:
    """What is found is the same, with fewer samples to evaluate; nothing is known of a sample that has gone."""
    network = RowByRow()
    sizes: list[int] = []

    def model(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return network(batch)

    x, y = batch(40, (2, 3), 4, torch.float64)
    eps = {"linf": 0.1, "l1": 0.3, "l2": 0.2}[norm]
    run = partial(RANDOM[name], model, x, y, norm=norm, eps=eps, restarts=2)
    whole = run(generator=rng())
    count = sum(sizes)
    sizes.clear()
    stopped = run(generator=rng(), early_stop=True)
    assert sum(sizes) < 0.8 * count
    assert torch.equal(stopped.success, whole.success)
    assert 0 < whole.success.sum() < 40
    assert not whole.trace.isnan().any()
    assert stopped.trace.isnan().any()
    assert torch.equal(stopped.trace[:, :, ~whole.success], whole.trace[:, :, ~whole.success])
    wrong = network(stopped.adversarial).argmax(1) != y
    assert torch.equal(wrong, stopped.success)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("mean", [0.25, [0.1, 0.3], torch.tensor([0.5, 0.25])])
def test_mean_and_std_normalise_what_the_model_gets(name: str, mean: Any) -> None:
    network = RowByRow()
    x, y = batch(6, (2, 3), 4, torch.float64)
    shift = torch.as_tensor(mean, dtype=torch.float64).reshape(-1, 1)
    options = {"generator": rng()} if name in RANDOM else {}
    result = SHORT[name](network, x, y, eps=0.1, mean=mean, std=(0.5, 2.0), **options)
    scale = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    options = {"generator": rng()} if name in RANDOM else {}
    expected = SHORT[name](lambda x: network((x - shift) / scale), x, y, eps=0.1, **options)
    assert torch.equal(result.adversarial, expected.adversarial)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"std": 0.0}, ValueError, "std: expected numbers above 0"),
        ({"mean": [0.1, 0.2, 0.3]}, ValueError, "mean: expected a number or 6 of them, one per channel"),
        ({"mean": "imagenet"}, TypeError, "mean: expected a number or one per channel, got 'imagenet'"),
        ({"mean": float("nan")}, ValueError, "mean: expected finite"),
        ({"index": [0, 1, 2, 3]}, TypeError, "index: expected a tensor"),
        ({"index": torch.arange(3)}, ValueError, r"index: expected a torch.int64 tensor of shape \(4,\)"),
        ({"index": torch.arange(4.0)}, ValueError, r"index: expected a torch.int64 tensor of shape \(4,\)"),
        ({"early_stop": 1}, TypeError, "early_stop: expected a bool"),
        ({"loss": "dlr"}, ValueError, "loss: expected one for 2 classes, got one that needs 3"),
        ({"attack": pgd, "keep": "first"}, ValueError, "keep: expected one of 'best', 'last'"),
        (
            {"attack": pgd, "keep": "last", "early_stop": True},
            ValueError,
            "early_stop: expected False with keep",
        ),
        ({"attack": apgd, "steps": 0}, ValueError, "steps: expected an int of at least 1"),
        ({"attack": apgd, "rho": 1.5}, ValueError, "rho: expected a number from 0 to 1"),
        ({"attack": apgd, "targets": 2}, ValueError, "targets: expected None but for loss='dlr'"),
        ({"attack": apgd, "targets": 0, "loss": "dlr"}, ValueError, "targets: expected an int of at least 1"),
        ({"attack": apgd, "targets": 2, "loss": "dlr"}, ValueError, "loss: expected one for 2 classes, .* needs 4"),
        ({"attack": apgd, "targets": 2, "loss": "dlr", "targeted": True}, ValueError, "targets: .*targeted=True"),
        ({"attack": apgd, "restarts": 0}, ValueError, "restarts: "),
        ({"attack": square, "queries": 0}, ValueError, "queries: expected an int of at least 1"),
        ({"attack": square, "share": 0.0}, ValueError, "share: expected a number above 0 and at most 1"),
        ({"attack": square, "share": 1.5}, ValueError, "share: expected a number above 0 and at most 1"),
        ({"attack": square, "eps": -1.0}, ValueError, "eps: "),
        ({"attack": square, "y": torch.full((4,), 2)}, ValueError, "y: expected class indices from 0 to 1"),
        ({"attack": fgsm, "norm": "l0"}, ValueError, "norm: "),
        ({"attack": fgsm, "x": torch.full((4, 6), 2.0)}, ValueError, "x: expected values within bounds"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], error: type, message: str) -> None:
    attack = changes.pop("attack", apgd)
    before = torch.get_rng_state()
    with pytest.raises(error, match=message):
        attack(**{"model": linear(), "x": torch.full((4, 6), 0.5), "y": torch.zeros(4).long(), "eps": 0.1, **changes})
    assert torch.equal(torch.get_rng_state(), before)


def test_more_targets_than_other_classes() -> None:
    x, y = batch(4, classes=4)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="targets: expected at most 3, the other classes, got 4"):
        apgd(linear(classes=4), x, y, eps=0.1, loss="dlr", targets=4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_last_iterate_instead_of_the_best(restarts: int) -> None:
    """A loss that falls with every step: the best is the sample itself or a start, the last one is the end."""
    seen: list[Tensor] = []
    network = linear(classes=3)

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    x, y = batch(classes=3)
    result = pgd(model, x, y, eps=0.3, steps=3, keep="last", restarts=restarts, generator=rng())
    ends = torch.stack(seen[1:][3::4])
    assert len(ends) == restarts
    assert (ends == result.adversarial).flatten(2).all(2).any(0).all()
    if restarts == 1:
        assert torch.equal(result.loss, result.trace[0, -1])
    clean = pgd(network, x, y, eps=0.3, steps=1, step_size=0.0, keep="last", random_start=False)
    assert torch.equal(clean.adversarial, x)


@pytest.mark.parametrize("targeted", [False, True])
def test_a_last_iterate_without_a_loss(targeted: bool) -> None:
    """It is no result: the sample itself comes back, and nothing is claimed of it."""
    network = linear(classes=3)
    x, y = batch(classes=3)

    def model(batch: Tensor) -> Tensor:
        return torch.where((batch == x).all(1, keepdim=True), network(batch), torch.nan)

    result = pgd(model, x, y, eps=0.1, steps=2, keep="last", restarts=2, targeted=targeted, generator=rng())
    assert torch.equal(result.adversarial, x)
    assert result.loss.isnan().all()
    assert not result.success.any()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "square"])
def test_a_nan_that_the_loss_does_not_see_is_never_a_success(name: str) -> None:
    network = RowByRow(classes=3)
    x, _ = batch(12, (2, 3), dtype=torch.float64)
    y = network(x)[:, :2].argmax(1)

    def model(batch: Tensor) -> Tensor:
        logits = network(batch)
        third = torch.where((batch == x).flatten(1).all(1), logits[:, :2].amin(1), torch.nan)
        return torch.cat([logits[:, :2], third[:, None]], 1)

    def of_the_label(logits: Tensor, y: Tensor) -> Tensor:
        return -logits.gather(1, y[:, None])[:, 0]

    options = {"generator": rng()} if name in RANDOM else {}
    result = SHORT[name](model, x, y, eps=0.3, loss=of_the_label, **options)
    assert not result.success.any()


# --------------------------------------------------------------------------------------------------------------- losses


def test_dlr_is_the_published_formula() -> None:
    logits = torch.randn(100, 6, dtype=torch.float64, generator=rng())
    y, target = torch.randint(6, (2, 100), generator=rng(1))
    dlr = LOSSES["dlr"]
    for i in range(100):
        z, label, to = logits[i], int(y[i]), int(target[i])
        first, _, third, fourth = z.sort(descending=True).values[:4]
        other = max(z[k] for k in range(6) if k != label)
        assert dlr.score(logits, y)[i] == pytest.approx(-(z[label] - other) / (first - third))
        assert dlr.between(logits, y, target)[i] == pytest.approx(-(z[label] - z[to]) / (first - (third + fourth) / 2))
    torch.testing.assert_close(dlr.score(3 * logits + 7, y), dlr.score(logits, y))
    success = logits.argmax(1) != y
    assert torch.equal(LOSSES["margin"].score(logits, y) > 0, success)
    assert torch.equal(dlr.score(logits, y) > 0, success)


def test_targeted_dlr_has_a_gradient_where_the_target_comes_third() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    third = torch.tensor([2])
    targeted = LOSSES["dlr"].targeted
    assert targeted is not None
    (grad,) = torch.autograd.grad(targeted(logits, third).sum(), logits)
    assert grad[0, 2] < 0
    (grad,) = torch.autograd.grad(LOSSES["dlr"].score(logits, third).sum(), logits)
    assert (grad == 0).all()


@pytest.mark.parametrize("attack", [partial(pgd, steps=20), partial(apgd, steps=20), partial(square, queries=100)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_target_is_reached(attack: Any, loss: str) -> None:
    model = RowByRow()
    x, y = batch(40, (6,), 4, torch.float64)
    result = attack(model, x, y, eps=0.5, targeted=True, loss=loss, generator=rng())
    assert torch.equal(result.success, model(result.adversarial).argmax(1) == y)
    clean = (model(x).argmax(1) == y).double().mean()
    assert result.success.double().mean() > clean + 0.2


def test_runs_go_to_each_target_in_turn() -> None:
    """With the gradient of the targeted loss between label and target, the classes in the order of their logits."""
    network = RowByRow()
    x, y = batch(10, (6,), 4, torch.float64)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    result = apgd(model, x, y, eps=0.2, steps=3, loss="dlr", targets=3, restarts=2, generator=rng())
    assert result.trace.shape == (6, 4, 10)
    logits = network(x).scatter(1, y[:, None], -torch.inf)
    runs = torch.stack(seen[2:]).view(6, 4, 10, 6)
    for number, (start, after, *_) in enumerate(runs):
        target = logits.argsort(1, descending=True)[:, number % 3]
        leaf = start.clone().requires_grad_()
        (grad,) = torch.autograd.grad(LOSSES["dlr"].between(network(leaf), y, target).sum(), leaf)
        expected = (start + 0.4 * grad.sign()).clamp(x - 0.2, x + 0.2).clamp(0, 1)
        torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(0, 6), (0, 2, 3), (0,)])
@pytest.mark.parametrize("name", SHORT)
def test_empty_batch(shape: tuple[int, ...], norm: str, name: str) -> None:
    def model(batch: Tensor) -> Tensor:
        raise AssertionError("nothing to evaluate")

    result = SHORT[name](model, torch.zeros(shape), torch.zeros(0, dtype=torch.int64), norm=norm, eps=0.1)
    assert result.adversarial.shape == shape
    assert result.success.shape == result.loss.shape == result.norm.shape == (0,)
    assert result.trace.shape[2] == 0


# ------------------------------------------------------------------------------------------------ what comes back whole


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("fail_at", [None, 3])
def test_model_comes_back_as_it_was(name: str, fail_at: int | None) -> None:
    model = Recorder(fail_at)
    x, y = batch(classes=3)
    before = model.state()
    attack = partial(apgd, steps=3) if name == "apgd targets" else SHORT[name]  # it has three classes
    if fail_at is None:
        attack(model, x, y, eps=0.1)
    else:
        with pytest.raises(RuntimeError, match="out of order"):
            attack(model, x, y, eps=0.1)
    torch.testing.assert_close(model.state(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_gradients_are_off(name: str, context: Callable[[], Any]) -> None:
    model = RowByRow()
    x, y = batch(classes=4)
    x.requires_grad_()
    run = partial(SHORT[name], model, eps=0.1)
    expected = run(x, y, **({"generator": rng()} if name in RANDOM else {}))
    with context():
        result = run(x.clone(), y.clone(), **({"generator": rng()} if name in RANDOM else {}))
        assert not torch.is_grad_enabled()
    assert torch.equal(result.adversarial, expected.adversarial)
    assert not result.adversarial.is_inference()
    assert x.grad is None
    assert not any(tensor.requires_grad for tensor in vars(expected).values())


# -------------------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 0.0), (torch.float32, torch.zeros(16))])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SHORT)
def test_eps_zero_returns_the_input_bit_for_bit(name: str, norm: str, dtype: torch.dtype, eps: Any) -> None:
    x, y = batch(dtype=dtype)
    x[0] = -0.0
    result = SHORT[name](linear(classes=4, dtype=dtype), x, y, norm=norm, eps=eps)
    assert torch.equal(result.adversarial.view(torch.uint8), x.view(torch.uint8))
    assert (result.norm == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SHORT)
def test_eps_per_sample_equals_one_call_each(name: str, norm: str) -> None:
    model = RowByRow()
    x, y = batch(5, (6,), 4, torch.float64)
    eps = torch.tensor([0.0, 0.05, 0.1, 0.4, 3.0], dtype=torch.float64)
    run = partial(SHORT[name], model, norm=norm)
    together = run(x, y, eps=eps, **({"generator": rng()} if name in RANDOM else {}))
    for i in range(5):
        options = {"generator": rng(), "index": torch.tensor([i])} if name in RANDOM else {}
        alone = run(x[i : i + 1], y[i : i + 1], eps=eps[i].item(), **options)
        torch.testing.assert_close(together.adversarial[i : i + 1], alone.adversarial)
    assert (together.norm <= eps + 1e-12).all()


@pytest.mark.parametrize("name", SHORT)
def test_nan_logits_are_never_a_success(name: str) -> None:
    """A model that is NaN wherever it is not right, and one that always is."""
    network = RowByRow()
    x, _ = batch(shape=(6,), classes=4, dtype=torch.float64)
    y = network(x).argmax(1)

    def model(batch: Tensor) -> Tensor:
        logits = network(batch)
        return torch.where((logits.argmax(1) == y)[:, None], logits, torch.nan)

    for broken in (model, lambda batch: network(batch) * torch.nan):
        result = SHORT[name](broken, x, y, eps=0.5)
        assert not result.success.any()
        assert result.adversarial.isfinite().all()
        assert result.norm.max() <= 0.5 + 1e-12


@pytest.mark.parametrize("name", SHORT)
def test_nan_gradient_of_one_sample_leaves_the_others_alone(name: str) -> None:
    network = RowByRow()

    def model(batch: Tensor) -> Tensor:
        return network(batch) + (batch[:, :1] - 0.5).abs().sqrt() * 0

    x, y = batch(5, (6,), 4, torch.float64)
    x[:, 0] = 0.9
    x[1, 0] = 0.5  # where the slope of the square root is infinite
    for norm in NORMS:
        options = {"generator": rng()} if name in RANDOM else {}
        result = SHORT[name](model, x, y, norm=norm, eps=0.1, **options)
        expected = SHORT[name](network, x, y, norm=norm, eps=0.1, **({"generator": rng()} if name in RANDOM else {}))
        rows = [0, 2, 3, 4]
        torch.testing.assert_close(result.adversarial[rows], expected.adversarial[rows], rtol=0, atol=1e-12)
        assert result.adversarial.isfinite().all()


@pytest.mark.parametrize("name", SHORT)
def test_misclassified_samples_are_successes_from_the_start(name: str) -> None:
    model = RowByRow()
    x, y = batch(20, (6,), 4, torch.float64)
    y = (model(x).argmax(1) + 1) % 4
    options = {"early_stop": True} if name in RANDOM else {}
    result = SHORT[name](model, x, y, eps=0.01, **options)
    assert result.success.all()
    if options:
        assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SHORT)
def test_half_precision(name: str, norm: str, dtype: torch.dtype) -> None:
    x, y = batch(classes=4, dtype=dtype)
    result = SHORT[name](linear(classes=4, dtype=dtype), x, y, norm=norm, eps=0.25)
    assert result.adversarial.dtype == dtype
    assert result.loss.dtype == result.norm.dtype == torch.float32
    assert (result.norm <= 0.25 + (0 if norm == "linf" else 1e-6)).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


def test_under_autocast_perturbations_are_float32() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    seen = []
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    x, y = batch(classes=4)
    for name, attack in SHORT.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = attack(model, x, y, eps=0.25)
        assert result.adversarial.dtype == result.loss.dtype == torch.float32, name
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["apgd", "apgd targets", "square"])
@pytest.mark.parametrize("norm", NORMS)
def test_no_wait_inside_the_loop(name: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a GPU's host wait: a tensor's values read, or a shape that depends on them. Checks do, once."""
    monkeypatch.setattr("integralrob.ops._arguments._may_wait_for", lambda value: False)  # as on a GPU

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if op is not torch.ops.aten.index.Tensor or any(index.dtype == torch.bool for index in args[1]):
                self.count += bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags))
            return op(*args, **(kwargs or {}))

    def waits(length: int, restarts: int) -> int:
        x, y = batch(classes=4)
        options = {"queries": length} if name == "square" else {"steps": length}
        attack = {"apgd targets": partial(apgd, loss="dlr", targets=2), "apgd": apgd, "square": square}[name]
        with Waits() as mode:
            attack(linear(classes=4), x, y, norm=norm, eps=0.1, restarts=restarts, **options)
        return mode.count

    assert waits(2, 1) == waits(9, 3) > 0


def test_integral_network_at_several_sizes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    x, y = batch(6, (1, 8, 8), 4)
    model = ir.convert(network, x[:2], progress=False).eval()
    for fraction in (1.0, 0.5):
        model.resize(fraction)
        plain = model.discretize()
        for name, attack in SHORT.items():
            options = {"generator": rng()} if name in RANDOM else {}
            result = attack(model, x, y, eps=0.1, **options)
            options = {"generator": rng()} if name in RANDOM else {}
            expected = attack(plain, x, y, eps=0.1, **options)
            assert torch.equal(result.success, expected.success)
            torch.testing.assert_close(result.loss, expected.loss, rtol=1e-3, atol=1e-4)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# --------------------------------------------------------------------------------------------------------------- square


def test_square_needs_no_gradient() -> None:
    network = RowByRow()

    def model(batch: Tensor) -> Tensor:
        assert not batch.requires_grad
        return network(batch).detach().round(decimals=3)

    x, y = batch(20, (6,), 4, torch.float64)
    result = square(model, x, y, eps=0.3, queries=50)
    assert result.success.any()
    assert result.trace.shape == (1, 50, 20)
    kept = result.trace.cummax(1).values[0, -1]
    failed = ~result.success
    torch.testing.assert_close(result.loss[failed], kept[failed].maximum(LOSSES["margin"].score(model(x), y)[failed]))


@pytest.mark.parametrize("norm", NORMS)
def test_square_changes_windows(norm: str) -> None:
    """A query differs from the best before in one window (in l1 and l2: two), which shrinks."""
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return torch.stack([batch.sum((1, 2, 3)) * 0, batch.sum((1, 2, 3)) * 0 - len(seen)], 1)  # worse and worse

    x = torch.full((30, 2, 12, 12), 0.5, dtype=torch.float64)
    square(model, x, torch.zeros(30).long(), norm=norm, eps=0.1 if norm == "linf" else 1.0, queries=40, bounds=None)
    start, *queries = seen[1:]
    if norm == "linf":
        assert ((start - x).abs() - 0.1).abs().max() < 1e-12
        changed = torch.stack([(query != start).any(1) for query in queries])
        spans = changed.flatten(2).sum(2).amax(1)
        assert spans[0] == 16  # a tenth of the area, as a fortieth of the queries have passed
        assert spans[-1] == 1
    else:
        order = ORDER[norm]
        for query in (start, *queries):
            size = torch.linalg.vector_norm((query - x).flatten(1), order, dim=1)
            torch.testing.assert_close(size, torch.ones(30).double(), rtol=0, atol=1e-9)
        assert not torch.equal(queries[0], start)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_square_reaches_the_border_of_images_of_any_shape(norm: str) -> None:
    x, y = batch(6, (1, 1, 1), 4, torch.float64)
    result = square(RowByRow(1), x, y, norm=norm, eps=0.2, queries=10, bounds=None)
    assert result.norm.max() <= 0.2 + 1e-15
    for shape in ((3, 2, 9), (1, 2, 2), (3, 7), (11,), (2, 3, 4, 5)):
        x, y = batch(4, shape, 4, torch.float64)
        assert square(RowByRow(x[0].numel()), x, y, norm=norm, eps=0.5, queries=10).norm.max() <= 0.5 + 1e-15


def test_cross_entropy_of_torch_is_what_is_reported() -> None:
    model = RowByRow()
    x, y = batch(8, (6,), 4, torch.float64)
    result = apgd(model, x, y, eps=0.1, steps=5)
    expected = F.cross_entropy(model(result.adversarial), y, reduction="none")
    torch.testing.assert_close(result.loss, expected.detach())
