"""`integralrob.perturbations`, beyond what rai_toolbox does: distributions, boxes, restarts, models as they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD

from integralrob import optim
from integralrob.perturbations import (
    AdditivePerturbation,
    PerturbationModel,
    gradient_ascent,
    random_restart,
    uniform_like_l1_n_ball_,
    uniform_like_l2_n_ball_,
    uniform_like_linf_n_ball_,
)

BALLS: dict[str, tuple[Callable[..., None], float]] = {
    "l1": (uniform_like_l1_n_ball_, 1),
    "l2": (uniform_like_l2_n_ball_, 2),
    "linf": (uniform_like_linf_n_ball_, torch.inf),
}
balls = pytest.mark.parametrize("ball", BALLS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sizes(x: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(x.double().flatten(1), order, dim=1)


# ------------------------------------------------------------------------------------------------------------- samplers


@balls
@pytest.mark.parametrize("length", [1, 2, 5])
def test_uniform(ball: str, length: int) -> None:
    """The norm to the power of the dimension is uniform in [0, 1]; entries are symmetric; the first has its density."""
    sample, order = BALLS[ball]
    x = torch.zeros(20_000, length, dtype=torch.float64)
    sample(x, generator=seeded(100 + length))
    assert stats.kstest(sizes(x, order).numpy() ** length, "uniform").pvalue > 1e-3
    assert stats.kstest(x[:, 0].numpy(), -x[:, -1].numpy()).pvalue > 1e-3
    share = (sizes(x, order) < 0.5).double().mean().item()
    assert share == pytest.approx(0.5**length, abs=4 * math.sqrt(0.5**length / len(x)))


@balls
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_radius_per_point(ball: str, dtype: torch.dtype) -> None:
    sample, order = BALLS[ball]
    epsilon = torch.tensor([0.1, 1.0, 3.0])
    x = torch.full((3, 2, 4), 7.0, dtype=dtype)
    sample(x, epsilon=epsilon, param_ndim=-1, generator=seeded())
    roundings = 8 * torch.finfo(dtype).eps
    assert (sizes(x, order) <= epsilon.to(dtype).double() * (1 + roundings)).all()
    same = torch.zeros(3, 2, 4, dtype=dtype)
    sample(same, epsilon=1.0, generator=seeded())
    torch.testing.assert_close(x[1], same[1])


@balls
def test_the_numbers_do_not_depend_on_the_device(ball: str) -> None:
    """A generator that is elsewhere draws where it is: the same numbers as for a tensor there."""
    here, elsewhere = seeded(), seeded()
    BALLS[ball][0](torch.zeros(3, 4), generator=here)
    BALLS[ball][0](torch.zeros(3, 4, device="meta"), generator=elsewhere)
    assert torch.equal(here.get_state(), elsewhere.get_state())


@balls
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_no_points(ball: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    BALLS[ball][0](x)
    assert x.shape == shape


@balls
def test_parameters_stay_parameters(ball: str) -> None:
    x = nn.Parameter(torch.zeros(2, 3))
    BALLS[ball][0](x, generator=None)
    assert x.is_leaf
    assert x.requires_grad
    assert x.any()


@balls
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": [0.0]}, TypeError, "x: expected a tensor"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x: expected a floating-point tensor"),
        ({"epsilon": torch.inf}, ValueError, "epsilon: expected a finite number above 0, got inf"),
        ({"epsilon": 0}, ValueError, "epsilon: expected a finite number above 0, got 0"),
        ({"epsilon": True}, TypeError, "epsilon: expected a number"),
        ({"epsilon": torch.ones(3), "param_ndim": -1}, ValueError, r"epsilon: expected a number or shape \[2\]"),
        ({"epsilon": torch.zeros(2), "param_ndim": -1}, ValueError, "epsilon: expected finite numbers above 0"),
        ({"generator": 3}, TypeError, "generator: expected a torch.Generator or None"),
    ],
)
def test_bad_arguments_of_samplers(ball: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(error, match=message):
        BALLS[ball][0](**{"x": x, **options})
    assert not x.any()


# --------------------------------------------------------------------------------------------------------------- models


def test_the_published_example() -> None:
    """Printed in the documentation of AdditivePerturbation, when numbers from the l1 ball had no signs."""

    def without_signs(delta: Tensor, generator: torch.Generator) -> None:
        uniform_like_l1_n_ball_(delta, generator=generator)
        delta.abs_()

    data = torch.ones(3, 2, 2)
    perturb = AdditivePerturbation(data_or_shape=data, init_fn=without_signs, generator=seeded(0))
    delta = [
        [[0.0885, 0.0436], [0.3642, 0.2720]],
        [[0.3074, 0.1827], [0.1440, 0.2624]],
        [[0.3489, 0.0528], [0.0539, 0.1767]],
    ]
    grad = [
        [[2.1770, 2.0871], [2.7285, 2.5439]],
        [[2.6148, 2.3653], [2.2880, 2.5247]],
        [[2.6978, 2.1056], [2.1078, 2.3534]],
    ]
    perturbed = perturb(data)
    (perturbed**2).sum().backward()
    near = partial(torch.testing.assert_close, rtol=0, atol=6e-5)
    near(perturb.delta.detach(), torch.tensor(delta))
    near(perturbed.detach(), 1 + torch.tensor(delta))
    near(perturb.delta.grad, torch.tensor(grad))

    universal = AdditivePerturbation(data_or_shape=data, delta_ndim=-1, init_fn=without_signs, generator=seeded(1))
    (universal(data) ** 2).mean().backward()
    near(universal.delta.detach(), torch.tensor([[0.2793, 0.4783], [0.4031, 0.3316]]))
    near(universal.delta.grad, torch.tensor([[0.6397, 0.7392], [0.7015, 0.6658]]))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"data_or_shape": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "data_or_shape: expected .* torch.int64"),
        ({"data_or_shape": 5}, TypeError, "data_or_shape: expected a tensor or a sequence of ints"),
        ({"data_or_shape": "23"}, TypeError, "data_or_shape: expected a tensor or a sequence of ints"),
        ({"data_or_shape": (2, 3.0)}, TypeError, "data_or_shape: expected an int"),
        ({"data_or_shape": (2, -3)}, ValueError, "data_or_shape: expected an int of at least 0"),
        ({"delta_ndim": 3}, ValueError, r"delta_ndim: expected at most 2, the axes of \(2, 3\), got 3"),
        ({"delta_ndim": -3}, ValueError, "delta_ndim: "),
        ({"delta_ndim": 1.0}, TypeError, "delta_ndim: "),
        ({"dtype": "float32"}, TypeError, "dtype: "),
        ({"init_fn": 3}, TypeError, "init_fn: expected a function"),
        ({"epsilon": 3.0}, TypeError, "init_fn: expected a function for the keyword arguments"),
    ],
)
def test_bad_arguments_of_models(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AdditivePerturbation(**{"data_or_shape": (2, 3), **given})


def test_models_can_be_copied_and_started_anew() -> None:
    perturb = AdditivePerturbation((2, 3), uniform_like_linf_n_ball_, generator=seeded())
    start = perturb.delta.detach().clone()
    duplicate = copy.deepcopy(perturb)
    perturb.reset_parameters()
    duplicate.reset_parameters()
    assert not torch.equal(perturb.delta, start)  # the generator goes on
    assert torch.equal(perturb.delta, duplicate.delta)
    assert isinstance(duplicate, PerturbationModel)


# -------------------------------------------------------------------------------------------------------------- solvers


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.linear = nn.Linear(6, 3)
        self.linear.weight.data.copy_(torch.randn(3, 6, generator=seeded(5)))
        self.linear.bias.data.zero_()
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fail:
            raise ArithmeticError("no")
        assert not self.norm.training
        assert not self.linear.weight.requires_grad
        return self.linear(self.norm(x))


DATA, TARGET = torch.rand(5, 6, generator=seeded(6)), torch.tensor([0, 1, 2, 0, 1])
PROJECTED = {
    "linf": (optim.LinfProjectedOptim, torch.inf, 0.3),
    "l2": (optim.L2ProjectedOptim, 2, 0.6),
    "l1": (optim.L1ProjectedOptim, 1, 1.0),
}


def solve(**changes: Any) -> tuple[Tensor, Tensor]:
    given = {"model": Classifier(), "data": DATA, "target": TARGET, "optimizer": SGD, "lr": 0.1, "steps": 3}
    return gradient_ascent(**{**given, **changes})


@pytest.mark.parametrize("norm", PROJECTED)
@pytest.mark.parametrize("use_best", [False, True])
def test_perturbed_data_keep_to_ball_and_bounds(norm: str, use_best: bool) -> None:
    kind, order, epsilon = PROJECTED[norm]
    start = partial(AdditivePerturbation, init_fn=nn.init.uniform_, a=-9, b=9)
    perturbed, losses = solve(
        optimizer=kind,
        epsilon=epsilon,
        param_ndim=-1,
        lr=0.4,
        steps=15,
        bounds=(0, 1),
        perturbation_model=start,
        use_best=use_best,
    )
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert (sizes(perturbed - DATA, order) <= epsilon * (1 + 1e-6)).all()
    with torch.no_grad():
        clean = F.cross_entropy(Classifier().eval().requires_grad_(False)(DATA), TARGET, reduction="none")
    assert (losses > clean).all()


@pytest.mark.parametrize("norm", PROJECTED)
def test_the_start_is_projected(norm: str) -> None:
    kind, order, epsilon = PROJECTED[norm]
    start = partial(AdditivePerturbation, init_fn=nn.init.uniform_, a=-9, b=9)
    box = {"bounds": (0, 1), "perturbation_model": start}
    perturbed, _ = solve(optimizer=kind, epsilon=epsilon, param_ndim=-1, steps=0, **box)
    assert (sizes(perturbed - DATA, order) <= epsilon * (1 + 1e-6)).all()
    assert (sizes(perturbed - DATA, order) > 0).all()


@pytest.mark.parametrize("norm", PROJECTED)
def test_the_optimum_of_a_linear_loss(norm: str) -> None:
    """Without bounds ``eps · ‖w‖_*``, the dual norm."""
    kind, order, epsilon = PROJECTED[norm]
    slope = torch.randn(6, generator=seeded(8))
    _, losses = solve(
        model=lambda x: x @ slope,
        target=0.0,
        criterion=lambda output, _: output,
        optimizer=kind,
        epsilon=epsilon,
        param_ndim=-1,
        lr=0.5,
        steps=60,
    )
    dual = {torch.inf: 1, 2: 2, 1: torch.inf}[order]
    torch.testing.assert_close(losses, DATA @ slope + epsilon * slope.norm(dual), rtol=1e-4, atol=1e-4)


def test_bounds_need_an_optimizer_that_projects() -> None:
    with pytest.raises(TypeError, match=r"bounds: expected an optimizer that projects .* got SGD"):
        solve(bounds=(0, 1))
    universal = partial(AdditivePerturbation, delta_ndim=-1)
    with pytest.raises(
        ValueError, match=r"bounds: expected a perturbation like the data, .* \(5, 6\) .* got .* \(6,\)"
    ):
        solve(bounds=(0, 1), optimizer=optim.L2ProjectedOptim, perturbation_model=universal)
    with pytest.raises(
        ValueError, match=r"data: expected values within bounds \(0.0, 1.0\), got values from .* to 1.2"
    ):
        solve(bounds=(0, 1), optimizer=optim.L2ProjectedOptim, data=DATA * 0 + 1.2)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("box", [{}, {"center": torch.zeros(5, 6), "bounds": (-9, 9)}])
def test_an_optimizer_that_exists_comes_back_without_the_bounds(fail: bool, box: dict[str, Any]) -> None:
    perturb, model = AdditivePerturbation(DATA), Classifier()
    optimizer = optim.LinfProjectedOptim(perturb.parameters(), epsilon=0.3, lr=0.1, **box)
    groups = [dict(group) for group in optimizer.param_groups]
    model.fail = fail
    given = {"model": model, "data": DATA, "target": TARGET, "steps": 2, "bounds": (0, 1)}
    try:
        gradient_ascent(**given, perturbation_model=perturb, optimizer=optimizer)
    except ArithmeticError:
        assert fail
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        assert group.keys() == before.keys()
        assert all(group[name] is before[name] for name in before)


def test_bounds_with_a_chain() -> None:
    chain = partial(
        optim.ChainedParamTransformingOptimizer,
        partial(optim.TopQGradientOptimizer, q=0.5),
        optim.SignedGradientOptim,
        partial(optim.L1ProjectedOptim, epsilon=1.0),
    )
    perturbed, _ = solve(optimizer=lambda params, **options: chain(params=params, **options), bounds=(0, 1), steps=9)
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert (sizes(perturbed - DATA, 1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_comes_back_as_it_was(fail: bool) -> None:
    model = Classifier().train()
    model.norm.eval()
    model.linear.bias.requires_grad_(False)
    model.linear.weight.grad = torch.ones(3, 6)
    model.fail = fail
    state = copy.deepcopy(model.state_dict())
    if fail:
        with pytest.raises(ArithmeticError):
            solve(model=model)
    else:
        solve(model=model)
    assert [module.training for module in model.modules()] == [True, False, True]
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == {"linear.bias"}
    assert torch.equal(model.linear.weight.grad, torch.ones(3, 6))
    assert model.linear.bias.grad is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_mode(mode: Any) -> None:
    expected, model = solve(), Classifier()
    with mode():
        perturbed, losses = solve(model=model, data=DATA.clone(), target=TARGET.clone())
    assert torch.equal(perturbed, expected[0])
    assert torch.equal(losses, expected[1])
    assert not perturbed.requires_grad
    assert not losses.requires_grad


def test_a_model_of_inference_tensors_comes_back_as_it_was() -> None:
    with torch.inference_mode():
        model = nn.Linear(6, 3)
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            solve(model=model)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert model.training


def test_data_are_not_changed_and_may_be_numpy() -> None:
    data = DATA.clone().requires_grad_()
    perturbed, _ = solve(data=data)
    assert torch.equal(data, DATA)
    assert data.grad is None
    assert torch.equal(solve(data=DATA.numpy(), target=TARGET.tolist())[0], perturbed)


def test_the_best_step_is_never_worse() -> None:
    last = solve(lr=300.0, steps=7)[1]
    data, best = solve(lr=300.0, steps=7, use_best=True)
    assert (best >= last).all()
    with torch.no_grad():
        again = F.cross_entropy(Classifier().eval().requires_grad_(False)(data), TARGET, reduction="none")
    torch.testing.assert_close(again, best)
    nothing = solve(use_best=True, criterion=lambda output, target: output.sum(1) * torch.nan)
    assert nothing[1].isnan().all()


def test_a_nan_is_never_the_best() -> None:
    seen = iter([torch.nan, 0.25, 0.125, torch.nan])
    perturbed, losses = solve(
        data=[0.0],
        target=0.0,
        model=lambda x: x,
        criterion=lambda output, _: output * 0 + next(seen) + (output - output.detach()),
        use_best=True,
        lr=1.0,
    )
    assert (perturbed.tolist(), losses.tolist()) == ([1.0], [0.25])


class Itself(nn.Module):
    """Optimises the data, not what is added to them."""

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        self.data = nn.Parameter(data.clone())

    def forward(self, _: Tensor) -> Tensor:
        return self.data

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.data)


def test_the_best_is_kept_where_a_model_returns_its_parameter() -> None:
    overshooting: Any = {
        "data": [1.0, 2.0],
        "target": 0.0,
        "model": lambda x: x,
        "criterion": lambda output, _: output**2,
        "targeted": True,
        "lr": 1.2,
        "optimizer": SGD,
        "steps": 4,
    }
    data, losses = gradient_ascent(**overshooting, perturbation_model=Itself, use_best=True)
    assert (data.tolist(), losses.tolist()) == ([1.0, 2.0], [1.0, 4.0])
    found, losses = random_restart(gradient_ascent, 2)(
        **{**overshooting, "targeted": False, "lr": 0.1}, perturbation_model=Itself(torch.tensor([1.0, 2.0]))
    )
    assert (found > 1).all()  # of the first run: the second starts at 0, and stays
    torch.testing.assert_close(losses, found**2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": DATA.long()}, TypeError, "data: expected a floating-point tensor"),
        ({"data": [[1, 2]]}, TypeError, "data: expected a floating-point tensor"),
        ({"steps": -1}, ValueError, "steps: "),
        ({"steps": True}, TypeError, "steps: "),
        ({"targeted": "yes"}, TypeError, "targeted: expected a bool"),
        ({"use_best": 1}, TypeError, "use_best: expected a bool"),
        ({"criterion": "ce"}, TypeError, "criterion: expected a function"),
        ({"reduction_fn": None}, TypeError, "reduction_fn: expected a function"),
        ({"bounds": (1, 0)}, ValueError, "bounds: "),
        ({"perturbation_model": nn.Identity()}, ValueError, "perturbation_model: expected parameters"),
    ],
)
def test_bad_arguments_of_solvers(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solve(**changes)


# ------------------------------------------------------------------------------------------------------------- restarts


def starts_of(perturbation_model: Any, repeats: int = 3, **changes: Any) -> list[list[float]]:
    """Where each run starts: what the criterion sees first, with one step each."""
    seen = []

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        seen.append(output.detach().tolist())
        return (output - target).abs()

    given = {
        "model": lambda x: x,
        "data": [0.0, 0.0],
        "target": 0.0,
        "optimizer": SGD,
        "lr": 0.1,
        "steps": 1,
        **changes,
    }
    if given["lr"] is None:
        del given["lr"]
    random_restart(gradient_ascent, repeats)(**given, criterion=criterion, perturbation_model=perturbation_model)
    return seen[::2]


def test_restarts_start_a_model_that_exists_anew() -> None:
    generator = seeded(3)
    perturb = AdditivePerturbation((2,), uniform_like_linf_n_ball_, generator=generator)
    expected = [perturb.delta.tolist()]
    again = seeded(3)
    other = torch.zeros(2)
    uniform_like_linf_n_ball_(other, generator=again)
    for _ in range(2):
        uniform_like_linf_n_ball_(other, generator=again)
        expected.append(other.tolist())
    assert starts_of(perturb) == expected


def test_restarts_put_a_model_of_another_kind_back() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.tensor([0.5, -0.5]))

        def forward(self, data: Tensor) -> Tensor:
            return data + self.by

    assert starts_of(Shift()) == [[0.5, -0.5]] * 3


def test_restarts_put_an_optimizer_that_exists_back() -> None:
    perturb = AdditivePerturbation((2,), nn.init.ones_)
    optimizer = optim.LinfFrankWolfe(perturb.parameters(), epsilon=3.0, param_ndim=None)
    assert starts_of(perturb, optimizer=optimizer, lr=None) == [[1.0, 1.0]] * 3
    assert optimizer.state[perturb.delta]["step"] == 1


def test_restarts_see_what_a_partial_has() -> None:
    perturb = AdditivePerturbation((1,), nn.init.ones_)
    given: Any = {"data": [0.0], "target": 0.0, "model": lambda x: x, "optimizer": SGD, "lr": 0.1, "steps": 1}
    slopes = iter([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])  # two losses per run
    solver = partial(gradient_ascent, targeted=True, perturbation_model=perturb)
    data, losses = random_restart(solver, 3)(**given, criterion=lambda output, _: next(slopes) * output)
    torch.testing.assert_close((data, losses), (torch.tensor([0.9]), torch.tensor([0.9])))
    torch.testing.assert_close(perturb.delta.detach(), torch.tensor([0.7]))  # of the last run, from 1 again


@pytest.mark.parametrize("targeted", [False, True])
def test_a_nan_is_never_the_best_restart(targeted: bool) -> None:
    runs = [
        (torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, torch.nan, torch.nan])),
        (torch.tensor([[4.0], [5.0], [6.0]]), torch.tensor([torch.nan, 1.0, torch.nan])),
        (torch.tensor([[7.0], [8.0], [9.0]]), torch.tensor([0.0, 2.0, torch.nan])),
    ]
    results = iter(runs)
    data, losses = random_restart(lambda **_: next(results), 3)(targeted=targeted)
    assert data.flatten().tolist() == ([7.0, 5.0, 3.0] if targeted else [1.0, 8.0, 3.0])
    assert losses[:2].tolist() == ([0.0, 1.0] if targeted else [1.0, 2.0])


def test_the_first_of_equals_is_kept() -> None:
    runs = iter([(torch.tensor([[1.0]]), torch.tensor([3.0])), (torch.tensor([[2.0]]), torch.tensor([3.0]))])
    assert random_restart(lambda: next(runs), 2)()[0].tolist() == [[1.0]]


def test_more_restarts_never_weaken() -> None:
    start = partial(AdditivePerturbation, init_fn=uniform_like_l2_n_ball_)
    losses = [
        random_restart(solve, repeats)(perturbation_model=partial(start, generator=seeded()))[1]
        for repeats in (1, 2, 5)
    ]
    assert (losses[0] <= losses[1]).all()
    assert (losses[1] <= losses[2]).all()


def test_bad_arguments_of_restarts() -> None:
    with pytest.raises(TypeError, match="solver: expected a function"):
        random_restart("pgd", 2)
    with pytest.raises(TypeError, match="repeats: expected an int"):
        random_restart(gradient_ascent, 1.5)
