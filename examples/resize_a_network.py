"""Convert a trained network, sample it at other sizes, and hand a plain one on.

python examples/resize_a_network.py
"""

import torch
from torch import nn

import integralrob as ir


def main() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    ).eval()
    x = torch.rand(8, 3, 32, 32)

    # Groups of connected channels are ordered and made continuous; inputs and classes stay discrete.
    integral = ir.convert(network, x, progress=False)
    print("groups:", integral.sizes)
    print("stay discrete:", ", ".join(f"{entry.name} ({entry.reason})" for entry in integral.report))
    print(f"full size: outputs differ by {(integral(x) - network(x)).abs().max():.1e}")

    # Train over random sizes: one draw per step. (Two steps on noise, to show the loop.)
    optimizer = torch.optim.Adam(integral.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        sizes = integral.random_sizes(0.25, 1.0, multiple_of=8, generator=generator)
        loss = nn.functional.cross_entropy(integral(x), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step at {sizes}: loss {loss.item():.3f}")

    # Any size, and out again as plain torch.nn layers with smaller tensors.
    integral.resize(0.5)
    small = integral.discretize()
    print(f"parameters: {sum(p.numel() for p in network.parameters())} -> {sum(p.numel() for p in small.parameters())}")
    print(small)


if __name__ == "__main__":
    main()
