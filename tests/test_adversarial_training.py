"""`integralrob.training`'s losses under attack: closed forms, Danskin's gradient, what becomes of the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, softplus

import integralrob as ir
from integralrob.training import adversarial_loss, trades_loss

EPS = 0.2


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def linear() -> nn.Linear:
    model = nn.Linear(6, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=rng())
    return model


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(32, 6, dtype=torch.float64, generator=rng(1)), torch.randint(2, (32,), generator=rng(2))


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def worst_case(model: nn.Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Cross entropy of a linear model of two classes at the worst point: eps times the dual norm off the margin."""
    away = model.weight[1 - y] - model.weight[y]
    dual = {"linf": 1, "l2": 2}[norm]
    margin = (away * x).sum(1) + model.bias[1 - y] - model.bias[y]
    return softplus(margin + EPS * torch.linalg.vector_norm(away, dual, dim=1)).mean()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("starts", "clean"), [(1, 0.0), (3, 0.0), (2, 0.25), (1, 1.0)])
def test_danskin(linear: nn.Linear, batch: Any, norm: str, starts: int, clean: float) -> None:
    """Value and gradient are those of the maximum, which for a linear model has a closed form."""
    x, y = batch
    options: dict[str, Any] = {"norm": norm, "eps": EPS, "step_size": EPS, "bounds": None, "generator": rng()}
    loss = adversarial_loss(linear, x, y, starts=starts, clean=clean, **options)
    expected = (1 - clean) * worst_case(linear, x, y, norm) + clean * cross_entropy(linear(x), y)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for got, wanted in zip(gradients(loss, linear), gradients(expected, linear), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)


def test_several_starts_are_averaged(batch: Any) -> None:
    """An attack of no strength: each start gives its own loss."""
    x, y = batch
    model = nn.Linear(6, 2).double()
    points = [x, x + 1, x - 1]
    left = iter(points)

    def attack(model: Any, x: Tensor, y: Tensor, *, eps: float) -> ir.attacks.AttackResult:
        return ir.attacks.pgd(model, next(left), y, eps=eps, steps=1, bounds=None)

    loss = adversarial_loss(model, x, y, starts=3, attack=attack, eps=0.0)
    expected = torch.stack([cross_entropy(model(point), y) for point in points]).mean()
    torch.testing.assert_close(loss, expected)


def test_a_criterion_of_ones_own(linear: nn.Linear, batch: Any) -> None:
    x, y = batch
    loss = adversarial_loss(
        linear, x, y, criterion=lambda logits, y: logits.gather(1, y[:, None]).sum(), eps=0.0, steps=1
    )
    torch.testing.assert_close(loss, linear(x).gather(1, y[:, None]).sum())


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades(linear: nn.Linear, batch: Any, beta: float) -> None:
    """The divergence of a linear model of two classes is greatest at one of the two ends of ``± eps sign(w)``."""
    x, _ = batch
    y = linear(x).argmax(1)
    step = EPS / 4 * (linear.weight[1] - linear.weight[0]).detach().sign()
    right = (linear(x - step).argmax(1) == y) & (linear(x + step).argmax(1) == y)  # and so in all of the ball
    x, y = x[right], y[right]
    assert len(x) > 16
    options: dict[str, Any] = {"eps": EPS / 4, "steps": 10, "restarts": 20, "bounds": None, "generator": rng()}
    loss = trades_loss(linear, x, y, beta=beta, **options)
    clean = linear(x).log_softmax(1)
    ends = [
        kl_div(linear(x + sign * step).log_softmax(1), clean, log_target=True, reduction="none").sum(1)
        for sign in (-1, 1)
    ]
    expected = cross_entropy(linear(x), y) + beta * torch.maximum(*ends).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for got, wanted in zip(gradients(loss, linear), gradients(expected, linear), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-9)


def test_trades_climbs_the_divergence_from_the_clean_probabilities(linear: nn.Linear, batch: Any) -> None:
    x, y = batch
    moved = linear(x + 0.1)

    def attack(model: Any, x: Tensor, y: Tensor, *, loss: Any, eps: float) -> ir.attacks.AttackResult:
        expected = kl_div(moved.log_softmax(1), linear(x).log_softmax(1), log_target=True, reduction="none").sum(1)
        torch.testing.assert_close(loss(moved, y), expected)
        return ir.attacks.pgd(model, x, y, loss=loss, eps=eps, steps=1)

    trades_loss(linear, x, y, attack=attack, eps=0.1)


@pytest.mark.parametrize(("function", "options"), [(adversarial_loss, {"clean": 0.5}), (trades_loss, {})])
def test_normalised_inputs(linear: nn.Linear, batch: Any, function: Callable[..., Tensor], options: Any) -> None:
    """`mean` and `std` hold for the losses as for the attack."""

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return linear((x - 0.4) / 0.25)

    options |= {"eps": EPS, "steps": 3}
    loss = function(linear, *batch, mean=0.4, std=0.25, generator=rng(), **options)
    expected = function(Normalised(), *batch, generator=rng(), **options)
    torch.testing.assert_close(loss, expected)
    attack = partial(partial(ir.attacks.pgd, mean=0.4), std=0.25)
    torch.testing.assert_close(function(linear, *batch, attack=attack, generator=rng(), **options), expected)


@pytest.mark.parametrize("function", [adversarial_loss, trades_loss])
def test_the_model_keeps_its_flags_and_learns(function: Callable[..., Tensor]) -> None:
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    )
    model.train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    x, y = torch.rand(16, 6, generator=rng()), torch.arange(16) % 3
    frozen_statistics = model[2].running_mean.clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = function(model, x, y, eps=0.1, steps=2)
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0].bias.requires_grad
    assert torch.equal(model[2].running_mean, frozen_statistics)
    # Evaluations in training, and only those, count for the batch norm: not those of the attack.
    assert model[1].num_batches_tracked == (1 if function is adversarial_loss else 2)
    loss.backward()
    assert model[0].bias.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_training_over_random_sizes_makes_every_size_robust() -> None:
    """Two classes told apart by one strong, fragile feature and many weak, robust ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(512) % 2
        sign = (2 * y - 1).float()[:, None]
        x = torch.cat([0.05 * sign, 0.3 * sign.expand(-1, 8) + 0.3 * torch.randn(512, 8)], dim=1)
        network = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 2))
        with torch.no_grad():
            network[0].weight[:, 0] *= 30  # it relies on the fragile feature from the start
    integral = ir.convert(network, x[:8], progress=False)
    optimizer = torch.optim.Adam(integral.parameters(), lr=0.02)
    attack: dict[str, Any] = {"eps": 0.1, "steps": 5, "bounds": None, "generator": rng()}

    def robust(fraction: float) -> float:
        integral.resize(fraction)
        return (~ir.attacks.pgd(integral, x, y, **attack).success).float().mean().item()

    before = [robust(fraction) for fraction in (0.5, 1.0)]
    for step in range(60):
        integral.random_sizes(0.5, 1.0, generator=attack["generator"])
        index = torch.arange(step % 8, 512, 8)
        optimizer.zero_grad()
        adversarial_loss(integral, x[index], y[index], **attack).backward()
        optimizer.step()
    assert max(before) < 0.8
    assert min(robust(fraction) for fraction in (0.5, 1.0)) > 0.9


@pytest.mark.parametrize(
    ("function", "name", "bad"),
    [
        (adversarial_loss, "model", {"model": 1}),
        (adversarial_loss, "starts", {"starts": 0}),
        (adversarial_loss, "starts", {"starts": 2, "random_start": False}),
        (adversarial_loss, "clean", {"clean": 1.5}),
        (adversarial_loss, "clean", {"clean": float("nan")}),
        (adversarial_loss, "x", {"x": torch.zeros(3, 2, dtype=torch.int64)}),
        (adversarial_loss, "criterion", {"criterion": "ce"}),
        (adversarial_loss, "criterion", {"criterion": partial(cross_entropy, reduction="none")}),
        (adversarial_loss, "criterion", {"criterion": lambda logits, y: 1.0}),
        (adversarial_loss, "attack", {"attack": "pgd"}),
        (adversarial_loss, "eps", {"eps": -1}),
        (trades_loss, "model", {"model": 1}),
        (trades_loss, "beta", {"beta": -1}),
        (trades_loss, "attack", {"attack": None}),
        (trades_loss, "x", {"x": torch.zeros(3, 2, dtype=torch.int64)}),
        (trades_loss, "loss", {"loss": "ce"}),
        (trades_loss, "early_stop", {"early_stop": True}),
        (trades_loss, "early_stop", {"attack": partial(ir.attacks.pgd, early_stop=True)}),
        (trades_loss, "eps", {"eps": -1}),
    ],
)
def test_bad_arguments_name_themselves(function: Callable[..., Tensor], name: str, bad: dict[str, Any]) -> None:
    good = {"model": nn.Linear(2, 2), "x": torch.zeros(3, 2), "y": torch.zeros(3, dtype=torch.int64), "eps": 0.1}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
        function(**good | bad)
