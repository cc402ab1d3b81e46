"""How to order channels: accuracy on digits after conversion, and after training over sizes.

python -m benchmarks.ordering_distance --seeds 10 11 12 13
python -m benchmarks.ordering_distance --converted --distances Euclidean --orders none two_opt shortest_path

The networks, data and training are the demo's; only the distance and the order differ. Prints the mean over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from integralrob import IntegralModel, convert
from integralrob.conversion.ordering import Distance, channel_distance
from integralrob.demo.data import Split, digit_images
from integralrob.demo.measure import accuracy
from integralrob.demo.networks import DigitsNet, seeded
from integralrob.demo.tasks import DigitsSettings
from integralrob.demo.training import train, train_over_sizes

FRACTIONS = (1.0, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25)


def _absolute(slices: Sequence[Tensor], mean: bool) -> Distance:
    total = sum(
        torch.cdist(rows.detach().double(), rows.detach().double(), p=1) / (rows.shape[1] if mean else 1)
        for rows in slices
    )
    return np.asarray(total)


DISTANCES: dict[str, Callable[[Sequence[Tensor]], Distance]] = {
    "mean absolute difference of each tensor, summed": lambda slices: _absolute(slices, mean=True),
    "absolute difference, summed over all weights": lambda slices: _absolute(slices, mean=False),
    "Euclidean over all weights (integralrob's)": channel_distance,
}


def _curve(integral: IntegralModel, data: Split) -> list[float]:
    result = []
    for fraction in FRACTIONS:
        integral.resize(fraction)
        result.append(accuracy(integral, data.test_x, data.test_y))
    integral.resize(1.0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--distances", nargs="+", default=[""], help="parts of their names; all if none")
    parser.add_argument("--orders", nargs="+", default=["shortest_path"], help="as of convert (%(default)s)")
    parser.add_argument("--converted", action="store_true", help="without training over sizes")
    options = parser.parse_args()
    seeds = options.seeds
    torch.set_num_threads(1)
    data, settings = digit_images(), DigitsSettings()
    curves: dict[str, list[list[float]]] = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        network = seeded(lambda: DigitsNet(settings.channels), seed)
        train(network, data, cross_entropy, settings.discrete, generator, title=f"seed {seed}: discrete")
        for distance_name, order in itertools.product(DISTANCES, options.orders):
            if not any(part in distance_name for part in options.distances):
                continue
            name = f"{distance_name} | {order}"
            with mock.patch("integralrob.conversion.group_orders.channel_distance", DISTANCES[distance_name]):
                integral = convert(network, data.test_x[:4], order=None if order == "none" else order, progress=False)
            curves.setdefault(f"converted | {name}", []).append(_curve(integral, data))
            if options.converted:
                continue
            train_over_sizes(
                integral,
                data,
                cross_entropy,
                settings.integral,
                torch.Generator().manual_seed(seed),
                smallest=FRACTIONS[-1],
                distil=True,
                title=name,
            )
            curves.setdefault(f"trained   | {name}", []).append(_curve(integral, data))
    print(f"mean accuracy in % of {len(seeds)} seeds at fractions {FRACTIONS}")
    for name, rows in sorted(curves.items()):
        print(f"{name:78}", *(f"{value:6.1f}" for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
