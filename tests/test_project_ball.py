"""l1 and l2 projection on ball and box: proofs of optimality, properties, NaN, awkward rows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import clarabel
import numpy as np
import pytest
import torch
from balls import NORMS, OPS, REFERENCE, SHAPES, TOLERANCE, Box, arithmetic, backward_op, project, random_box
from conftest import DTYPES, Backend, random
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor


def norms(norm: str, rows: Tensor) -> list[float]:
    """Of each row, right to a rounding of float64."""
    lists = rows.double().flatten(1).tolist()
    return [math.fsum(map(abs, row)) if norm == "l1" else math.hypot(*row) for row in lists]


def limits(y: Tensor, box: Box) -> Tensor:
    """How far each entry may go in the direction of its sign, as computed in the arithmetic of y's type, in float64."""
    if not box:
        return torch.full_like(y, math.inf, dtype=torch.float64)
    c = box["center"].to(arithmetic(y.dtype))
    room = torch.where(y > 0, box["bounds"][1] - c, c - box["bounds"][0])
    return room.clamp(min=0).double()


def check_feasible(norm: str, p: Tensor, y: Tensor, eps: Tensor, box: Box) -> None:
    """Within the ball to one unit in the last place of eps, within the box, and not across 0."""
    radii = eps.to(arithmetic(y.dtype)).cpu().numpy()
    for length, radius in zip(norms(norm, p), np.broadcast_to(radii, len(p)), strict=True):
        assert length <= float(radius) + float(np.spacing(radius))
    assert (p.double().abs() <= torch.minimum(limits(y, box), y.double().abs())).all()
    assert ((p == 0) | (p.sign() == y.sign())).all()


def check_optimal(norm: str, p: Tensor, y: Tensor, eps: Tensor, box: Box, tolerance: float) -> None:
    """The conditions of Karush, Kuhn and Tucker, which together with feasibility prove that p is the projection.

    There is one θ with ``|y| - |p| = θ`` where ``0 < |p| < b``, at most θ where p is 0, at least θ where ``|p| = b``;
    or one s with ``|p| = s |y|`` where ``|p| < b``, less where ``|p| = b``. Inside the ball, θ is 0 and s is 1.
    """
    check_feasible(norm, p, y, eps, box)
    a, m, b = y.double().abs(), p.double().abs(), limits(y, box)
    for row, (length, radius) in enumerate(zip(norms(norm, p), eps.double().expand(len(y)).tolist(), strict=True)):
        below, some = m[row] < b[row], m[row] > 0
        if length < radius * (1 - tolerance):
            assert torch.equal(m[row], torch.minimum(a[row], b[row]))
        elif norm == "l1":
            theta_at_least = (a[row] - m[row])[below]
            theta_at_most = (a[row] - m[row])[some]
            if len(theta_at_least) and len(theta_at_most):
                allowed = tolerance * (radius + theta_at_most.min().item())
                assert theta_at_least.max() <= theta_at_most.min() + allowed
        else:
            tiny = torch.finfo(y.dtype).tiny  # below, roundings are absolute
            normal = m[row] > tiny
            s = (m[row] / a[row])[normal].amax() if normal.any() else 0
            assert (m[row] >= s * a[row] * (1 - tolerance) - tiny)[below].all()


# ----------------------------------------------------------------------------------------------------- the right answer


def by_enumeration(norm: str, a: Tensor, b: Tensor, eps: float) -> Tensor:
    """The nearest feasible one of the points that follow from each entry being 0, free or at its limit."""
    sets = torch.tensor(list(itertools.product((0, 1, 2), repeat=len(a))), device=a.device)
    free, clipped = sets == 1, sets == 2
    fixed = torch.where(clipped, b, 0)
    if norm == "l1":
        theta = ((free * a).sum(1) + fixed.sum(1) - eps) / free.sum(1).clamp(min=1)
        candidates = torch.where(free, a - theta.clamp(min=0)[:, None], fixed)
        lengths = candidates.abs().sum(1)
    else:
        rest = (eps**2 - fixed.square().sum(1)).clamp(min=0)
        s = (rest / (free * a).square().sum(1).clamp(min=1e-300)).sqrt().clamp(max=1)
        candidates = torch.where(free, a * s[:, None], fixed)
        lengths = candidates.square().sum(1).sqrt()
    feasible = (lengths <= eps * (1 + 1e-12)) & (candidates >= 0).all(1) & (candidates <= b * (1 + 1e-12)).all(1)
    distance = (candidates - a).square().sum(1).masked_fill(~feasible, math.inf)
    return candidates[distance.argmin()]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
def test_is_the_best_of_all_active_sets(
    backend: Backend, d: int, with_box: bool, norm: str, rng: torch.Generator
) -> None:
    y = random((60, d), torch.float64, rng, backend.device)
    y[30:] = y[30:].mul(4).round().div(4)  # ties and zeros
    box = random_box((60, d), torch.float64, rng, backend.device) if with_box else {}
    eps = torch.linspace(0, 2, 60, dtype=torch.float64, device=backend.device)
    p = project(norm, y, eps, **box)
    b = limits(y, box).clamp(max=100)
    for row in range(60):
        best = by_enumeration(norm, y[row].abs(), b[row], eps[row].item())
        torch.testing.assert_close(p[row].abs(), best, rtol=0, atol=1e-9)


def by_interior_point(norm: str, y: NDArray[np.float64], eps: float, box: Box, row: int) -> NDArray[np.float64]:
    """One row by Clarabel, which is given distance, ball and box, and knows nothing of thresholds.

    Minimises ``½‖δ‖² - y·δ``; the l1 ball by bounds ``|δ| ≤ t``, ``Σ t ≤ eps``, the l2 ball as a second-order cone.
    Constraints are ``A x + s = b`` with s in a cone, x = (δ, t) or δ.
    """
    d = len(y)
    one, none = sparse.eye(d), sparse.csc_matrix((d, d))
    if norm == "l1":
        quadratic, linear = sparse.block_diag([one, none]), np.concatenate([-y, np.zeros(d)])
        A = [sparse.hstack([one, -one]), sparse.hstack([-one, -one]), np.repeat([[0.0, 1.0]], d, axis=1).reshape(1, -1)]
        b, cones = [np.zeros(2 * d), [eps]], [clarabel.NonnegativeConeT(2 * d + 1)]
    else:
        quadratic, linear = one, -y
        A, b, cones = [sparse.csc_matrix((1, d)), -one], [[eps], np.zeros(d)], [clarabel.SecondOrderConeT(d + 1)]
    if box:
        center = box["center"][row].cpu().numpy()
        lower, upper = (np.array(box["bounds"])[:, None] - center).clip([[-np.inf], [0]], [[0], [np.inf]])
        delta = sparse.hstack([one, none]) if norm == "l1" else one
        A, b = [*A, delta, -delta], [*b, upper, -lower]
        cones = [*cones, clarabel.NonnegativeConeT(2 * d)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(quadratic), linear, sparse.vstack(A, format="csc"), np.concatenate(b), cones, settings
    )
    return np.array(solver.solve().x[:d])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 30, 120, 500])
def test_agrees_with_an_interior_point_solver(
    backend: Backend, d: int, with_box: bool, norm: str, rng: torch.Generator
) -> None:
    """On random rows, ties, equal entries, powers, and rows that are inside or all but inside."""
    y = random((6, d), torch.float64, rng, backend.device)
    y[1] = y[1].mul(2).round()
    y[2] = y[2].sign() * 0.75
    y[3] = y[3].sign() * 0.9 ** torch.arange(d, device=backend.device)
    box = random_box((6, d), torch.float64, rng, backend.device) if with_box else {}
    length = y.norm(p=int(norm[1]), dim=1)
    eps = length * torch.tensor([0.3, 0.1, 0.5, 0.2, 0.99, 1.01], device=backend.device) + 1e-3
    p = project(norm, y, eps, **box).cpu().numpy()
    for row in range(6):
        given = y[row].cpu().numpy()
        solution = by_interior_point(norm, given, eps[row].item(), box, row)
        assert np.linalg.norm(p[row] - given) <= np.linalg.norm(solution - given) * (1 + 1e-8) + 1e-9
        # Near its end the solver sees little of a move along the sphere.
        along = 5e-5 if norm == "l2" and with_box else 2e-6
        np.testing.assert_allclose(p[row], solution, rtol=0, atol=along * max(1.0, eps[row].item()))


def awkward_rows(d: int, rng: torch.Generator) -> Tensor:
    """Random ones, ties, equal ones, powers, one entry that dwarfs the others, all of them tiny, few of many."""
    y = torch.randn(8, d, dtype=torch.float64, generator=rng)
    y[1] = y[1].mul(2).round()
    y[2] = y[2].sign() * 0.75
    y[3] = y[3].sign() * 0.5 ** torch.arange(d, dtype=torch.float64).clamp(max=60)
    y[4] /= 64
    y[4, d // 2] = 1e30
    y[5] *= 1e-30
    y[6, 3:] = 0
    y[7] = y[7].pow(5)
    return y


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 31, 33, 129, 500])
def test_is_optimal(backend: Backend, d: int, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    y = awkward_rows(d, rng).to(device=backend.device, dtype=dtype)
    for box in ({}, random_box((8, d), dtype, rng, backend.device)):
        for radius in (1e-30, 0.01, 0.5, 0.1 * d, 2.0 * d):
            eps = torch.linspace(1, 2, 8, dtype=dtype, device=backend.device) * radius
            check_optimal(norm, project(norm, y, eps, **box), y, eps, box, TOLERANCE[dtype] * 2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 100.0, math.inf])
def test_a_sample_may_mislead(backend: Backend, scale: float, dtype: torch.dtype, norm: str) -> None:
    """The sampled entries, 16 of each 256, are to the others as `scale` to 1."""
    rng = torch.Generator().manual_seed(1)
    y = random((4, 4096 + 7), torch.float64, rng, backend.device)
    sampled = torch.arange(y.shape[1], device=backend.device) // 16 % 16 == 0
    y[:, ~sampled if scale == math.inf else sampled] *= 0 if scale == math.inf else scale
    y = y.to(dtype)
    for box in ({}, random_box((4, y.shape[1]), dtype, rng, backend.device)):
        for radius in (1e-9, 0.1, 5, 200):
            eps = torch.linspace(1, 2, 4, dtype=dtype, device=backend.device) * radius
            check_optimal(norm, project(norm, y, eps, **box), y, eps, box, TOLERANCE[dtype] * 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_sample_without_what_a_small_ball_limits(backend: Backend, dtype: torch.dtype) -> None:
    """The box stops all of the large entries; the others, equal ones, share what is left of a tiny ball."""
    sampled = torch.arange(4096, device=backend.device) // 16 % 16 == 0
    room = torch.where(sampled, 2.0**-60, 1.0).to(dtype)[None]
    y = torch.where(sampled, -1000.0, -1.0).to(dtype)[None]
    p = project("l1", y, 2.0**-51, center=room, bounds=(0.0, 2.0))
    rest = (2.0**-51 - 256 * 2.0**-60) / (4096 - 256)
    expected = torch.full_like(y, -rest)
    expected[:, sampled] = -(2.0**-60)
    torch.testing.assert_close(p, expected, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e13), (torch.float64, 1e17)], ids=str)
@pytest.mark.parametrize("d", [33, 42, 47])
def test_an_entry_that_dwarfs_the_ball_is_stopped_by_the_box(
    backend: Backend, d: int, dtype: torch.dtype, size: float
) -> None:
    """What it leaves of the ball is for the others, also where only some of them are in the sample."""
    y = torch.full((1, d), -1.0, dtype=dtype, device=backend.device)
    y[0, 3] = size
    p = project("l1", y, 1.125, center=torch.zeros_like(y), bounds=(-1.0, 1.0))
    expected = torch.full_like(y, -0.125 / (d - 1))
    expected[0, 3] = 1
    torch.testing.assert_close(p, expected, rtol=32 * TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("d", [2, 40, 1000])
def test_sums_beyond_the_largest_float64(d: int, with_box: bool, norm: str, rng: torch.Generator) -> None:
    """As of the same row in units of 2^600, of which no sum overflows, as those of the reference do."""
    y = (torch.rand(4, d, dtype=torch.float64, generator=rng) * 2 - 1) * 1.79e308
    y[3] = y[3].sign() * 1.7e308
    eps = torch.tensor([1.7e308, 1e308, 1e303, 1.1e308], dtype=torch.float64)
    box: Box = {"center": torch.zeros_like(y), "bounds": (-8e307, 4e307)} if with_box else {}
    unit = 2.0**-600
    small: Box = {"center": torch.zeros_like(y), "bounds": (-8e307 * unit, 4e307 * unit)} if with_box else {}
    expected = project(norm, y * unit, eps * unit, **small)
    assert expected.any()
    torch.testing.assert_close(project(norm, y, eps, **box) * unit, expected, rtol=1e-14, atol=1e294 * unit)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_optimal_on_images(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """As an attack leaves them: a step away from the sphere, most entries of half types tied."""
    box: Box = {"center": torch.rand(3, 3, 32, 32, generator=rng).to(backend.device, dtype), "bounds": (0.0, 1.0)}
    y = (random((3, 3, 32, 32), torch.float64, rng, backend.device) / 8).to(dtype)
    eps = torch.tensor([12.0, 0.5, 2000.0], device=backend.device)
    p = project(norm, y, eps, **box)
    check_feasible(norm, p, y, eps, box)
    if dtype in (torch.float32, torch.float64):
        check_optimal(norm, *(t.flatten(1) for t in (p, y)), eps, {**box, "center": box["center"].flatten(1)}, 1e-5)
    again = project(norm, p, eps, **box)
    torch.testing.assert_close(again, p, rtol=TOLERANCE[dtype], atol=1e-6)


BOUNDS = [None, (0.0, 1.0), (-0.25, math.inf), (0.5, 0.5), (-math.inf, math.inf)]
RADII = [0.25, 0, math.inf, torch.tensor(0.3), torch.tensor([0.3], dtype=torch.float64), "per sample"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_is_the_reference(
    backend: Backend, bounds: tuple[float, float] | None, dtype: torch.dtype, norm: str, rng: torch.Generator
) -> None:
    for shape, radius in itertools.product(SHAPES, RADII):
        eps: Any = radius.to(backend.device) if isinstance(radius, Tensor) else radius
        if radius == "per sample":
            eps = torch.linspace(0, 3, shape[0], dtype=torch.float64, device=backend.device)
        y = random(shape, dtype, rng, backend.device)
        box = {} if bounds is None else {"center": random_box(shape, dtype, rng, backend.device)["center"]}
        box |= {} if bounds is None else {"bounds": bounds}
        before = y.clone()
        p = project(norm, y, eps, **box)
        assert (p.shape, p.dtype, p.device) == (y.shape, y.dtype, y.device)
        assert p.is_contiguous()
        expected = getattr(REFERENCE, f"project_{norm}")(y, eps, **box)
        torch.testing.assert_close(p, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[arithmetic(dtype)])
        assert torch.equal(y, before)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_box", [False, True])
def test_float32_is_float64_rounded(backend: Backend, with_box: bool, norm: str, rng: torch.Generator) -> None:
    y = random((50, 211), torch.float32, rng, backend.device)
    box = random_box((50, 211), torch.float32, rng, backend.device) if with_box else {}
    wide = {**box, "center": box["center"].double()} if with_box else {}
    for eps in (0.1, 3.0, 40.0):
        p = project(norm, y, eps, **box)
        torch.testing.assert_close(p.double(), project(norm, y.double(), eps, **wide), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------- what other programs have got wrong


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_every_entry_survives(backend: Backend, d: int, dtype: torch.dtype, rng: torch.Generator) -> None:
    """The root lies before the first entry that becomes 0: ``θ = 1/8``."""
    a = torch.randint(4, 9, (400, d), generator=rng) / 4
    sign = torch.randint(0, 2, (400, d), generator=rng) * 2 - 1
    y = (a * sign).to(backend.device, dtype)
    eps = (a - 0.125).sum(1).to(backend.device)
    expected = ((a - 0.125) * sign).to(backend.device, dtype)
    torch.testing.assert_close(project("l1", y, eps), expected, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_inside_are_untouched(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """Bit by bit, in a batch with rows that are not, and on the sphere, too."""
    y = torch.tensor(
        [[0.5, -0.25, 0.25, 0.0], [3.0, -4.0, 0.0, -0.0], [0.0, -0.0, 0.0, 0.0], [2.0, 2.0, -8.0, 1.0]], dtype=dtype
    ).to(backend.device)
    eps = torch.tensor([1.0, 5.0 if norm == "l2" else 7.0, 0.0, 1.0], device=backend.device)
    center = torch.zeros_like(y)
    for box in ({}, {"center": center, "bounds": (-4, 4)}):
        p = project(norm, y, eps, **box)
        assert torch.equal(p[:3], y[:3])
        assert torch.equal(p[:3].signbit(), y[:3].signbit())
        assert norms(norm, p[3:])[0] == pytest.approx(1, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("d", [31, 200, 1000])
def test_rows_on_the_sphere_are_untouched(
    backend: Backend, d: int, with_box: bool, norm: str, rng: torch.Generator
) -> None:
    """Their radius is the next number at or above their exact norm."""
    y = random((64, d), torch.float64, rng, backend.device).float()
    box = random_box((64, d), torch.float32, rng, backend.device) if with_box else {}
    inside = project(norm, y, 0.4 * math.sqrt(d), **box)
    exact = torch.tensor(norms(norm, inside), dtype=torch.float64)
    eps = exact.float()
    eps = torch.where(eps.double() < exact, eps.nextafter(torch.tensor(math.inf)), eps).to(backend.device)
    assert torch.equal(project(norm, inside, eps, **box), inside)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 2, 5, 64, 1000])
def test_ties_share_the_ball(backend: Backend, d: int, dtype: torch.dtype, norm: str) -> None:
    y = torch.full((2, d), 2.0, dtype=dtype, device=backend.device)
    y[1, ::2] = -2
    share = 1 / d if norm == "l1" else 1 / math.sqrt(d)
    torch.testing.assert_close(project(norm, y, 1.0), y / 2 * share, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_entries_of_very_different_sizes(backend: Backend, dtype: torch.dtype) -> None:
    rows = [[1e30, 0.5, -0.25], [0.5, -1e30, 1e-30], [1e-30, 1e-30, 1e-30], [-1e30, 1e30, 0.0]]
    y = torch.tensor(rows, dtype=dtype, device=backend.device)
    expected = torch.tensor([[1, 0, 0], [0, -1, 0], rows[2], [-0.5, 0.5, 0]], dtype=dtype, device=backend.device)
    torch.testing.assert_close(project("l1", y, 1.0), expected, rtol=TOLERANCE[dtype], atol=0)
    expected[3] *= math.sqrt(2)
    torch.testing.assert_close(project("l2", y, 1.0), expected, rtol=TOLERANCE[dtype], atol=1e-29)
    for norm in NORMS:
        assert torch.equal(project(norm, y, 1e38), y)
        small = project(norm, y, 1e-30)
        check_feasible(norm, small, y, torch.tensor([1e-30], device=backend.device), {})
        assert norms(norm, small) == pytest.approx([1e-30] * 4, rel=2 * TOLERANCE[dtype])
        boxed = project(norm, y, 1.0, center=torch.zeros_like(y), bounds=(-0.5, 0.5))
        first = [0.5, 0.375, -0.125] if norm == "l1" else [0.5, 0.5, -0.25]
        assert boxed[0].tolist() == pytest.approx(first, rel=TOLERANCE[dtype])
        assert boxed[3].tolist() == [-0.5, 0.5, 0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clean_inputs_on_the_edge_of_the_box_and_outside(backend: Backend, dtype: torch.dtype, norm: str) -> None:
    """Such an entry may move to the inside only, and leaves its share of the ball to the others."""
    y = torch.tensor([[3.0, 3.0, -3.0, -3.0, 3.0]], dtype=dtype, device=backend.device)
    center = torch.tensor([[1.0, 1.5, 0.0, -0.25, 0.0]], dtype=dtype, device=backend.device)
    p = project(norm, y, 0.5, center=center, bounds=(0, 1))
    assert p[0, :4].tolist() == [0, 0, 0, 0]
    assert p[0, 4].item() == pytest.approx(0.5, rel=TOLERANCE[dtype])
    inward = project(norm, -y, 100, center=center, bounds=(0, 1))
    assert inward.tolist() == [[-1, -1.5, 1, 1.25, 0]]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_radius_zero(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    y = torch.cat([random((3, 9), dtype, rng, backend.device), torch.full((1, 9), 1e4).to(backend.device, dtype)])
    assert not project(norm, y, 0).any()
    assert not project(norm, y, torch.zeros(4, device=backend.device), center=y, bounds=(-1, 1)).any()


# ----------------------------------------------------------------------------------------------------------- properties

entry = st.one_of(st.floats(-4, 4, width=32), st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e30, -1e30, 1e-30, 3e-38]))


radius = st.one_of(st.floats(0, 8, width=32), st.sampled_from([0.0, 0.5, 1.0, 1e-30, 1e30]))


number = st.floats(-2, 2, width=32)


boxes = st.none() | st.tuples(number, number).map(sorted)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=100)
@given(row=st.lists(entry, min_size=1, max_size=12), eps=radius, box=boxes, center=st.lists(number, min_size=12))
def test_is_feasible_symmetric_and_idempotent(
    backend: Backend,
    dtype: torch.dtype,
    norm: str,
    row: list[float],
    eps: float,
    box: list[float] | None,
    center: list[float],
) -> None:
    y = torch.tensor([row], dtype=torch.float64).clamp(-6e4, 6e4) if dtype == torch.float16 else torch.tensor([row])
    y = y.to(backend.device, dtype)
    c = torch.tensor([center[: len(row)]], device=backend.device).to(dtype)
    given: Box = {} if box is None else {"center": c, "bounds": tuple(box)}
    mirror: Box = {} if box is None else {"center": -c, "bounds": (-box[1], -box[0])}
    p = project(norm, y, eps, **given)
    check_feasible(norm, p, y, torch.tensor([eps], dtype=torch.float64, device=backend.device), given)
    assert torch.equal(project(norm, -y, eps, **mirror), -p)
    # The norm may exceed eps by a rounding of eps, which a second projection may take from any entry.
    rounding = eps * torch.finfo(arithmetic(dtype)).eps + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(project(norm, p, eps, **given), p, rtol=TOLERANCE[dtype], atol=rounding)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=100)
@given(
    rows=st.lists(st.tuples(number, number, number), min_size=1, max_size=12),
    eps=st.floats(0, 4),
    box=boxes,
    scale=st.sampled_from([1e-200, 1e-20, 0.3, 7.0, 1e20, 1e200]),
)
def test_is_non_expansive_and_follows_the_scale(
    backend: Backend,
    norm: str,
    rows: list[tuple[float, float, float]],
    eps: float,
    box: list[float] | None,
    scale: float,
) -> None:
    x, y, c = torch.tensor([rows], dtype=torch.float64, device=backend.device).unbind(-1)
    given: Box = {} if box is None else {"center": c, "bounds": tuple(box)}
    scaled: Box = {} if box is None else {"center": c * scale, "bounds": (box[0] * scale, box[1] * scale)}
    p, q = project(norm, x, eps, **given), project(norm, y, eps, **given)
    assert torch.dist(p, q) <= torch.dist(x, y) * (1 + 1e-12) + 1e-14
    torch.testing.assert_close(
        project(norm, x * scale, eps * scale, **scaled), p * scale, rtol=1e-9, atol=1e-13 * scale
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 5, 37, 300])
def test_rows_are_independent(backend: Backend, d: int, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """The same bits alone, in a batch, in another order, and wherever in memory the row begins."""
    y, box = random((9, d), dtype, rng, backend.device), random_box((9, d), dtype, rng, backend.device)
    eps = torch.linspace(0.1, 5, 9, device=backend.device)
    p = project(norm, y, eps, **box)
    order = torch.randperm(9, generator=rng).to(backend.device)
    shuffled = project(norm, y[order], eps[order], center=box["center"][order], bounds=(0, 1))
    assert torch.equal(shuffled, p[order])
    for row in range(9):
        alone = slice(row, row + 1)
        assert torch.equal(project(norm, y[alone], eps[alone], center=box["center"][alone], bounds=(0, 1)), p[alone])


@pytest.mark.parametrize("norm", NORMS)
def test_strided_arguments(backend: Backend, norm: str, rng: torch.Generator) -> None:
    y = random((4, 3, 5, 6), torch.float32, rng, backend.device)
    box = random_box((4, 3, 5, 6), torch.float32, rng, backend.device)
    eps = torch.linspace(0.1, 5, 8, device=backend.device)[::2]
    expected = project(norm, y, eps, **box)
    strided = y.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    center = box["center"].to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    actual = project(norm, strided, eps, center=center, bounds=(0, 1))
    assert torch.equal(actual, expected)
    assert actual.is_contiguous()
    spread = torch.stack([y, y + 1], dim=-1)[..., 0]
    assert torch.equal(project(norm, spread, eps, **box), expected)
    same = y[:1].expand(4, -1, -1, -1)
    assert torch.equal(project(norm, same, eps, **box), project(norm, same.contiguous(), eps, **box))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(37, 2011), (2, 150528)], ids=str)
def test_threads_leave_no_trace(norm: str, dtype: torch.dtype, shape: tuple[int, int], rng: torch.Generator) -> None:
    y, box = random(shape, dtype, rng, "cpu"), random_box(shape, dtype, rng, "cpu")
    eps = torch.linspace(1, 60, shape[0])
    arguments = (torch.randn_like(y), y, project(norm, y, eps, **box), eps.to(arithmetic(dtype)), box["center"], 0, 1)
    gradients = backward_op(norm)(*arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded, threaded_gradients = project(norm, y, eps, **box), backward_op(norm)(*arguments)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(threaded, arguments[2])
    assert all(map(torch.equal, threaded_gradients, gradients))
    check_feasible(norm, threaded, y, eps, box)
    expected = getattr(REFERENCE, f"project_{norm}")(y, eps, **box)
    torch.testing.assert_close(threaded, expected, rtol=TOLERANCE[dtype], atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_in_its_row(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    y, box = random((4, 40), dtype, rng, backend.device), random_box((4, 40), dtype, rng, backend.device)
    eps = torch.tensor([0.5, 1.0, 2.0, math.inf], dtype=arithmetic(dtype), device=backend.device)
    for row, position in itertools.product(range(4), (0, 17, 39)):
        for of in ("delta", "center", "eps"):
            bad = {"delta": y.clone(), "center": box["center"].clone(), "eps": eps.clone()}
            bad[of][(row,) if of == "eps" else (row, position)] = math.nan
            for center, bounds in ((bad["center"], (0.0, 1.0)), (None, (-math.inf, math.inf))):
                if center is None and of == "center":
                    continue
                # The op itself: a GPU's radius reaches it unseen.
                op = getattr(OPS, f"project_{norm}")
                p = op(bad["delta"], bad["eps"], center, *bounds)
                clean = op(y, eps, None if center is None else box["center"], *bounds)
                assert p[row].isnan().all()
                others = [r for r in range(4) if r != row]
                assert torch.equal(p[others], clean[others])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinite_entry_takes_what_it_may(backend: Backend, dtype: torch.dtype, norm: str) -> None:
    y = torch.tensor([[1.0, -math.inf, 0.25], [0.5, 0.25, 0.0]], dtype=dtype, device=backend.device)
    beside_the_largest = torch.finfo(arithmetic(dtype)).tiny  # more than 1 / max
    p = project(norm, y, 1.0)
    assert p[0].tolist() == pytest.approx([0, -1, 0], rel=TOLERANCE[dtype], abs=beside_the_largest)
    assert torch.equal(project(norm, y, math.inf), y)
    center = torch.zeros_like(y)
    p = project(norm, y, 1.0, center=center, bounds=(-0.5, 10))
    assert p[0, 1] == -0.5
    rest = torch.tensor([0.5, 0.0] if norm == "l1" else [1.0, 0.25], dtype=torch.float64, device=backend.device)
    rest *= 1 if norm == "l1" else math.sqrt(0.75 / 1.0625)
    torch.testing.assert_close(p[0, ::2].double(), rest, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    both = project(norm, torch.full_like(y, math.inf), 1.0)  # ends, in one way or the other
    assert both.isnan().all() or all(length <= 1 + 1e-6 for length in norms(norm, both))


def test_reference_shares_the_ball_among_infinite_entries() -> None:
    y = torch.tensor([[math.inf, 0.0, -math.inf]])
    assert REFERENCE.project_l1(y, 1.0).tolist() == [[0.5, 0, -0.5]]
    assert REFERENCE.project_l2(y, math.sqrt(2)).tolist() == [[1, 0, -1]]
