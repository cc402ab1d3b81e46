"""The fused steps: against a loop over rows, the ball and the box, momentum, k, NaN, bad input."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from conftest import DTYPES, Backend, random
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import BOUNDS, NORMS, REFERENCE, ROUNDING, SHAPES, Bounds, batch, kept, step, step_, wide
from torch import Tensor

import integralrob as ir

# ------------------------------------------------------------------------------------------------------------ by a loop


def norm_of(norm: str, row: list[float]) -> float:
    return max(map(abs, row)) if norm == "linf" else math.fsum(map(abs, row)) if norm == "l1" else math.hypot(*row)


def clip(value: float, lower: float, upper: float) -> float:
    return min(max(value, lower), upper)


def direction(norm: str, g: list[float], k: int) -> list[float]:
    """Of size 1 in the norm, or 0."""
    if norm == "l2":
        return [value / (math.hypot(*g) or 1) for value in g]
    least = sorted(map(abs, g))[-k] if norm == "l1" else 0
    sign = [math.copysign(1, value) if value and abs(value) >= least else 0.0 for value in g]
    return [value / (sum(map(abs, sign)) or 1) for value in sign] if norm == "l1" else sign


def in_ball(norm: str, y: list[float], eps: float, c: list[float], bounds: tuple[float, float]) -> list[float]:
    if norm == "linf":
        return [clip(value, -eps, eps) for value in y]
    if norm == "l2":
        size = norm_of("l2", y)
        return y if size <= eps else [value * (eps / size) for value in y]
    limits = [max(bounds[1] - ci, 0) if yi > 0 else max(ci - bounds[0], 0) for yi, ci in zip(y, c, strict=True)]

    def shrunk(theta: float) -> list[float]:
        return [clip(abs(yi) - theta, 0, limit) for yi, limit in zip(y, limits, strict=True)]

    low, high = 0.0, max(map(abs, y))
    if math.fsum(shrunk(0)) <= eps:
        high = 0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if math.fsum(shrunk(middle)) <= eps else (middle, high)
    return [math.copysign(m, yi) for m, yi in zip(shrunk(high), y, strict=True)]


def step_of_a_row(
    norm: str,
    rows: list[list[float]],
    eps: float,
    size: float,
    k: int,
    bounds: tuple[float, float],
    momentum: float,
) -> list[float]:
    """In float64, one number at a time."""
    a, g, c, p = rows

    def projected(y: list[float]) -> list[float]:
        limited = in_ball(norm, y, eps, c, bounds)
        return [clip(ci + delta, *bounds) for ci, delta in zip(c, limited, strict=True)]

    moves = direction(norm, g, k)
    z = projected([ai - ci + size * move for ai, ci, move in zip(a, c, moves, strict=True)])
    if momentum == 0:
        return z
    return projected(
        [ai - ci + (1 - momentum) * (zi - ai) + momentum * (ai - pi) for ai, ci, zi, pi in zip(a, c, z, p, strict=True)]
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_is_the_loop(backend: Backend, momentum: float, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    radius = {"linf": 0.2, "l1": 2.0, "l2": 0.6}[norm]
    for shape, bounds in itertools.product([(6, 1), (6, 5), (6, 2, 3, 7), (6, 131)], BOUNDS):
        tensors = batch(shape, dtype, rng, backend.device)
        d = math.prod(shape[1:])
        eps = torch.linspace(0, 2 * radius, 6, dtype=torch.float64, device=backend.device)
        size = torch.tensor([1.0, 0.0, 0.5, 0.1, 2.0, 0.3], dtype=torch.float64, device=backend.device) * radius
        k = torch.tensor([1, d, (d + 1) // 2, 1 + d // 10, 1, max(1, d - 1)], device=backend.device)
        options = {**kept(norm, k), "bounds": bounds, "momentum": momentum}
        out = step(norm, *tensors[:3], eps, size, **options, previous=tensors[3] if momentum else None)
        assert (out.shape, out.dtype, out.device) == (tensors[0].shape, dtype, tensors[0].device)
        radii, sizes = (t.to(wide(dtype)).tolist() for t in (eps, size))
        rows = [t.double().flatten(1).tolist() for t in tensors]
        for i, row in enumerate(zip(*rows, strict=True)):
            box = bounds or (-math.inf, math.inf)
            expected = step_of_a_row(norm, list(row), radii[i], sizes[i], int(k[i]), box, momentum)
            assert out[i].flatten().tolist() == pytest.approx(expected, rel=ROUNDING[dtype], abs=ROUNDING[dtype])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_is_the_reference(
    backend: Backend, bounds: Bounds, dtype: torch.dtype, norm: str, rng: torch.Generator
) -> None:
    """New and in place, with numbers and with one value per sample, for every shape; other arguments stay."""
    for shape, per_sample, momentum in itertools.product(SHAPES, (False, True), (0.0, 0.25)):
        tensors = batch(shape, dtype, rng, backend.device)
        eps, size, k = 0.25, 0.375, 2
        given: list[Any] = [eps, size, k]
        if per_sample:
            given = [
                torch.linspace(0, 1.5, shape[0], device=backend.device),
                torch.tensor([0.375], dtype=torch.float64, device=backend.device),
                torch.arange(shape[0], device=backend.device) % max(1, math.prod(shape[1:])) + 1,
            ]
        elif math.prod(shape[1:]) < k:
            given[2] = 1
        options = {**kept(norm, given[2]), "bounds": bounds}
        if momentum:
            options |= {"momentum": momentum, "previous": tensors[3]}
        before = [t.clone() for t in tensors]
        out = step(norm, *tensors[:3], *given[:2], **options)
        expected = getattr(REFERENCE, f"{norm}_step")(*tensors[:3], *given[:2], **options)
        torch.testing.assert_close(out, expected, rtol=ROUNDING[dtype], atol=ROUNDING[wide(dtype)])
        if norm == "linf" and not momentum:
            assert torch.equal(out, expected)
        assert out.is_contiguous()
        assert all(map(torch.equal, before, tensors))

        written = tensors[0].clone()
        version = written._version
        assert step_(norm, written, *tensors[1:3], *given[:2], **options) is written
        assert torch.equal(written, out)
        assert written._version > version
        assert all(map(torch.equal, before[1:], tensors[1:]))


def farthest_in_ball(x: Tensor, delta: Tensor) -> Tensor:
    """Of the numbers of the dtype of `x` between `x` and ``x + delta`` the last one; exact sums by numpy."""
    end = (x.to(delta.dtype) + delta).to(x.dtype)
    for _ in range(2):
        change = end.double().cpu().numpy().astype("longdouble") - x.double().cpu().numpy().astype("longdouble")
        beyond = torch.from_numpy(abs(change) > delta.double().abs().cpu().numpy()).to(x.device)
        end = torch.where(beyond, torch.nextafter(end, x), end)
    return end


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_linf_without_momentum_is_its_formula_bit_by_bit(
    backend: Backend, bounds: Bounds, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """In the type of the sums, rounded once at the end; however the radius and the step are given.

    The ends of the ball are found number by number: the first one from the nearest that is no further from x than eps.
    """
    for shape in SHAPES:
        tensors = batch(shape, dtype, rng, backend.device)
        a, g, c, _ = (t.to(wide(dtype)) for t in tensors)
        per_sample = torch.linspace(0, 0.7, shape[0], dtype=torch.float64, device=backend.device)
        for eps in (0.25, 0, math.inf, per_sample, torch.tensor([0.3]), torch.tensor(0.3, dtype=torch.float64)):
            for size in (0.125, per_sample):
                given = [t.to(backend.device) if isinstance(t, Tensor) else t for t in (eps, size)]
                radius, length = (
                    torch.as_tensor(t, dtype=wide(dtype), device=backend.device).reshape(-1, *[1] * (c.dim() - 1))
                    for t in given
                )
                least, most = (farthest_in_ball(tensors[2], sign * radius).to(c.dtype) for sign in (-1, 1))
                moved = torch.minimum(torch.maximum(a + length * g.sign(), least), most)
                expected = (moved if bounds is None else moved.clamp(*bounds)).to(dtype)
                assert torch.equal(step("linf", *tensors[:3], *given, bounds=bounds), expected)


# --------------------------------------------------------------------------------------------------------- ball and box


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.25])
def test_no_rounding_leaves_the_ball(
    backend: Backend, momentum: float, dtype: torch.dtype, norm: str, rng: torch.Generator
) -> None:
    """Of the distance in float64, after many steps that all lead outwards: an ulp or two of eps, whatever the type.

    In l∞, where nothing is summed, not that: the differences are those of float64, rounded for float64 alone.
    """
    x = torch.rand(5, 3, 16, 16, generator=rng).to(backend.device, dtype)
    grad = random((5, 3, 16, 16), dtype, rng, backend.device)
    radii = [1e-4, 1e-3, 8 / 255, 0.3, 3.0] if norm == "linf" else [0.01, 0.3, 3.0, 12.0, 100.0]
    eps = torch.tensor(radii, dtype=wide(dtype), device=backend.device)
    slack = 0 if norm == "linf" and dtype != torch.float64 else 4 * torch.finfo(wide(dtype)).eps
    x_adv, previous = x.clone(), x
    for _ in range(5):
        options = {"momentum": momentum, "previous": previous} if momentum else {}
        x_adv, previous = step(norm, x_adv, grad, x, eps, eps, **kept(norm, 0.3), **options), x_adv
        distances = [norm_of(norm, row) for row in (x_adv.double() - x.double()).flatten(1).tolist()]
        for distance, radius in zip(distances, eps.tolist(), strict=True):
            assert distance <= radius * (1 + slack)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert (x_adv != x).flatten(1).any(1).all() or dtype in (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clean_inputs_on_the_edge_of_the_box_and_outside(backend: Backend, dtype: torch.dtype, norm: str) -> None:
    """The box wins."""
    x = torch.tensor([[0.0, 1.0, -0.25, 1.5, 0.5]], dtype=dtype, device=backend.device)
    for sign in (-1, 1):
        grad = sign * torch.ones_like(x)
        for eps in (0.0, 0.125, 8.0, math.inf):
            out = step(norm, x, grad, x, eps, 0.5, **kept(norm, 1.0))
            assert out.min() >= 0
            assert out.max() <= 1
            assert out[0, 2] == (0 if eps == 0 or sign < 0 else out[0, 2])
            if eps == 0:
                assert torch.equal(out, x.clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_to_do(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """No step, no gradient, an infinite ball: only what has to be."""
    _, grad, x, _ = batch((4, 9), dtype, rng, backend.device)
    eighths = (8 * x).round() / 8
    x_adv = (eighths + 0.125).clamp(max=1)
    for bounds in (None, (0, 1)):
        assert torch.equal(step(norm, x_adv, grad, eighths, 9, 0, **kept(norm, 1.0), bounds=bounds), x_adv)
        zero = torch.zeros_like(grad)
        assert torch.equal(step(norm, x_adv, zero, eighths, 9, 1, **kept(norm, 1.0), bounds=bounds), x_adv)
        assert torch.equal(step(norm, x_adv, zero, eighths, 0, 1, **kept(norm, 1.0), bounds=bounds), eighths)
        far = step(norm, x_adv, zero, eighths, math.inf, 1, **kept(norm, 1.0), bounds=bounds)
        assert torch.equal(far, x_adv)
    outside = step(norm, eighths + 1, grad, eighths, 0.25, 0, **kept(norm, 1.0), bounds=None)
    distances = [norm_of(norm, row) for row in (outside.double() - eighths.double()).tolist()]
    assert distances == pytest.approx([0.25] * 4, rel=0.2 if dtype == torch.bfloat16 else 0.02)


def test_default_bounds_are_the_unit_interval(backend: Backend) -> None:
    x = torch.tensor([[0.0, 1.0]], device=backend.device)
    grad = torch.tensor([[-1.0, 1.0]], device=backend.device)
    for norm in NORMS:
        assert torch.equal(step(norm, x, grad, x, 0.5, 0.5), x)
    assert step("linf", x, grad, x, 0.5, 0.5, bounds=None).tolist() == [[-0.5, 1.5]]
    assert step("l1", x, grad, x, 0.5, 0.5, k=2, bounds=None).tolist() == [[-0.25, 1.25]]


entry = st.floats(-2, 2, width=32)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(entry, entry, entry, entry), min_size=1, max_size=9),
    eps=st.one_of(st.floats(0, 4), st.sampled_from([0.0, 1e-20, 1e20])),
    size=st.one_of(st.floats(0, 4), st.sampled_from([0.0, 1e-20, 1e20])),
    share=st.floats(0, 1),
    momentum=st.sampled_from([0.0, 0.25, 1.0]),
    box=st.tuples(entry, entry).map(sorted),
    scale=st.sampled_from([2.0**-300, 0.25, 2.0**300]),
)
def test_feasible_symmetric_and_blind_to_the_gradients_scale(
    backend: Backend,
    norm: str,
    rows: list[tuple[float, float, float, float]],
    eps: float,
    size: float,
    share: float,
    momentum: float,
    box: list[float],
    scale: float,
) -> None:
    a, g, c, p = torch.tensor([rows], dtype=torch.float64, device=backend.device).unbind(-1)
    c = c.clamp(*box)
    options = kept(norm, share)
    with_momentum = {"momentum": momentum, "previous": p} if momentum else {}
    out = step(norm, a, g, c, eps, size, bounds=tuple(box), **options, **with_momentum)
    assert norm_of(norm, (out - c)[0].tolist()) <= eps * (1 + 1e-14) + 5e-16
    assert box[0] <= out.min()
    assert out.max() <= box[1]
    assert torch.equal(step(norm, a, g * scale, c, eps, size, bounds=tuple(box), **options, **with_momentum), out)
    if momentum:
        with_momentum["previous"] = -p
    mirrored = step(norm, -a, -g, -c, eps, size, bounds=(-box[1], -box[0]), **options, **with_momentum)
    assert torch.equal(mirrored, -out)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=50)
@given(rows=st.lists(st.tuples(entry, entry, entry), min_size=1, max_size=9), eps=st.floats(0, 4), size=st.floats(0, 4))
def test_a_step_from_inside_climbs(
    backend: Backend, norm: str, rows: list[tuple[float, float, float]], eps: float, size: float
) -> None:
    """``<direction, out - x_adv> >= 0``: so it is of a Euclidean projection, which scaling is where there is no box."""
    offset, g, c = torch.tensor([rows], dtype=torch.float64, device=backend.device).unbind(-1)
    bounds = None if norm == "l2" else (-1.0, 1.0)
    c = c.clamp(-1, 1)
    inside = getattr(REFERENCE, f"project_{norm}")(offset, eps, center=None if bounds is None else c, bounds=bounds)
    out = step(norm, c + inside, g, c, eps, size, **kept(norm, 1), bounds=bounds)
    along = torch.tensor([direction(norm, g[0].tolist(), 1)], dtype=torch.float64, device=backend.device)
    assert (along * (out - c - inside)).sum() >= -1e-13


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 5, 37, 300])
def test_rows_are_independent(backend: Backend, d: int, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """The same bits alone, in a batch, in another order, and wherever in memory the row begins."""
    a, g, c, p = batch((9, d), dtype, rng, backend.device)
    eps = torch.linspace(0.1, 2, 9, device=backend.device)
    share = torch.linspace(0, 1, 9, device=backend.device)

    def stepped(rows: Any) -> Tensor:
        options = {**kept(norm, share[rows]), "momentum": 0.25, "previous": p[rows]}
        return step(norm, a[rows], g[rows], c[rows], eps[rows], eps[rows] / 2, **options)

    out = stepped(slice(None))
    order = torch.randperm(9, generator=rng).to(backend.device)
    assert torch.equal(stepped(order), out[order])
    for row in range(9):
        assert torch.equal(stepped(slice(row, row + 1)), out[row : row + 1])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(37, 2011), (2, 150528)], ids=str)
def test_threads_leave_no_trace(norm: str, dtype: torch.dtype, shape: tuple[int, int], rng: torch.Generator) -> None:
    a, g, c, p = batch(shape, dtype, rng, "cpu")
    eps = torch.linspace(1, 60, shape[0])

    def stepped() -> Tensor:
        return step(norm, a, g, c, eps, eps / 4, **kept(norm, 0.05), momentum=0.25, previous=p)

    alone = stepped()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = stepped()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(threaded, alone)
    counts = max(1, math.floor(0.05 * shape[1] + 0.5))
    options = {**kept(norm, counts), "momentum": 0.25, "previous": p}
    expected = getattr(REFERENCE, f"{norm}_step")(a, g, c, eps, eps / 4, **options)
    torch.testing.assert_close(threaded, expected, rtol=ROUNDING[dtype], atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entries_that_tie_with_the_kth_largest_are_all_kept(backend: Backend, dtype: torch.dtype) -> None:
    grad = torch.tensor([[3, -2, 2, 1, 0, -2], [1, -1, 1, 1, -1, 1], [0] * 6, [4, 0, 0, 0, 0, -0.0]], dtype=dtype)
    grad = grad.to(backend.device)
    x = torch.full_like(grad, 0.5)
    for k, counts in ((1, (1, 6, 1, 1)), (2, (4, 6, 1, 1)), (4, (4, 6, 1, 1)), (5, (5, 6, 1, 1)), (6, (5, 6, 1, 1))):
        out = step("l1", x, grad, x, 10, 0.75, k=k, bounds=None)
        for row, count in enumerate(counts):
            size = grad[row].abs().double()
            largest = size >= size.sort(descending=True).values[count - 1]
            expected = 0.5 + 0.75 / count * grad[row].double().sign() * largest
            torch.testing.assert_close(out[row].double(), expected, rtol=ROUNDING[dtype], atol=0)


def test_k_counts_entries_or_is_a_share_of_them(backend: Backend, rng: torch.Generator) -> None:
    _, grad, x, _ = batch((5, 2, 10), torch.float32, rng, backend.device)
    grad = random((5, 2, 10), torch.float32, rng, backend.device)  # without ties

    def moved(k: Any, bounds: Bounds = None) -> list[int]:
        return (step("l1", x, grad, x, 100, 5, k=k, bounds=bounds) != x).flatten(1).sum(1).tolist()

    assert moved(1) == [1] * 5
    assert moved(20) == [20] * 5
    for share, count in ((0.0, 1), (0.01, 1), (0.074, 1), (0.075, 2), (0.3, 6), (0.5, 10), (1.0, 20)):
        assert moved(share) == [count] * 5
        assert moved(torch.tensor(share, dtype=torch.float64, device=backend.device)) == [count] * 5
    assert moved(torch.tensor([1, 20, 7, 2, 3], device=backend.device)) == [1, 20, 7, 2, 3]
    assert moved(torch.tensor([1, 20, 7, 2, 3], dtype=torch.uint8, device=backend.device)) == [1, 20, 7, 2, 3]
    assert moved(torch.tensor([0.0, 1.0, 0.35, 0.1, 0.15], device=backend.device)) == [1, 20, 7, 2, 3]
    assert moved(torch.tensor([4], device=backend.device)) == [4] * 5
    assert moved(torch.tensor([0.3], dtype=torch.float16, device=backend.device)) == [6] * 5
    # Beyond what the public function lets through of a CPU tensor, but not of a GPU's.
    counts, eps = torch.tensor([-3, 0, 21, 2**40, 5], device=backend.device), torch.tensor([100.0])
    given = (eps.to(backend.device), eps.to(backend.device) / 20, counts, 0.0, -math.inf, math.inf)
    out = torch.ops.integralrob.l1_step(x, grad, x, x, *given)
    assert (out != x).flatten(1).sum(1).tolist() == [1, 1, 20, 20, 5]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_entry(backend: Backend, dtype: torch.dtype, norm: str) -> None:
    x = torch.tensor([0.5, 0.5, 0.5], dtype=dtype, device=backend.device)
    grad = torch.tensor([-3e-5, 0.0, 60000.0], dtype=dtype, device=backend.device)
    for shaped in (lambda t: t, lambda t: t[:, None]):
        out = step(norm, shaped(x), shaped(grad), shaped(x), 0.25, 0.125)
        rounding = ROUNDING[dtype] if norm == "l2" else 0  # of grad / ‖grad‖
        assert out.flatten().tolist() == pytest.approx([0.375, 0.5, 0.625], rel=rounding, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.5, 0.96])
def test_l2_does_not_depend_on_the_size_of_the_gradient(
    backend: Backend, exponent: float, dtype: torch.dtype, rng: torch.Generator
) -> None:
    grad = random((3, 50), dtype, rng, backend.device)
    x = torch.full_like(grad, 0.5)
    expected = step("l2", x, grad, x, 2, 1, bounds=None)
    scale = 2.0 ** round(exponent * (126 if dtype == torch.float32 else 1022))
    torch.testing.assert_close(step("l2", x, grad * scale, x, 2, 1, bounds=None), expected, rtol=1e-3, atol=1e-5)
    far = x + 1e30 * grad
    out = step("l2", far, grad, x, 2, 1, bounds=None).double() - 0.5
    assert [norm_of("l2", row) for row in out.tolist()] == pytest.approx([2] * 3, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinite_gradients(backend: Backend, dtype: torch.dtype) -> None:
    grad = torch.tensor([[math.inf, 2, -1], [-math.inf, 0, math.inf], [1, 2, -3]], dtype=dtype, device=backend.device)
    x = torch.full_like(grad, 0.5)
    root = 0.25 / math.sqrt(2)
    expected = {
        "linf": [[0.75, 0.75, 0.25], [0.25, 0.5, 0.75], [0.75, 0.75, 0.25]],
        "l1": [[0.75, 0.5, 0.5], [0.375, 0.5, 0.625], [0.5, 0.5, 0.25]],
        "l2": [[0.75, 0.5, 0.5], [0.5 - root, 0.5, 0.5 + root]],
    }
    for norm, rows in expected.items():
        out = step(norm, x, grad, x, 1.0, 0.25, **kept(norm, 1))
        assert out.isfinite().all()
        for actual, row in zip(out.tolist(), rows, strict=False):
            assert actual == pytest.approx(row, rel=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_zero_does_not_move_and_the_least_one_does(backend: Backend, dtype: torch.dtype) -> None:
    least = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    grad = torch.stack([torch.zeros_like(least), -torch.zeros_like(least), least])[None].to(backend.device)
    x = torch.full_like(grad, 0.5)
    for norm in NORMS:
        out = step(norm, x, grad, x, 0.25, 0.125, **kept(norm, 3))
        assert out[0].tolist() == pytest.approx([0.5, 0.5, 0.625], rel=ROUNDING[dtype], abs=0)
        assert (out == x)[0].tolist() == [True, True, False]


# ------------------------------------------------------------------------------------------------------------- momentum


def test_two_steps_of_apgd(backend: Backend, rng: torch.Generator) -> None:
    """Algorithm 1 of Croce & Hein (2020): the first step without momentum, then ``α = 0.75``, in l∞ and in l2."""
    x, first, second = (torch.rand(4, 40, dtype=torch.float64, generator=rng).to(backend.device) for _ in range(3))
    first, second = first - 0.5, second - 0.5
    eps, alpha = 0.3, 0.75
    size = 2 * eps

    def linf(u: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(u, x - eps), x + eps).clamp(0, 1)

    def l2(u: Tensor) -> Tensor:
        length = (u - x).norm(dim=1, keepdim=True)
        return (x + (u - x) / length * length.clamp(max=eps)).clamp(0, 1)

    for norm, project in (("linf", linf), ("l2", l2)):
        along = torch.sign if norm == "linf" else lambda g: g / g.norm(dim=1, keepdim=True)
        x1 = project(x + size * along(first))
        z2 = project(x1 + size * along(second))
        x2 = project(x1 + alpha * (z2 - x1) + (1 - alpha) * (x1 - x))
        one = step(norm, x, first, x, eps, size)
        torch.testing.assert_close(one, x1, rtol=0, atol=1e-14)
        two = step(norm, one, second, x, eps, size, momentum=1 - alpha, previous=x)
        torch.testing.assert_close(two, x2, rtol=0, atol=1e-14)
        assert (two - step(norm, one, second, x, eps, size)).abs().max() > 0.01


def test_l1_step_of_l1_apgd(backend: Backend, rng: torch.Generator) -> None:
    """Croce & Hein (2021): ``P(x + η · s / ‖s‖₁)``, s the sign of the k largest entries; P with its root by sorting.

    Where ``γ(λ) = Σ clip(|u| - λ, 0, b)`` falls through eps between two of the points at which its slope changes.
    """
    x, grad = torch.rand(20, 30, dtype=torch.float64, generator=rng), torch.randn(20, 30, generator=rng).double()
    eps, k = 2.0, 6
    x_adv = ir.ops.reference.project_l1(torch.randn(20, 30, generator=rng).double(), eps, center=x, bounds=(0, 1)) + x
    s = torch.zeros_like(grad).scatter(1, grad.abs().topk(k).indices, 1) * grad.sign()
    u = x_adv + 1.5 * s / s.abs().sum(1, keepdim=True) - x
    out = step("l1", *(t.to(backend.device) for t in (x_adv, grad, x)), eps, 1.5, k=k).cpu()
    for row in range(20):
        a, b = u[row].abs(), torch.where(u[row] > 0, 1 - x[row], x[row])
        points = torch.cat([a, a - b, torch.zeros(1)]).clamp(min=0).sort().values
        sums = (a - points[:, None]).clamp(min=0).minimum(b).sum(1)
        last = int((sums > eps).sum()) - 1
        root = torch.zeros(())
        if last >= 0:
            share = (sums[last] - eps) / (sums[last] - sums[last + 1])
            root = points[last] + share * (points[last + 1] - points[last])
        expected = x[row] + u[row].sign() * (a - root).clamp(min=0).minimum(b)
        torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of", ["x_adv", "grad", "x", "previous", "eps", "step_size"])
def test_nan_stays_in_its_row_or_entry(
    backend: Backend, of: str, dtype: torch.dtype, norm: str, rng: torch.Generator
) -> None:
    """In l∞ in its entry, else in its row. The ops themselves, which a GPU's radius reaches unseen."""
    a, g, c, p = batch((4, 40), dtype, rng, backend.device)
    eps, size = (torch.linspace(low, 2, 4, dtype=wide(dtype), device=backend.device) for low in (0.1, 0.2))
    k = [torch.tensor([1, 40, 3, 20], device=backend.device)] if norm == "l1" else []
    op = getattr(torch.ops.integralrob, f"{norm}_step")

    def stepped(given: dict[str, Tensor]) -> Tensor:
        out: Tensor = op(*given.values(), *k, 0.25, 0.0, 1.0)
        return out

    given = {"x_adv": a, "grad": g, "x": c, "previous": p, "eps": eps, "step_size": size}
    clean = stepped(given)
    assert clean.isfinite().all()
    for row, position in itertools.product(range(4), (0, 17, 39)):
        bad = given[of].clone()
        bad[(row,) if bad.dim() == 1 else (row, position)] = math.nan
        out = stepped({**given, of: bad})
        affected = torch.zeros_like(out, dtype=torch.bool)
        affected[(row, position) if norm == "linf" and bad.dim() == 2 else row] = True
        assert torch.equal(out.isnan(), affected)
        assert torch.equal(out[~affected], clean[~affected])
    if of == "previous":  # without momentum it is not looked at
        given["previous"] = torch.full_like(p, math.nan)
        assert op(*given.values(), *k, 0.0, 0.0, 1.0).isfinite().all()


# ------------------------------------------------------------------------------------------------------------ bad input

D = torch.rand(2, 3)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x_adv": [0.5]}, TypeError, "x_adv: expected a tensor"),
    ({"x_adv": torch.tensor(0.5)}, ValueError, r"x_adv: expected shape \[B, ...\]"),
    ({"x_adv": D.long()}, TypeError, "x_adv: expected a floating-point tensor"),
    ({"x_adv": D.to(torch.float8_e4m3fn)}, TypeError, "x_adv: expected float16, bfloat16, float32 or float64"),
    ({"grad": None}, TypeError, "grad: expected a tensor, got None"),
    ({"grad": D[:, :2]}, ValueError, r"grad: expected .*\(2, 3\) on cpu like x_adv, got .*\(2, 2\)"),
    ({"grad": D.double()}, ValueError, "grad: expected a torch.float32"),
    ({"grad": D.to("meta")}, ValueError, "grad: expected .* on cpu like x_adv, got .* on meta"),
    ({"x": D.T}, ValueError, r"x: expected .*\(2, 3\).* got .*\(3, 2\)"),
    ({"x": D.half()}, ValueError, "x: expected a torch.float32"),
    ({"eps": -1e-9}, ValueError, "eps: expected a number of at least 0"),
    ({"eps": torch.tensor([0.1, -0.1])}, ValueError, "eps: expected values of at least 0"),
    ({"eps": torch.ones(4)}, ValueError, r"eps: expected a number or shape \[2\]"),
    ({"eps": torch.ones(2).to(torch.float8_e4m3fn)}, TypeError, "eps: expected a tensor of ints or floats, got a"),
    ({"eps": torch.ones(2, device="meta")}, ValueError, "eps: expected it on cpu like the batch, got meta"),
    ({"step_size": -0.1}, ValueError, "step_size: expected a number of at least 0, got -0.1"),
    ({"step_size": math.nan}, ValueError, "step_size: expected a number of at least 0, got nan"),
    ({"step_size": torch.tensor(math.nan)}, ValueError, "step_size: expected values of at least 0, got nan"),
    ({"step_size": torch.ones(1, 2)}, ValueError, r"step_size: expected a number or shape \[2\]"),
    ({"step_size": torch.tensor(-1.0)}, ValueError, "step_size: expected values of at least 0"),
    ({"step_size": "big"}, TypeError, "step_size: expected a number"),
    ({"bounds": (1, 0)}, ValueError, "bounds: expected lo <= hi"),
    ({"bounds": (0, 1, 2)}, TypeError, "bounds: expected a pair"),
    ({"bounds": (None, 1)}, TypeError, "bounds: expected a number"),
    (
        {"momentum": 0.5},
        ValueError,
        "previous: expected it with a momentum above 0, .*, got no previous",
    ),
    ({"previous": D}, ValueError, "previous: expected it with a momentum above 0, .* got a momentum of 0"),
    ({"momentum": 0, "previous": D}, ValueError, "previous: expected it with a momentum above 0"),
    ({"momentum": 1.5, "previous": D}, ValueError, "momentum: expected a number from 0 to 1, got 1.5"),
    ({"momentum": -0.5, "previous": D}, ValueError, "momentum: expected a number of at least 0, got -0.5"),
    ({"momentum": math.nan, "previous": D}, ValueError, "momentum: expected a number of at least 0, got nan"),
    ({"momentum": None}, TypeError, "momentum: expected a number, got None"),
    ({"momentum": True, "previous": D}, TypeError, "momentum: expected a number, got True"),
    ({"momentum": torch.tensor(0.5), "previous": D}, TypeError, "momentum: expected a number, got a torch.float32"),
    (
        {"momentum": 0.5, "previous": D[:1]},
        ValueError,
        r"previous: expected .*\(2, 3\) on cpu like x_adv, got .*\(1, 3",
    ),
    ({"momentum": 0.5, "previous": 0.5}, TypeError, "previous: expected a tensor, got 0.5"),
]


BAD_K: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"k": 0}, ValueError, "k: expected an int of at least 1, got 0"),
    ({"k": 4}, ValueError, "k: expected an int from 1 to 3, the entries of a sample, got 4"),
    ({"k": -0.1}, ValueError, "k: expected a number of at least 0, got -0.1"),
    ({"k": 1.5}, ValueError, "k: expected a float from 0 to 1, the share of a sample's entries, got 1.5"),
    ({"k": math.nan}, ValueError, "k: expected a number of at least 0, got nan"),
    ({"k": True}, TypeError, "k: expected a number, got True"),
    ({"k": None}, TypeError, "k: expected a number, got None"),
    ({"k": "2"}, TypeError, "k: expected a number, got '2'"),
    ({"k": [1, 2]}, TypeError, "k: expected a number"),
    ({"k": torch.tensor([True, False])}, TypeError, "k: expected a tensor of ints or floats, got a torch.bool"),
    ({"k": torch.ones(2, dtype=torch.uint16)}, TypeError, "k: expected a tensor of ints or floats, got a torch.uint16"),
    ({"k": torch.tensor([1, 4])}, ValueError, r"k: expected values from 1 to 3, got \[1, 4\]"),
    ({"k": torch.tensor(0)}, ValueError, "k: expected values from 1 to 3, got 0"),
    ({"k": torch.tensor([0.5, 1.5])}, ValueError, r"k: expected values from 0 to 1, got \[0.5, 1.5\]"),
    ({"k": torch.tensor([math.nan])}, ValueError, r"k: expected values from 0 to 1, got \[nan\]"),
    ({"k": torch.tensor([1, 2, 3])}, ValueError, r"k: expected a number or shape \[2\], one per sample"),
    ({"k": torch.ones(2, dtype=torch.int64, device="meta")}, ValueError, "k: expected it on cpu like the batch"),
]


@pytest.mark.parametrize(
    ("norm", "changed", "error", "message"),
    [*((norm, *case) for norm in NORMS for case in BAD), *(("l1", *case) for case in BAD_K)],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_arguments(norm: str, changed: dict[str, Any], error: type[Exception], message: str) -> None:
    """An error, and nothing written."""
    arguments = {"x_adv": D.clone(), "grad": D.clone(), "x": D.clone(), "eps": 0.1, "step_size": 0.1, **changed}
    x_adv = arguments["x_adv"]
    before = x_adv.clone() if isinstance(x_adv, Tensor) else list(x_adv)
    for function in (step, step_):
        with pytest.raises(error, match=message):
            function(norm, **arguments)
        if isinstance(x_adv, Tensor) and x_adv.dtype != torch.float8_e4m3fn:
            assert torch.equal(x_adv, before)


def test_numpy_scalars(rng: torch.Generator) -> None:
    numpy = pytest.importorskip("numpy")
    a, g, c, p = batch((3, 8), torch.float32, rng, "cpu")
    for k, same in ((numpy.int32(3), 3), (numpy.float64(0.5), 0.5)):
        options = {"momentum": numpy.float32(0.25), "previous": p}
        out = step("l1", a, g, c, numpy.float32(0.5), numpy.float64(0.1), k=k, **options)
        assert torch.equal(out, step("l1", a, g, c, 0.5, 0.1, k=same, momentum=0.25, previous=p))
