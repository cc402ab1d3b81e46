"""How strong attacks are: accuracy of networks for the 8×8 digits under ours, foolbox's and torchattacks'.

pip install --no-deps foolbox torchattacks eagerpy GitPython gitdb smmap requests
python -m benchmarks.attack_strength --seeds 0 1 2

Every attack gets as many gradients, in one run; peers in their default setting, and with the step size that ours takes
by default. Lower is stronger. A seed is that of a network, its training, and the attacks. `--cascade` compares
`evaluate` with torchattacks' AutoAttack instead, in l∞ and l2.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from integralrob.attacks import apgd, evaluate, pgd
from integralrob.attacks.balls import BALLS
from integralrob.demo.data import digit_images
from integralrob.demo.networks import DigitsNet, seeded
from integralrob.demo.training import Schedule, train

EPS = {"linf": 0.1, "l2": 0.6, "l1": 1.5}
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class CountingGradients(nn.Module):
    """A network, and how many gradients it was asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if x.requires_grad and torch.is_grad_enabled():
            x.register_hook(self._count)
        return self.network(x)

    def _count(self, grad: Tensor) -> None:
        self.gradients += 1


def ours(norm: str, steps: int, seed: int) -> dict[str, Attack]:
    """Attacks of this package."""

    def run(attack: Callable, model: nn.Module, x: Tensor, y: Tensor, **more: object) -> Tensor:
        # One gradient is for the check of the model, two are those at the starts in apgd's wider l1 balls.
        count = steps - (3 if attack is apgd and norm == "l1" else 1)
        generator = torch.Generator().manual_seed(seed)
        return attack(model, x, y, norm=norm, eps=EPS[norm], steps=count, generator=generator, **more).adversarial

    return {
        "apgd, ce": partial(run, apgd),
        "apgd, dlr": partial(run, apgd, loss="dlr"),
        "pgd, ce": partial(run, pgd),
        "pgd, last iterate": partial(run, pgd, keep="last"),
    }


def foolboxs(norm: str, steps: int) -> dict[str, Attack]:
    """foolbox's PGD, and in l1 the others that it has."""
    import foolbox

    kinds = {
        "linf": {"PGD": foolbox.attacks.LinfPGD, "Adam PGD": foolbox.attacks.LinfAdamPGD},
        "l2": {"PGD": foolbox.attacks.L2PGD, "Adam PGD": foolbox.attacks.L2AdamPGD},
        "l1": {
            "PGD": foolbox.attacks.L1PGD,
            "Adam PGD": foolbox.attacks.L1AdamPGD,
            "sparse l1 descent": foolbox.attacks.SparseL1DescentAttack,
        },
    }[norm]

    def run(attack: Callable, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=EPS[norm])[1]

    attacks: dict[str, Attack] = {}
    for name, kind in kinds.items():
        attacks[f"foolbox {name}"] = partial(run, kind(steps=steps))
        if name != "Adam PGD":
            step = BALLS[norm].path / steps
            attacks[f"foolbox {name}, our step size"] = partial(run, kind(steps=steps, rel_stepsize=step))
    return attacks


def torchattackss(norm: str, steps: int, seed: int) -> dict[str, Attack]:
    """torchattacks' PGD and APGD; it has none in l1."""
    if norm == "l1":
        return {}
    import torchattacks

    eps = EPS[norm]
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    apgd = partial(torchattacks.APGD, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=steps, seed=seed)
    makers = {
        "torchattacks PGD": partial(kind, eps=eps, steps=steps),
        "torchattacks PGD, our step size": partial(kind, eps=eps, steps=steps, alpha=2.5 * eps / steps),
        "torchattacks APGD, ce": apgd,
        "torchattacks APGD, dlr": partial(apgd, loss="dlr"),
    }

    def run(make: Callable, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return make(model)(x, y)

    return {name: partial(run, make) for name, make in makers.items()}


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of samples whose class is right."""
    with torch.no_grad():
        return 100 * (network(x).argmax(1) == y).double().mean().item()


def trained(seed: int) -> nn.Module:
    """A network for the digits."""
    network = seeded(DigitsNet, seed)
    schedule = Schedule(epochs=15, learning_rate=3e-3, weight_decay=5.0)
    train(network, digit_images(), cross_entropy, schedule, torch.Generator().manual_seed(seed), title=f"seed {seed}")
    return network.eval()


def compare(seeds: list[int], steps: int, norms: list[str]) -> None:
    """Prints a table for each norm, for so many gradients (torchattacks' APGD takes one more)."""
    data = digit_images()
    x, y = data.test_x, data.test_y
    robust: dict[tuple[str, str], list[float]] = defaultdict(list)
    reach: dict[tuple[str, str], float] = defaultdict(float)
    gradients = {}
    clean = []
    for seed in seeds:
        network = trained(seed)
        clean.append(accuracy(network, x, y))
        for norm in norms:
            attacks = ours(norm, steps, seed) | foolboxs(norm, steps) | torchattackss(norm, steps, seed)
            for name, attack in attacks.items():
                torch.manual_seed(seed)
                model = CountingGradients(network).eval()
                adversarial = attack(model, x, y).detach()
                key = norm, name
                robust[key].append(accuracy(network, adversarial, y))
                gradients[key] = model.gradients
                size = BALLS[norm].norm(adversarial.double() - x).max().item() / EPS[norm]
                reach[key] = max(reach[key], size)
    print(f"{len(x)} images, clean accuracy {mean(clean):.1f} %")
    for norm in norms:
        print(f"\n| {norm}, eps = {EPS[norm]} | gradients | accuracy, % | spread over seeds | largest norm / eps |")
        print("|---|---|---|---|---|")
        for (of, name), values in robust.items():
            if of == norm:
                spread = stdev(values) if len(values) > 1 else 0
                shown = " ".join(f"{value:.1f}" for value in values)
                print(
                    f"| {name} | {gradients[of, name]} | {mean(values):.1f} ({shown}) | {spread:.1f} "
                    f"| {reach[of, name]:.6f} |"
                )


def compare_cascades(seeds: list[int], norms: list[str], samples: int) -> None:
    """Prints what is left after `evaluate`, after torchattacks' AutoAttack, and after its FAB on the rest of ours."""
    import torchattacks

    data = digit_images()
    x, y = data.test_x[:samples], data.test_y[:samples]
    print("| norm | seed | evaluate, % | seconds | torchattacks AutoAttack, % | seconds | evaluate, then FAB, % |")
    print("|---|---|---|---|---|---|---|")
    for seed in seeds:
        network = trained(seed)
        for norm in norms:
            kind = {"linf": "Linf", "l2": "L2"}[norm]
            start = time.perf_counter()
            result = evaluate(network, [(x, y)], norm=norm, eps=EPS[norm], seed=seed, progress=False)
            middle = time.perf_counter()
            theirs = torchattacks.AutoAttack(network, norm=kind, eps=EPS[norm], n_classes=10, seed=seed)(x, y)
            end = time.perf_counter()
            left = result.correct & (result.broken_by < 0)
            fab = torchattacks.FAB(network, norm=kind, eps=EPS[norm], steps=100, n_classes=10, multi_targeted=True)
            rest = accuracy(network, fab(x[left], y[left]), y[left]) if left.any() else 100.0
            robust = 100 * result.robust_accuracy
            print(
                f"| {norm} | {seed} | {robust:.1f} | {middle - start:.0f} "
                f"| {accuracy(network, theirs, y):.1f} | {end - middle:.0f} | {robust * rest / 100:.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--norms", nargs="+", choices=list(EPS), default=list(EPS))
    parser.add_argument("--cascade", action="store_true")
    parser.add_argument("--samples", type=int, default=100, help="of the cascades (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cascade:
        compare_cascades(arguments.seeds, [norm for norm in arguments.norms if norm != "l1"], arguments.samples)
    else:
        compare(arguments.seeds, arguments.steps, arguments.norms)


if __name__ == "__main__":
    main()
