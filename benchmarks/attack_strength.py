"""How strong attacks are: accuracy of networks for the 8×8 digits under ours and those of three other packages.

pip install --no-deps foolbox torchattacks eagerpy GitPython gitdb smmap requests
pip install --no-deps git+https://github.com/fra31/auto-attack
python -m benchmarks.attack_strength --seeds 0 1 2

Every attack gets as many gradients, in one run; peers in their default setting, and with the step size that ours takes
by default. Lower is stronger. A seed is that of a network, its training, and the attacks. `--adversarial` trains the
networks against `pgd` in the norm of the attacks. `--cascade` compares `evaluate` with AutoAttack's standard version,
and sees what its targeted FAB adds.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from integralrob.demo.training import Schedule, optimise, train
from integralrob.training import adversarial_loss

EPS = {"linf": 0.1, "l2": 0.6, "l1": 1.5}
PEER_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
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
        count = apgd_steps(norm, steps) if attack is apgd else steps - 1  # one gradient is for the check of the model
        generator = torch.Generator().manual_seed(seed)
        return attack(model, x, y, norm=norm, eps=EPS[norm], steps=count, generator=generator, **more).adversarial

    return {
        "apgd, ce": partial(run, apgd),
        "apgd, dlr": partial(run, apgd, loss="dlr"),
        "pgd, ce": partial(run, pgd),
        "pgd, last iterate": partial(run, pgd, keep="last"),
    }


def apgd_steps(norm: str, gradients: int) -> int:
    """How many steps of APGD take so many gradients: one more is taken, in l1 one more in each of three balls."""
    return gradients - (3 if norm == "l1" else 1)


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
    apgd = partial(torchattacks.APGD, norm=PEER_NAMES[norm], eps=eps, steps=apgd_steps(norm, steps), seed=seed)
    makers = {
        "torchattacks PGD": partial(kind, eps=eps, steps=steps),
        "torchattacks PGD, our step size": partial(kind, eps=eps, steps=steps, alpha=BALLS[norm].path * eps / steps),
        "torchattacks APGD, ce": apgd,
        "torchattacks APGD, dlr": partial(apgd, loss="dlr"),
    }

    def run(make: Callable, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return make(model)(x, y)

    return {name: partial(run, make) for name, make in makers.items()}


def has_autoattack() -> bool:
    """Whether the package is there; if not, says so."""
    found = importlib.util.find_spec("autoattack") is not None
    if not found:
        print("autoattack is not installed: left out")
    return found


def autoattacks(norm: str, steps: int, seed: int) -> dict[str, Attack]:
    """AutoAttack's APGD, in l1 with its balls that shrink."""
    from autoattack.autopgd_base import APGDAttack

    def run(loss: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = APGDAttack(
            model,
            norm=PEER_NAMES[norm],
            eps=EPS[norm],
            n_iter=apgd_steps(norm, steps),
            loss=loss,
            seed=seed,
            use_largereps=norm == "l1",
        )
        return attack.perturb(x, y)

    return {f"AutoAttack APGD, {loss}": partial(run, loss) for loss in ("ce", "dlr")}


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of samples whose class is right."""
    with torch.no_grad():
        return 100 * (network(x).argmax(1) == y).double().mean().item()


def trained(seed: int, against: str | None = None) -> nn.Module:
    """A network for the digits, trained as usual or against attacks in a norm."""
    network, data = seeded(DigitsNet, seed), digit_images()
    schedule = Schedule(epochs=15, learning_rate=3e-3, weight_decay=5.0)
    generator = torch.Generator().manual_seed(seed)
    if against is None:
        train(network, data, cross_entropy, schedule, generator, title=f"seed {seed}")
        return network

    def step(x: Tensor, y: Tensor) -> None:
        eps = EPS[against]
        adversarial_loss(
            network, x, y, norm=against, eps=eps, steps=5, step_size=eps / 2, generator=generator
        ).backward()

    network.train()
    optimise(network, data, step, schedule, generator, f"seed {seed}, {against}")
    return network.eval()


def compare(seeds: list[int], steps: int, norms: list[str], adversarial: bool) -> None:
    """Prints a table for each norm, of accuracies after so many gradients."""
    data = digit_images()
    x, y = data.test_x, data.test_y
    with_autoattack = has_autoattack()
    for norm in norms:
        clean: list[float] = []
        robust: dict[str, list[float]] = defaultdict(list)
        reach: dict[str, float] = defaultdict(float)
        gradients = {}
        for seed in seeds:
            network = trained(seed, norm if adversarial else None)
            clean.append(accuracy(network, x, y))
            attacks = ours(norm, steps, seed) | foolboxs(norm, steps) | torchattackss(norm, steps, seed)
            attacks |= autoattacks(norm, steps, seed) if with_autoattack else {}
            for name, attack in attacks.items():
                torch.manual_seed(seed)
                model = CountingGradients(network).eval()
                perturbed = attack(model, x, y).detach()
                robust[name].append(accuracy(network, perturbed, y))
                gradients[name] = model.gradients
                size = BALLS[norm].norm(perturbed.double() - x).max().item() / EPS[norm]
                reach[name] = max(reach[name], size)
        print(f"\n| {norm}, eps = {EPS[norm]} | gradients | accuracy, % | spread over seeds | largest norm / eps |")
        print("|---|---|---|---|---|")
        print(f"| none, of {len(x)} images | | {shown(clean)} | | |")
        for name, values in robust.items():
            spread = stdev(values) if len(values) > 1 else 0
            print(f"| {name} | {gradients[name]} | {shown(values)} | {spread:.1f} | {reach[name]:.6f} |", flush=True)


def shown(values: list[float]) -> str:
    """Their mean, and each of them."""
    return f"{mean(values):.1f} ({' '.join(f'{value:.1f}' for value in values)})"


def compare_cascades(seeds: list[int], norms: list[str], samples: int, adversarial: bool) -> None:
    """Prints what is left after `evaluate`, after AutoAttack, and after its FAB on the rest of ours."""
    if not has_autoattack():
        return
    from autoattack import AutoAttack
    from autoattack.fab_pt import FABAttack_PT

    data = digit_images()
    x, y = data.test_x[:samples], data.test_y[:samples]
    print("| norm | seed | evaluate, % | seconds | AutoAttack, % | seconds | evaluate, then FAB, % |")
    print("|---|---|---|---|---|---|---|")
    for norm in norms:
        for seed in seeds:
            network = trained(seed, norm if adversarial else None)
            options = {"norm": PEER_NAMES[norm], "eps": EPS[norm], "seed": seed, "verbose": False, "device": "cpu"}
            start = time.perf_counter()
            result = evaluate(network, [(x, y)], norm=norm, eps=EPS[norm], seed=seed, progress=False)
            middle = time.perf_counter()
            theirs = AutoAttack(network, **options).run_standard_evaluation(x, y, bs=samples)
            end = time.perf_counter()
            left = result.correct & (result.broken_by < 0)
            fab = FABAttack_PT(network, targeted=True, **options)
            rest = accuracy(network, fab.perturb(x[left], y[left]), y[left]) if left.any() else 100.0
            robust = 100 * result.robust_accuracy
            print(
                f"| {norm} | {seed} | {robust:.1f} | {middle - start:.0f} "
                f"| {accuracy(network, theirs, y):.1f} | {end - middle:.0f} | {robust * rest / 100:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--norms", nargs="+", choices=list(EPS), default=list(EPS))
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--cascade", action="store_true")
    parser.add_argument("--samples", type=int, default=100, help="of the cascades (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cascade:
        compare_cascades(arguments.seeds, arguments.norms, arguments.samples, arguments.adversarial)
    else:
        compare(arguments.seeds, arguments.steps, arguments.norms, arguments.adversarial)


if __name__ == "__main__":
    main()
