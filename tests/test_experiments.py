"""The program of the experiments, on few images and for one epoch: no test looks at how good anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.experiments import __main__ as program
from benchmarks.experiments import plots, variants
from benchmarks.experiments.runs import FRACTIONS, Run, load, make_missing
from benchmarks.experiments.tables import table
from benchmarks.experiments.tasks import TASKS, Conversion, Lab, Task, Training
from benchmarks.experiments.variants import STUDIES, VARIANTS, Integral, Pruned
from integralrob.demo.data import Split, digit_images
from integralrob.demo.networks import DigitsNet
from integralrob.demo.training import Schedule


def few_digits() -> Split:
    data = digit_images()
    return Split(data.train_x[:256], data.train_y[:256], data.test_x[:100], data.test_y[:100])


@pytest.fixture(scope="module")
def task() -> Task:
    schedule = Schedule(epochs=1, learning_rate=1e-2)
    return replace(
        TASKS["digits"], data=few_digits, network=lambda: DigitsNet(20), discrete=schedule, over_sizes=schedule
    )


@pytest.fixture
def tiny(task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(variants, "TUNING_STEPS", 1)
    monkeypatch.setattr(program, "TASKS", {"digits": task})
    monkeypatch.setattr(plots, "TASKS", {"digits": task})
    return task


def test_every_study_is_made_of_variants() -> None:
    assert {name for names in STUDIES.values() for name in names} == set(VARIANTS)


def test_what_was_not_trained_over_sizes_is_the_discrete_network_at_full_size(task: Task, tmp_path: Path) -> None:
    conversions = [
        name for name, variant in VARIANTS.items() if variant == Integral(getattr(variant, "conversion", None))
    ]
    assert len(conversions) > 8
    runs = list(make_missing(tmp_path / "runs.jsonl", task, [*conversions, "pruned"], [0]))
    assert {run.variant: run.scores[0] for run in runs} == {run.variant: run.discrete for run in runs}
    assert len({run.scores for run in runs}) > 5


def test_pruned_networks_are_as_large_as_integral_ones(task: Task) -> None:
    lab = Lab(task, 0)
    sizes: dict[str, list[int]] = {"pruned": [], "integral": []}
    integral = lab.integral(Conversion(fuse_bn=False), None).network
    for fraction in FRACTIONS:
        integral.resize(fraction)
        pruned = Pruned()._pruned(lab.discrete().network, fraction, lab)
        for name, network in (("pruned", pruned), ("integral", integral.discretize())):
            sizes[name].append(sum(parameter.numel() for parameter in network.parameters()))
    assert sizes["pruned"] == sizes["integral"]


def test_a_network_is_trained_once_and_stays_as_it_is(task: Task) -> None:
    lab = Lab(task, 0)
    network = lab.discrete().network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("trained, batch norms kept and recalibrated", "pruned and recalibrated"):
        first, _ = VARIANTS[name].run(lab, FRACTIONS)
        assert VARIANTS[name].run(lab, FRACTIONS)[0] == first
    assert lab.discrete().network is network
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert lab.discrete(as_long=True).network is not network


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (Training("full"), [20]),
        (Training("random"), [range(5, 21)]),
        (Training("sandwich"), [20, 5, range(5, 21)]),
        (Training("full", length=2), [20, 20]),
    ],
)
def test_the_sizes_of_a_step(task: Task, training: Training, expected: list[Any]) -> None:
    lab, sizes = Lab(replace(task, over_sizes=Schedule(epochs=1, learning_rate=0.01, batch=256)), 0), []
    integral = lab.integral(Conversion(), None).network
    integral.register_forward_pre_hook(lambda *_: sizes.append(integral.sizes["conv2"]))
    lab._train_over_sizes(integral, training)
    assert len(sizes) == len(expected)
    for size, wanted in zip(sizes, expected, strict=True):
        assert size in (wanted if isinstance(wanted, range) else [wanted])
    assert integral.sizes["conv2"] == 20
    assert not integral.training


def test_runs_are_made_once(task: Task, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    names = ["converted", "converted, 2-opt"]
    first = next(make_missing(file, task, names, [0]))  # and stopped here
    rest = list(make_missing(file, task, names, [0, 1]))
    assert [(run.variant, run.seed) for run in rest] == [(names[1], 0), (names[0], 1), (names[1], 1)]
    assert load(file) == [first, *rest]
    assert list(make_missing(file, task, names, [0, 1])) == []
    # A run does not depend on which were made before it.
    again = next(make_missing(tmp_path / "other.jsonl", task, [names[1]], [0]))
    assert (again.scores, again.discrete) == (rest[0].scores, rest[0].discrete)


def test_a_table() -> None:
    runs = [
        Run("digits", "pruned", seed, 99.0, (score,) * len(FRACTIONS), seconds=6.0, discrete_seconds=3.0)
        for seed, score in enumerate((90.0, 92.0))
    ]
    runs.append(replace(runs[0], task="photos", scores=(0.0,) * len(FRACTIONS)))
    lines = table(runs, TASKS["digits"], ["trained", "pruned"]).splitlines()
    assert lines[0].startswith("| fraction of channels | 1 | 0.9 |")
    assert {line.count("|") for line in lines} == {len(FRACTIONS) + 4}
    assert lines[2:] == [f"| pruned |{' 91.0 ± 1.4 |' * len(FRACTIONS)} 2.0 | 2 |"]


def test_the_program(tiny: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pruning", "kernel", "partition", "--tasks", "digits", "--seeds", "1", "--out", str(tmp_path)]
    assert program.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "digits, accuracy in %: kernel" in printed
    assert "| trained, a = -0.75 |" in printed
    runs = load(tmp_path / "runs.jsonl")
    assert {run.variant for run in runs} == {name for study in arguments[:3] for name in STUDIES[study]}
    assert {len(run.scores) for run in runs} == {len(FRACTIONS)}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "experiments-digits.png",
        "experiments-order.png",
        "experiments.png",
    ]
    before = (tmp_path / "runs.jsonl").read_text()
    assert program.main([*arguments, "--seeds", "0"]) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "runs.jsonl").read_text() == before


def test_an_unknown_study_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["prunning", "--out", str(tmp_path / "new")])
    assert "study: expected pruning, training" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
