"""Quadrature rules: exactness, orders, sums, derivatives, agreement with SciPy and NumPy, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import integralrob as ir

Q = ir.quadrature
ROUND_OFF = 2e-14

RULES = [Q.LeftRiemann(), Q.RightRiemann(), Q.Midpoint(), Q.Trapezoidal(), Q.Simpson(), Q.GaussLegendre()]
CLOSED = [Q.LeftRiemann(), Q.RightRiemann(), Q.Trapezoidal(), Q.Simpson()]
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def uniform(size, a=0.0, b=1.0):
    return torch.linspace(a, b, size, dtype=torch.float64)


def irregular(size, a=0.0, b=1.0, seed=0):
    """Increasing points from a to b, with spacings that differ by a factor of up to 3."""
    steps = torch.rand(size - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    inner = a + (b - a) * steps.cumsum(0)[:-1] / steps.sum()
    return torch.cat([float64(a), inner, float64(b)])


def monomial_error(rule, points, degree, interval=None):
    """Largest error over the monomials up to the degree, on the interval (default: the points')."""
    a, b = (points[0].item(), points[-1].item()) if interval is None else interval
    weights = rule.weights(points, interval)
    exact = [(b ** (k + 1) - a ** (k + 1)) / (k + 1) for k in range(degree + 1)]
    return max(abs((weights * points**k).sum().item() - exact[k]) for k in range(degree + 1))


partitions = st.lists(st.floats(0.05, 1.0), min_size=2, max_size=12).map(
    lambda steps: torch.tensor(steps, dtype=torch.float64).cumsum(0)
)


# The formulas.


def test_weights_of_appendix_b():
    points = float64(0.0, 0.1, 0.4, 1.0)
    torch.testing.assert_close(Q.LeftRiemann().weights(points), float64(0.1, 0.3, 0.6, 0.0))
    torch.testing.assert_close(Q.RightRiemann().weights(points), float64(0.0, 0.1, 0.3, 0.6))
    torch.testing.assert_close(Q.Trapezoidal().weights(points), float64(0.05, 0.2, 0.45, 0.3))


def test_midpoint_weights_are_the_cells():
    points = float64(0.0, 0.2, 0.6)
    torch.testing.assert_close(Q.Midpoint().weights(points), float64(0.2, 0.3, 0.4))
    torch.testing.assert_close(Q.Midpoint().weights(points, (-0.5, 0.7)), float64(0.6, 0.3, 0.3))
    torch.testing.assert_close(Q.Midpoint().weights(float64(0.3), (0, 2)), float64(2.0))


def test_simpson_weights():
    torch.testing.assert_close(3 * Q.Simpson().weights(uniform(7, 0, 6)), float64(1, 4, 2, 4, 2, 4, 1))
    # Last spacing: the parabola through the last three points, (-1, 8, 5)/12.
    torch.testing.assert_close(12 * Q.Simpson().weights(uniform(4, 0, 3)), float64(4, 15, 12, 5))
    two = float64(0.2, 0.5)
    torch.testing.assert_close(Q.Simpson().weights(two), Q.Trapezoidal().weights(two))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 9, 10, 33])
@pytest.mark.parametrize("grid", [uniform, irregular])
def test_equals_scipy(size, grid):
    points = grid(size)
    values = torch.sin(5 * points) + points**4
    integrate = pytest.importorskip("scipy.integrate")
    for rule, reference in ((Q.Simpson(), integrate.simpson), (Q.Trapezoidal(), integrate.trapezoid)):
        ours = (rule.weights(points) * values).sum().item()
        assert ours == pytest.approx(float(reference(values.numpy(), x=points.numpy())), abs=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 33, 100, 300])
def test_gauss_legendre_equals_numpy(size):
    rule = Q.GaussLegendre()
    nodes, weights = np.polynomial.legendre.leggauss(size)
    points = rule.points(size)
    np.testing.assert_allclose(points.numpy(), nodes, rtol=0, atol=1e-15)
    np.testing.assert_allclose(rule.weights(points).numpy(), weights, rtol=0, atol=5e-14)
    assert torch.equal(points, -points.flip(0))


def test_gauss_legendre_points_on_an_interval():
    points = Q.GaussLegendre().points(5, (2, 5))
    torch.testing.assert_close(points, 3.5 + 1.5 * Q.GaussLegendre().points(5))
    assert points.dtype == torch.float64


# Exactness and order.


@pytest.mark.parametrize("grid", [uniform, irregular])
@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
@pytest.mark.parametrize("interval", [None, (-0.1, 1.15)])
@pytest.mark.parametrize(
    ("rule", "degree"),
    [(Q.LeftRiemann(), 0), (Q.RightRiemann(), 0), (Q.Trapezoidal(), 1), (Q.Simpson(), 2)],
    ids=lambda value: repr(value),
)
def test_exact_to_its_degree_and_no_further(rule, degree, grid, size, interval):
    points = grid(size)
    assert monomial_error(rule, points, degree, interval) < ROUND_OFF
    if not (rule.__class__ is Q.Simpson and grid is uniform):
        assert monomial_error(rule, points, degree + 1, interval) > 1e-6


@pytest.mark.parametrize("size", [3, 5, 9, 21])
def test_simpson_is_exact_for_cubics_on_uniform_odd_grids(size):
    assert monomial_error(Q.Simpson(), uniform(size, -1, 2), 3) < ROUND_OFF
    assert monomial_error(Q.Simpson(), uniform(size, -1, 2), 4) > 1e-6
    assert monomial_error(Q.Simpson(), uniform(size + 1, -1, 2), 3) > 1e-6


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_midpoint_is_exact_for_lines_on_centred_cells(size):
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    assert monomial_error(Q.Midpoint(), centres, 1, (0, 1)) < ROUND_OFF
    assert monomial_error(Q.Midpoint(), centres, 2, (0, 1)) > 1e-4
    if size > 1:
        torch.testing.assert_close(Q.Midpoint().weights(centres), Q.Midpoint().weights(centres, (0, 1)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 12])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1(size):
    rule = Q.GaussLegendre()
    for interval in ((-1, 1), (0, 1)):
        points = rule.points(size, interval)
        assert monomial_error(rule, points, 2 * size - 1, interval) < 5e-14
    points = rule.points(size)
    gap = monomial_error(rule, points, 2 * size, (-1, 1))
    # The error term of the monic polynomial of degree 2n.
    known = 2 ** (2 * size + 1) * math.factorial(size) ** 4 / ((2 * size + 1) * math.factorial(2 * size) ** 2)
    assert gap == pytest.approx(known, abs=1e-14)


@pytest.mark.parametrize("size", [2, 5, 9])
def test_gauss_legendre_interpolates_at_any_points(size):
    assert monomial_error(Q.GaussLegendre(), irregular(size, -0.9, 0.8), size - 1, (-1, 1)) < 1e-12


def measured_order(rule, grid, sizes, interval=None, default=(0.0, 1.3)):
    """Slope of log error against log number of points."""
    a, b = default if interval is None else interval
    exact = pytest.importorskip("scipy.integrate").quad(
        lambda x: math.exp(math.sin(3 * x)), a, b, epsabs=1e-14, epsrel=1e-14
    )[0]
    errors = []
    for size in sizes:
        points = grid(size)
        errors.append(abs((rule.weights(points, interval) * torch.exp(torch.sin(3 * points))).sum().item() - exact))
    return math.log(errors[0] / errors[-1]) / math.log((sizes[-1] - 1) / (sizes[0] - 1))


@pytest.mark.parametrize(
    ("rule", "order"),
    [(Q.LeftRiemann(), 1), (Q.RightRiemann(), 1), (Q.Trapezoidal(), 2), (Q.Simpson(), 4)],
    ids=lambda value: repr(value),
)
@pytest.mark.parametrize("sizes", [(65, 257), (66, 258)], ids=["odd", "even"])
def test_convergence_order(rule, order, sizes):
    assert measured_order(rule, lambda size: uniform(size, 0, 1.3), sizes) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sizes", [(65, 257), (66, 258)], ids=["odd", "even"])
def test_convergence_order_on_a_graded_grid(sizes):
    def graded(size):
        return 1.3 * uniform(size) ** 1.5

    assert measured_order(Q.Trapezoidal(), graded, sizes) == pytest.approx(2, abs=0.15)
    assert measured_order(Q.Simpson(), graded, sizes) > 3


def test_convergence_order_of_midpoint():
    def centred(size):
        return 1.3 * (torch.arange(size, dtype=torch.float64) + 0.5) / size

    for interval in (None, (0.0, 1.3)):
        assert measured_order(Q.Midpoint(), centred, (64, 256), interval) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(("rule", "order"), [(Q.Trapezoidal(), 2), (Q.Simpson(), 3)], ids=lambda value: repr(value))
def test_order_holds_when_cells_extend_to_the_interval(rule, order):
    def centred(size):
        return 1.3 * (torch.arange(size, dtype=torch.float64) + 0.5) / size

    assert measured_order(rule, centred, (65, 257), (0.0, 1.3)) > order - 0.1


def test_gauss_legendre_converges_spectrally():
    rule = Q.GaussLegendre()
    for size, bound in ((4, 1e-3), (8, 1e-8), (14, 1e-14)):
        points = rule.points(size)
        error = (rule.weights(points) * torch.exp(2 * points)).sum().item() - math.sinh(2)
        assert abs(error) < bound


# Sums, dtypes, derivatives.


@every_rule
@given(partition=partitions, before=st.floats(0, 0.5), after=st.floats(0, 0.5))
@settings(deadline=None, max_examples=50)
def test_weights_sum_to_the_interval(rule, partition, before, after):
    interval = (partition[0].item() - before, partition[-1].item() + after)
    weights = rule.weights(partition, interval)
    assert weights.shape == partition.shape
    assert weights.sum().item() == pytest.approx(
        interval[1] - interval[0], abs=1e-14 * (1 + weights.abs().sum().item())
    )


@pytest.mark.parametrize("rule", CLOSED, ids=repr)
@given(partition=partitions)
@settings(deadline=None, max_examples=50)
def test_default_interval_is_from_the_first_to_the_last_point(rule, partition):
    weights = rule.weights(partition)
    explicit = rule.weights(partition, (partition[0].item(), partition[-1].item()))
    torch.testing.assert_close(weights, explicit, rtol=0, atol=1e-12)
    assert weights.sum().item() == pytest.approx((partition[-1] - partition[0]).item(), abs=1e-13)


@given(partition=partitions)
@settings(deadline=None, max_examples=50)
def test_default_interval_of_midpoint_is_half_a_spacing_wider(partition):
    wider = (partition[1] - partition[0] + partition[-1] - partition[-2]).item() / 2
    total = Q.Midpoint().weights(partition).sum().item()
    assert total == pytest.approx((partition[-1] - partition[0]).item() + wider, abs=1e-13)


def test_default_interval_of_gauss_legendre():
    assert Q.GaussLegendre().weights(irregular(6, -0.7, 0.5)).sum().item() == pytest.approx(2, abs=1e-13)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_keep_the_dtype(rule, dtype):
    points = torch.tensor([-0.75, -0.25, 0.25, 0.5, 0.75], dtype=dtype)
    weights = rule.weights(points, (-1, 1))
    assert weights.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        weights, rule.weights(points.double(), (-1, 1)).to(dtype), rtol=tolerance, atol=tolerance
    )


@every_rule
def test_points_may_round_beyond_the_interval(rule):
    points = torch.tensor([-0.1, 0.3], dtype=torch.float32)  # float32(-0.1) < -0.1
    assert rule.weights(points, (-0.1, 0.3)).sum().item() == pytest.approx(0.4, abs=1e-6)


@every_rule
@pytest.mark.parametrize("interval", [None, (-0.9, 0.95)])
@pytest.mark.parametrize("size", [2, 5, 6])
def test_weights_are_differentiable_twice(rule, interval, size):
    points = irregular(size, -0.8, 0.9).requires_grad_()
    assert gradcheck(lambda x: rule.weights(x, interval), points)
    assert gradgradcheck(lambda x: rule.weights(x, interval).square(), points)


@every_rule
def test_weights_leave_the_points_alone(rule):
    points = irregular(6, -0.8, 0.9)
    before = points.clone()
    rule.weights(points)
    assert torch.equal(points, before)


@every_rule
@pytest.mark.parametrize("interval", [None, (-1.0, 1.0)])
def test_weights_compile_without_graph_breaks(rule, interval):
    torch.compiler.reset()
    compiled = torch.compile(lambda x: rule.weights(x, interval), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 7, 8):
        points = irregular(size, -0.8, 0.9)
        torch.testing.assert_close(compiled(points), rule.weights(points, interval))


def test_rule_repr():
    assert repr(Q.LeftRiemann()) == "LeftRiemann()"


# Several axes.


def test_integrate_one_axis():
    grid = irregular(7)
    result = Q.integrate(Q.Simpson(), lambda x: 3 * x**2, grid)
    assert result.shape == ()
    assert result.item() == pytest.approx(1, abs=ROUND_OFF)


def test_integrate_is_exact_over_a_box():
    grids = (uniform(5, 0, 2), irregular(4, -1, 1), irregular(6, 0, 3))
    rules = (Q.Simpson(), Q.Trapezoidal(), Q.Simpson())
    result = Q.integrate(rules, lambda x, y, z: x**3 * (y + 2) * z**2, grids)
    assert result.item() == pytest.approx(4 * 4 * 9, rel=1e-14)


def test_integrate_takes_an_interval_per_axis():
    gauss = Q.GaussLegendre()
    grids = (gauss.points(3, (0, 1)), gauss.points(4))
    result = Q.integrate(gauss, lambda x, y: x**5 * y**6, grids, intervals=[(0, 1), None])
    assert result.item() == pytest.approx(1 / 6 * 2 / 7, abs=1e-15)
    both = Q.integrate(gauss, lambda x, y: x * y, (grids[0], grids[0]), intervals=(0, 1))
    assert both.item() == pytest.approx(1 / 4, abs=1e-15)


def test_integrate_equals_the_iterated_sum_and_keeps_more_dimensions():
    generator = torch.Generator().manual_seed(3)
    grids = (irregular(3), irregular(4, seed=1))
    values = torch.rand(3, 4, 2, 5, dtype=torch.float64, generator=generator)
    result = Q.integrate((Q.LeftRiemann(), Q.Trapezoidal()), lambda x, y: values, grids)
    expected = torch.einsum(
        "i,j,ijkl->kl", Q.LeftRiemann().weights(grids[0]), Q.Trapezoidal().weights(grids[1]), values
    )
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)


def test_integrate_hands_over_coordinates_in_matrix_order():
    seen = []

    def function(x, y):
        seen.extend((x.clone(), y.clone()))
        return x

    grids = (irregular(3), irregular(4))
    Q.integrate(Q.Trapezoidal(), function, grids)
    assert torch.equal(seen[0], grids[0][:, None].expand(3, 4))
    assert torch.equal(seen[1], grids[1][None].expand(3, 4))


def test_integrate_protects_the_grids_from_the_function():
    grid = irregular(5)
    before = grid.clone()
    assert Q.integrate(Q.Simpson(), lambda x: x.square_(), grid).item() == pytest.approx(1 / 3, abs=ROUND_OFF)
    assert torch.equal(grid, before)


def test_integrate_promotes_dtypes():
    grid = uniform(5)
    assert Q.integrate(Q.Simpson(), lambda x: x.float(), grid).dtype == torch.float64
    assert Q.integrate(Q.Simpson(), lambda x: x > 0, grid.float()).dtype == torch.float32
    waves = Q.integrate(Q.Simpson(), lambda x: torch.exp(2j * math.pi * x), uniform(65))
    assert waves.dtype == torch.complex128
    assert abs(waves.item()) < 1e-12


def test_integrate_is_differentiable_in_grids_and_parameters():
    x = irregular(4).requires_grad_()
    y = irregular(3, seed=2).requires_grad_()
    scale = float64(0.7).requires_grad_()

    def integral(x, y, scale):
        return Q.integrate((Q.Simpson(), Q.Midpoint()), lambda u, v: torch.sin(scale * u) * torch.exp(v), (x, y))

    assert gradcheck(integral, (x, y, scale))
    assert gradgradcheck(integral, (x, y, scale))


def test_leibniz():
    grid = Q.GaussLegendre().points(20, (0, 1))
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    integral = Q.integrate(Q.GaussLegendre(), lambda x: torch.exp(scale * x), grid, intervals=(0, 1))
    (slope,) = torch.autograd.grad(integral, scale)
    exact = (1.5 * math.exp(1.5) - math.exp(1.5) + 1) / 1.5**2
    assert slope.item() == pytest.approx(exact, abs=ROUND_OFF)


# Bad input.


@every_rule
@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([0.0, 1.0], TypeError, "points: expected a tensor"),
        (torch.tensor([0, 1]), TypeError, "points: expected a floating-point tensor"),
        (torch.zeros(2, 2), ValueError, "points: expected a tensor of one dimension, got .*2, 2"),
        (torch.tensor(0.5), ValueError, "points: expected a tensor of one dimension"),
        (torch.zeros(0), ValueError, "points: expected at least [12] points, got 0"),
        (torch.tensor([0.0, math.nan, 1.0]), ValueError, "points: expected finite"),
        (torch.tensor([0.0, 0.5, math.inf]), ValueError, "points: expected finite"),
        (
            torch.tensor([0.0, 0.5, 0.5]),
            ValueError,
            "points: expected strictly increasing .* 0.5 before 0.5 at index 1",
        ),
        (
            torch.tensor([0.5, 0.0, 0.25]),
            ValueError,
            "points: expected strictly increasing .* 0.5 before 0.0 at index 0",
        ),
    ],
)
@pytest.mark.parametrize("interval", [None, (-1, 1)])
def test_bad_points(rule, points, error, message, interval):
    with pytest.raises(error, match=message):
        rule.weights(points, interval)


@every_rule
@pytest.mark.parametrize(
    ("interval", "error", "message"),
    [
        (1.0, TypeError, "interval: expected a pair"),
        ((0.0, 1.0, 2.0), TypeError, "interval: expected a pair"),
        (("0", 1.0), TypeError, r"interval\[0\]: expected a number"),
        ((1.0, 0.0), ValueError, "interval: expected finite numbers .* with a < b"),
        ((0.0, 0.0), ValueError, "interval: expected finite numbers .* with a < b"),
        ((0.0, math.inf), ValueError, "interval: expected finite"),
        ((math.nan, 1.0), ValueError, r"interval\[0\]"),
        ((0.1, 1.0), ValueError, "points: expected points inside the interval"),
        ((0.0, 0.9), ValueError, "points: expected points inside the interval"),
    ],
)
def test_bad_interval(rule, interval, error, message):
    with pytest.raises(error, match=message):
        rule.weights(uniform(3), interval)


@pytest.mark.parametrize("rule", [*CLOSED, Q.Midpoint()], ids=repr)
def test_one_point_without_an_interval(rule):
    with pytest.raises(ValueError, match="points: expected at least 2 points, got 1"):
        rule.weights(float64(0.5))


@every_rule
def test_one_point_with_an_interval(rule):
    if isinstance(rule, (Q.Trapezoidal, Q.Simpson)):
        with pytest.raises(ValueError, match="points: expected at least 2 points, got 1"):
            rule.weights(float64(0.5), (0, 2))
    else:
        torch.testing.assert_close(rule.weights(float64(0.5), (0, 2)), float64(2.0))


def test_gauss_legendre_rejects_points_outside_its_default_interval():
    with pytest.raises(ValueError, match="points: expected points inside the interval"):
        Q.GaussLegendre().weights(uniform(3, 0, 2))


@every_rule
@pytest.mark.parametrize("interval", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(rule, interval, dtype):
    """The weights of the rounded points, rounded once; differences of 1e-3 have no square in float16."""
    points = torch.tensor([-0.5, -0.499, -0.25, 0.125, 0.126, 0.75] if dtype == torch.float16 else [-0.5, -0.25, 0.5])
    points = points.to(dtype)
    weights = rule.weights(points, interval)
    assert weights.dtype == dtype
    assert torch.equal(weights, rule.weights(points.float(), interval).to(dtype))


def test_numpy_scalars():
    gauss = Q.GaussLegendre()
    interval = (np.float32(0), np.int64(2))
    assert torch.equal(gauss.points(np.int64(3), interval), gauss.points(3, (0, 2)))
    total = Q.integrate(Q.Simpson(), lambda x: x, uniform(3, 0, 2), intervals=interval)
    torch.testing.assert_close(total, float64(2.0)[0])


def test_bad_arguments_of_gauss_legendre_points():
    rule = Q.GaussLegendre()
    with pytest.raises(ValueError, match="num_points: expected an int of at least 1, got 0"):
        rule.points(0)
    with pytest.raises(TypeError, match="num_points: expected an int"):
        rule.points(2.0)
    with pytest.raises(ValueError, match="interval: expected finite numbers"):
        rule.points(3, (1, -1))


def never(*coordinates):
    raise AssertionError("the function was called before the arguments were checked")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("simpson", never, uniform(3)), TypeError, "rule: expected one for all axes or a sequence"),
        ((Q.Simpson, never, uniform(3)), TypeError, "rule: expected one for all axes or a sequence"),
        (([Q.Simpson], never, uniform(3)), TypeError, "rule: expected a quadrature rule"),
        (([Q.Simpson()] * 2, never, uniform(3)), ValueError, r"rule: expected one per axis \(1\), got 2"),
        ((Q.Simpson(), 3.0, uniform(3)), TypeError, "function: expected a callable"),
        ((Q.Simpson(), never, 3.0), TypeError, "grids: expected one for all axes or a sequence"),
        ((Q.Simpson(), never, []), ValueError, "grids: expected one per axis"),
        ((Q.Simpson(), never, [uniform(3), uniform(1)]), ValueError, r"grids\[1\]: expected at least 2 points"),
        ((Q.Simpson(), never, [uniform(3), [0, 1]]), TypeError, r"grids\[1\]: expected a tensor"),
        ((Q.Simpson(), lambda x: 1.0, uniform(3)), TypeError, "function: expected a tensor"),
        ((Q.Simpson(), lambda x: x[:2], uniform(3)), ValueError, r"function: expected values of shape \(3,\)"),
        (
            (Q.Simpson(), lambda x, y: x.sum(), [uniform(3)] * 2),
            ValueError,
            r"function: expected values of shape \(3, 3\)",
        ),
    ],
)
def test_bad_arguments_of_integrate(arguments, error, message):
    with pytest.raises(error, match=message):
        Q.integrate(*arguments)


@pytest.mark.parametrize(
    ("intervals", "error", "message"),
    [
        (3.0, TypeError, r"intervals\[0\]: expected a pair"),
        ((), TypeError, r"intervals\[0\]: expected a pair"),
        ([(0, 1)], ValueError, r"intervals: expected one per axis \(2\), got 1"),
        ([(0, 1), (0, 0.5)], ValueError, r"grids\[1\]: expected points inside the interval"),
        ([(0, 1), (1, 0)], ValueError, r"intervals\[1\]: expected finite"),
    ],
)
def test_bad_intervals_of_integrate(intervals, error, message):
    with pytest.raises(error, match=message):
        Q.integrate(Q.Simpson(), never, [uniform(3)] * 2, intervals=intervals)


def test_rules_of_a_type_are_equal():
    assert ir.quadrature.Midpoint() == ir.quadrature.Midpoint() != ir.quadrature.Simpson()
    assert len({ir.quadrature.Midpoint(), ir.quadrature.Midpoint(), ir.quadrature.Simpson()}) == 2
    assert ir.nn.Sampling() == ir.nn.Sampling()
