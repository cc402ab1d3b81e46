"""APGD: its checkpoints, and beside the algorithm as it is published."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_attack_methods import RowByRow
from test_attacks import batch, rng
from torch import Tensor

import integralrob as ir
from integralrob.attacks import apgd
from integralrob.attacks.apgd import _checkpoints
from integralrob.attacks.losses import LOSSES


def test_checkpoints_are_the_published_ones() -> None:
    assert _checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99, 105]
    assert _checkpoints(1)[:3] == [0, 1, 1]
    assert all(begin <= end for begin, end in pairwise(_checkpoints(7)))


def published_apgd(
    gain: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, norm: str, eps: float, steps: int, rho: float
) -> Any:
    """Algorithm 1 of Croce and Hein (2020) for one sample, as it reads; the points where the gain is evaluated.

    But for one thing: in l2, entries at a bound that the gradient points to take no part of its length.
    """

    def project(z: Tensor) -> Tensor:
        if norm == "linf":
            return z.clamp(x - eps, x + eps).clamp(0, 1)
        delta = z - x
        return (x + delta * min(1.0, eps / float(delta.norm()))).clamp(0, 1)

    def climbed(z: Tensor, size: float) -> Tensor:
        leaf = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(gain(leaf).sum(), leaf)
        if norm == "linf":
            return project(z + size * grad.sign())
        grad[((grad > 0) & (z >= 1 - 1e-15)) | ((grad < 0) & (z == 0))] = 0
        return project(z + size * grad / grad.norm())

    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    checkpoints = [math.ceil(round(share * steps, 9)) for share in shares]
    size, previous, now = 2 * eps, start, start
    best = highest_then = start
    rises, halved = 0, False
    seen = [start]
    for k in range(1, steps + 1):
        after = climbed(now, size)
        if k > 1:
            after = project(now + 0.75 * (after - now) + 0.25 * (now - previous))
        seen.append(after)
        rises += bool(gain(after) > gain(now))
        best = after if gain(after) > gain(best) else best
        previous, now = now, after
        if k in checkpoints:
            length = k - checkpoints[checkpoints.index(k) - 1]
            halved = rises < rho * length or (not halved and bool(gain(best) == gain(highest_then)))
            if halved:
                size, now = size / 2, best
            rises, highest_then = 0, best
    return torch.cat(seen)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("rho", "eps"), [(0.75, 0.7), (0.0, 0.7), (0.0, 3.0)])
def test_apgd_is_the_published_algorithm(norm: str, rho: float, eps: float) -> None:
    """With a rho of 0, the step size is halved only where the best iterate stays the same."""
    network = RowByRow()
    x, y = batch(6, (6,), 4, torch.float64)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    apgd(model, x, y, norm=norm, eps=eps, steps=50, rho=rho, loss="margin", generator=rng())
    path = torch.stack(seen[1:])
    margin = LOSSES["margin"].score
    for i in range(6):
        rows = slice(i, i + 1)
        gain = partial(lambda z, label: margin(network(z), label), label=y[rows])
        expected = published_apgd(gain, x[rows], path[0, rows], norm, eps, 50, rho)
        torch.testing.assert_close(path[:, i], expected, rtol=0, atol=1e-9)
    step = (path[-1] - path[-2]).flatten(1).norm(dim=1)
    assert rho == 0 or (step < 0.2).all()  # there were checkpoints that halved the step size


def published_sparse_apgd(gain: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
    """The l1 search of Croce and Hein (2021) for one sample, as the docstring has it; the points that are evaluated."""
    some = 3 * steps // 10
    best, seen = start, []
    for radius, count in ((3 * eps, some), (2 * eps, some), (eps, steps - 2 * some)):
        now = x + ir.ops.project_l1(best - x, radius, center=x, bounds=(0, 1)) if seen else start
        moved = int((now != x).sum())
        k = max(1, int(moved / 1.5))
        best, size = now, radius
        seen.append(now)
        for step in range(1, count + (radius > eps)):
            now = sparse_step(gain, x, now, radius, size, k)
            seen.append(now)
            best = now if gain(now) > gain(best) else best
            if step % (count // 25) == 0:
                before, moved = moved, int((best != x).sum())
                if moved < 0.95 * before:
                    now, size = best, radius
                else:
                    size = max(size / 1.5, radius / 10)
                k = max(1, int(moved / 1.5))
    return torch.cat([*seen, sparse_step(gain, x, now, eps, size, k)])


def sparse_step(gain: Callable[[Tensor], Tensor], x: Tensor, z: Tensor, radius: float, size: float, k: int) -> Tensor:
    leaf = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(gain(leaf).sum(), leaf)
    grad[((grad > 0) & (z >= 1 - 1e-15)) | ((grad < 0) & (z == 0))] = 0
    return ir.ops.l1_step(z, grad, x, radius, size, bounds=(0, 1), k=k)


def test_sparse_apgd_is_the_published_algorithm() -> None:
    network = RowByRow(40)
    x, y = batch(6, (40,), 4, torch.float64)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    apgd(model, x, y, norm="l1", eps=1.5, steps=200, loss="margin", generator=rng())
    path = torch.stack(seen[1:])
    margin = LOSSES["margin"].score
    for i in range(6):
        rows = slice(i, i + 1)
        gain = partial(lambda z, label: margin(network(z), label), label=y[rows])
        expected = published_sparse_apgd(gain, x[rows], path[0, rows], 1.5, 200)
        torch.testing.assert_close(path[:, i], expected, rtol=0, atol=1e-9)


def test_sparse_apgd_shrinks_its_ball_and_its_steps() -> None:
    network = RowByRow(40)
    x, y = batch(20, (40,), 4, torch.float64)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.detach())
        return network(batch)

    result = apgd(model, x, y, norm="l1", eps=1.0, steps=50, generator=rng())
    path = torch.stack(seen[1:])
    assert len(path) == 50 + 3
    size = (path - x).abs().sum(2).amax(1)
    assert (size[:16] <= 3 + 1e-12).all()
    assert size[15] > 2.5
    assert (size[16:32] <= 2 + 1e-12).all()
    assert size[31] > 1.9
    assert (size[32:] <= 1 + 1e-12).all()
    assert result.trace.shape == (1, 21, 20)
    moved = (path[0] != x).sum(1)
    assert (moved < 40).all()  # the start is a projection on the ball
    changed = (path[1] != path[0]).sum(1)
    assert (changed >= 2 * moved // 3).all()  # what the first step moves, before the projection
