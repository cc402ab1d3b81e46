"""What it is worth to launch the steps of an attack as CUDA graphs: `pgd` and `apgd` with and without `cuda_graph`.

python -m benchmarks.attack_graphs

Needs a GPU. Seconds of the host until the GPU is done, of the two in turn; prints medians, and the median of the
ratios, as Markdown. The losses that both have reached have to agree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import nn

from integralrob.attacks import AttackResult, apgd, pgd
from integralrob.demo.networks import DigitsNet

ATTACKS = {
    "pgd, linf": partial(pgd, norm="linf", eps=0.1),
    "apgd, linf": partial(apgd, norm="linf", eps=0.1),
    "apgd, l1": partial(apgd, norm="l1", eps=1.5),
}


def _convolutions() -> nn.Module:
    """For images of 32×32 in colour."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 64, 10))


NETWORKS = {"digits": (DigitsNet, (1, 8, 8)), "convolutions": (_convolutions, (3, 32, 32))}


def _seconds(run: Callable[[], AttackResult], device: torch.device) -> tuple[float, AttackResult]:
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _row(network: str, attack: str, batch: int, steps: int, rounds: int, device: torch.device) -> str:
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    model = make().to(device)
    x, y = torch.rand(batch, *shape, device=device), torch.randint(10, (batch,), device=device)

    def run(cuda_graph: bool) -> AttackResult:
        generator = torch.Generator().manual_seed(0)
        return ATTACKS[attack](model, x, y, steps=steps, generator=generator, cuda_graph=cuda_graph)

    times, losses = [], []
    for _ in range(rounds + 1):
        launched, replayed = (_seconds(partial(run, cuda_graph), device) for cuda_graph in (False, True))
        times.append((launched[0], replayed[0]))
        losses = [launched[1].loss, replayed[1].loss]
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-3)  # convolutions of a GPU may round otherwise each time
    columns = [1e3 * median(column) for column in zip(*times[1:], strict=True)]
    ratio = median(launched / replayed for launched, replayed in times[1:])
    cells = [network, attack, str(batch), *(f"{value:.1f}" for value in columns), f"{ratio:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 512])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default="cuda")
    options = parser.parse_args(arguments)
    print(f"{options.steps} steps\n")
    print("| network | attack | batch | launched one by one, ms | as a graph, ms | times as fast |")
    print("|---|---|---|---|---|---|")
    for network in options.networks:
        for batch in options.batches:
            for attack in ATTACKS:
                print(_row(network, attack, batch, options.steps, options.rounds, options.device), flush=True)


if __name__ == "__main__":
    main()
