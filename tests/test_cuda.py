"""What only a GPU can show of the ops: no waiting, graphs, streams, other devices, large tensors, repeatable bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import MODES, random
from every_op import NAMES, arguments, overload, tensors
from torch import Tensor

import integralrob as ir
from integralrob.nn import IntegralLinear, Sampling
from integralrob.partition import TrainablePartition

pytestmark = pytest.mark.usefixtures("gpu")

# Some tenths of a second in which a GPU does nothing else on a stream: longer than any host code here takes.
SLEEP_CYCLES = 500_000_000


def run(name: str, given: tuple[object, ...]) -> list[Tensor]:
    """One op's results, and where it has derivatives those of the sum of their entries."""
    if "_." in name:
        written, *others = given
        assert isinstance(written, Tensor)
        written = written.clone()
        overload(name)(written, *others)
        return [written]
    outs = tensors(overload(name)(*given))
    leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
    results = [out.detach() for out in outs]
    if leaves:  # of a derivative, the center of a box is not one
        ones = [torch.ones_like(out) for out in outs]
        results += torch.autograd.grad(outs, leaves, ones, materialize_grads=True)
    return results


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Torch's own waits are errors; any other shows in that the GPU is no longer busy when the host has come through.

    What is inside must have run before: a kernel's first launch, or new memory, may wait.
    """
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(SLEEP_CYCLES)
        slept = torch.cuda.Event()
        slept.record()
        yield
        assert not slept.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


def twice_without_waiting(work: Callable[[], object]) -> None:
    work()
    with waiting_forbidden():
        work()


# -------------------------------------------------------------------------------------------------------------- waiting


def test_a_wait_is_noticed() -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchronizing"):
        twice_without_waiting(lambda: x.sum().item())
    with pytest.raises((AssertionError, RuntimeError)):
        twice_without_waiting(torch.cuda.synchronize)


@pytest.mark.parametrize("name", NAMES)
def test_no_op_waits_for_the_gpu(name: str, rng: torch.Generator) -> None:
    given = arguments(name, torch.float32, rng, "cuda")
    twice_without_waiting(lambda: run(name, given))


def test_public_functions_do_not_wait_for_the_gpu(rng: torch.Generator) -> None:
    values = random((9, 8, 3), torch.float32, rng, "cuda").requires_grad_()
    points = tuple(torch.linspace(-1, 1, count, device="cuda") for count in (6, 5))
    x, grad, previous = (random((4, 7), torch.float32, rng, "cuda") for _ in range(3))
    eps = torch.rand(4, generator=rng).cuda()
    counts = torch.tensor([1, 2, 7, 3], device="cuda")

    def work() -> None:
        sampled = ir.ops.sample_weight(values, points, antialias=True)  # cached bands
        torch.autograd.grad(sampled, values, torch.ones_like(sampled))
        for radius, k in ((0.3, 2), (eps, 0.5), (eps, counts), (0.3, eps)):
            momentum = {"momentum": 0.25, "previous": previous}
            for project in (ir.ops.project_linf, ir.ops.project_l1, ir.ops.project_l2):
                project(grad, radius, center=x, bounds=(0, 1))
            ir.ops.linf_step_(x.clone(), grad, x, radius, 0.1, **momentum)
            ir.ops.l2_step_(x.clone(), grad, x, radius, 0.1, **momentum)
            ir.ops.l1_step_(x.clone(), grad, x, radius, 0.1, k=k, **momentum)

    twice_without_waiting(work)


@pytest.mark.parametrize("padding", ["border", "zeros", "reflection"])
def test_a_training_step_with_a_trainable_partition_does_not_wait(padding: str, rng: torch.Generator) -> None:
    """An antialiased band would: its number of taps is a number that the host needs."""
    partitions = [TrainablePartition(size, kind="centered", nodes=size) for size in (16, 12)]
    layer = IntegralLinear(12, 16, partitions=partitions, sampling=Sampling(padding=padding, antialias=False)).cuda()
    x = random((5, 12), torch.float32, rng, "cuda")

    def work() -> None:
        layer(x).square().sum().backward()

    twice_without_waiting(work)
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


# --------------------------------------------------------------------------------------------------------------- graphs


def captured(work: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of the work, and where each replay leaves its results."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph, results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_replay_with_other_inputs(name: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    """Starts included, so that no index table is one of the capture's."""
    given = arguments(name, dtype, rng, "cuda")
    graph, results = captured(lambda: run(name, given))
    for _ in range(3):
        others = arguments(name, dtype, rng, "cuda")
        with torch.no_grad():
            for x, other in zip(given, others, strict=True):
                if isinstance(x, Tensor):
                    assert isinstance(other, Tensor)
                    x.copy_(other)
        graph.replay()
        assert_equal(results, run(name, others))


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
def test_replayed_attack_step(norm: str, rng: torch.Generator) -> None:
    """Each replay goes on from where the last one has left `x_adv`."""
    x, grad = torch.rand(4, 3, 33, generator=rng).cuda(), torch.empty(4, 3, 33, device="cuda")
    x_adv, expected = x.clone(), x.clone()
    eps = torch.tensor([0.0, 0.1, 0.2, 0.3], device="cuda")
    step_ = getattr(ir.ops, f"{norm}_step_")
    graph, _ = captured(lambda: [step_(x_adv, grad, x, eps, 0.05)])
    x_adv.copy_(x)
    for _ in range(5):
        grad.copy_(random((4, 3, 33), torch.float32, rng, "cuda"))
        graph.replay()
        step_(expected, grad, x, eps, 0.05)
        assert torch.equal(x_adv, expected)
    assert (x_adv[1:] != x[1:]).any()


def test_replayed_layer(rng: torch.Generator) -> None:
    """After a resize, once the bands are on the GPU."""
    layer = IntegralLinear(12, 16).cuda()
    layer.resize(9, 7)
    x = random((5, 7), torch.float32, rng, "cuda")

    def work() -> list[Tensor]:
        out = layer(x)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), list(layer.parameters()))]

    graph, results = captured(work)
    with torch.no_grad():
        for tensor in (x, *layer.parameters()):
            tensor.copy_(random(tuple(tensor.shape), torch.float32, rng, "cuda"))
    graph.replay()
    for replayed, eager in zip(results, work(), strict=True):
        torch.testing.assert_close(replayed, eager)


# -------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("name", NAMES)
def test_work_is_on_the_current_stream(name: str, rng: torch.Generator) -> None:
    """It waits for what is before it there, and for nothing else."""
    given = arguments(name, torch.float32, rng, "cuda")
    expected = run(name, given)
    first = given[0]
    assert isinstance(first, Tensor)
    right = first.detach().clone()
    with torch.no_grad():
        first.zero_()
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        run(name, given)  # new memory for this stream may wait
    torch.cuda.synchronize()

    torch.cuda._sleep(SLEEP_CYCLES)
    elsewhere = torch.cuda.Event()
    elsewhere.record()
    with torch.cuda.stream(side):
        torch.cuda._sleep(SLEEP_CYCLES // 10)
        with torch.no_grad():
            first.copy_(right)
        results = run(name, given)
    side.synchronize()
    assert not elsewhere.query()
    torch.cuda.synchronize()
    assert_equal(results, expected)


def test_two_streams_at_once(rng: torch.Generator) -> None:
    streams = [torch.cuda.Stream() for _ in range(2)]
    cases = [[arguments(name, torch.float32, rng, "cuda") for name in NAMES] for _ in streams]
    expected = [[run(name, given) for name, given in zip(NAMES, case, strict=True)] for case in cases]
    torch.cuda.synchronize()
    results: list[list[list[Tensor]]] = [[] for _ in streams]
    for _ in range(20):
        for index, name in enumerate(NAMES):
            for stream, case, found in zip(streams, cases, results, strict=True):
                with torch.cuda.stream(stream):
                    found.append(run(name, case[index]))
    torch.cuda.synchronize()
    for found, right in zip(results, expected, strict=True):
        for index, outcome in enumerate(found):
            assert_equal(outcome, right[index % len(NAMES)])


def test_a_band_that_another_stream_has_made(rng: torch.Generator) -> None:
    """The cache gives it to every stream, as soon as it is there."""
    values = random((40, 30, 3), torch.float32, rng, "cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(20):
        points = (torch.rand(50, generator=rng) * 2 - 1).cuda()
        expected = ir.ops.sample_weight(values, points.clone(), dims=0)
        torch.cuda.synchronize()
        results = []
        for stream in (first, second):
            with torch.cuda.stream(stream):
                if stream is first:
                    torch.cuda._sleep(SLEEP_CYCLES // 100)
                results.append(ir.ops.sample_weight(values, points, dims=0))
        torch.cuda.synchronize()
        assert_equal(results, [expected, expected])


# -------------------------------------------------------------------------------------------------------- other devices


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_that_is_not_the_current_one(name: str, rng: torch.Generator) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    given = arguments(name, torch.float32, rng, "cuda:1")
    here = tuple(x.detach().to("cuda:0").requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in given)
    assert torch.cuda.current_device() == 0
    results = run(name, given)
    assert torch.cuda.current_device() == 0
    assert all(result.device == torch.device("cuda:1") for result in results)
    assert_equal([result.to("cuda:0") for result in results], run(name, here))


@pytest.mark.parametrize("name", NAMES)
def test_tensors_on_different_devices_are_an_error(name: str, rng: torch.Generator) -> None:
    given = arguments(name, torch.float32, rng, "cuda")
    tensors = [index for index, x in enumerate(given) if isinstance(x, Tensor)]
    for moved in tensors[1:]:
        mixed = [x.detach().cpu() if index == moved else x for index, x in enumerate(given) if isinstance(x, Tensor)]
        rest = [x for x in given if not isinstance(x, Tensor)]
        with pytest.raises(RuntimeError, match="expected"):
            overload(name)(*mixed, *rest)


# ------------------------------------------------------------------------------------------------ more than 2³¹ entries


def need_memory(gigabytes: int) -> None:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of GPU memory")


def test_step_on_a_large_batch() -> None:
    need_memory(32)
    shape = (2049, 2**20 + 7)
    x, grad, x_adv = (torch.empty(shape, dtype=torch.float16, device="cuda") for _ in range(3))
    x.uniform_()
    grad.normal_()
    x_adv.uniform_()
    eps = torch.linspace(0, 0.5, shape[0], device="cuda")
    stepped = ir.ops.linf_step(x_adv, grad, x, eps, 0.25)
    for first in range(0, shape[0], 64):
        few = slice(first, first + 64)
        expected = ir.ops.reference.linf_step(x_adv[few], grad[few], x[few], eps[few], 0.25)
        assert torch.equal(stepped[few], expected)
    projected = ir.ops.project_linf(grad[-3:], eps[-3:])
    assert torch.equal(ir.ops.project_linf(grad, eps)[-3:], projected)
    ir.ops.linf_step_(x_adv, grad, x, eps, 0.25)
    assert torch.equal(x_adv, stepped)


def large_band(size: int, points: int) -> tuple[Tensor, Tensor]:
    start, weight = ir.ops.cubic_band(torch.linspace(-1, 1, points, dtype=torch.float64), size)
    return start.cuda(), weight.float().cuda()


@pytest.mark.parametrize("inner", [1, 9])
def test_sampling_of_a_large_weight(inner: int) -> None:
    """In parts of the first axis, each with the control values that it needs, it is the same."""
    need_memory(24)
    size = 46_400 if inner == 1 else 15_500
    assert size * size * inner > 2**31
    points = size + 1
    values = torch.empty(size, size, inner, dtype=torch.float16, device="cuda").normal_()
    bands = large_band(size, points)
    (start, weight), count = bands, 3
    sampled = ir.ops.sample_2d(values, *bands, *bands)
    for first in (0, points // 2, points - count):
        rows = slice(first, first + count)
        low, high = int(start[rows].min()), int(start[rows].max()) + 4
        part = ir.ops.sample_2d(values[low:high], start[rows] - low, weight[rows], *bands)
        torch.testing.assert_close(sampled[rows], part, rtol=2e-3, atol=1e-3)
    del values
    # The adjoint's node s is touched by the points s - 3 to s + 3 or so.
    adjoint = ir.ops.sample_2d_adjoint(sampled, *bands, *bands, size, size)
    for first in (8, size // 2, size - 8 - count):
        near = slice(first - 8, min(points, first + 10))
        low, high = int(start[near].min()), int(start[near].max()) + 4
        part = ir.ops.sample_2d_adjoint(sampled[near], start[near] - low, weight[near], *bands, high - low, size)
        nodes = slice(first, first + count)
        torch.testing.assert_close(adjoint[nodes], part[first - low : first - low + count], rtol=2e-3, atol=2e-3)


def test_sampling_of_large_rows() -> None:
    need_memory(24)
    outer, size, inner = 40_000, 6, 9_000
    values = torch.empty(outer, size, inner, dtype=torch.float16, device="cuda").normal_()
    assert values.numel() > 2**31
    band = large_band(size, size + 1)
    weight_grad = torch.ops.integralrob.sample_1d_weight_grad
    sampled = ir.ops.sample_1d(values, *band)
    adjoint = ir.ops.sample_1d_adjoint(sampled, *band, size)
    for few in (slice(0, 3), slice(outer // 2, outer // 2 + 3), slice(outer - 3, None)):
        assert torch.equal(sampled[few], ir.ops.sample_1d(values[few], *band))
        assert torch.equal(adjoint[few], ir.ops.sample_1d_adjoint(sampled[few], *band, size))
    first, second = (
        weight_grad(sampled[half], values[half], band[0], 4) for half in (slice(20_000), slice(20_000, None))
    )
    whole = weight_grad(sampled, values, band[0], 4)
    torch.testing.assert_close(whole, first + second, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


# ------------------------------------------------------------------------------------------------------ repeatable bits


def fill_free_memory_with_nan(like: list[Tensor]) -> None:
    """So that an entry that a kernel leaves unwritten shows: the allocator hands this memory out again."""
    poison = [torch.full_like(x, torch.nan) for x in like for _ in range(3)]
    del poison


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inner", [1, 9, 64])
def test_backward_is_the_same_each_time(inner: int, dtype: torch.dtype, rng: torch.Generator) -> None:
    """On unsorted points, many of which touch the same nodes."""
    values = random((300, 200, inner), dtype, rng, "cuda").requires_grad_()
    points = [(torch.rand(count, generator=rng) * 2 - 1).cuda().requires_grad_() for count in (220, 260)]
    cotangent = random((220, 260, inner), dtype, rng, "cuda")
    row_cotangent = random((300, 260, inner), dtype, rng, "cuda")

    def work() -> list[Tensor]:
        both = ir.ops.sample_weight(values, points)
        one = ir.ops.sample_weight(values, points[1], dims=1)
        grads = torch.autograd.grad((both, one), (values, *points), (cotangent, row_cotangent))
        return [both.detach(), one.detach(), *grads]

    expected = work()
    for _ in range(5):
        fill_free_memory_with_nan(expected)
        assert_equal(work(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("inner", [1, 5, 64])
def test_a_row_does_not_depend_on_the_others(inner: int, dtype: torch.dtype, rng: torch.Generator) -> None:
    values = random((70, 40, inner), dtype, rng, "cuda")
    grad = random((70, 33, inner), dtype, rng, "cuda")
    start, weight = ir.ops.cubic_band((torch.rand(33, generator=rng) * 2 - 1).cuda(), 40)
    band = (start, weight.float())
    sampled, adjoint = ir.ops.sample_1d(values, *band), ir.ops.sample_1d_adjoint(grad, *band, 40)
    eps = torch.rand(70, generator=rng).cuda()
    steps = (ir.ops.linf_step, ir.ops.l1_step, ir.ops.l2_step)
    stepped = [step(values, values.flip(0), values.flip(1), eps, 0.1) for step in steps]
    for few in (slice(0, 1), slice(13, 20), slice(69, 70)):
        assert torch.equal(ir.ops.sample_1d(values[few], *band), sampled[few])
        assert torch.equal(ir.ops.sample_1d_adjoint(grad[few], *band, 40), adjoint[few])
        for step, together in zip(steps, stepped, strict=True):
            alone = step(values[few], values.flip(0)[few], values.flip(1)[few], eps[few], 0.1)
            assert torch.equal(alone, together[few])


# ---------------------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_bands_are_those_of_the_cpu(mode: dict[str, object], rng: torch.Generator) -> None:
    points = torch.rand(30, dtype=torch.float64, generator=rng) * 3 - 1.5
    scale = torch.rand(30, dtype=torch.float64, generator=rng)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [x.to(device).requires_grad_() for x in (points, scale)]
        start, weight = ir.ops.cubic_band(leaves[0], 11, leaves[1], **mode)
        taps = torch.arange(1.0, weight.shape[1] + 1, dtype=torch.float64, device=device)
        grads = torch.autograd.grad((weight * taps).sum(), leaves)
        results.append([start.cpu(), weight.detach().cpu(), *(grad.cpu() for grad in grads)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-11, atol=1e-11)


def test_nan_among_points_is_an_error_or_makes_nan() -> None:
    points = torch.tensor([-0.5, torch.nan, 0.5], device="cuda")
    values = torch.ones(6, 2, device="cuda")
    with pytest.raises(ValueError, match=r"points\[0\]: expected finite values"):
        ir.ops.sample_weight(values, points, dims=0)
    sampled = ir.ops.sample_weight(values, points.requires_grad_(), dims=0)
    assert sampled.isnan().tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_a_negative_radius_is_not_looked_for() -> None:
    """That would wait for the GPU; what comes of it is the kernels' formula."""
    eps = torch.tensor([0.1, -0.1], device="cuda")
    twice_without_waiting(lambda: ir.ops.project_linf(torch.ones(2, 3, device="cuda"), eps))
