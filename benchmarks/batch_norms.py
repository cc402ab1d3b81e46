"""Batch norms fused into their convolutions, or kept and sampled: accuracy on digits at all sizes.

python -m benchmarks.batch_norms --seeds 0 1 2 3

The network and the data are the demo's; training is shorter. Kept norms are evaluated with the running statistics that
all sizes share, and with those of each size, recalibrated on the training images. Prints the mean over the seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from torch.nn.functional import cross_entropy

from integralrob import IntegralModel, convert
from integralrob.demo.data import Split, digit_images
from integralrob.demo.measure import accuracy
from integralrob.demo.networks import DigitsNet, seeded
from integralrob.demo.training import Schedule, train, train_over_sizes
from integralrob.training import recalibrate_batch_norms_

FRACTIONS = (1.0, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25)
DISCRETE = Schedule(epochs=15, learning_rate=3e-3, weight_decay=5.0)


def _curve(integral: IntegralModel, data: Split, recalibrate: bool = False) -> list[float]:
    result = []
    for fraction in FRACTIONS:
        integral.resize(fraction)
        network = integral.discretize().eval()
        if recalibrate:
            recalibrate_batch_norms_(network, data.train_x.split(128))
        result.append(accuracy(network, data.test_x, data.test_y))
    integral.resize(1.0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of the training over sizes")
    arguments = parser.parse_args()
    integral_schedule = Schedule(epochs=10, learning_rate=arguments.learning_rate)
    torch.set_num_threads(1)
    data = digit_images()
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for seed in arguments.seeds:
        generator = torch.Generator().manual_seed(seed)
        network = seeded(DigitsNet, seed)
        train(network, data, cross_entropy, DISCRETE, generator, title="discrete")
        for name in ("fused", "kept"):
            integral = convert(network, data.train_x[:2], fuse_bn=name == "fused", progress=False)
            curves[f"{name}, converted"].append(_curve(integral, data))
            integral.train()
            train_over_sizes(
                integral, data, cross_entropy, integral_schedule, generator, smallest=0.25, distil=True, title=name
            )
            integral.eval()
            curves[f"{name}, trained"].append(_curve(integral, data))
            if name == "kept":
                curves["kept, trained, recalibrated"].append(_curve(integral, data, recalibrate=True))
    print("| fraction of channels |", " | ".join(map(str, FRACTIONS)), "|")
    print("|---" * (1 + len(FRACTIONS)) + "|")
    for name, runs in curves.items():
        print(f"| {name} |", " | ".join(f"{value:.1f}" for value in torch.tensor(runs).mean(0)), "|")


if __name__ == "__main__":
    main()
