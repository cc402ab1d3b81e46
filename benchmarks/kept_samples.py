"""What it is worth that an integral network keeps its sampled weights: forward passes without gradients.

python -m benchmarks.kept_samples --networks resnet20_cifar10 resnet18

Needs pytorchcv, see `benchmarks.conversion`. A pass on one image with the samples of the last pass, one that has to
make them, and one of the discretised network, taken in turn; prints medians, and medians of ratios, as Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

import integralrob as ir
from benchmarks.conversion import NETWORKS, network
from integralrob.nn import ContinuousWeight


@torch.no_grad()
def _row(name: str, fraction: float, rounds: int) -> str:
    model, x = network(name)
    integral = ir.convert(model, x, order=None, progress=False)
    integral.resize(fraction)
    discrete = integral.discretize()
    weights = [module for module in integral.modules() if isinstance(module, ContinuousWeight)]
    assert torch.equal(integral(x), discrete(x))

    def timed(run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        start = time.perf_counter()
        run(x)
        return 1e3 * (time.perf_counter() - start)

    times = []
    for _ in range(rounds):
        kept = timed(integral)
        for weight in weights:
            weight._kept.drop()
        times.append((kept, timed(integral), timed(discrete)))
    columns = [median(column) for column in zip(*times, strict=True)]
    ratios = [median(row[i] / row[2] for row in times) for i in (0, 1)]
    return f"| {name} | {fraction} | " + " | ".join(f"{value:.2f}" for value in (*columns, *ratios)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet20_cifar10", "resnet18"])
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | size | kept, ms | made, ms | discrete, ms | kept / discrete | made / discrete |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        for fraction in (1.0, 0.5):
            print(_row(name, fraction, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
