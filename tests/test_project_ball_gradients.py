"""Derivatives of the l1 and l2 projections on ball and box."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from balls import NORMS, REFERENCE, SHAPES, TOLERANCE, Box, arithmetic, backward_op, project, random_box
from conftest import DTYPES, Backend, random
from torch import Tensor


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients(backend: Backend, per_sample: bool, norm: str, rng: torch.Generator) -> None:
    """First and second ones, where entries are free, 0, at a bound that moves, and at one that does not."""
    y = random((4, 8), torch.float64, rng, backend.device)
    y[3] /= 16  # inside the ball, and with bounds the box decides
    eps = torch.tensor([0.8, 1.5, 1.9, 3.0] if per_sample else [0.9], dtype=torch.float64, device=backend.device)
    center = torch.rand(4, 8, dtype=torch.float64, generator=rng).to(backend.device) * 1.4 - 0.2
    leaves = [leaf.requires_grad_() for leaf in (y, eps, center)]
    weights = random((4, 8), torch.float64, rng, backend.device)

    def boxed(y: Tensor, eps: Tensor, center: Tensor) -> Tensor:
        return project(norm, y, eps, center=center, bounds=(0, 1))

    def unboxed(y: Tensor, eps: Tensor) -> Tensor:
        return project(norm, y, eps)

    for function, inputs in ((unboxed, leaves[:2]), (boxed, leaves)):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
        # Of a linear function: on the sphere the squares add up to the same whatever the entries are.
        gradients = torch.autograd.grad(function(*inputs), inputs, weights)
        assert all(gradient.any() for gradient in gradients)
        assert norm == "l2" or not gradients[0].all()


@pytest.mark.parametrize("with_box", [False, True])
def test_an_entry_at_zero_moves_with_delta_in_l2(backend: Backend, with_box: bool) -> None:
    delta = torch.tensor([[0.0, 3.0, -4.0, 0.0]], dtype=torch.float64, device=backend.device, requires_grad=True)
    box = {"center": torch.full_like(delta, 0.5).detach(), "bounds": (-5.0, 5.0)} if with_box else {}
    assert torch.autograd.gradcheck(lambda delta: project("l2", delta, 2.5, **box), delta)
    for eps, factor in ((2.5, 0.5), (10.0, 1.0), (0.0, 0.0)):
        (grad,) = torch.autograd.grad(project("l2", delta, eps, **box)[0, 0], delta)
        torch.testing.assert_close(grad, grad.new_tensor([[factor, 0, 0, 0]]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_box", [False, True])
def test_backward_is_the_reference(
    backend: Backend, with_box: bool, dtype: torch.dtype, norm: str, rng: torch.Generator
) -> None:
    for shape, radius in itertools.product(SHAPES, (0.0, 0.4, 3.0, math.inf)):
        if not shape[0]:
            continue
        y, grad = (random(shape, dtype, rng, backend.device) for _ in range(2))
        box: Box = random_box(shape, dtype, rng, backend.device) if with_box else {}
        eps = torch.full((shape[0],), radius, dtype=arithmetic(dtype), device=backend.device)
        result = getattr(REFERENCE, f"project_{norm}")(y, eps, **box)
        expected = getattr(REFERENCE, f"project_{norm}_backward")(grad, y, result, eps, **box)
        bounds = box.get("bounds", (-math.inf, math.inf))
        for layout in (lambda t: t, lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)):
            for radii in (eps, eps[:1]):
                given = (layout(grad), layout(y), layout(result), radii, box.get("center"), *bounds)
                actual = backward_op(norm)(*given)
                for found, wanted in zip(actual, expected, strict=True):
                    assert found.is_contiguous()
                    tolerance = max(TOLERANCE[found.dtype], TOLERANCE[arithmetic(dtype)]) * 4
                    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 2.0**99), (torch.float64, 2.0**700)], ids=str)
def test_gradients_do_not_depend_on_the_scale(
    backend: Backend, dtype: torch.dtype, scale: float, norm: str, rng: torch.Generator
) -> None:
    y, grad = (random((5, 9), dtype, rng, backend.device) for _ in range(2))
    eps = torch.linspace(0.5, 2, 5, dtype=dtype, device=backend.device)
    box = random_box((5, 9), dtype, rng, backend.device)
    found = []
    for unit in (1.0, scale, 1 / scale):
        leaves = [(leaf * unit).requires_grad_() for leaf in (y, eps, box["center"])]
        p = project(norm, *leaves[:2], center=leaves[2], bounds=(0.0, unit))
        found.append(torch.autograd.grad(p, leaves, grad))
    for expected, *others in zip(*found, strict=True):
        assert expected.any()
        for other in others:
            torch.testing.assert_close(other, expected, rtol=TOLERANCE[dtype] * 8, atol=TOLERANCE[dtype] * 8)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_of_an_entry_that_does_not_move_is_not_looked_at(backend: Backend, bad: float, norm: str) -> None:
    """Of one on a bound, here; its clean input gets what there is."""
    y = torch.tensor([[9.0, 2.0, -1.0]], device=backend.device, requires_grad=True)
    center = torch.zeros(1, 3, device=backend.device, requires_grad=True)
    p = project(norm, y, 0.8, center=center, bounds=(-0.5, 0.5))
    gradients = torch.autograd.grad(p, (y, center), torch.tensor([[bad, 1.0, 1.0]], device=backend.device))
    assert p[0, 0] == 0.5
    assert gradients[0][0, 0] == 0
    assert gradients[0].isfinite().all()
    assert not gradients[1][0, 0].isfinite()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("rest", [(), (0,), (5,), (2, 3)], ids=str)
def test_gradient_of_the_radius_has_its_shape(backend: Backend, rest: tuple[int, ...], samples: int, norm: str) -> None:
    """And its size: of d equal entries each is ``eps / d``, or ``eps / √d``."""
    d = math.prod(rest)
    for shape in ((), (1,), (samples,)):
        eps = torch.full(shape, 0.5, device=backend.device, requires_grad=True)
        y = torch.ones(samples, *rest, device=backend.device, requires_grad=True)
        project(norm, y, eps).sum().backward()
        assert eps.grad is not None
        assert eps.grad.shape == shape
        each = 0 if d == 0 else 1 if norm == "l1" else math.sqrt(d)
        assert eps.grad.sum().item() == pytest.approx(samples * each, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_at_kinks(backend: Backend, norm: str) -> None:
    """On the sphere and on a bound as inside; with nothing free, nothing follows the radius."""
    y = torch.tensor([[3.0, -4.0, 0.0], [1.0, -1.0, 0.5], [5.0, -5.0, 5.0]], device=backend.device)
    eps = torch.tensor([7.0 if norm == "l1" else 5.0, 9.0, 0.0], device=backend.device)
    center = torch.zeros_like(y)
    for leaf in (y, eps, center):
        leaf.requires_grad_()
    for row, bound in enumerate((4.0, 1.0, 1.0)):
        p = project(norm, y[row : row + 1], eps[row], center=center[row : row + 1], bounds=(-bound, bound))
        p.sum().backward()
    assert y.grad is not None
    assert eps.grad is not None
    assert center.grad is not None
    assert y.grad.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert eps.grad.tolist() == [0, 0, 0]
    assert not center.grad.any()


def test_gradient_of_an_entry_that_just_became_zero(backend: Backend) -> None:
    """``θ`` equals the second entry: it stays 0."""
    y = torch.tensor([[1.5, 0.5]], device=backend.device, requires_grad=True)
    eps = torch.tensor(1.0, device=backend.device, requires_grad=True)
    torch.autograd.backward(project("l1", y, eps), torch.tensor([[2.0, 7.0]], device=backend.device))
    assert y.grad is not None
    assert y.grad.tolist() == [[0, 0]]
    assert eps.grad is not None
    assert eps.grad.item() == 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_half_precision(backend: Backend, dtype: torch.dtype, norm: str, rng: torch.Generator) -> None:
    """Those of float32 at the same numbers, to the roundings of the result."""
    y, box = random((3, 40), dtype, rng, backend.device), random_box((3, 40), dtype, rng, backend.device)
    eps = torch.tensor([0.5, 2.0, 90.0], device=backend.device)
    gradients = []
    for wide in (dtype, torch.float32):
        leaves = [leaf.detach().to(wide).requires_grad_() for leaf in (y, box["center"])]
        radii = eps.clone().requires_grad_()
        weights = random((3, 40), dtype, torch.Generator().manual_seed(1), backend.device)
        p = project(norm, leaves[0], radii, center=leaves[1], bounds=(0, 1))
        gradients.append(torch.autograd.grad(p, [*leaves, radii], weights.to(wide)))
        assert [g.dtype for g in gradients[-1]] == [wide, wide, torch.float32]
    for half, full in zip(*gradients, strict=True):
        torch.testing.assert_close(half.float(), full, rtol=8 * TOLERANCE[dtype], atol=8 * TOLERANCE[dtype])
        assert half.any()
