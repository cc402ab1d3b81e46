"""`integralrob.optim`, beyond what rai_toolbox does: balls and boxes, hostile input, copies, groups."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Optimizer

from integralrob import optim
from integralrob.ops import project_l1, project_l2, project_linf

NAN = float("nan")
PROJECTED = {
    "linf": (optim.LinfProjectedOptim, project_linf, torch.inf),
    "l2": (optim.L2ProjectedOptim, project_l2, 2),
    "l1": (optim.L1ProjectedOptim, project_l1, 1),
}
FRANK_WOLFE = {
    "linf": (optim.LinfFrankWolfe, torch.inf),
    "l2": (optim.L2FrankWolfe, 2),
    "l1": (optim.L1FrankWolfe, 1),
    "l1q": (partial(optim.L1qFrankWolfe, q=0.5), 1),
}
# Every optimizer, as ``(params) -> optimizer``.
EVERY: dict[str, Callable[..., Optimizer]] = {
    "base": partial(optim.ParamTransformingOptimizer, lr=0.1),
    "signed": partial(optim.SignedGradientOptim, lr=0.1),
    "l1 normed": partial(optim.L1NormedGradientOptim, lr=0.1),
    "l2 normed": partial(optim.L2NormedGradientOptim, lr=0.1),
    "top q": partial(optim.TopQGradientOptimizer, q=0.5, lr=0.1),
    "l1q normed": partial(optim.L1qNormedGradientOptim, q=0.5, lr=0.1),
    "clamped gradient": partial(optim.ClampedGradientOptimizer, clamp_max=0.5, lr=0.1),
    "clamped parameter": partial(optim.ClampedParameterOptimizer, clamp_max=0.5, lr=0.1),
    **{f"{norm} projected": partial(kind, epsilon=0.5, lr=0.1) for norm, (kind, *_) in PROJECTED.items()},
    **{f"{norm} frank-wolfe": partial(kind, epsilon=0.5) for norm, (kind, _) in FRANK_WOLFE.items()},
    "chain": lambda params, **options: optim.ChainedParamTransformingOptimizer(
        partial(optim.TopQGradientOptimizer, q=0.5),
        optim.SignedGradientOptim,
        partial(optim.L1ProjectedOptim, epsilon=0.5),
        params=params,
        lr=0.1,
        momentum=0.5,
        **options,
    ),
}
every = pytest.mark.parametrize("name", EVERY)
HALF = (torch.float16, torch.bfloat16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stepped(make: Callable[..., Optimizer], start: Tensor, *grads: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The parameter and its gradient after steps."""
    param = start.detach().clone().requires_grad_()
    optimizer = make([param], **options)
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    assert param.grad is not None
    return param.detach(), param.grad


def norms(delta: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(delta.double().flatten(1), order, dim=1)


# -------------------------------------------------------------------------------------------------------- ball and box


@pytest.mark.parametrize("norm", PROJECTED)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 4), length=st.integers(1, 9), per_row=st.booleans())
def test_stays_in_ball_and_box(norm: str, seed: int, rows: int, length: int, per_row: bool) -> None:
    kind, project, order = PROJECTED[norm]
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, length, generator=generator)
    epsilon = torch.rand(rows, generator=generator) if per_row else 0.5
    delta = torch.randn(rows, length, generator=generator)
    grad = torch.randn(rows, length, generator=generator)
    result, _ = stepped(kind, delta, grad, lr=0.3, epsilon=epsilon, param_ndim=-1, center=x, bounds=(0, 1))
    moved, _ = stepped(kind, delta, grad, lr=0.3, epsilon=torch.inf, param_ndim=-1)
    assert torch.equal(result, project(moved, epsilon, center=x, bounds=(0, 1)))
    assert (norms(result, order) <= torch.as_tensor(epsilon).double() * (1 + 2e-7) + 1e-30).all()
    assert (x + result).min() >= -1e-7
    assert (x + result).max() <= 1 + 1e-7


@pytest.mark.parametrize("norm", PROJECTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_ball_without_box(norm: str, dtype: torch.dtype) -> None:
    kind, project, order = PROJECTED[norm]
    delta, grad = normal(5, 3, 7, seed=1, dtype=dtype), normal(5, 3, 7, seed=2, dtype=dtype)
    result, _ = stepped(kind, delta, grad, lr=0.25, epsilon=0.5, param_ndim=-1)
    moved, _ = stepped(kind, delta, grad, lr=0.25, epsilon=torch.inf, param_ndim=-1)
    assert (norms(result, order) <= 0.5 + 1e-6).all()
    torch.testing.assert_close(result, project(moved, 0.5), rtol=2e-6 if dtype not in HALF else 1e-2, atol=2e-7)


@pytest.mark.parametrize("norm", PROJECTED)
def test_one_radius_per_row(norm: str) -> None:
    kind, _, order = PROJECTED[norm]
    delta, epsilon = normal(6, 5), torch.tensor([0.1, 0.2, 0.3, 0.4])
    start = torch.stack([delta[:4], delta[1:5]])  # param_ndim=1 makes eight rows of it
    result, _ = stepped(kind, start, torch.zeros(2, 4, 5), lr=0.1, epsilon=epsilon.repeat(2), param_ndim=1)
    torch.testing.assert_close(norms(result.view(8, 5), order), epsilon.repeat(2).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", FRANK_WOLFE)
def test_frank_wolfe_stays_in_the_ball(norm: str) -> None:
    kind, order = FRANK_WOLFE[norm]
    grads = [normal(4, 2, 3, seed=seed) for seed in range(5)]
    for epsilon in (0.7, torch.tensor([0.1, 0.5, 0.0, 2.0])):
        result, _ = stepped(kind, torch.zeros(4, 2, 3), *grads, epsilon=epsilon)
        assert (norms(result, order) <= torch.as_tensor(epsilon).double() * (1 + 1e-6)).all()
    one = torch.zeros(4, 2, 3)
    result, _ = stepped(kind, one, grads[0], epsilon=0.7)
    assert torch.allclose(norms(result, order), torch.tensor(0.7).double())  # the first step ends at the oracle's point
    per_row, _ = stepped(kind, one, *grads, epsilon=torch.full((4,), 0.7))
    torch.testing.assert_close(per_row, stepped(kind, one, *grads, epsilon=0.7)[0])


@pytest.mark.parametrize("norm", FRANK_WOLFE)
def test_frank_wolfe_with_one_radius_per_row(norm: str) -> None:
    kind, order = FRANK_WOLFE[norm]
    epsilon = torch.linspace(0.1, 0.8, 8)  # param_ndim=1 makes eight rows of it
    result, _ = stepped(kind, torch.zeros(2, 4, 5), normal(2, 4, 5), epsilon=epsilon, param_ndim=1)
    torch.testing.assert_close(norms(result.view(8, 5), order), epsilon.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", FRANK_WOLFE)
def test_frank_wolfe_finds_the_minimum_of_a_linear_function(norm: str) -> None:
    kind, order = FRANK_WOLFE[norm]
    slope = normal(3, 8)
    result, _ = stepped(kind, normal(3, 8, seed=3) * 0.01, *[slope] * 20, epsilon=0.5)
    dual = {torch.inf: 1, 2: 2, 1: torch.inf}[order]
    if norm != "l1q":
        torch.testing.assert_close((slope * result).sum(1).double(), -0.5 * norms(slope, dual), rtol=1e-5, atol=0)


def test_frank_wolfe_radius_per_group() -> None:
    first, second = (torch.zeros(1, 3, requires_grad=True) for _ in range(2))
    optimizer = optim.LinfFrankWolfe([{"params": [first], "epsilon": 3.0}], epsilon=1.0)
    optimizer.add_param_group({"params": [second], "epsilon": 0.5})
    first.grad, second.grad = torch.ones(1, 3), torch.ones(1, 3)
    optimizer.step()
    assert (first.tolist(), second.tolist()) == ([[-3.0] * 3], [[-0.5] * 3])


@pytest.mark.parametrize("norm", FRANK_WOLFE)
def test_a_group_has_one_radius(norm: str) -> None:
    """Not a second name for it that changes nothing."""
    param = torch.zeros(2, 3, requires_grad=True)
    optimizer = FRANK_WOLFE[norm][0]([{"params": [param], "epsilon": 3.0}], epsilon=1.0)
    assert optimizer.param_groups[0]["lmo_scaling_factor"] == 3.0
    assert "epsilon" not in optimizer.param_groups[0]


def test_l1_steps_are_sparse_and_end_at_the_best_vertex() -> None:
    """With a linear loss the minimum over the l1 ball is at one coordinate, the steepest."""
    slope = torch.tensor([[0.1, -0.9, 0.3, 0.2]])
    make = partial(
        optim.ChainedParamTransformingOptimizer,
        partial(optim.TopQGradientOptimizer, q=0.75),
        optim.SignedGradientOptim,
        partial(optim.L1ProjectedOptim, epsilon=2.0),
    )
    result, _ = stepped(lambda params: make(params=params, lr=0.5), torch.zeros(1, 4), *[slope] * 10)
    assert result.tolist() == [[0.0, 2.0, 0.0, 0.0]]


def test_project_needs_no_gradient() -> None:
    delta = torch.full((2, 4), 5.0, requires_grad=True)
    optim.L1ProjectedOptim([delta], epsilon=2.0, lr=0.1).project()
    assert delta.tolist() == [[0.5] * 4] * 2
    assert delta.requires_grad


# ---------------------------------------------------------------------------------------------------- hostile gradients


@every
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_gradient_of_zeros_is_no_nan(name: str, dtype: torch.dtype) -> None:
    param, grad = stepped(EVERY[name], normal(3, 4, dtype=dtype) * 0.01, torch.zeros(3, 4, dtype=dtype))
    assert param.isfinite().all()
    assert not grad.any()
    assert (param.dtype, grad.dtype) == (dtype, dtype)


@every
def test_rows_are_independent_of_a_nan(name: str) -> None:
    grad = normal(3, 4, seed=1)
    grad[1, 2] = NAN
    start = normal(3, 4) * 0.1
    with_nan, _ = stepped(EVERY[name], start, grad)
    without, _ = stepped(EVERY[name], start, grad.nan_to_num(0.5))
    assert torch.equal(with_nan[[0, 2]], without[[0, 2]])


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("rows", [1, 30_000])
def test_l2_norms_of_what_has_no_square(scale: float, rows: int) -> None:
    grad = torch.tensor([[3.0, -4.0]]).repeat(rows, 1)
    grad[-1] *= scale
    _, normed = stepped(optim.L2NormedGradientOptim, torch.zeros(rows, 2), grad, lr=0.1)
    torch.testing.assert_close(normed, torch.tensor([[0.6, -0.8]]).repeat(rows, 1))


def test_of_ties_the_first_are_kept() -> None:
    grad = torch.tensor([[1.0, -2.0, 2.0, -2.0, 0.0], [3.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, math.nan, 1.0]])
    _, kept = stepped(optim.TopQGradientOptimizer, torch.zeros(3, 5), grad, q=0.6, lr=0.1)
    assert kept[:2].tolist() == [[0.0, -2.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0, 0.0]]
    assert torch.equal(kept[2].isnan(), grad[2].isnan())
    _, shared = stepped(optim.L1qNormedGradientOptim, torch.zeros(3, 5), grad, q=0.6, lr=0.1)
    assert shared[:2].tolist() == [[0.0, -0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]
    assert shared[2].isnan().all()


def test_top_q_of_signs_is_sparse() -> None:
    param = torch.zeros(2, 3, 8, 8, requires_grad=True)
    links = (optim.SignedGradientOptim, partial(optim.TopQGradientOptimizer, q=0.9))
    optimizer = optim.ChainedParamTransformingOptimizer(*links, params=[param], lr=1.0)
    param.grad = normal(2, 3, 8, 8, seed=0)
    optimizer.step()
    assert param.count_nonzero(dim=(1, 2, 3)).tolist() == [19, 19]


@given(seed=st.integers(0, 2**16), length=st.integers(1, 40), q=st.floats(0, 1))
def test_top_q_keeps_as_many_as_it_says(seed: int, length: int, q: float) -> None:
    grad = normal(3, length, seed=seed)
    grad[0] = (2 * grad[0]).round()  # with ties and zeros
    _, kept = stepped(optim.TopQGradientOptimizer, torch.zeros(3, length), grad, q=q, lr=0.1)
    count = round((1 - q) * length)
    expected = grad.abs().sort(dim=1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(kept, torch.zeros(3, length).scatter(1, expected, grad.gather(1, expected)))


@every
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_empty_parameters(name: str, shape: tuple[int, ...]) -> None:
    param, grad = stepped(EVERY[name], torch.zeros(shape), torch.zeros(shape))
    assert param.shape == grad.shape == shape


@every
@pytest.mark.parametrize("param_ndim", [None, 0, 1, 2, -1, -2])
def test_strides_do_not_matter(name: str, param_ndim: int | None) -> None:
    start, grad = normal(4, 3, 2, seed=1), normal(4, 3, 2, seed=2)
    make = partial(EVERY[name], param_ndim=param_ndim)
    expected = stepped(make, start, grad)
    param = start.transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    param.grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
    strides, memory = param.stride(), param.data_ptr()
    make([param]).step()
    torch.testing.assert_close((param.detach(), param.grad), expected)
    assert (param.stride(), param.data_ptr()) == (strides, memory)


@every
def test_no_axes(name: str) -> None:
    param, _ = stepped(EVERY[name], torch.tensor(2.0), torch.tensor(3.0), param_ndim=None)
    assert param.shape == ()


# -------------------------------------------------------------------------------------------------------------- errors


@every
def test_sparse_gradients_change_nothing(name: str) -> None:
    first, second = normal(2, 3).requires_grad_(), normal(2, 3).requires_grad_()
    first.grad, second.grad = torch.ones(2, 3), torch.ones(2, 3).to_sparse()
    with pytest.raises(RuntimeError, match=r"expected dense gradients, got torch\.sparse_coo"):
        EVERY[name]([first, second]).step()
    assert torch.equal(first.detach(), normal(2, 3))
    assert torch.equal(first.grad, torch.ones(2, 3))


@every
@pytest.mark.parametrize("param_ndim", [3, -3])
def test_too_many_axes_change_nothing(name: str, param_ndim: int) -> None:
    first, second = normal(2, 3, 4).requires_grad_(), normal(2, 3).requires_grad_()
    first.grad, second.grad = torch.full((2, 3, 4), 3.0), torch.full((2, 3), 3.0)
    optimizer = EVERY[name]([first, second])
    optimizer.param_groups[0]["param_ndim"] = param_ndim
    if name == "base":
        return  # transforms nothing
    with pytest.raises(ValueError, match=rf"param_ndim: expected at most the 2 axes .* \(2, 3\), got {param_ndim}"):
        optimizer.step()
    assert torch.equal(first.detach(), normal(2, 3, 4))
    assert torch.equal(first.grad, torch.full((2, 3, 4), 3.0))


@every
def test_integer_parameters(name: str) -> None:
    with pytest.raises(TypeError, match=r"params: expected floating-point tensors, got a torch.int64 tensor"):
        EVERY[name]([torch.ones(2, 3, dtype=torch.int64)])


X = torch.full((4, 3), 0.5)


@pytest.mark.parametrize("norm", PROJECTED)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": torch.ones(3)}, ValueError, r"epsilon: expected a number or shape \[4\]"),
        ({"epsilon": -torch.ones(4)}, ValueError, "epsilon: expected values of at least 0"),
        ({"epsilon": torch.ones(4), "param_ndim": None}, ValueError, r"epsilon: expected a number or shape \[1\]"),
        ({"epsilon": torch.ones(4, device="meta")}, ValueError, "epsilon: expected it on cpu"),
        ({"bounds": (0, 1)}, ValueError, "center: expected center and bounds together"),
        ({"center": X}, ValueError, "center: expected center and bounds together"),
        ({"center": X[:2], "bounds": (0, 1)}, ValueError, r"center: expected .* \(4, 3\)"),
        ({"center": X.double(), "bounds": (0, 1)}, ValueError, "center: expected .*float32"),
        ({"center": X, "bounds": (1, 0)}, ValueError, "bounds: expected lo <= hi"),
        ({"center": X, "bounds": 1}, TypeError, "bounds: expected a pair"),
        ({"defaults": 3}, TypeError, "defaults: expected a dict or None, got 3"),
    ],
)
def test_bad_balls_and_boxes(norm: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PROJECTED[norm][0]([torch.zeros(4, 3, requires_grad=True)], lr=0.1, **{"param_ndim": -1, **options})


@pytest.mark.parametrize("norm", FRANK_WOLFE)
@pytest.mark.parametrize("epsilon", [-1.0, NAN, torch.ones(3)])
def test_bad_radii_of_frank_wolfe(norm: str, epsilon: Any) -> None:
    param = torch.zeros(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match="epsilon: "):
        FRANK_WOLFE[norm][0]([param], epsilon=epsilon)
    with pytest.raises(ValueError, match="epsilon: "):
        FRANK_WOLFE[norm][0]([{"params": [param], "epsilon": epsilon}], epsilon=1.0)


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("chain", {"epsilon": -1.0}, "epsilon: "),
        ("chain", {"q": 2.0}, "q: expected a number from 0 to 1"),
        ("l2 projected", {"param_ndim": "1"}, "param_ndim: expected an int or None"),
        ("clamped parameter", {"clamp_min": 1.0}, "clamp_min: expected at most clamp_max"),
        ("l1 frank-wolfe", {"lr": -1.0}, "lr: "),
    ],
)
def test_a_bad_group_is_not_added(name: str, group: dict[str, Any], message: str) -> None:
    optimizer: Any = EVERY[name]([torch.zeros(2, 3, requires_grad=True)])
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.add_param_group({"params": [torch.zeros(2, 3, requires_grad=True)], **group})
    assert len(optimizer.param_groups) == len(optimizer.inner_opt.param_groups) == 1


def test_an_existing_inner_optimizer() -> None:
    param, other = (torch.zeros(2, 3, requires_grad=True) for _ in range(2))
    inner = SGD([param], lr=0.5)
    optimizer = optim.SignedGradientOptim([param], inner)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    with pytest.raises(TypeError, match="InnerOpt: expected a type to go with lr, got SGD that exists"):
        optim.SignedGradientOptim([param], inner, lr=0.1)
    with pytest.raises(ValueError, match="params: expected those of the InnerOpt"):
        optim.SignedGradientOptim([other], inner)


def test_an_inner_optimizer_of_other_groups() -> None:
    param, other = (torch.zeros(2, 3, requires_grad=True) for _ in range(2))
    for made in ([param], [{"params": [other], "param_ndim": 1, "grad_scale": 1.0, "grad_bias": 0.0}]):
        with pytest.raises(ValueError, match="InnerOpt: expected an optimizer of the groups that it is given"):
            optim.SignedGradientOptim([param], lambda _, made=made: SGD(made, lr=0.1))


def test_what_a_user_passes_in_is_not_changed() -> None:
    group, defaults = {"params": [torch.zeros(2, 3, requires_grad=True)]}, {"epsilon": 0.5}
    optimizer = optim.L2ProjectedOptim([group], lr=0.1, defaults=defaults)
    assert optimizer.param_groups[0]["epsilon"] == 0.5
    assert (list(group), defaults) == (["params"], {"epsilon": 0.5})


# ------------------------------------------------------------------------------------------------------- state, copies


@every
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))]
)
def test_copies_go_on_alike(name: str, duplicate: Callable[[Any], Any]) -> None:
    def moved(optimizer: Any, seeds: range) -> Tensor:
        (param,) = optimizer.param_groups[0]["params"]
        for seed in seeds:
            param.grad = normal(3, 4, seed=seed)
            optimizer.step()
        return param.detach().clone()

    expected = moved(EVERY[name]([normal(3, 4).requires_grad_()]), range(5))
    original = EVERY[name]([normal(3, 4).requires_grad_()])
    moved(original, range(3))
    original.register_step_post_hook(lambda *_: None)
    torch.optim.lr_scheduler.StepLR(original, 1)
    original._own = "kept"
    made = duplicate(original)
    assert made._own == "kept"
    assert torch.equal(moved(made, range(3, 5)), expected)
    assert made.inner_opt.param_groups is made.param_groups
    assert made.inner_opt.state is made.state
    made.add_param_group({"params": [torch.zeros(2, 2, requires_grad=True)]})
    assert repr(made).count("Parameter Group") == 2


@every
def test_state_dicts_go_on_alike(name: str) -> None:
    params = [normal(3, 4).requires_grad_() for _ in range(2)]
    first, second = (EVERY[name]([param]) for param in params)
    for seed in range(3):
        params[0].grad = normal(3, 4, seed=seed)
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    params[1].data.copy_(params[0].data)
    for param, optimizer in zip(params, (first, second), strict=True):
        param.grad = normal(3, 4, seed=9)
        optimizer.step()
    assert torch.equal(*params)


def test_links_of_a_chain_share_what_is_loaded() -> None:
    chain: Any = EVERY["chain"]([normal(3, 4).requires_grad_()])
    chain.load_state_dict(chain.state_dict())
    for link in (*chain.chain, *copy.deepcopy(chain).chain):
        assert link.param_groups is link.inner_opt.param_groups
        assert link.state is link.inner_opt.state


def test_a_closure_sees_gradients_as_they_are() -> None:
    param = normal(2, 3).requires_grad_()
    optimizer = optim.SignedGradientOptim([param], torch.optim.LBFGS, lr=0.1, max_iter=3)
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        assert param.grad is not None
        seen.append(torch.equal(param.grad, 2 * param.detach()))
        return loss

    assert isinstance(optimizer.step(closure), Tensor)
    assert len(seen) >= 3
    assert all(seen)


def test_hooks_and_schedulers() -> None:
    param = normal(2, 3).requires_grad_()
    optimizer = optim.LinfProjectedOptim([param], epsilon=0.5, lr=0.1)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(param.abs().max().item()))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    param.grad = normal(2, 3)
    optimizer.step()
    scheduler.step()
    assert seen == [0.5]  # after the projection
    assert optimizer.inner_opt.param_groups[0]["lr"] == 0.05


def test_gradients_of_a_scaled_loss() -> None:
    """Normalisation takes the scale away, in half types too."""
    param = normal(2, 3, dtype=torch.float16).requires_grad_()
    other, grad = stepped(optim.L2ProjectedOptim, param, normal(2, 3, dtype=torch.float16) * 1000, epsilon=0.5, lr=0.1)
    again, _ = stepped(optim.L2ProjectedOptim, param, normal(2, 3, dtype=torch.float16), epsilon=0.5, lr=0.1)
    torch.testing.assert_close(other, again, rtol=1e-2, atol=1e-3)
    assert grad.dtype == torch.float16
