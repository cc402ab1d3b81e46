"""Back ends: every op test runs on each of them, through the same public functions, autograd included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from integralrob.ops import reference
from integralrob.ops._library import native_problems
from integralrob.ops.bands import PADDINGS

# A back end is entered once for all examples of a property, which is what it is for.
settings.register_profile(
    "integralrob", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("integralrob")

# Small tensors: threads would only wait for each other.
torch.set_num_threads(1)

Kernels = Mapping[str, Callable[..., Any]]


class _Redirect(TorchDispatchMode):
    """Runs other kernels in the place of the ``integralrob::`` ops, below autograd."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "integralrob":
            func = self.kernels[func._schema.name.removeprefix("integralrob::")]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Backend:
    """Kernels for the ``integralrob::`` ops on one device: the ones registered for it, or the given ones."""

    name: str
    device: str
    kernels: Kernels | None = None

    def __str__(self) -> str:
        return self.name


def _project_linf(delta: Tensor, eps: Tensor, center: Tensor | None, lower: float, upper: float) -> Tensor:
    return reference.project_linf(delta, eps, center=center, bounds=(lower, upper))


def _linf_step(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Any, step: Any, lower: float, upper: float) -> Tensor:
    return reference.linf_step(x_adv, grad, x, eps, step, bounds=(lower, upper))


def _linf_step_(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Any, step: Any, lower: float, upper: float) -> None:
    reference.linf_step_(x_adv, grad, x, eps, step, bounds=(lower, upper))


_REFERENCE: Kernels = {
    "project_linf": _project_linf,
    "linf_step": _linf_step,
    "linf_step_": _linf_step_,
    "sample_1d": reference.sample_1d,
    "sample_1d_adjoint": reference.sample_1d_adjoint,
    "sample_1d_weight_grad": reference.sample_1d_weight_grad,
    "sample_2d": reference.sample_2d,
    "sample_2d_adjoint": reference.sample_2d_adjoint,
    "sample_2d_weight0_grad": reference.sample_2d_weight0_grad,
    "sample_2d_weight1_grad": reference.sample_2d_weight1_grad,
}

BACKENDS = [Backend("reference", "cpu", _REFERENCE), Backend("cpu", "cpu")]


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """While a test runs, the ``integralrob::`` ops run on this back end; its tensors belong on ``backend.device``."""
    chosen: Backend = request.param
    if chosen.kernels is not None:
        with _Redirect(chosen.kernels):
            yield chosen
    else:
        assert chosen.device not in native_problems(), native_problems()[chosen.device]
        yield chosen


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20230618)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Every way to make a cubic band.
MODES: list[dict[str, Any]] = [*({"padding": padding} for padding in PADDINGS), {"antialias": True}]


def random(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator, device: str) -> Tensor:
    """Normal numbers, the same for every dtype and device."""
    return torch.randn(shape, dtype=torch.float64, generator=rng).to(device=device, dtype=dtype)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same numbers, each needing a gradient."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)
