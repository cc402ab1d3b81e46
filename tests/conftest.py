"""Back ends: every op test runs on each of them, through the same public functions, autograd included."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from integralrob.ops._library import native_path, native_problems
from integralrob.ops.bands import PADDINGS

# A back end is entered once for all examples of a property, which is what it is for.
settings.register_profile(
    "integralrob", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("integralrob")

# Small tensors: threads would only wait for each other.
torch.set_num_threads(1)


class _Redirect(TorchDispatchMode):
    """Runs other kernels in the place of the ``integralrob::`` ops, below autograd."""

    def __init__(self, kernel: Callable[[OpOverload], Callable[..., Any]]) -> None:
        super().__init__()
        self.kernel = kernel

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        run = self.kernel(func) if func.namespace == "integralrob" else func
        return run(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Backend:
    """The kernels that are registered for a device, or those that `kernel` finds for an op.

    `looks_at_starts`: a start that is out of range is an error; else it makes NaN, without a wait for the GPU.
    """

    name: str
    device: str
    kernel: Callable[[OpOverload], Callable[..., Any]] | None = None
    looks_at_starts: bool = True

    def __str__(self) -> str:
        return self.name


def _fallback(op: OpOverload) -> Callable[..., Any]:
    """The kernel that an op has on a device for which it has no other."""
    return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeExplicitAutograd)


# The CUDA kernels as g++ compiles them for the CPU, under names of their own. (Schemas are defined once.)
_emulated = torch.library.Library("integralrob_simt", "DEF")


@functools.cache
def load_emulated_kernels() -> None:
    """`torch.ops.integralrob_simt`: every ``integralrob::`` op, run by the emulator of `tests/simt`."""
    name = "libintegralrob_simt.so"
    built = sorted((Path(__file__).parent.parent / "build" / "native").rglob(name))
    found = [path for path in (native_path("simt"), *built) if path.exists()]
    assert found, "the emulated CUDA kernels are not built: CMake builds them with -DINTEGRALROB_TESTS=ON (make test)"
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("integralrob::"):
            _emulated.define(str(schema).removeprefix("integralrob::"))
    torch.ops.load_library(found[0])


def _emulated_kernel(op: OpOverload) -> Callable[..., Any]:
    packet = getattr(torch.ops.integralrob_simt, op._schema.name.removeprefix("integralrob::"))
    kernel: Callable[..., Any] = getattr(packet, op._overloadname)
    return kernel


# With FAIL_WITHOUT_CUDA=1, tests that need a GPU fail where there is none, rather than being skipped.
CUDA_EXPECTED = os.environ.get("FAIL_WITHOUT_CUDA") == "1"

BACKENDS = [
    Backend("reference", "cpu", _fallback),
    Backend("cpu", "cpu"),
    Backend("simt", "cpu", _emulated_kernel, looks_at_starts=False),
]
DEVICES = ["cpu"]
if torch.cuda.is_available() or CUDA_EXPECTED:
    BACKENDS.append(Backend("cuda", "cuda", looks_at_starts=False))
    DEVICES.append("cuda")


def need_cuda() -> None:
    """Skips the test that is running, or fails it, if there is no GPU."""
    if not torch.cuda.is_available():
        (pytest.fail if CUDA_EXPECTED else pytest.skip)("torch finds no GPU")


@pytest.fixture
def gpu() -> None:
    need_cuda()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each type of device that the tests run on."""
    if request.param == "cuda":
        need_cuda()
    chosen: str = request.param
    return chosen


@contextmanager
def running_on(chosen: Backend) -> Iterator[Backend]:
    """The ``integralrob::`` ops run on this back end; its tensors belong on ``chosen.device``."""
    if chosen.device == "cuda":
        need_cuda()
    if chosen.name == "simt":
        load_emulated_kernels()
    if chosen.kernel is None:
        assert chosen.device not in native_problems(), native_problems()[chosen.device]
        yield chosen
    else:
        with _Redirect(chosen.kernel), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "integralrob runs its slow pure-torch reference")
            yield chosen


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A test runs on each back end."""
    with running_on(request.param) as chosen:
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
