"""`cuda_graph=True`: the results of attacks are those of the same iterations launched kernel by kernel.

Here graphs are emulated (`emulated_graphs`); `test_cuda_models.py` has those of a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from emulated_graphs import Cuda
from torch import Tensor, nn
from tqdm import tqdm

import integralrob as ir
from benchmarks import attack_graphs
from integralrob.attacks import _graph, _search
from integralrob.attacks._graph import Replayed
from integralrob.attacks._rows import Rows
from integralrob.ops import _arguments as ops_arguments

NORMS = {"linf": 0.1, "l1": 2.0, "l2": 0.5}
CPU = torch.device("cpu")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Graphs of the CPU."""
    emulated = Cuda()
    _graph._side_stream.cache_clear()
    monkeypatch.setattr(_graph, "cuda", emulated)
    monkeypatch.setattr(_search, "check_cuda_graph", lambda cuda_graph, x, early_stop: cuda_graph)
    monkeypatch.setattr(ops_arguments, "_may_wait_for", lambda value: False)  # as of a GPU's tensors
    return emulated


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(36, 5),
        )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(7, 2, 6, 6, generator=generator), torch.randint(5, (7,), generator=generator)


def assert_same(attack: Callable[..., Any], model: Any, **options: Any) -> Any:
    """Bit for bit, and the state of the generator too."""
    x, y = batch()
    outcomes = []
    for cuda_graph in (False, True):
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(2)
        result = attack(model, x, y, generator=generator, cuda_graph=cuda_graph, **options)
        fields = [getattr(result, field.name) for field in dataclasses.fields(result)]
        outcomes.append([*fields, generator.get_state(), torch.get_rng_state()])
    for eager, replayed in zip(*outcomes, strict=True):
        assert torch.equal(eager, replayed)
    assert (result.norm > 0).any()
    return result


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"keep": "last"},
        {"bounds": None, "targeted": True, "mean": [0.4, 0.5], "std": 0.25},
        {"eps": torch.linspace(0, 2, 7), "step_size": torch.linspace(0.01, 0.5, 7), "loss": "margin"},
        {"random_start": False, "restarts": 1, "loss": lambda logits, y: -logits.gather(1, y[:, None])[:, 0]},
    ],
    ids=["last", "targeted", "per sample", "own loss"],
)
def test_pgd(norm: str, options: dict[str, Any], cuda: Cuda) -> None:
    options = {"norm": norm, "eps": NORMS[norm], "steps": 9, "restarts": 3, **options}
    assert_same(ir.attacks.pgd, network(), **options)
    assert cuda.launches == options["restarts"] * (9 - _graph.WARM_UP)


@pytest.mark.parametrize("k", [3, torch.arange(1, 8)], ids=["count", "counts"])
def test_pgd_moves_k_entries(k: Any, cuda: Cuda) -> None:
    assert_same(ir.attacks.pgd, network(), norm="l1", eps=1.0, k=k, steps=9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"restarts": 2},
        {"loss": "dlr", "targets": 3},
        {"loss": "dlr", "targeted": True, "bounds": None},
        {"eps": torch.linspace(0, 2, 7), "mean": 0.5, "std": [0.25, 0.5], "rho": 1.0},
    ],
    ids=["restarts", "targets", "targeted", "per sample"],
)
def test_apgd(norm: str, options: dict[str, Any], cuda: Cuda) -> None:
    """With checkpoints, after which the search goes on from what was best."""
    assert_same(ir.attacks.apgd, network(), **{"norm": norm, "eps": NORMS[norm], "steps": 30, **options})
    assert cuda.launches > 10


def test_checks_between_steps_in_l1(cuda: Cuda) -> None:
    """Two graphs in turn: of steps, and of steps with a check."""
    assert_same(ir.attacks.apgd, network(), norm="l1", eps=2.0, steps=180)


def test_runs_that_are_shorter_than_the_warm_up(cuda: Cuda) -> None:
    for steps in range(1, _graph.WARM_UP + 1):
        for attack in (ir.attacks.pgd, ir.attacks.apgd):
            assert_same(attack, network(), eps=0.1, steps=steps)
    assert cuda.launches == 0


def test_autocast(cuda: Cuda) -> None:
    """It keeps no casts of weights that a capture has made, in the memory of the graph."""
    weight = torch.randn(72, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keeps = []

    def model(x: Tensor) -> Tensor:
        keeps.append(torch.is_autocast_cache_enabled())
        return x.flatten(1) @ weight

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(ir.attacks.pgd, model, eps=0.1, steps=9)
    before = 1 + _graph.WARM_UP  # and one at the end
    assert keeps[-before - 2 :] == [True] * before + [False, True]


def test_a_model_that_draws(cuda: Cuda) -> None:
    """And is now right, now wrong about the same sample."""
    inner = network()
    assert_same(ir.attacks.pgd, lambda x: inner(x + torch.randn_like(x)), eps=0.01, steps=9)


@pytest.mark.parametrize(("norm", "total"), [("linf", 20), ("l1", 24)])
def test_progress(
    norm: str, total: int, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_search, "tqdm", partial(tqdm, mininterval=0, miniters=1))
    x, y = batch()
    for cuda_graph in (False, True):
        ir.attacks.apgd(network(), x, y, norm=norm, eps=0.1, steps=9, restarts=2, progress=True, cuda_graph=cuda_graph)
        shown = capsys.readouterr().err
        assert all(f"{number}/{total}" in shown for number in (0, 1, 2, 5, total // 2, total))


def test_benchmark(cuda: Cuda, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--networks", "digits", "--batches", "2", "--steps", "6", "--rounds", "1", "--device", "cpu"]
    attack_graphs.main(options)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 + len(attack_graphs.ATTACKS)
    assert cuda.launches > 0


@pytest.mark.parametrize("attack", [ir.attacks.pgd, ir.attacks.apgd])
def test_a_model_that_cannot_be_captured(attack: Callable[..., Any], cuda: Cuda) -> None:
    inner = network()

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * (1 if x.sum() > 0 else 2)

    x, y = batch()
    model, outer = Looks(), cuda.now
    with pytest.raises(RuntimeError, match=r"cuda_graph: expected a model .*, got .*not permitted"):
        attack(model, x, y, eps=0.1, steps=9, cuda_graph=True)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert cuda.now is outer
    assert torch.is_autocast_cache_enabled()
    attack(inner, x, y, eps=0.1, steps=9, cuda_graph=True)


@pytest.mark.parametrize("attack", [ir.attacks.pgd, ir.attacks.apgd])
def test_bad_arguments(attack: Callable[..., Any]) -> None:
    x, y = batch()

    def model(x: Tensor) -> Tensor:
        raise AssertionError("work before the check")

    with pytest.raises(
        ValueError, match="cuda_graph: expected False but for x on a CUDA device, got True with x on cpu"
    ):
        attack(model, x, y, eps=0.1, cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph: expected False with early_stop=True"):
        attack(model, x, y, eps=0.1, cuda_graph=True, early_stop=True)
    with pytest.raises(TypeError, match="cuda_graph: expected a bool, got 1"):
        attack(model, x, y, eps=0.1, cuda_graph=1)


# ------------------------------------------------------------------------------ what a graph gets wrong, and its double


@dataclasses.dataclass(frozen=True)
class Pair(Rows):
    a: Tensor
    b: Tensor


def iterate(iteration: Callable[[Pair], Pair], times: int = 3) -> Pair:
    """After so many, the last one captured and replayed."""
    replayed = Replayed(iteration, CPU)
    replayed.warm_up = 0
    state = Pair(torch.ones(2), torch.zeros(2))
    for _ in range(times):
        state = replayed(state)
    return state


def test_values_that_change_places(cuda: Cuda) -> None:
    """Fibonacci's numbers: the old `a` is read after the new one has been found."""
    state = iterate(lambda state: Pair(state.a + state.b, state.a), times=6)
    assert state.a.tolist() == [13, 13]
    assert state.b.tolist() == [8, 8]
    state = iterate(lambda state: Pair(state.b, state.a))
    assert (state.a.tolist(), state.b.tolist()) == ([0, 0], [1, 1])


def test_a_state_that_is_changed_between_replays(cuda: Cuda) -> None:
    streams = []

    def iteration(state: Pair) -> Pair:
        streams.append(cuda.now)
        return Pair(state.a + 1, state.b)

    replayed = Replayed(iteration, CPU)
    first = Pair(torch.zeros(2), torch.zeros(2))
    state = first
    for _ in range(_graph.WARM_UP + 2):
        state = replayed(state)
    state = replayed(dataclasses.replace(state, a=10 * state.a, b=state.a))
    assert (state.a.tolist(), state.b.tolist()) == ([51, 51], [5, 5])
    assert first.a.tolist() == [0, 0]
    assert streams == [replayed.stream] * (_graph.WARM_UP + 1)


def test_python_runs_once(cuda: Cuda) -> None:
    seen: dict[str, Any] = {"steps": 0, "rebound": torch.zeros(2), "in place": torch.zeros(2)}

    def iteration(state: Pair) -> Pair:
        seen["steps"] += 1
        seen["rebound"] = seen["rebound"] + 1
        seen["in place"] += 1
        return Pair(state.a + seen["steps"], state.b)

    assert iterate(iteration).a.tolist() == [4, 4]
    assert seen["rebound"].tolist() == [1, 1]
    assert seen["in place"].tolist() == [3, 3]


@pytest.mark.parametrize(
    "iteration",
    [
        lambda state: Pair(state.a * state.a.sum().item(), state.b),
        lambda state: Pair(state.a[state.a > 0], state.b),
        lambda state: Pair(state.a + torch.tensor([1.0, 2.0]), state.b),
    ],
    ids=["item", "mask", "numbers of the host"],
)
def test_what_cannot_be_captured(iteration: Callable[[Pair], Pair], cuda: Cuda) -> None:
    with pytest.raises(RuntimeError, match=r"cuda_graph: .* not permitted when stream is capturing"):
        iterate(iteration)


def test_a_capture_computes_nothing(cuda: Cuda) -> None:
    kept = {}

    def iteration(state: Pair) -> Pair:
        kept["sum"] = state.a + 1
        return Pair(kept["sum"], state.b)

    replayed = Replayed(iteration, CPU)
    state = Pair(torch.ones(2), torch.zeros(2))
    graph = replayed._captured(state)
    assert state.a.tolist() == [1, 1]
    assert kept["sum"].isnan().all()
    graph.replay()
    assert state.a.tolist() == [2, 2]
