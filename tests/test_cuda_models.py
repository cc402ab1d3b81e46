"""Modules on a GPU: the same numbers as on the CPU, `torch.compile`, autocast, attacks."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random
from torch import Tensor, nn

import integralrob as ir
from integralrob.nn import ContinuousWeight, IntegralConv1d, IntegralConv2d, IntegralConv3d, IntegralLinear, Sampling
from integralrob.partition import TrainablePartition, UniformPartition
from integralrob.quadrature import GaussLegendre, Midpoint, Simpson, Trapezoidal

pytestmark = pytest.mark.usefixtures("gpu")


def assert_same_on_gpu(module: nn.Module, x: Tensor, rtol: float = 1e-10) -> None:
    """Outputs and gradients of the module in float64."""
    outcomes = []
    for device in ("cpu", "cuda"):
        moved = copy.deepcopy(module).double().to(device)
        out = moved(x.to(device))
        out.square().sum().backward()
        grads = [parameter.grad for parameter in moved.parameters()]
        assert all(tensor is not None and tensor.device.type == device for tensor in (out, *grads))
        outcomes.append([out.detach().cpu(), *(grad.cpu() for grad in grads if grad is not None)])
    for cpu, cuda in zip(*outcomes, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=rtol, atol=rtol * float(cpu.abs().max()))


@pytest.mark.parametrize("sizes", [(None, None), (5, 3)], ids=str)
@pytest.mark.parametrize(
    ("layer", "arguments", "shape"),
    [
        (IntegralLinear, (10, 14), (3, 10)),
        (IntegralConv1d, (6, 8, 3), (2, 6, 9)),
        (IntegralConv2d, (6, 8, (3, 2), 2, 1, 1), (2, 6, 7, 8)),
        (IntegralConv3d, (4, 6, 3), (2, 4, 4, 4, 4)),
    ],
)
def test_layers(layer: Any, arguments: Any, shape: tuple[int, ...], sizes: Any, rng: torch.Generator) -> None:
    module = layer(*arguments)
    module.resize(*sizes)
    channels = shape[1] if sizes[1] is None else sizes[1]
    assert_same_on_gpu(module, random((shape[0], channels, *shape[2:]), torch.float64, rng, "cpu"))


@pytest.mark.parametrize("antialias", [False, True])
def test_trainable_partitions(antialias: bool, rng: torch.Generator) -> None:
    partitions = [TrainablePartition(count, kind="centered", nodes=size) for count, size in ((9, 16), (7, 12))]
    for partition in partitions:
        partition.logits.data.normal_(generator=rng)
    weight = ContinuousWeight((16, 12, 3), partitions=partitions, sampling=Sampling(antialias=antialias))
    assert_same_on_gpu(weight, random((16, 12, 3), torch.float64, rng, "cpu"))


def test_resized_on_the_gpu(rng: torch.Generator) -> None:
    layer = IntegralConv2d(6, 8, 3).cuda()
    x = random((2, 4, 9, 9), torch.float32, rng, "cuda")
    for out_size in (8, 5, 8, 3):
        layer.resize(out_size, 4)
        assert torch.equal(layer.discretize().weight, layer.sample()[0])
        torch.testing.assert_close(layer.discretize()(x), layer(x))
        assert layer(x).shape[1] == out_size


@pytest.mark.parametrize("rule", [Midpoint(), Trapezoidal(), Simpson(), GaussLegendre()], ids=repr)
def test_quadrature(rule: Any) -> None:
    points = UniformPartition(9)("cuda")
    torch.testing.assert_close(rule.weights(points, (-1.0, 1.0)).cpu(), rule.weights(points.cpu(), (-1.0, 1.0)))


def test_a_converted_network(rng: torch.Generator) -> None:
    pytest.importorskip("torch_pruning")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 16, 10),
    )
    x = random((4, 3, 6, 6), torch.float64, rng, "cpu")
    integral = ir.convert(network.double().eval(), x, progress=False)
    for size in (1.0, 0.5):
        integral.resize(size)
        assert_same_on_gpu(integral, x)
    network, x = network.float().cuda(), x.float().cuda()
    there = ir.convert(network, x, progress=False)  # compares outputs more closely than TF32 would allow
    assert there.sizes == {"0": 8, "3": 12}
    assert {parameter.device.type for parameter in there.parameters()} == {"cuda"}
    torch.testing.assert_close(there(x), network(x), rtol=0, atol=1e-2)


def test_attack(rng: torch.Generator) -> None:
    """On a linear model, the attack's optimum has a closed form."""
    model = nn.Linear(6, 2).cuda()
    x, y = torch.rand(16, 6, generator=rng).cuda(), torch.randint(2, (16,), generator=rng).cuda()
    result = ir.attacks.pgd(model, x, y, eps=0.3, steps=10, generator=torch.Generator("cuda").manual_seed(0))
    away = model.weight.detach()[1 - y] - model.weight.detach()[y]
    torch.testing.assert_close(result.adversarial, (x + 0.3 * away.sign()).clamp(0, 1), rtol=0, atol=1e-6)


class Watched(nn.Module):
    """Counts its calls, and from the second on, after the checks at the start, lets nothing wait for the GPU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            torch.cuda.set_sync_debug_mode("error")
        return self.model(x)


@pytest.fixture
def classifier() -> Iterator[Watched]:
    """Smooth and of float64: what is rounded otherwise in a graph stays as small as it is."""
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)
    yield Watched(nn.Sequential(*layers).double().cuda())
    torch.cuda.set_sync_debug_mode("default")


def attacked(attack: Any, model: Watched, rng: torch.Generator, **options: Any) -> tuple[list[Tensor], int]:
    """All results, and how often the model was called."""
    x = torch.rand(6, 3, 8, 8, generator=rng, dtype=torch.float64).cuda()
    y = torch.randint(5, (6,), generator=rng).cuda()
    model.calls = 0
    result = attack(model, x, y, generator=torch.Generator().manual_seed(0), **options)
    torch.cuda.set_sync_debug_mode("default")
    return [getattr(result, field.name) for field in dataclasses.fields(result)], model.calls


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l1", 3.0), ("l2", 0.5)])
@pytest.mark.parametrize("attack", [ir.attacks.pgd, ir.attacks.apgd])
def test_attacks_as_graphs(attack: Any, norm: str, eps: float, classifier: Watched, rng: torch.Generator) -> None:
    """They find what the same kernels find one by one, neither waiting for the GPU, and leave no memory behind."""
    options = {"norm": norm, "eps": eps, "steps": 40, "restarts": 2}
    state = rng.get_state()
    eager, calls = attacked(attack, classifier, rng, **options)
    replayed, captures = attacked(attack, classifier, rng.set_state(state), cuda_graph=True, **options)
    for result, expected in zip(replayed, eager, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-9)
    assert captures < calls / 2
    held = torch.cuda.memory_allocated()
    attacked(attack, classifier, rng.set_state(state), cuda_graph=True, **options)
    assert torch.cuda.memory_allocated() == held


@pytest.mark.parametrize("attack", [ir.attacks.pgd, ir.attacks.apgd])
def test_attacks_as_graphs_under_autocast(attack: Any, classifier: Watched, rng: torch.Generator) -> None:
    """In bfloat16, where the last bit of a logit can turn a sign: the losses are alike."""
    model = Watched(classifier.model.float())
    x, y = torch.rand(64, 3, 8, 8, generator=rng).cuda(), torch.randint(5, (64,), generator=rng).cuda()
    losses = []
    for cuda_graph in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            result = attack(model, x, y, eps=0.05, steps=20, generator=generator, cuda_graph=cuda_graph)
            losses.append(result.loss.mean())
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)


def test_autocast(rng: torch.Generator) -> None:
    """The control values stay float32, and so do their gradients; the convolution takes the weight as bfloat16."""
    layer = IntegralConv2d(8, 16, 3).cuda()
    layer.resize(12, 6)
    x = random((4, 6, 9, 9), torch.float32, rng, "cuda")
    exact = layer(x)
    (expected,) = torch.autograd.grad(exact.square().mean(), layer.weight)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = layer(x)
        assert layer.sample()[0].dtype == torch.float32
    assert out.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(out.float().square().mean(), layer.weight)
    assert grad.dtype == torch.float32
    for actual, right in ((out.float(), exact), (grad, expected)):
        torch.testing.assert_close(actual, right, rtol=0, atol=0.03 * float(right.detach().abs().max()))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_step(backend: str, rng: torch.Generator) -> None:
    if backend == "inductor":
        pytest.importorskip("triton")
    layer = IntegralConv2d(6, 8, 3).double().cuda()
    layer.resize(5, 4)
    x = random((2, 4, 7, 7), torch.float64, rng, "cuda")

    def loss(x: Tensor) -> Tensor:
        return F.relu(layer(x)).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    outcomes = []
    for run in (loss, compiled):
        layer.zero_grad()
        value = run(x)
        value.backward()
        outcomes.append([value.detach(), *(parameter.grad.clone() for parameter in layer.parameters())])
    for eager, graph in zip(*outcomes, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_attack_step(backend: str, rng: torch.Generator) -> None:
    if backend == "inductor":
        pytest.importorskip("triton")
    x, x_adv = (torch.rand(4, 33, generator=rng).cuda() for _ in range(2))
    grad = random((4, 33), torch.float32, rng, "cuda")
    eps = torch.tensor([0.0, 0.1, 0.2, 0.3], device="cuda")

    def attack(x_adv: Tensor, grad: Tensor) -> Tensor:
        moved = ir.ops.linf_step(x_adv, 2 * grad, x, eps, 0.05)
        return ir.ops.linf_step_(moved, -grad, x, 0.1, 0.02) + 1

    torch._dynamo.reset()
    compiled = torch.compile(attack, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x_adv, grad), attack(x_adv, grad), rtol=0, atol=1e-6)


def test_kept_samples_serve_all_streams_and_are_not_captured() -> None:
    layer = IntegralLinear(512, 512).cuda()
    layer.resize(384, 384)
    x = torch.ones(8, 384, device="cuda")
    with torch.no_grad():
        expected = layer.discretize()(x)
        layer.refresh()
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            sample = layer.sample()[0]
        with torch.cuda.stream(torch.cuda.Stream()):
            out = layer(x)
        torch.cuda.synchronize()
        torch.testing.assert_close(out, expected)
        assert layer.sample()[0] is sample
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(x)
        layer.weight.mul_(2)  # a graph samples what is there when it runs
        graph.replay()
        torch.testing.assert_close(out, layer(x))


def test_an_attack_on_a_model_that_no_graph_can_hold(classifier: Watched, rng: torch.Generator) -> None:
    """Last in this file: a capture that has failed is to leave everything as it was."""

    class Looks(Watched):
        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) * (1.0 if x.sum().item() > 0 else 2.0)

    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="cuda_graph: expected a model"):
        attacked(ir.attacks.pgd, Looks(classifier.model), rng, eps=0.1, cuda_graph=True)
    assert torch.cuda.current_stream() == stream
    assert classifier.training
    results, _ = attacked(ir.attacks.pgd, classifier, rng, eps=0.1, cuda_graph=True)
    assert results[0].isfinite().all()
