"""The fused steps on strided, shared and overlapping memory, and in the eyes of autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import Backend
from stepping import NORMS, batch, kept, step, step_
from torch import Tensor

import integralrob as ir


def spread(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values with other strides, every second place in memory left free, which holds 9."""
    storage = torch.full([2 * x.shape[d] for d in order], 9.0, dtype=x.dtype, device=x.device)
    view = storage.permute([order.index(d) for d in range(x.dim())])[tuple(slice(None, None, 2) for _ in order)]
    return view.copy_(x)


@pytest.mark.parametrize("norm", NORMS)
def test_strided_arguments(backend: Backend, norm: str, rng: torch.Generator) -> None:
    """Every argument laid out differently, among them `x_adv`, which is written in place: only its own elements."""
    tensors = batch((4, 3, 5, 6), torch.float32, rng, backend.device)
    orders = ((0, 2, 3, 1), (3, 0, 1, 2), (1, 0, 3, 2), (2, 1, 0, 3))
    strided = [spread(t, order) for t, order in zip(tensors, orders, strict=True)]
    channels_last = [t.to(memory_format=torch.channels_last) for t in tensors]
    assert not any(t.is_contiguous() for t in (*strided, *channels_last))
    eps = torch.linspace(0, 0.9, 8, device=backend.device)[::2]
    counts = torch.tensor([1, 9, 5, 9, 17, 9, 90, 9], device=backend.device)[::2]
    for radius, k in ((0.5, 0.2), (eps, counts)):
        expected = step(norm, *tensors[:3], radius, 0.1, **kept(norm, k), momentum=0.25, previous=tensors[3])
        for others in (strided, channels_last):
            options = {**kept(norm, k), "momentum": 0.25, "previous": others[3]}
            out = step(norm, *others[:3], radius, 0.1, **options)
            assert out.is_contiguous()
            assert torch.equal(out, expected)
            written = spread(tensors[0], orders[0])
            base = written._base
            assert base is not None
            assert step_(norm, written, *others[1:3], radius, 0.1, **options) is written
            assert torch.equal(written, expected)
            assert (base == 9).sum() >= base.numel() - written.numel()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shared", ["grad", "x", "previous", "eps", "step_size"])
@pytest.mark.parametrize("offset", [-8, -1, 0, 1, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_in_place_on_overlapping_memory(
    backend: Backend, norm: str, shared: str, offset: int, transposed: bool, rng: torch.Generator
) -> None:
    memory = torch.randn(200, generator=rng).to(backend.device).abs()
    x_adv = memory[50:99].view(7, 7)
    options = {name: torch.rand(7, 7, generator=rng).to(backend.device) for name in ("grad", "x", "previous")}
    options |= {
        name: torch.full((7,), size, device=backend.device) for name, size in (("eps", 0.5), ("step_size", 0.3))
    }
    few = shared in ("eps", "step_size")
    view = memory[50 + offset :][: 7 if few else 49]
    options[shared] = view if few else view.view(7, 7).T if transposed else view.view(7, 7)
    expected = step(norm, x_adv, **options, **kept(norm, 3), momentum=0.25)
    step_(norm, x_adv, **options, **kept(norm, 3), momentum=0.25)
    assert torch.equal(x_adv, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_in_place_on_memory_shared_outside_of_torch(norm: str, rng: torch.Generator) -> None:
    memory = torch.rand(65, generator=rng).numpy()
    x_adv, x = torch.from_numpy(memory[None, 1:]), torch.from_numpy(memory[None, :-1])
    grad = torch.randn(1, 64, generator=rng)
    expected = step(norm, x_adv, grad, x, 0.1, 0.1)
    assert torch.equal(step_(norm, x_adv, grad, x, 0.1, 0.1), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("size", "stride"), [((4, 4), (1, 1)), ((4, 4), (3, 1)), ((4, 4), (0, 1)), ((2, 3), (1, 0))])
def test_in_place_refuses_what_overlaps_itself(norm: str, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    x_adv = torch.rand(20).as_strided(size, stride)
    before = x_adv.clone()
    with pytest.raises(ValueError, match=r"x_adv: expected memory for each element, got .* with strides \(\d, \d\)"):
        step_(norm, x_adv, torch.ones(size), torch.ones(size), 0.1, 0.1)
    assert torch.equal(x_adv, before)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", [lambda t: t.T, lambda t: t[::2, 1::3], lambda t: t[:, 3:4], lambda t: t[:1].T])
def test_in_place_takes_slices_and_transposes(
    norm: str, layout: Callable[[Tensor], Tensor], rng: torch.Generator
) -> None:
    x_adv = layout(torch.rand(6, 9, generator=rng))
    grad, x = (torch.rand(x_adv.shape, generator=rng) for _ in range(2))
    expected = step(norm, x_adv, grad, x, 0.1, 0.1)
    assert torch.equal(step_(norm, x_adv, grad, x, 0.1, 0.1), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_in_place_on_a_transpose_compiles_with_dynamic_shapes(norm: str, rng: torch.Generator) -> None:
    g, c = torch.randn(6, 9, generator=rng), torch.rand(6, 9, generator=rng)
    x_adv = torch.rand(9, 6, generator=rng).t()
    step_ = getattr(ir.ops, f"{norm}_step_")
    expected = getattr(ir.ops, f"{norm}_step")(x_adv, g, c, 0.5, 0.1)
    compiled = torch.compile(lambda *given: step_(*given, 0.5, 0.1), fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(x_adv, g, c)
    assert torch.equal(x_adv, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_beyond_the_type_is_infinite(norm: str, rng: torch.Generator) -> None:
    """Also where it becomes a tensor, because another argument is one."""
    x, g = torch.rand(2, 5, generator=rng), torch.randn(2, 5, generator=rng)
    step = getattr(ir.ops, f"{norm}_step")
    expected = step(x, g, x, math.inf, 0.1)
    for size in (0.1, torch.full((2,), 0.1)):
        assert torch.equal(step(x, g, x, 1e39, size), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_takes_what_it_was_given_into_no_graph(backend: Backend, norm: str, rng: torch.Generator) -> None:
    x_adv, grad, x, previous = (t.requires_grad_() for t in batch((2, 3), torch.float32, rng, backend.device))
    eps = torch.tensor([0.1, 0.2], device=backend.device, requires_grad=True)
    options = {**kept(norm, torch.tensor([0.5, 1.0], device=backend.device, requires_grad=True)), "momentum": 0.5}
    before = x_adv.detach().clone()
    for radius in (eps, 0.1):
        expected = step(norm, before, grad, x, radius, 0.1, **options, previous=previous)
        assert not expected.requires_grad
        with torch.no_grad():
            x_adv.copy_(before)
        assert step_(norm, x_adv, grad, x, radius, 0.1, **options, previous=previous) is x_adv
        assert x_adv.requires_grad
        assert x_adv.is_leaf
        assert x_adv.grad_fn is None
        assert torch.equal(x_adv.detach(), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_in_place_step_is_seen_by_autograd(backend: Backend, norm: str) -> None:
    """A backward pass that needs the overwritten values is an error, not a wrong gradient."""
    x = torch.full((1, 2), 0.5, device=backend.device)
    x_adv = x.clone().requires_grad_()
    loss = x_adv.square().sum()
    step_(norm, x_adv, torch.ones_like(x), x, 0.25, 0.25)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
