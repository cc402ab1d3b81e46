"""Integrate a loss over a ball of perturbations: train on the average, and estimate it with its standard error.

The objective is an expectation over samples, and over δ uniform in a ball around each of them, of a loss plus a
regulariser:

    E_(x, y)  1/|Δ| ∫_Δ  L(f(x + δ), y) + λ ‖f(x + δ) - f(x)‖²  dδ

The outer expectation becomes a mean over batches, the integral a mean over a few δ drawn anew in each step.

python examples/average_over_the_ball.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import integralrob as ir

EPS, WEIGHT = 0.4, 0.05


def objective(model: nn.Module, x: Tensor, y: Tensor, *, samples: int, method: str = "mc") -> ir.integration.Estimate:
    """The mean over the batch ``x [B, 2]``, ``y [B]`` of the integral, with its standard error."""
    clean = model(x)

    def loss(delta: Tensor) -> Tensor:  # [m, B, 2] -> [m]: m perturbed batches go through the network as one
        logits = model((x + delta).flatten(0, 1))
        losses = cross_entropy(logits, y.repeat(len(delta)), reduction="none").view(delta.shape[:2])
        drift = (logits.view(*delta.shape[:2], -1) - clean).square().sum(2)
        return (losses + WEIGHT * drift).mean(1)

    return ir.integration.expectation(loss, ir.integration.UniformBall("l2", x, EPS), samples=samples, method=method)


def main() -> None:
    torch.manual_seed(0)
    angle, y = torch.pi * torch.rand(512), torch.arange(512) % 2  # two half circles that reach into each other
    side = 1 - 2 * y
    x = torch.stack([side * angle.cos() + y, side * angle.sin() + 0.3 * y], dim=1) + 0.1 * torch.randn(512, 2)

    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(151):
        index = torch.randint(512, (64,))
        estimate = objective(model, x[index], y[index], samples=4)
        optimizer.zero_grad()
        estimate.mean.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3}: {estimate.mean.item():.3f} ± {estimate.stderr.item():.3f}")

    print("\nThe objective on all samples, from 256 perturbations each:")
    with torch.no_grad():
        for method in ("mc", "antithetic", "sobol"):
            estimate = objective(model, x, y, samples=256, method=method)
            print(f"{method:10} {estimate.mean.item():.5f} ± {estimate.stderr.item():.5f}")

    predicted = ir.integration.smoothed_predict(model, x, sigma=EPS / 2, generator=torch.Generator().manual_seed(0))
    worst = ir.attacks.pgd(model, x, y, norm="l2", eps=EPS / 2, bounds=None).success
    print(f"\nright: {(model(x).argmax(1) == y).float().mean():.1%}")
    print(f"right under Gaussian noise, by majority: {(predicted == y).float().mean():.1%}")
    print(f"right in the worst case within {EPS / 2}: {(~worst).float().mean():.1%}")


if __name__ == "__main__":
    main()
