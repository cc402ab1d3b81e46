"""`integralrob.attacks`: bad arguments, models and losses are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import integralrob as ir
from integralrob.attacks._arguments import check_generator

X4 = torch.full((4, 6), 0.5)
Y4 = torch.zeros(4, dtype=torch.int64)
WEIGHTS = torch.ones(4, 2, requires_grad=True)
NAN4 = torch.tensor([0.1, float("nan"), 0.1, 0.1])


def attack(**changes: Any) -> Any:
    return ir.attacks.pgd(**{"model": linear, "x": X4, "y": Y4, "eps": 0.1, "steps": 2, **changes})


def linear(x: Tensor) -> Tensor:
    return x @ torch.arange(12, dtype=x.dtype).view(6, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "resnet"}, TypeError, "model: .*callable"),
        ({"x": [[0.5] * 6] * 4}, TypeError, "x: expected a tensor"),
        ({"x": X4.long()}, TypeError, "x: expected a floating-point tensor"),
        ({"x": torch.tensor(0.5)}, ValueError, "x: expected samples"),
        ({"x": torch.zeros(4, 0)}, ValueError, "x: expected samples"),
        ({"x": X4 + 0.6}, ValueError, r"x: expected values within bounds \(0.0, 1.0\), got .* 1.1"),
        ({"x": X4, "bounds": (0.6, 1.0)}, ValueError, "x: expected values within bounds"),
        ({"x": X4 * torch.nan}, ValueError, "x: expected finite"),
        ({"x": X4 / 0, "bounds": None}, ValueError, "x: expected finite"),
        ({"y": [0, 0, 0, 0]}, TypeError, "y: expected a tensor"),
        ({"y": Y4.float()}, TypeError, "y: expected class indices"),
        ({"y": Y4.bool()}, TypeError, "y: expected class indices"),
        ({"y": Y4[:3]}, ValueError, r"y: expected one class index per sample, shape \(4,\)"),
        ({"y": F.one_hot(Y4, 2)}, ValueError, "y: expected one class index per sample"),
        ({"y": Y4 + 2}, ValueError, "y: expected class indices from 0 to 1, got 2 to 2"),
        ({"y": Y4 - 1}, ValueError, "y: expected class indices from 0 to 1, got -1"),
        ({"y": Y4.to("meta")}, ValueError, "y: expected a tensor on cpu"),
        ({"norm": "l7"}, ValueError, "norm: expected one of 'linf', 'l1', 'l2', got 'l7'"),
        ({"k": 1}, ValueError, "k: expected None with norm='linf', where all entries move, got 1"),
        ({"norm": "l2", "k": 0.5}, ValueError, "k: expected None with norm='l2'"),
        ({"norm": "l1", "k": 7}, ValueError, "k: expected an int from 1 to 6"),
        ({"norm": "l1", "k": 1.5}, ValueError, "k: expected a float from 0 to 1"),
        ({"norm": "l1", "k": torch.ones(3, dtype=torch.int64)}, ValueError, r"k: expected a number or shape \[4\]"),
        ({"norm": "l1", "k": True}, TypeError, "k: expected a number, got True"),
        ({"eps": -0.1}, ValueError, "eps: "),
        ({"eps": float("nan")}, ValueError, "eps: "),
        ({"eps": float("inf")}, ValueError, "eps: expected a finite"),
        ({"eps": 1e38}, ValueError, r"eps: expected a finite number of at most 1.33e\+36"),
        ({"eps": torch.full((4,), 1e38)}, ValueError, "eps: expected finite numbers from 0"),
        ({"eps": "8/255"}, TypeError, "eps: "),
        ({"eps": True}, TypeError, "eps: "),
        ({"eps": torch.full((3,), 0.1)}, ValueError, "eps: "),
        ({"eps": torch.full((4, 1), 0.1)}, ValueError, "eps: "),
        ({"eps": -torch.full((4,), 0.1)}, ValueError, "eps: "),
        ({"eps": NAN4}, ValueError, "eps: expected values of at least 0, got nan"),
        ({"eps": 1 / torch.zeros(4)}, ValueError, "eps: expected finite"),
        ({"eps": torch.ones(4, dtype=torch.int64)}, TypeError, "eps: "),
        ({"step_size": -1.0}, ValueError, "step_size: "),
        ({"step_size": NAN4}, ValueError, "step_size: expected values of at least 0, got nan"),
        ({"step_size": torch.full((3,), 0.1)}, ValueError, "step_size: "),
        ({"steps": 0}, ValueError, "steps: expected an int of at least 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps: "),
        ({"restarts": 0}, ValueError, "restarts: expected an int of at least 1, got 0"),
        ({"restarts": 2, "random_start": False}, ValueError, "restarts: expected 1 with random_start=False"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds: "),
        ({"bounds": (0.0, float("nan"))}, ValueError, "bounds: "),
        ({"bounds": 1.0}, TypeError, "bounds: "),
        ({"loss": "hinge"}, ValueError, "loss: expected one of 'ce'"),
        ({"loss": 3}, TypeError, "loss: "),
        ({"loss": ["ce"]}, TypeError, "loss: "),
        ({"norm": ["linf"]}, ValueError, "norm: expected one of .*, got"),
        ({"targeted": "no"}, TypeError, "targeted: expected a bool, got 'no'"),
        ({"random_start": "no"}, TypeError, "random_start: expected a bool, got 'no'"),
        ({"progress": 1}, TypeError, "progress: expected a bool, got 1"),
        ({"eps": 10**400}, ValueError, "eps: expected a number in the range of a float"),
        ({"generator": 0}, TypeError, "generator: "),
    ],
)
def test_bad_arguments_are_named_before_any_work(changes: dict[str, Any], error: type, message: str) -> None:
    calls = []

    def model(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return linear(batch)

    before = torch.get_rng_state()
    with pytest.raises(error, match=message):
        attack(**{"model": model, **changes})
    assert torch.equal(torch.get_rng_state(), before)
    assert len(calls) <= (1 if "class indices from" in message else 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": lambda x: x.sum(1)}, ValueError, r"model: expected logits of shape \(4, at least 2\)"),
        ({"model": lambda x: x.sum(1, keepdim=True)}, ValueError, "model: expected logits of shape"),
        ({"model": lambda x: x[:3]}, ValueError, "model: expected logits of shape"),
        ({"model": lambda x: x[:, :, None]}, ValueError, "model: expected logits of shape"),
        ({"model": lambda x: (x, x)}, TypeError, "model: expected a tensor"),
        ({"model": lambda x: x.long()}, TypeError, "model: expected a floating-point tensor"),
        ({"model": lambda x: x.detach()}, ValueError, "model: expected logits that are differentiable"),
        ({"model": lambda x: WEIGHTS * 2}, ValueError, "model: expected logits that depend on x"),
        ({"loss": lambda z, y: WEIGHTS[:, 0] * 2}, ValueError, "loss: expected values that depend on the logits"),
        ({"loss": F.cross_entropy}, ValueError, r"loss: expected one value per sample, shape \(4,\)"),
        ({"loss": lambda logits, y: 0.5}, TypeError, "loss: expected a tensor"),
        ({"loss": lambda z, y: z[:, 0].detach()}, ValueError, "loss: expected values that are differentiable"),
    ],
)
def test_a_model_or_loss_of_the_wrong_kind_is_named(changes: dict[str, Any], error: type, message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(error, match=message):
        attack(**changes)
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_of_the_cpu_serves_every_device() -> None:
    check_generator(torch.Generator(), torch.device("cuda:0"))


def test_numpy_scalars() -> None:
    numpys = attack(eps=np.float32(0.25), steps=np.int64(3), restarts=np.int8(1), random_start=np.bool_(False))
    pythons = attack(eps=0.25, steps=3, restarts=1, random_start=False)
    assert torch.equal(numpys.trace, pythons.trace)
