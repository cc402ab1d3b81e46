"""python -m benchmarks.ordering [--sizes S ...] [--seeds N ...] [--json FILE]: lengths of channel paths, and seconds.

Beside 2-opt from the same start, which the native solver may never exceed, stands fast-tsp (``pip install fast-tsp``),
if it is there: of its paths the solver has to come within 1 %. It knows integers up to 65,535 only, so that it is
given rounded distances; its path is measured by the exact ones.

The data: points in a plane, which is hardest; random channels; channels on a smooth curve, shuffled, with noise; and
the weights of networks trained on the demo's digits, as `integralrob.convert` sees them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from integralrob.conversion import convert
from integralrob.conversion.native_solver import solver_module
from integralrob.conversion.ordering import (
    Distance,
    Permutation,
    channel_distance,
    check_permutation,
    path_length,
    shortest_path,
    two_opt,
)
from integralrob.demo.data import digit_images
from integralrob.demo.networks import DigitsNet, seeded
from integralrob.demo.training import Schedule, train

FEATURES = 2304  # of a channel: 256 kernels of 3 x 3
SIZES = (64, 128, 256, 512, 1024, 2048)
WITHIN = 1.01  # of fast-tsp
# Channels -> seconds at most.
SECONDS = {512: 1.0, 2048: 10.0}


def _random(size: int, seed: int, features: int = FEATURES) -> Tensor:
    return torch.randn(size, features, generator=torch.Generator().manual_seed(seed))


def _smooth(size: int, seed: int, noise: float) -> Tensor:
    """Each weight a sine of the place on the curve, up to four periods, and normal noise."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(size, generator=generator) / size
    frequency, phase = 4 * torch.rand(FEATURES, generator=generator), torch.rand(FEATURES, generator=generator)
    smooth = (2 * torch.pi * (place[:, None] * frequency + phase)).sin()
    return smooth + noise * torch.randn(size, FEATURES, generator=generator)


def _trained(network: nn.Module, seed: int, group: str, schedule: Schedule) -> Distance:
    """The distances within a group of a network that has been trained on digits."""
    data = digit_images()
    seen: list[Distance] = []
    train(network, data, cross_entropy, schedule, torch.Generator().manual_seed(seed), title=type(network).__name__)

    def keep(distance: Distance) -> Permutation:
        seen.append(distance)
        return np.arange(len(distance))

    convert(network, data.test_x[:4], order=keep, dims=[group], progress=False)
    return seen[0]


def _perceptron(size: int, seed: int) -> Distance:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, size), nn.ReLU(), nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    return _trained(seeded(make, seed), seed, "1", Schedule(epochs=15, learning_rate=1e-3, weight_decay=0.1))


def _convolutional(size: int, seed: int) -> Distance:
    schedule = Schedule(epochs=6, learning_rate=3e-3, weight_decay=5.0)
    return _trained(seeded(lambda: DigitsNet(size), seed), seed, "conv2", schedule)


# Name -> distances of so many channels, and how many at most.
DATA: dict[str, tuple[Callable[[int, int], Distance], int]] = {
    "plane": (lambda size, seed: channel_distance([_random(size, seed, features=2)]), SIZES[-1]),
    "random": (lambda size, seed: channel_distance([_random(size, seed)]), SIZES[-1]),
    "smooth, noise 0.1": (lambda size, seed: channel_distance([_smooth(size, seed, 0.1)]), SIZES[-1]),
    "smooth, noise 1": (lambda size, seed: channel_distance([_smooth(size, seed, 1.0)]), SIZES[-1]),
    "trained perceptron": (_perceptron, SIZES[-1]),
    "trained convolutions": (_convolutional, 256),  # more take minutes to train
}


def fast_tsp_path(distance: Distance, seconds: float) -> Permutation | None:
    """fast-tsp's path, or None where there is no fast-tsp. A depot at distance 0 from all makes it an open one."""
    try:
        import fast_tsp  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    scaled = np.pad(np.rint(distance * (65535 / distance.max())).astype(np.int64), (0, 1))
    tour = fast_tsp.find_tour(scaled, seconds)
    depot = tour.index(len(distance))
    return check_permutation("fast-tsp", tour[depot + 1 :] + tour[:depot], len(distance))


@dataclass
class Row:
    """Lengths and wall-clock seconds of one matrix of distances."""

    data: str
    size: int
    seed: int
    given: float
    two_opt: float
    two_opt_seconds: float
    solver: float
    solver_seconds: float
    fast_tsp: float | None

    def misses(self) -> Iterator[str]:
        """What is not as it should be."""
        if self.solver > self.two_opt * (1 + 1e-12):
            yield "longer than 2-opt"
        if self.fast_tsp is not None and self.solver > WITHIN * self.fast_tsp:
            yield f"longer than {WITHIN} x fast-tsp"
        if self.solver_seconds > SECONDS.get(self.size, np.inf):
            yield f"slower than {SECONDS[self.size]} s"

    def __str__(self) -> str:
        peer = "-" if self.fast_tsp is None else f"{self.solver / self.fast_tsp:.4f}"
        return (
            f"{self.data:21} {self.size:5} {self.seed:4} {self.solver / self.given:9.4f} "
            f"{self.solver / self.two_opt:9.4f} {peer:>9} {self.two_opt_seconds:8.3f} {self.solver_seconds:8.3f}  "
            f"{'; '.join(self.misses()) or 'ok'}"
        )


def measure(data: str, size: int, seed: int, seconds: float) -> Row:
    """One matrix, each solver once."""
    distance = DATA[data][0](size, seed)

    def run(solve: Callable[[Distance], Permutation]) -> tuple[float, float]:
        begin = time.perf_counter()
        path = solve(distance)
        took = time.perf_counter() - begin
        return path_length(distance, check_permutation(data, path, size)), took

    theirs = fast_tsp_path(distance, seconds)
    return Row(
        data,
        size,
        seed,
        path_length(distance, np.arange(size)),
        *run(two_opt),
        *run(shortest_path),
        None if theirs is None else path_length(distance, theirs),
    )


def main() -> int:
    """The exit status is 1 if something is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seconds", type=float, default=5.0, help="for fast-tsp (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    solver = solver_module()
    if isinstance(solver, str):
        parser.error(f"no native solver: {solver}")
    torch.set_num_threads(1)
    print("lengths of the solver's path as multiples of those of others\n")
    print(f"{'':21} {'size':>5} {'seed':>4} {'given':>9} {'2-opt':>9} {'fast-tsp':>9} {'2-opt s':>8} {'solver s':>8}")
    rows = []
    for data in options.data:
        for size in options.sizes:
            for seed in options.seeds:
                if size > DATA[data][1]:
                    continue
                rows.append(measure(data, size, seed, options.seconds))
                print(rows[-1], flush=True)
                if options.json is not None:
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if any(row.fast_tsp is None for row in rows):
        print("\nfast-tsp is not installed (pip install fast-tsp): no comparison with it")
    missed = sum(any(row.misses()) for row in rows)
    print(f"\n{len(rows) - missed} of {len(rows)} rows as they should be")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
