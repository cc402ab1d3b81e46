"""`integralrob.attacks`: closed-form optima, ball and box, what becomes of a caller's objects, bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import integralrob as ir
from integralrob.attacks.losses import LOSSES

NORMS = ["linf", "l1", "l2"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(features: int = 6, classes: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Linear:
    model = nn.utils.skip_init(nn.Linear, features, classes, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=rng(seed))
    return model


def batch(size: int = 16, shape: tuple[int, ...] = (6,), classes: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    x = torch.rand(size, *shape, dtype=dtype, generator=rng(1))
    return x, torch.randint(classes, (size,), generator=rng(2))


def losses(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(x).to(torch.float64), y, reduction="none")


@pytest.fixture(scope="module")
def blobs() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained on three overlapping clouds of points in the unit square."""
    generator = rng(3)
    centres = torch.tensor([[0.25, 0.3], [0.75, 0.35], [0.5, 0.75]])
    y = torch.arange(300) % 3
    x = (centres[y] + 0.08 * torch.randn(300, 2, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval(), x, y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_linear_model_reaches_the_closed_form_optimum(dtype: torch.dtype, targeted: bool, random_start: bool) -> None:
    model = linear(dtype=dtype)
    x, y = batch(dtype=dtype)
    options: dict[str, Any] = {"targeted": targeted, "random_start": random_start}
    result = ir.attacks.pgd(model, x, y, eps=0.3, steps=10, generator=rng(), **options)
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    direction = -away if targeted else away
    expected = (x + 0.3 * direction.sign()).clamp(0, 1)
    torch.testing.assert_close(result.adversarial, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)
    hit = model(result.adversarial).argmax(1) == y
    assert torch.equal(result.success, hit if targeted else ~hit)
    torch.testing.assert_close(result.loss.double(), losses(model, result.adversarial, y), rtol=1e-5, atol=1e-6)


def best_of_a_linear_function(norm: str, w: Tensor, x: Tensor, eps: float, bounds: Any) -> Tensor:
    """The greatest ``w · δ`` over ball and box, ``[B]``."""
    low, high = (torch.full_like(x, bound) for bound in bounds or (-torch.inf, torch.inf))
    room = torch.where(w > 0, high - x, x - low)
    if norm == "linf":
        return (w.abs() * room.clamp(max=eps)).sum(1)
    if norm == "l2":  # δ along w, cut by the box, as long as it may be
        delta = ir.ops.reference.project_l2(1e9 * w, eps, center=x, bounds=bounds or (-torch.inf, torch.inf))
        return (w * delta).sum(1)
    # The fractional knapsack: what weighs most first, until eps is spent.
    order = w.abs().argsort(dim=1, descending=True)
    room = room.gather(1, order).clamp(max=eps)
    spent = torch.minimum(room, (eps - room.cumsum(1) + room).clamp(min=0))
    return (w.abs().gather(1, order) * spent).sum(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_linear_model_in_every_ball(norm: str, bounds: Any, targeted: bool, random_start: bool) -> None:
    """Near the closed-form optimum: in l1 and l2 the steps end in circles around it that are as small as they are."""
    model = linear(features=20, dtype=torch.float64)
    x, y = batch(shape=(20,), dtype=torch.float64)
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    w = -away if targeted else away
    eps = {"linf": 0.2, "l1": 2.0, "l2": 0.8}[norm]
    options: dict[str, Any] = {"k": 1 if bounds is None else 3} if norm == "l1" else {}
    result = ir.attacks.pgd(
        model,
        x,
        y,
        norm=norm,
        eps=eps,
        steps=300,
        step_size=eps / 20,
        targeted=targeted,
        random_start=random_start,
        bounds=bounds,
        loss=lambda logits, y: logits.gather(1, 1 - y[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0],
        generator=rng(),
        **options,
    )
    reached = (w * (result.adversarial - x)).sum(1)
    optimum = best_of_a_linear_function(norm, w, x, eps, bounds)
    hit = model(x).argmax(1) == y
    lasting = ~hit if targeted else hit  # else a success of little gain beats a failure of more
    assert (reached <= optimum * (1 + 1e-9)).all()
    assert lasting.any()
    assert (reached >= 0.95 * optimum)[lasting].all()
    assert reached[lasting].sum() >= 0.99 * optimum[lasting].sum()


@pytest.mark.parametrize("largest", [0, 1])
def test_l1_goes_on_with_the_entries_that_can_move(largest: int) -> None:
    """The steepest one is at its bound, or comes there: its place among the k is taken by the next."""
    w = torch.tensor([4.0, -2.0, 1.0])
    x = torch.tensor([[1.0, 0.5, 0.5], [0.75, 0.5, 0.5]])[largest : largest + 1]
    y = torch.zeros(1, dtype=torch.int64)

    def model(batch: Tensor) -> Tensor:
        return torch.stack([-(batch * w).sum(1), (batch * w).sum(1)], 1)

    result = ir.attacks.pgd(model, x, y, norm="l1", eps=0.5, k=1, steps=20, step_size=0.25, random_start=False)
    expected = torch.tensor([[1.0, 0.0, 0.5], [1.0, 0.25, 0.5]])[largest : largest + 1]
    torch.testing.assert_close(result.adversarial, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("attack", "share"), [("pgd", 0.95), ("apgd", 0.99)])
@pytest.mark.parametrize("norm", NORMS)
def test_corners_of_the_box_do_not_hold_up_the_search(attack: str, share: float, norm: str) -> None:
    """Samples of which many entries start at a bound, or soon are there, and have the largest gradients."""
    w = torch.tensor([[8.0, -4.0, 1.0]], dtype=torch.float64)
    x = torch.rand(64, 3, dtype=torch.float64, generator=rng())
    x[::2] = x[::2].round()

    def model(batch: Tensor) -> Tensor:
        return torch.cat([100 - batch @ w.T, batch @ w.T], 1)

    y = torch.zeros(64, dtype=torch.int64)
    for eps in (0.3, 1.0):
        run = getattr(ir.attacks, attack)
        result = run(model, x, y, norm=norm, eps=eps, steps=100, loss="margin", generator=rng())
        reached = ((result.adversarial - x) * w).sum(1)
        optimum = best_of_a_linear_function(norm, w.expand(64, -1), x, eps, (0.0, 1.0))
        assert (reached >= share * optimum - 1e-9).all()
        assert (reached <= optimum * (1 + 1e-9) + 1e-9).all()


def test_confident_model_does_not_hide_its_gradient() -> None:
    """Logits so far apart that the softmax is 0 and 1 in float32: the gradient of plain cross entropy is zero."""
    model = linear()
    x, _ = batch()
    y = model(x).argmax(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1000)
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y).backward()
    assert leaf.grad is not None
    assert (leaf.grad.flatten(1).norm(dim=1) == 0).any()
    result = ir.attacks.pgd(model, x, y, eps=0.3, steps=4, random_start=False)
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    torch.testing.assert_close(result.adversarial, (x + 0.3 * away.sign()).clamp(0, 1), rtol=0, atol=1e-6)


def test_cross_entropy_equals_torchs() -> None:
    logits = 30 * torch.randn(200, 5, dtype=torch.float64, generator=rng())
    y = torch.randint(5, (200,), generator=rng(1))
    ce = LOSSES["ce"]
    value = ce.value(ce.score(logits, y))
    torch.testing.assert_close(value, F.cross_entropy(logits, y, reduction="none"), rtol=1e-12, atol=1e-12)
    assert (value > 0).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_callable_loss(targeted: bool) -> None:
    """A negated margin has the same optimum on two classes; its values come back as the loss."""

    def margin(logits: Tensor, y: Tensor) -> Tensor:
        return logits.gather(1, 1 - y[:, None]).squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)

    model = linear()
    x, y = batch()
    arguments: dict[str, Any] = {"eps": 0.2, "steps": 8, "targeted": targeted, "random_start": False}
    result = ir.attacks.pgd(model, x, y, loss=margin, **arguments)
    expected = ir.attacks.pgd(model, x, y, **arguments)
    torch.testing.assert_close(result.adversarial, expected.adversarial)
    torch.testing.assert_close(result.loss, margin(model(result.adversarial), y).detach())


@pytest.mark.parametrize("norm", NORMS)
def test_robust_accuracy_falls_with_eps(norm: str, blobs: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = blobs
    radii = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]
    results = [ir.attacks.pgd(model, x, y, norm=norm, eps=eps, steps=20, generator=rng()) for eps in radii]
    accuracy = [1 - result.success.double().mean().item() for result in results]
    clean = (model(x).argmax(1) == y).double().mean().item()
    assert clean > 0.95
    assert accuracy[0] == pytest.approx(clean)
    assert all(after < before for before, after in pairwise(accuracy) if before > 0)
    assert accuracy[-1] < 0.05


def test_target_is_reached(blobs: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = blobs
    target = (y + 1) % 3
    result = ir.attacks.pgd(model, x, target, eps=0.6, steps=30, targeted=True, generator=rng())
    assert result.success.double().mean() > 0.95
    assert torch.equal(result.success, model(result.adversarial).argmax(1) == target)
    assert (result.loss.double() <= losses(model, x, target) + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 2),
    step_size=st.none() | st.floats(0, 3),
    bounds=st.sampled_from([None, (0.0, 1.0), (-0.5, 1.25)]),
    shape=st.sampled_from([(), (6,), (2, 3), (1, 2, 3)]),
    seed=st.integers(0, 1000),
)
def test_every_iterate_stays_in_ball_and_box(
    norm: str, eps: float, step_size: float | None, bounds: Any, shape: tuple[int, ...], seed: int
) -> None:
    network = linear(features=max(1, torch.Size(shape).numel()), classes=3, dtype=torch.float64, seed=seed)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch.reshape(len(batch), -1)).sin()

    x, y = batch(5, shape, 3, torch.float64)
    options: dict[str, Any] = {"step_size": step_size, "restarts": 2, "bounds": bounds, "generator": rng(seed)}
    result = ir.attacks.pgd(model, x, y, norm=norm, eps=eps, steps=4, **options)
    order = {"linf": torch.inf, "l1": 1, "l2": 2}[norm]
    for iterate in (*seen, result.adversarial):
        assert iterate.shape == x.shape
        assert torch.linalg.vector_norm((iterate - x).reshape(5, -1), order, dim=1).max() <= eps + 1e-15 * (1 + eps)
        if bounds is not None:
            assert iterate.min() >= bounds[0]
            assert iterate.max() <= bounds[1]
    distance = torch.linalg.vector_norm((result.adversarial - x).reshape(5, -1), order, dim=1)
    torch.testing.assert_close(result.norm, distance, rtol=1e-15, atol=0)


def test_random_start_is_uniform_in_ball_and_box() -> None:
    """Near the edge of the box the starts fill what is left of the ball evenly, and none sits on the bound."""
    starts: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        starts.append(batch.detach())
        return torch.stack([batch.sum(1), -batch.sum(1)], 1)

    x = torch.full((2, 20000), 0.05, dtype=torch.float64)
    ir.attacks.pgd(model, x, torch.zeros(2, dtype=torch.int64), eps=0.2, steps=1, generator=rng())
    start = starts[1]  # the first evaluation is of x itself
    assert (start > 0).all()
    assert (start < 0.25).all()
    share = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(torch.quantile(start.flatten(), share), 0.25 * share, rtol=0, atol=0.003)
    assert not torch.equal(start[0], start[1])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_random_start_is_uniform_in_the_ball(norm: str, d: int) -> None:
    """Radii to the power d are uniform, directions even; a step size of 0 keeps the start."""
    samples, eps = 20000, 0.25
    starts: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        starts.append(batch.detach())
        return torch.stack([batch.sum(1), -batch.sum(1)], 1)

    x, y = torch.full((samples, d), 0.5, dtype=torch.float64), torch.zeros(samples, dtype=torch.int64)
    ir.attacks.pgd(model, x, y, norm=norm, eps=eps, steps=1, bounds=None, generator=rng())
    delta = (starts[1] - x) / eps
    order = int(norm[1])
    share = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    volume = torch.linalg.vector_norm(delta, order, dim=1) ** d
    torch.testing.assert_close(torch.quantile(volume, share), share, rtol=0, atol=0.02)
    torch.testing.assert_close(delta.mean(0), torch.zeros(d).double(), rtol=0, atol=0.02)
    moment = 1 / (d + 1) if norm == "l1" else 1 / (d + 2)  # of |t| and t² in the unit balls
    torch.testing.assert_close((delta.abs() ** order).mean(0), torch.full((d,), moment).double(), rtol=0, atol=0.01)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_random_start_is_projected_on_ball_and_box(norm: str, dtype: torch.dtype) -> None:
    """With a radius for each sample: what the same numbers give without a box, projected."""
    starts: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        starts.append(batch.detach())
        return torch.stack([batch.sum(1), -batch.sum(1)], 1)

    x, y = batch(50, (9,), dtype=dtype)
    x[:, :3] = 0
    eps = torch.linspace(0.1, 4, 50)
    options: dict[str, Any] = {"norm": norm, "eps": eps, "steps": 1}
    ir.attacks.pgd(model, x.float(), y, bounds=None, generator=rng(), **options)
    ir.attacks.pgd(model, x, y, generator=rng(), **options)
    free, boxed = starts[1] - x, starts[4]
    project = getattr(ir.ops.reference, f"project_{norm}")
    expected = x.double() + project(free.double(), eps, center=x.double(), bounds=(0, 1))
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(boxed.double(), expected, rtol=0, atol=max(2 * rounding, 1e-5))
    assert boxed.min() == 0
    assert boxed.max() <= 1
    length = torch.linalg.vector_norm(boxed.double() - x.double(), int(norm[1]), dim=1)
    assert (length <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_eps_per_sample_equals_one_call_each(norm: str) -> None:
    model = linear(classes=3)
    x, y = batch(6, classes=3)
    eps = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4, 3.0])
    options: dict[str, Any] = {"norm": norm, "steps": 5, "random_start": False}
    together = ir.attacks.pgd(model, x, y, eps=eps, **options)
    for i in range(6):
        alone = ir.attacks.pgd(model, x[i : i + 1], y[i : i + 1], eps=eps[i].item(), **options)
        torch.testing.assert_close(together.adversarial[i : i + 1], alone.adversarial)
        torch.testing.assert_close(together.trace[:, :, i : i + 1], alone.trace)
    assert (together.norm <= eps + 1e-6).all()
    assert torch.equal(together.adversarial[0], x[0])


@pytest.mark.parametrize("norm", NORMS)
def test_step_size_per_sample(norm: str) -> None:
    x, y = batch(3)
    sizes = torch.tensor([0.0, 0.01, 0.02])
    options: dict[str, Any] = {"norm": norm, "random_start": False, "bounds": None, "loss": lambda z, y: z[:, 0]}
    result = ir.attacks.pgd(linear(), x, y, eps=1.0, steps=3, step_size=sizes, **options)
    torch.testing.assert_close(result.norm, 3 * sizes)


@pytest.mark.parametrize(("norm", "path"), [("linf", 2.5), ("l1", 5), ("l2", 10)])
def test_default_step_size_is_a_path_of_some_radii_over_the_steps(norm: str, path: float) -> None:
    x, y = batch()
    options: dict[str, Any] = {"norm": norm, "eps": 0.2, "steps": 8}
    given_size = ir.attacks.pgd(linear(), x, y, step_size=path * 0.2 / 8, generator=rng(), **options)
    default = ir.attacks.pgd(linear(), x, y, generator=rng(), **options)
    assert torch.equal(default.trace, given_size.trace)


def test_k_of_l1_steps() -> None:
    """Its default, and one for each sample: how many entries a first step moves."""
    x, y = torch.full((4, 40), 0.5), torch.zeros(4, dtype=torch.int64)
    options: dict[str, Any] = {"norm": "l1", "eps": 0.4, "steps": 1, "random_start": False}
    for k, counts in ((None, [2] * 4), (0.5, [20] * 4), (torch.tensor([1, 2, 39, 40]), [1, 2, 39, 40])):
        result = ir.attacks.pgd(linear(features=40), x, y, k=k, loss=lambda z, y: z[:, 0], **options)
        assert (result.adversarial != x).sum(1).tolist() == counts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, torch.zeros(16)])
@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_returns_the_input_bit_for_bit(norm: str, dtype: torch.dtype, eps: float | Tensor) -> None:
    x, y = batch(dtype=dtype)
    x[0] = -0.0
    result = ir.attacks.pgd(linear(dtype=dtype), x, y, norm=norm, eps=eps, steps=3)
    assert torch.equal(result.adversarial.view(torch.uint8), x.view(torch.uint8))
    assert result.adversarial.data_ptr() != x.data_ptr()
    assert (result.norm == 0).all()


def test_a_success_beats_a_higher_loss() -> None:
    """The loss here rises while the class comes back: the adversarial sample on the way is the one to keep."""

    def model(batch: Tensor) -> Tensor:
        value = batch.sum(1)
        wrong = (value > 0.25) & (value < 0.45)
        return torch.stack([value, torch.where(wrong, value + 1, value - 1)], 1)

    arguments: dict[str, Any] = {"eps": 0.8, "steps": 8, "step_size": 0.1, "random_start": False}
    x, y = torch.tensor([[0.1]]), torch.tensor([0])
    result = ir.attacks.pgd(model, x, y, loss=lambda logits, y: logits[:, 0], **arguments)
    assert result.success.all()
    torch.testing.assert_close(result.adversarial, torch.tensor([[0.4]]))
    assert result.trace.max() > result.loss.max()


def test_already_misclassified_samples_stay_successes_and_get_worse() -> None:
    model = linear()
    x, _ = batch()
    y = 1 - model(x).argmax(1)
    result = ir.attacks.pgd(model, x, y, eps=0.1, steps=5, generator=rng())
    assert result.success.all()
    assert (result.loss > losses(model, x, y)).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_never_weaken(blobs: tuple[nn.Module, Tensor, Tensor], targeted: bool) -> None:
    model, x, y = blobs
    arguments: dict[str, Any] = {"eps": 0.2, "steps": 2, "step_size": 0.02, "targeted": targeted}
    target = (y + 1) % 3 if targeted else y
    one = ir.attacks.pgd(model, x, target, generator=rng(), **arguments)
    five = ir.attacks.pgd(model, x, target, generator=rng(), restarts=5, **arguments)
    assert five.trace.shape == (5, 3, 300)
    assert torch.equal(five.trace[0], one.trace[0])
    assert (five.success | ~one.success).all()
    assert five.success.sum() > one.success.sum()
    same = five.success == one.success
    assert ((five.loss <= one.loss) if targeted else (five.loss >= one.loss))[same].all()
    assert not torch.equal(five.trace[1], five.trace[0])


def test_trace_is_the_loss_of_every_iterate() -> None:
    network = linear(classes=3)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    x, y = batch(classes=3)
    result = ir.attacks.pgd(model, x, y, eps=0.2, steps=4, restarts=2, generator=rng())
    expected = torch.stack([losses(network, iterate, y) for iterate in seen[1:]]).view(2, 5, 16)
    torch.testing.assert_close(result.trace.double(), expected, rtol=1e-5, atol=1e-6)
    assert not any(field.requires_grad for field in vars(result).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = result.norm  # type: ignore[misc]


@pytest.mark.parametrize("norm", NORMS)
def test_generator_reproduces_and_leaves_the_global_state_alone(norm: str) -> None:
    x, y = batch()
    arguments: dict[str, Any] = {"norm": norm, "eps": 0.3, "steps": 1, "step_size": 0.01}
    before = torch.get_rng_state()
    first = ir.attacks.pgd(linear(), x, y, generator=rng(), **arguments)
    again = ir.attacks.pgd(linear(), x, y, generator=rng(), **arguments)
    other = ir.attacks.pgd(linear(), x, y, generator=rng(1), **arguments)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.trace, again.trace)
    assert not torch.equal(first.adversarial, other.adversarial)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = ir.attacks.pgd(linear(), x, y, **arguments)
        torch.manual_seed(0)
        again = ir.attacks.pgd(linear(), x, y, **arguments)
    assert torch.equal(first.adversarial, again.adversarial)


class Recorder(nn.Module):
    """A network in a mixed state, which notes the flags it runs with and can raise."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.hidden = linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.out = linear(8, 3, seed=1)
        self.calls = 0
        self.fail_at = fail_at
        self.train()
        self.norm.eval()  # frozen inside a training model
        self.out.bias.requires_grad_(False)
        self.out.weight.grad = torch.full_like(self.out.weight, 7.0)

    def forward(self, x: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        assert not any(parameter.requires_grad for parameter in self.parameters())
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of order")
        return self.out(self.dropout(self.norm(self.hidden(x))).relu())

    def state(self) -> list[Any]:
        return [
            [module.training for module in self.modules()],
            [parameter.requires_grad for parameter in self.parameters()],
            [None if parameter.grad is None else parameter.grad.clone() for parameter in self.parameters()],
            [tensor.clone() for tensor in self.state_dict().values()],
        ]


@pytest.mark.parametrize("fail_at", [None, 1, 2, 5])
def test_model_comes_back_as_it_was(fail_at: int | None) -> None:
    model = Recorder(fail_at)
    x, y = batch(classes=3)
    before = model.state()
    if fail_at is None:
        ir.attacks.pgd(model, x, y, eps=0.1, steps=3)
    else:
        with pytest.raises(RuntimeError, match="out of order"):
            ir.attacks.pgd(model, x, y, eps=0.1, steps=3)
    torch.testing.assert_close(model.state(), before, rtol=0, atol=0)


@pytest.mark.parametrize("random_start", [False, True])
def test_arguments_are_not_modified(random_start: bool) -> None:
    x, y = batch()
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    eps = torch.full((16,), 0.1, requires_grad=True)
    copies = [x.detach().clone(), y.clone(), eps.detach().clone()]
    result = ir.attacks.pgd(linear(), x, y, eps=eps, steps=3, random_start=random_start)
    assert all(torch.equal(a.detach(), b) for a, b in zip((x, y, eps), copies, strict=True))
    assert x.requires_grad
    assert x.grad is not None
    assert (x.grad == 1).all()
    assert eps.grad is None
    assert not result.adversarial.requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_models_with_flags_that_cannot_be_set() -> None:
    x, y = batch()
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "random_start": False}
    expected = ir.attacks.pgd(linear(), x, y, **options)
    scripted = torch.jit.freeze(torch.jit.script(linear().eval()))
    torch.testing.assert_close(ir.attacks.pgd(scripted, x, y, **options).adversarial, expected.adversarial)
    with torch.inference_mode():
        model = linear()
    ir.attacks.square(model, x, y, eps=0.1, queries=3)
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True]


def relu_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def centre_in_place(x: Tensor) -> Tensor:
    return x.sub_(0.5)


def scale_data(x: Tensor) -> Tensor:
    x.data.mul_(0.5)
    return x


@pytest.mark.parametrize("write", [relu_in_place, centre_in_place, scale_data])
@pytest.mark.parametrize("random_start", [False, True])
def test_a_model_may_write_to_its_input(write: Callable[[Tensor], Tensor], random_start: bool) -> None:
    """It attacks what it would with a copy, and the caller's samples stay as they were."""
    network = linear()
    x, y = batch()
    before = x.clone()
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "random_start": random_start}
    expected = ir.attacks.pgd(lambda x: network(write(x.clone())), x, y, generator=rng(), **options)
    assert torch.equal(x, before)
    result = ir.attacks.pgd(lambda x: network(write(x)), x, y, generator=rng(), **options)
    assert torch.equal(x, before)
    assert torch.equal(result.adversarial, expected.adversarial)
    assert torch.equal(result.trace, expected.trace)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_gradients_are_off(context: Callable[[], Any]) -> None:
    model = linear()
    x, y = batch()
    expected = ir.attacks.pgd(model, x, y, eps=0.2, steps=3, generator=rng())
    with context():
        inside = ir.attacks.pgd(model, x.clone(), y.clone(), eps=torch.full((16,), 0.2), steps=3, generator=rng())
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(inside.adversarial, expected.adversarial)
    assert not inside.adversarial.is_inference()


@pytest.mark.parametrize("shape", [(), (6,), (1, 2, 3)])
def test_layout_does_not_matter(shape: tuple[int, ...]) -> None:
    network = linear(features=max(1, torch.Size(shape).numel()))

    def model(batch: Tensor) -> Tensor:
        return network(batch.flatten(1) if batch.ndim > 1 else batch[:, None])

    x, y = batch(8, shape)
    spread = torch.stack([x, x], dim=-1)[..., 0]
    assert not spread.is_contiguous()
    expected = ir.attacks.pgd(model, x, y, eps=0.2, steps=3, generator=rng())
    result = ir.attacks.pgd(model, spread, y, eps=0.2, steps=3, generator=rng())
    assert torch.equal(result.adversarial, expected.adversarial)
    assert result.adversarial.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = linear(dtype=dtype)
    x, y = batch(dtype=dtype)
    result = ir.attacks.pgd(model, x, y, eps=0.25, steps=10, generator=rng())
    assert result.adversarial.dtype == dtype
    assert result.loss.dtype == result.norm.dtype == torch.float32
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(result.adversarial, (x + 0.25 * away.sign()).clamp(0, 1), rtol=0, atol=rounding)
    assert (result.norm <= 0.25).all()


def test_under_autocast() -> None:
    model = linear()
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ir.attacks.pgd(model, x, y, eps=0.3, steps=10, generator=rng())
    expected = ir.attacks.pgd(model, x, y, eps=0.3, steps=10, generator=rng())
    assert result.adversarial.dtype == torch.float32
    torch.testing.assert_close(result.adversarial, expected.adversarial)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(0, 6), (0, 3, 4, 4), (0,)])
def test_empty_batch(shape: tuple[int, ...], norm: str) -> None:
    def model(batch: Tensor) -> Tensor:
        raise AssertionError("nothing to evaluate")

    y = torch.zeros(0, dtype=torch.int64)
    result = ir.attacks.pgd(model, torch.zeros(shape), y, norm=norm, eps=torch.zeros(0), steps=3, restarts=2)
    assert result.adversarial.shape == shape
    assert result.trace.shape == (2, 4, 0)
    assert result.success.shape == result.loss.shape == result.norm.shape == (0,)
    assert result.success.dtype == torch.bool
    assert result.loss.dtype == torch.float32


def test_nan_gradient_of_one_sample_leaves_the_others_alone() -> None:
    """Row 1 has a finite loss with a NaN gradient: the others get what they get without it."""
    network = linear(classes=3)

    def model(batch: Tensor) -> Tensor:
        return network(batch) + (batch[:, :1] - 0.5).abs().sqrt() * 0

    x, y = batch(5, classes=3)
    x[:, 0] = 0.9
    x[1, 0] = 0.5  # where the slope of the square root is infinite
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert grad.isnan().any(1).tolist() == [False, True, False, False, False]
    arguments: dict[str, Any] = {"eps": 0.1, "steps": 4, "random_start": False}
    result = ir.attacks.pgd(model, x, y, **arguments)
    rows = torch.tensor([0, 2, 3, 4])
    others = ir.attacks.pgd(model, x[rows], y[rows], **arguments)
    torch.testing.assert_close(result.adversarial[rows], others.adversarial)
    assert result.adversarial.isfinite().all()
    assert result.loss[1] >= losses(network, x, y)[1] - 1e-6


def test_nan_logits_are_never_a_success() -> None:
    """A model that is NaN wherever it is not right: no adversarial sample has been found."""
    network = linear()
    x, _ = batch()
    y = network(x).argmax(1)

    def model(batch: Tensor) -> Tensor:
        logits = network(batch)
        return torch.where((logits.argmax(1) == y)[:, None], logits, torch.nan)

    result = ir.attacks.pgd(model, x, y, eps=0.5, steps=5, generator=rng())
    assert result.trace.isnan().any()
    assert not result.success.any()
    assert result.adversarial.isfinite().all()
    assert result.loss.isfinite().all()


def test_any_number_beats_nan() -> None:
    """Where the model is NaN on the clean sample, the first iterate with a loss is taken."""
    network = linear()
    x, y = batch()
    x[3] = 0

    def model(batch: Tensor) -> Tensor:
        return torch.where(batch.sum(1, keepdim=True) == 0, torch.nan, network(batch))

    result = ir.attacks.pgd(model, x, y, eps=0.1, steps=3, generator=rng())
    assert result.loss.isfinite().all()
    assert result.norm[3] > 0


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = batch()
    ir.attacks.pgd(linear(), x, y, eps=0.1, steps=3, restarts=2)
    assert capsys.readouterr().err == ""
    ir.attacks.pgd(linear(), x, y, eps=0.1, steps=3, restarts=2, progress=True)
    assert "8/8" in capsys.readouterr().err


@pytest.mark.parametrize("norm", NORMS)
def test_no_wait_inside_the_loop(norm: str) -> None:
    """What makes a GPU's host wait: a tensor's values read, or a shape that depends on them. Checks do, once."""

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += torch.Tag.data_dependent_output in op.tags or torch.Tag.dynamic_output_shape in op.tags
            return op(*args, **(kwargs or {}))

    def waits(steps: int, restarts: int) -> int:
        x, y = batch()
        with Waits() as mode:
            ir.attacks.pgd(linear(), x, y, norm=norm, eps=0.1, steps=steps, restarts=restarts)
        return mode.count

    assert waits(1, 1) == waits(7, 3) > 0
