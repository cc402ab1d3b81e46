"""Programs that run unchanged with rai_toolbox 0.2.1 and with integralrob: each takes either package.

``python -m tests.rai_programs`` records what they give with rai_toolbox, into `RECORD`.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

RECORD = Path(__file__).parent / "data" / "rai_toolbox_0_2_1.json"

Program = Callable[[Any], Any]
PROGRAMS: dict[str, Program] = {}

BALLS = ("l1", "l2", "linf")
NORMED = ("SignedGradientOptim", "L1NormedGradientOptim", "L2NormedGradientOptim")
PROJECTED = ("LinfProjectedOptim", "L2ProjectedOptim")
FRANK_WOLFE = ("L1FrankWolfe", "L2FrankWolfe", "LinfFrankWolfe")
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in NORMED},
    **{name: {"epsilon": 0.75} for name in PROJECTED},
    "L1qNormedGradientOptim": {"q": 0.6},
    "TopQGradientOptimizer": {"q": 0.6},
    "ClampedGradientOptimizer": {"clamp_min": -0.5, "clamp_max": 0.75},
    "ClampedParameterOptimizer": {"clamp_max": 0.5},
}


def program(name: str) -> Callable[[Program], Program]:
    def keep(function: Program) -> Program:
        assert name not in PROGRAMS
        PROGRAMS[name] = function
        return function

    return keep


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def plain(value: Any) -> Any:
    """Tensors as lists, for JSON, of numbers with 7 digits."""
    if isinstance(value, Tensor):
        return plain(value.detach().double().tolist())
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def run(name: str, package: Any) -> Any:
    """What a program gives, or the type of its error."""
    try:
        return json.loads(json.dumps(plain(PROGRAMS[name](package))))
    except (TypeError, ValueError) as error:
        return {"raises": type(error).__name__}


def trajectory(make: Callable[[list[Tensor]], Optimizer], start: Tensor, steps: int = 3) -> Iterator[Tensor]:
    """Gradients as transformed, and the parameter after each step."""
    param = start.clone().requires_grad_()
    optimizer = make([param])
    for step in range(steps):
        param.grad = normal(*start.shape, seed=100 + step, dtype=start.dtype)
        optimizer.step()
        yield param.grad.clone()
        yield param.detach().clone()


# ------------------------------------------------------------------------------------------------------------- samplers

for ball, dtype, param_ndim in itertools.product(BALLS, (torch.float32, torch.float64), (-1, None, 0, 1, 2, -2)):

    @program(f"uniform in the {ball} ball, {dtype}, param_ndim={param_ndim}")
    def _(package: Any, ball: str = ball, dtype: torch.dtype = dtype, param_ndim: int | None = param_ndim) -> Any:
        x = torch.zeros(2, 2, 3, dtype=dtype)
        sample = getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")
        assert sample(x, epsilon=0.3, param_ndim=param_ndim, generator=seeded(1)) is None
        return x


for ball in BALLS:

    @program(f"the {ball} ball by default")
    def _(package: Any, ball: str = ball) -> Any:
        torch.manual_seed(3)
        x = torch.zeros(3, 4)
        getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")(x)
        return x

    @program(f"the {ball} ball with strides")
    def _(package: Any, ball: str = ball) -> Any:
        x = torch.zeros(4, 3).t()
        getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")(x, 2, generator=seeded(2))
        return x

    for wrong in ({"epsilon": 0}, {"epsilon": -1.0}, {"epsilon": torch.nan}, {"epsilon": "1"}, {"epsilon": None}):

        @program(f"the {ball} ball with {wrong}")
        def _(package: Any, ball: str = ball, wrong: dict[str, Any] = wrong) -> Any:
            getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")(torch.zeros(2, 2), **wrong)


for ball, param_ndim in itertools.product(("l1", "l2"), (4, -4)):

    @program(f"the {ball} ball with param_ndim={param_ndim} of 3 axes")
    def _(package: Any, ball: str = ball, param_ndim: int = param_ndim) -> Any:
        x = torch.zeros(2, 2, 3)
        getattr(package.perturbations, f"uniform_like_{ball}_n_ball_")(x, param_ndim=param_ndim)


# --------------------------------------------------------------------------------------------------------------- models

for delta_ndim in (None, 0, 1, 2, 3, -1, -2, -3):

    @program(f"additive, delta_ndim={delta_ndim}")
    def _(package: Any, delta_ndim: int | None = delta_ndim) -> Any:
        perturb = package.perturbations.AdditivePerturbation(
            (2, 2, 3),
            package.perturbations.uniform_like_linf_n_ball_,
            delta_ndim=delta_ndim,
            generator=seeded(4),
            epsilon=0.2,
        )
        perturb(torch.ones(2, 2, 3)).square().mean().backward()
        return [perturb.delta, perturb.delta.grad, list(perturb.state_dict())]


@program("additive, dtype and device")
def _(package: Any) -> Any:
    model = package.perturbations.AdditivePerturbation
    made = [model(torch.ones(2, dtype=torch.float64)), model(torch.ones(2), dtype=torch.float16), model([2])]
    made += [model(torch.ones(2), device="meta"), model(torch.ones(2, dtype=torch.int64), dtype=torch.float32)]
    return [[str(perturb.delta.dtype), perturb.delta.device.type] for perturb in made]


@program("additive, arguments without a function")
def _(package: Any) -> Any:
    package.perturbations.AdditivePerturbation((2,), epsilon=1.0)


@program("the protocol")
def _(package: Any) -> Any:
    protocol, model = package.perturbations.PerturbationModel, package.perturbations.AdditivePerturbation
    return [isinstance(thing, protocol) for thing in (model((2,)), nn.Identity(), torch.sin, 3)] + [
        issubclass(model, protocol)
    ]


# ----------------------------------------------------------------------------------------------------------- optimizers

for name, options in OPTIONS.items():
    for param_ndim in (None, 0, 1, 2, 3, -1, -2, -3):

        @program(f"{name}, param_ndim={param_ndim}")
        def _(
            package: Any, name: str = name, options: dict[str, Any] = options, param_ndim: int | None = param_ndim
        ) -> Any:
            make = partial(getattr(package.optim, name), **options, param_ndim=param_ndim, lr=0.7)
            return list(trajectory(make, normal(2, 2, 3)))

    for inner in (partial(SGD, lr=0.5, momentum=0.9), partial(Adam, lr=0.5), partial(AdamW, lr=0.3)):

        @program(f"{name} around {inner.func.__name__}")
        def _(package: Any, name: str = name, options: dict[str, Any] = options, inner: Any = inner) -> Any:
            make = partial(getattr(package.optim, name), InnerOpt=inner, **options)
            return list(trajectory(make, normal(3, 4)))

    @program(f"{name}, scale and bias")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        make = partial(getattr(package.optim, name), **options, grad_scale=2.5, grad_bias=0.25, lr=0.1)
        return list(trajectory(make, normal(2, 5)))

    for kind in (torch.float64, torch.bfloat16):

        @program(f"{name}, {kind}")
        def _(package: Any, name: str = name, options: dict[str, Any] = options, kind: torch.dtype = kind) -> Any:
            make = partial(getattr(package.optim, name), **options, lr=0.5)
            return list(trajectory(make, normal(2, 5, dtype=kind)))

    @program(f"{name}, defaults, groups and state")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        first, second = (normal(2, 3, seed=seed).requires_grad_() for seed in (1, 2))
        optimizer = getattr(package.optim, name)([first], lr=0.5, momentum=0.5, **options)
        optimizer.add_param_group({"params": [second], "lr": 0.1, "grad_scale": 3.0, "param_ndim": None})
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        values = []
        for step in range(3):
            optimizer.zero_grad()
            ((first + second) * normal(2, 3, seed=step)).sum().backward()
            optimizer.step()
            scheduler.step()
            values += [first.detach().clone(), second.detach().clone()]
        shared = [
            optimizer.inner_opt.param_groups is optimizer.param_groups,
            optimizer.inner_opt.state is optimizer.state,
        ]
        return [
            values,
            sorted(optimizer.state_dict()["param_groups"][1].items()),
            optimizer.state_dict()["state"],
            shared,
        ]

    @program(f"{name}, state dict to another")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        make = partial(getattr(package.optim, name), InnerOpt=Adam, **options)
        first, second = (normal(2, 3).requires_grad_() for _ in range(2))
        one, other = make([first], lr=0.5), make([second], lr=0.1)
        first.grad = normal(2, 3, seed=5)
        one.step()
        other.load_state_dict(one.state_dict())
        second.grad = normal(2, 3, seed=6)
        other.step()
        return [second, other.inner_opt.param_groups is other.param_groups, other.inner_opt.state is other.state]

    @program(f"{name}, closure")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        param = normal(2, 3).requires_grad_()
        optimizer = getattr(package.optim, name)([param], lr=0.5, **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (param * normal(2, 3, seed=1)).sum()
            loss.backward()
            return loss

        return [optimizer.step(closure), param, param.grad]

    @program(f"{name}, text")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        text = repr(getattr(package.optim, name)([torch.zeros(2, 2, requires_grad=True)], lr=0.5, **options))
        return text.partition("\n")[2]  # the first line of the sparse one tells how it is made

    for wrong in (
        {"params": None},
        {"params": []},
        {"params": torch.ones(2, requires_grad=True)},
        {"params": [torch.ones(2, requires_grad=True) * 2]},
        {"params": "ab"},
        {"InnerOpt": 3},
        {"InnerOpt": lambda params, **_: 3},
        {"param_ndim": 1.0},
        {"param_ndim": "1"},
        {"grad_scale": "1"},
        {"grad_bias": None},
        {"unknown": 1},
    ):

        @program(f"{name}, wrong {'InnerOpt that returns 3' if callable(wrong.get('InnerOpt')) else wrong}")
        def _(package: Any, name: str = name, options: dict[str, Any] = options, wrong: dict[str, Any] = wrong) -> Any:
            given = {"params": [torch.ones(2, 2, requires_grad=True)], **options, **wrong}
            getattr(package.optim, name)(**given)

    for param_ndim in (3, -3):

        @program(f"{name}, param_ndim={param_ndim} of 2 axes")
        def _(package: Any, name: str = name, options: dict[str, Any] = options, param_ndim: int = param_ndim) -> Any:
            make = partial(getattr(package.optim, name), **options, param_ndim=param_ndim, lr=0.7)
            list(trajectory(make, normal(2, 3)))


@program("L2ProjectedOptim around LBFGS")
def _(package: Any) -> Any:
    param = normal(2, 3).requires_grad_()
    optimizer = package.optim.LinfProjectedOptim([param], torch.optim.LBFGS, lr=0.1, epsilon=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param * normal(2, 3, seed=1)).sum()
        loss.backward()
        return loss

    return [optimizer.step(closure), param, param.grad]


@program("radii per group, and projection without a gradient")
def _(package: Any) -> Any:
    params = [normal(2, 3, seed=seed).requires_grad_() for seed in range(3)]
    for name in PROJECTED:
        groups = [{"params": params[:1], "epsilon": 0.1}, {"params": params[1:]}]
        getattr(package.optim, name)(groups, epsilon=0.4, lr=0.1).step()
    return params


for wrong in ({"epsilon": -1}, {"epsilon": "1"}, {"epsilon": None}, {"epsilon": torch.nan}):
    for name in PROJECTED:

        @program(f"{name}, wrong {wrong}")
        def _(package: Any, name: str = name, wrong: dict[str, Any] = wrong) -> Any:
            getattr(package.optim, name)([torch.ones(2, 2, requires_grad=True)], lr=0.1, **wrong)


for name, wrong in itertools.product(
    ("TopQGradientOptimizer", "L1qNormedGradientOptim"),
    ({"q": -0.1}, {"q": 1.1}, {"q": "1"}, {"dq": -0.1}, {"dq": 1.1}, {"generator": None}),
):

    @program(f"{name}, wrong {wrong}")
    def _(package: Any, name: str = name, wrong: dict[str, Any] = wrong) -> Any:
        getattr(package.optim, name)([torch.ones(2, 2, requires_grad=True)], lr=0.1, **wrong)


for name, wrong in itertools.product(
    ("ClampedGradientOptimizer", "ClampedParameterOptimizer"), ({}, {"clamp_min": 2.0, "clamp_max": 1.0})
):

    @program(f"{name}, wrong {wrong}")
    def _(package: Any, name: str = name, wrong: dict[str, Any] = wrong) -> Any:
        getattr(package.optim, name)([torch.ones(2, 2, requires_grad=True)], lr=0.1, **wrong)


for name in ("TopQGradientOptimizer", "L1qNormedGradientOptim"):
    for q in (0.0, 0.1, 0.25, 0.3, 0.5, 0.64, 0.75, 0.9, 0.95, 1.0):

        @program(f"{name}, q={q}")
        def _(package: Any, name: str = name, q: float = q) -> Any:
            kept = []
            for length in (1, 2, 3, 4, 5, 7, 10, 11):
                make = partial(getattr(package.optim, name), q=q, lr=0.0)
                kept.append(next(trajectory(make, normal(2, length))))
            return kept

    for q, dq in ((0.5, 0.3), (0.9, 0.4), (0.2, 1.0)):

        @program(f"{name}, q={q}, dq={dq}")
        def _(package: Any, name: str = name, q: float = q, dq: float = dq) -> Any:
            make = partial(getattr(package.optim, name), q=q, dq=dq, generator=seeded(7), lr=0.1)
            return list(trajectory(make, normal(2, 20)))


for name in (*FRANK_WOLFE, "L1qFrankWolfe"):
    # that of rai_toolbox leaves the l1 ball where a row has more than one axis
    for param_ndim in (0, 1, -1) if name == "L1FrankWolfe" else (None, 0, 1, 2, -1):
        for schedule in ({}, {"lr": 0.5}, {"lr": 0.3, "use_default_lr_schedule": False}):

            @program(f"{name}, param_ndim={param_ndim}, {schedule}")
            def _(
                package: Any, name: str = name, param_ndim: int | None = param_ndim, schedule: dict[str, Any] = schedule
            ) -> Any:
                more = {"q": 0.6} if name == "L1qFrankWolfe" else {}
                make = partial(getattr(package.optim, name), epsilon=1.5, param_ndim=param_ndim, **more, **schedule)
                return list(trajectory(make, normal(2, 3), steps=4))

    @program(f"{name}, state")
    def _(package: Any, name: str = name) -> Any:
        more = {"q": 0.6} if name == "L1qFrankWolfe" else {}
        param = normal(2, 3).requires_grad_()
        optimizer = getattr(package.optim, name)([param], epsilon=1.5, **more)
        param.grad = normal(2, 3, seed=1)
        optimizer.step()
        groups = [{key: group[key] for key in group if key != "differentiable"} for group in optimizer.param_groups]
        return [optimizer.state_dict()["state"], [sorted(set(group) - {"params"}) for group in groups]]

    for wrong in (
        {"lr": -1.0},
        {"lr": "1"},
        {"lr": 1.5, "use_default_lr_schedule": False},
        {"use_default_lr_schedule": "no"},
        {"epsilon": "1"},
        {"epsilon": None},
        {"div_by_zero_eps": -1.0},
        {"lmo_scaling_factor": 1.0},
    ):

        @program(f"{name}, wrong {wrong}")
        def _(package: Any, name: str = name, wrong: dict[str, Any] = wrong) -> Any:
            more = {"q": 0.6} if name == "L1qFrankWolfe" else {}
            given = {"epsilon": 1.0, **more, **wrong}
            getattr(package.optim, name)([torch.ones(2, 2, requires_grad=True)], **given)


for name, options in {"FrankWolfe": {}, "L1FrankWolfe": {"epsilon": 1.5}, "LinfFrankWolfe": {"epsilon": 1.5}}.items():

    @program(f"{name}, with a least divisor")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        return list(trajectory(partial(getattr(package.optim, name), div_by_zero_eps=3.5, **options), normal(2, 3)))


@program("FrankWolfe")
def _(package: Any) -> Any:
    return list(trajectory(partial(package.optim.FrankWolfe, lmo_scaling_factor=0.5), normal(2, 3), steps=4))


@program("a chain")
def _(package: Any) -> Any:
    optim = package.optim
    first, second = torch.ones(3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    optimizer = optim.ChainedParamTransformingOptimizer(
        partial(optim.TopQGradientOptimizer, q=0.33),
        partial(optim.ClampedGradientOptimizer, clamp_max=2.8),
        params=[first],
        lr=1.0,
        param_ndim=None,
    )
    (torch.tensor([1.0, 2.0, 3.0]) * first).sum().backward()
    optimizer.step()
    values = [first.grad.clone(), first.detach().clone(), repr(optimizer)]
    optimizer.add_param_group({"params": second, "param_ndim": 1, "q": 0.64})
    optimizer.zero_grad()
    (torch.tensor([1.0, 2.0, 3.0]) * (first + second)).sum().backward()
    optimizer.step()
    return [*values, first.grad, second.grad, first, second, repr(optimizer)]


@program("a chain, scaled once, with projections")
def _(package: Any) -> Any:
    optim = package.optim
    make = partial(
        optim.ChainedParamTransformingOptimizer,
        partial(optim.L2ProjectedOptim, epsilon=0.5),
        optim.SignedGradientOptim,
        partial(optim.ClampedParameterOptimizer, clamp_max=0.2),
        grad_scale=2.0,
        grad_bias=0.5,
        InnerOpt=Adam,
        lr=0.3,
    )
    return list(trajectory(lambda params: make(params=params), normal(2, 3)))


for chain in ((SGD,), (3,)):

    @program(f"a chain of {chain}")
    def _(package: Any, chain: tuple[Any, ...] = chain) -> Any:
        package.optim.ChainedParamTransformingOptimizer(*chain, params=[torch.ones(2, requires_grad=True)])


@program("a chain without parameters")
def _(package: Any) -> Any:
    package.optim.ChainedParamTransformingOptimizer(package.optim.SignedGradientOptim)


@program("nested optimizers, and one that exists")
def _(package: Any) -> Any:
    optim = package.optim
    inner = partial(optim.ClampedParameterOptimizer, clamp_max=0.5, lr=0.1)
    nested = list(trajectory(lambda params: optim.L2NormedGradientOptim(params, inner), normal(2, 3)))
    existing = trajectory(lambda params: optim.ParamTransformingOptimizer(InnerOpt=SGD(params, lr=0.3)), normal(2, 3))
    return [nested, list(existing)]


@program("transformations of one's own")
def _(package: Any) -> Any:
    class Own(package.optim.ParamTransformingOptimizer):  # type: ignore[name-defined, misc]
        def _pre_step_transform_(self, param: Tensor, **_: Any) -> None:
            shapes.append(list(param.shape))
            param.grad /= param.grad.flatten(1).max(dim=1).values.view(-1, *[1] * (param.ndim - 1))

        def _post_step_transform_(self, param: Tensor, optim_group: dict[str, Any]) -> None:
            shapes.append(list(param.shape))
            param.clamp_(min=-1.0, max=optim_group["lr"])

    shapes: list[list[int]] = []
    values = [
        list(trajectory(partial(Own, lr=0.5, param_ndim=param_ndim), normal(2, 3, 2), steps=1))
        for param_ndim in (None, 0, 1, 2, 3, -1, -2, -3)
    ]
    return [values, shapes]


@program("a transformation that replaces the gradient")
def _(package: Any) -> Any:
    class Own(package.optim.ParamTransformingOptimizer):  # type: ignore[name-defined, misc]
        def _pre_step_transform_(self, param: Tensor, **_: Any) -> None:
            param.grad = param.grad.sign()

    return list(trajectory(partial(Own, lr=0.5, param_ndim=None), normal(2, 3)))


@program("draws for q")
def _(package: Any) -> Any:
    generator = seeded(5)
    shares = (0.3, 0.0, 0.2)
    groups = [{"params": [normal(2, 20, seed=seed).requires_grad_()], "dq": dq} for seed, dq in enumerate(shares)]
    optimizer = package.optim.L1qNormedGradientOptim(groups, q=0.5, lr=0.1, generator=generator)
    for step in range(2):
        for seed, group in enumerate(groups):
            group["params"][0].grad = normal(2, 20, seed=10 * step + seed)
        optimizer.step()
    return [*(group["params"][0] for group in groups), torch.rand(1, generator=generator)]


for name in ("L1NormedGradientOptim", "L2NormedGradientOptim"):

    @program(f"{name}, with a least divisor")
    def _(package: Any, name: str = name) -> Any:
        return list(trajectory(partial(getattr(package.optim, name), lr=0.1, div_by_zero_eps=5.0), normal(2, 3)))


@program("a transformation that removes the gradient")
def _(package: Any) -> Any:
    class Own(package.optim.ParamTransformingOptimizer):  # type: ignore[name-defined, misc]
        def _pre_step_transform_(self, param: Tensor, **_: Any) -> None:
            param.grad = None

    return list(trajectory(partial(Own, lr=0.5), normal(2, 3)))


@program("a transformation of one object")
def _(package: Any) -> Any:
    def make(params: list[Tensor]) -> Any:
        optimizer = package.optim.ParamTransformingOptimizer(params, lr=0.5)
        optimizer._pre_step_transform_ = lambda param, **_: param.grad.sign_()
        return optimizer

    return list(trajectory(make, normal(2, 3)))


@program("transformations that build on others")
def _(package: Any) -> Any:
    class Doubled(package.optim.SignedGradientOptim):  # type: ignore[name-defined, misc]
        def _pre_step_transform_(self, param: Tensor, **_: Any) -> None:
            super()._pre_step_transform_(param)
            param.grad *= 2

    class MaxNormed(package.optim.L2NormedGradientOptim):  # type: ignore[name-defined, misc]
        def per_datum_norm(self, x: Tensor) -> Tensor:
            assert x.shape == (2, 12)
            return x.abs().amax(dim=1)

    return [list(trajectory(partial(kind, lr=0.5), normal(2, 3, 4))) for kind in (Doubled, MaxNormed)]


@program("a link that looks at its parameters")
def _(package: Any) -> Any:
    class Own(package.optim.ParamTransformingOptimizer):  # type: ignore[name-defined, misc]
        def __init__(self, params: Any, InnerOpt: Any = SGD, *, power: float = 1.0, **options: Any) -> None:
            self.power = power
            super().__init__(list(params), InnerOpt, **options)

        def _pre_step_transform_(self, param: Tensor, **_: Any) -> None:
            param.grad *= param.grad.abs() ** self.power

    chain = partial(package.optim.ChainedParamTransformingOptimizer, partial(Own, power=2.0))
    return list(trajectory(lambda params: chain(params=params, lr=0.5), normal(2, 3)))


for param_ndim, shape in ((3, (2, 3)), (-3, (2, 3)), (-1, ())):

    @program(f"param_ndim={param_ndim} of a parameter {shape}, without a step")
    def _(package: Any, param_ndim: int = param_ndim, shape: tuple[int, ...] = shape) -> Any:
        package.optim.SignedGradientOptim([torch.ones(shape, requires_grad=True)], lr=0.1, param_ndim=param_ndim)


@program("a closure, with an inner optimizer that does not see to gradients")
def _(package: Any) -> Any:
    class Plain(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            for param in self.param_groups[0]["params"]:
                param -= 0.1 * param.grad
            return loss

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    param = normal(2, 3).requires_grad_()
    optimizer = package.optim.SignedGradientOptim([param], Plain)
    return [optimizer.step(closure), param]


for name, options in {
    "L1NormedGradientOptim": {},
    "L2NormedGradientOptim": {},
    "L2ProjectedOptim": {"epsilon": 0.75},
    "TopQGradientOptimizer": {"q": 0.6},
}.items():

    @program(f"{name}, complex")
    def _(package: Any, name: str = name, options: dict[str, Any] = options) -> Any:
        param = torch.complex(normal(2, 5), normal(2, 5, seed=1)).requires_grad_()
        param.grad = torch.complex(normal(2, 5, seed=2), normal(2, 5, seed=3))
        getattr(package.optim, name)([param], lr=0.1, **options).step()
        return [torch.view_as_real(value.detach()) for value in (param, param.grad)]


# -------------------------------------------------------------------------------------------------------------- solvers


def classifier() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=index) * 0.7)
    return model


SOLVED: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "LinfProjectedOptim": {"lr": 0.1, "epsilon": 0.2},
    "L2ProjectedOptim": {"lr": 0.2, "epsilon": 0.5},
    "L1FrankWolfe": {"epsilon": 0.8},
    "L2FrankWolfe": {"epsilon": 0.5},
    "L1qNormedGradientOptim": {"lr": 0.3, "q": 0.5},
}
for name, options in SOLVED.items():
    for more in ({}, {"targeted": True}, {"use_best": True}, {"steps": 0}):

        @program(f"gradient_ascent with {name}, {more}")
        def _(package: Any, name: str = name, options: dict[str, Any] = options, more: dict[str, Any] = more) -> Any:
            optimizer = getattr(package.optim, name, None) or getattr(torch.optim, name)
            given = {"steps": 4, **options, **more}
            return package.perturbations.gradient_ascent(
                model=classifier(), data=normal(4, 5), target=torch.tensor([0, 1, 2, 0]), optimizer=optimizer, **given
            )


def distances(package: Any, **changes: Any) -> Any:
    given = {
        "data": [-1.0, 2.0],
        "target": 0.0,
        "model": lambda data: data,
        "criterion": lambda output, target: (output - target).abs(),
        "optimizer": SGD,
        "lr": 0.1,
        "steps": 5,
        **changes,
    }
    return package.perturbations.gradient_ascent(**given)


for changes in (
    {},
    {"targeted": True},
    {"reduction_fn": torch.mean},
    {"data": 3.0},
    {"data": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    {"data": torch.tensor([1.0, 2.0], requires_grad=True)},
    {"target": [0.0, 1.0]},
    {"lr": 0.7, "use_best": True, "criterion": lambda output, target: -(output - target).abs()},
    {"optimizer": partial(SGD, lr=0.3)},
    {"steps": 1.5},
    {"steps": "5"},
    {"model": None},
    {"optimizer": None},
    {"optimizer": lambda params, **_: 3},
    {"perturbation_model": 3},
    {"perturbation_model": lambda data: 3},
    {"unknown": 3},
):
    described = {
        key: value if isinstance(value, (int, float, str, list, bool)) else "…" for key, value in changes.items()
    }

    @program(f"distances {described} {len(PROGRAMS)}")
    def _(package: Any, changes: dict[str, Any] = changes) -> Any:
        return distances(package, **changes)


@program("indices as data")
def _(package: Any) -> Any:
    return distances(package, data=[1, 2], perturbation_model=package.perturbations.AdditivePerturbation((2,)))


@program("bytes as data")
def _(package: Any) -> Any:
    perturb = partial(package.perturbations.AdditivePerturbation, dtype=torch.float32)
    return distances(package, data=torch.tensor([1, 2], dtype=torch.uint8), perturbation_model=perturb)


@program("complex data")
def _(package: Any) -> Any:
    data, losses = distances(package, data=torch.tensor([1 + 1j, -2j]))
    return [torch.view_as_real(data), losses]


for described, reduced in {
    "a number": lambda losses: losses.mean(),
    "a column": lambda losses: losses[:, None],
    "a loss per class": lambda losses: losses[:3],
}.items():

    @program(f"the best by {described}")
    def _(package: Any, reduced: Callable[[Tensor], Tensor] = reduced) -> Any:
        package.perturbations.gradient_ascent(
            model=classifier(),
            data=normal(4, 5),
            target=torch.tensor([0, 1, 2, 0]),
            optimizer=SGD,
            lr=0.1,
            steps=1,
            use_best=True,
            criterion=lambda output, target: reduced(F.cross_entropy(output, target, reduction="none")),
        )


@program("shapes that are no sequences")
def _(package: Any) -> Any:
    make = package.perturbations.AdditivePerturbation
    return [make(shape).delta for shape in (torch.tensor([2, 3]).numpy(), map(int, "23"))]


@program("an instance, then with its optimizer")
def _(package: Any) -> Any:
    perturb = package.perturbations.AdditivePerturbation((2,))
    first = distances(package, perturbation_model=perturb)
    perturb.delta.grad = torch.full((2,), 100.0)  # not to be counted
    second = distances(package, perturbation_model=perturb)
    optimizer = partial(SGD, lr=0.2)(perturb.parameters())
    given = {"data": [-1.0, 2.0], "target": 0.0, "model": lambda data: data, "steps": 2, "optimizer": optimizer}
    third = package.perturbations.gradient_ascent(
        **given, criterion=lambda output, target: (output - target).abs(), perturbation_model=perturb
    )
    return [first, second, third, perturb.delta, perturb.delta.grad is None]


@program("an optimizer without its instance")
def _(package: Any) -> Any:
    param = torch.zeros(2, requires_grad=True)
    package.perturbations.gradient_ascent(
        model=torch.sin, data=[1.0, 2.0], target=0.0, optimizer=SGD([param], lr=0.1), steps=1
    )


@program("an optimizer with arguments")
def _(package: Any) -> Any:
    perturb = package.perturbations.AdditivePerturbation((2,))
    distances(package, perturbation_model=perturb, optimizer=SGD(perturb.parameters(), lr=0.1))


@program("a universal perturbation")
def _(package: Any) -> Any:
    return package.perturbations.gradient_ascent(
        model=classifier(),
        data=normal(4, 5),
        target=torch.tensor([0, 1, 2, 0]),
        perturbation_model=partial(package.perturbations.AdditivePerturbation, delta_ndim=-1),
        optimizer=package.optim.L2ProjectedOptim,
        param_ndim=None,
        reduction_fn=torch.mean,
        epsilon=0.5,
        lr=0.2,
        steps=4,
    )


@program("flags of the model")
def _(package: Any) -> Any:
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, x: Tensor) -> Tensor:
            flags = {parameter.requires_grad for parameter in self.parameters()}
            seen.append([self.training, self.inner.training, sorted(flags), torch.is_grad_enabled()])
            return self.inner(x)

    model = Watched().train()
    model.inner[0].bias.requires_grad_(False)
    package.perturbations.gradient_ascent(
        model=model, data=normal(2, 5), target=torch.tensor([0, 1]), optimizer=SGD, lr=0.1, steps=2
    )
    return [seen, model.training, [parameter.requires_grad for parameter in model.parameters()]]


for targeted in (False, True):

    @program(f"restarts, targeted={targeted}")
    def _(package: Any, targeted: bool = targeted) -> Any:
        seen: list[Any] = []

        def criterion(output: Tensor, target: Tensor) -> Tensor:
            seen.append(output.detach().clone())
            return (output - target).abs()

        model = partial(
            package.perturbations.AdditivePerturbation,
            init_fn=package.perturbations.uniform_like_l1_n_ball_,
            generator=seeded(0),
        )
        solve = package.perturbations.random_restart(package.perturbations.gradient_ascent, 3)
        given = {"data": [-1.0, 2.0], "target": 0.0, "model": lambda data: data, "optimizer": SGD, "lr": 0.1}
        best = solve(**given, steps=2, criterion=criterion, perturbation_model=model, targeted=targeted)
        return [best, seen, solve.__name__]


@program("restarts of a solver of one's own")
def _(package: Any) -> Any:
    runs = iter(
        [
            (torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])),
            (torch.tensor([[3.0], [4.0]]), torch.tensor([2.0, 4.0])),
            (torch.tensor([[5.0], [6.0]]), torch.tensor([0.0, 5.0])),
        ]
    )
    return package.perturbations.random_restart(lambda *args, **kwargs: next(runs), 3)(1, two=2)


for wrong in (0, -1, "2", None):

    @program(f"restarts, repeats={wrong!r}")
    def _(package: Any, wrong: Any = wrong) -> Any:
        package.perturbations.random_restart(F.relu, wrong)


def main() -> None:
    """Records what rai_toolbox gives."""
    import rai_toolbox.optim
    import rai_toolbox.perturbations

    warnings.simplefilter("ignore")
    RECORD.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(run(name, rai_toolbox))}" for name in PROGRAMS]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
