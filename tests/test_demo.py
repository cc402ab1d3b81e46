"""The demonstration with tiny settings: what it writes, and that its measures are right."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import integralrob as ir
from integralrob.demo import DigitsSettings, PhotosSettings, Schedule, Settings, run
from integralrob.demo.data import digit_images, photo_patches
from integralrob.demo.measure import accuracy, psnr, robust_accuracy
from integralrob.demo.networks import DigitsNet, SuperResolutionNet, seeded
from integralrob.demo.report import Row
from integralrob.demo.training import train, train_against_attacks, train_over_sizes

for package in ("sklearn", "torch_pruning"):
    pytest.importorskip(package)
imread = pytest.importorskip("matplotlib.image").imread

EPOCH = Schedule(epochs=1, learning_rate=1e-3, batch=128)
TINY = Settings(
    fractions=(1.0, 0.5),
    digits=DigitsSettings(
        channels=8,
        discrete=EPOCH,
        integral=EPOCH,
        adversarial=EPOCH,
        attack_steps=2,
        training_attack_steps=1,
        timing_rounds=1,
        timed_images=4,
    ),
    photos=PhotosSettings(features=4, discrete=EPOCH, integral=EPOCH, timing_rounds=1),
)
FIGURES = ("accuracy", "adversarial", "photos", "psnr", "weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("demo") / "results", seed=3, settings=TINY).parent


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def test_results(results: dict[str, Any]) -> None:
    assert set(results) == {"versions", "seed", "settings", "rows"}
    assert results["seed"] == 3
    radii = {norm: results["settings"][norm]["eps"] for norm in ("linf", "l1", "l2")}
    assert radii == TINY.digits.radii
    assert results["versions"]["integralrob"] == ir.__version__
    assert results["versions"]["torch"] == torch.__version__
    # Each task: the discrete row, then every sampling converted and trained, at 2 sizes; the digits' default one is
    # trained against attacks too.
    assert len(results["rows"]) == (1 + 2 * 2 * 2 + 2) + (1 + 2 * 2)
    assert [(row["task"], row["fraction"]) for row in results["rows"] if row["model"] == "integral-adversarial"] == [
        ("digits", 1.0),
        ("digits", 0.5),
    ]
    for row in results["rows"]:
        assert list(row) == [field.name for field in fields(Row)]
        assert row["task"] in ("digits", "photos")
        assert row["model"] in ("discrete", "integral", "integral-adversarial")
        assert (row["sampling"] is None) == (row["model"] == "discrete")
        assert row["parameters"] > 0
        assert row["milliseconds"] > 0
        absent = {name for name, value in row.items() if value is None} - {"sampling"}
        if row["task"] == "digits":
            assert absent == {"psnr"}
            assert all(0 <= row[norm] <= row["clean"] <= 100 for norm in ("linf", "l1", "l2"))
        else:
            assert absent == {"clean", "linf", "l1", "l2"}
            assert 10 < row["psnr"] < 50


def test_full_size_equals_the_discrete_network_and_half_size_is_smaller(results: dict[str, Any]) -> None:
    for task, measure in (*(("digits", name) for name in ("clean", "linf", "l1", "l2")), ("photos", "psnr")):
        rows = [row for row in results["rows"] if row["task"] == task]
        discrete = next(row for row in rows if row["model"] == "discrete")
        for row in rows:
            if row["model"] == "integral" and row["fraction"] == 1 and row["sampling"].endswith("converted"):
                assert row[measure] == pytest.approx(discrete[measure], abs=1e-3)
        full, half = (next(r for r in rows if r["model"] == "integral" and r["fraction"] == f) for f in (1, 0.5))
        assert half["parameters"] < 0.6 * full["parameters"]


@pytest.mark.parametrize("name", FIGURES)
def test_figures(folder: Path, name: str) -> None:
    image = imread(folder / f"{name}.png")
    assert min(image.shape[:2]) > 400
    assert image[..., :3].std() > 0.05


def test_nothing_else_is_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.png" for name in FIGURES), "results.json"]
    )


def test_a_seed_gives_the_same_results_and_a_table_of_them(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    repeated = json.loads(run(tmp_path, seed=3, settings=TINY).read_text())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    for row in [*results["rows"], *repeated["rows"]]:
        row["milliseconds"] = None
    assert repeated == results
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "task",
        "model",
        "sampling",
        "fraction",
        "clean",
        "linf",
        "l1",
        "l2",
        "psnr",
        "parameters",
        "milliseconds",
    ]
    assert [line.split()[:2] for line in lines[1:-2]] == [[row["task"], row["model"]] for row in results["rows"]]


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 0.5}, {"settings": 1}])
def test_bad_arguments_name_themselves(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(arguments))}: expected"):
        run(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"sklearn and matplotlib: pip install 'integralrob\[demo\]'"):
        run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_images_do_not_overlap() -> None:
    digits = digit_images()
    assert (len(digits.train_x), len(digits.test_x)) == (1347, 450)
    assert torch.cdist(digits.test_x.flatten(1), digits.train_x.flatten(1)).min() > 0
    photos = photo_patches()
    assert photos.train_x.shape == photos.train_y.shape
    assert photos.test_x.shape == photos.test_y.shape
    assert 24 < psnr(photos.test_x, photos.test_y) < 25
    held_out = photos.test_y.unfold(2, 30, 1).unfold(3, 30, 30).reshape(-1, 900)
    assert torch.cdist(held_out, photos.train_y.flatten(1)).min() > 0.1


class _Fixed(nn.Module):
    """Class 1 where the first pixel is brighter than 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.flatten(1)[:, :1] - 0.5
        return torch.cat([-bright, bright], dim=1)


def test_measures() -> None:
    x = torch.tensor([0.1, 0.45, 0.55, 0.9]).view(4, 1, 1, 1)
    y = torch.tensor([0, 0, 1, 0])
    assert accuracy(_Fixed(), x, y) == 75
    for norm in ("linf", "l1", "l2"):
        generator = torch.Generator().manual_seed(0)
        assert robust_accuracy(_Fixed(), x, y, norm=norm, eps=0.1, steps=5, generator=generator) == 25
    assert psnr(torch.full((2, 3), 0.5), torch.full((2, 3), 0.4)) == pytest.approx(20, abs=1e-5)
    assert psnr(torch.full((2, 3), 1.5), torch.ones(2, 3)) == math.inf


def test_training_over_sizes_raises_the_accuracy_of_small_sizes_and_attacks_their_robustness() -> None:
    data, generator = digit_images(), torch.Generator().manual_seed(0)
    network = seeded(lambda: DigitsNet(24), 0)
    schedule = Schedule(epochs=5, learning_rate=1e-2)
    train(network, data, nn.functional.cross_entropy, schedule, generator, title="discrete")
    integral = ir.convert(network, data.test_x[:4], progress=False)
    integral.resize(0.5)
    before = accuracy(integral, data.test_x, data.test_y)
    train_over_sizes(
        integral, data, nn.functional.cross_entropy, schedule, generator, smallest=0.5, distil=True, title="sizes"
    )
    assert set(integral.sizes.values()) == {24}
    integral.resize(0.5)
    assert max(90, before + 5) < accuracy(integral, data.test_x, data.test_y)

    def robust() -> float:
        integral.resize(0.5)
        return robust_accuracy(
            integral,
            data.test_x,
            data.test_y,
            norm="linf",
            eps=0.1,
            steps=5,
            generator=torch.Generator().manual_seed(0),
        )

    before = robust()
    attack = {"norm": "linf", "eps": 0.1, "steps": 2, "generator": generator}
    train_against_attacks(integral, data, schedule, generator, smallest=0.5, attack=attack, title="attacks")
    assert set(integral.sizes.values()) == {24}
    assert before + 10 < robust()
    assert accuracy(integral, data.test_x, data.test_y) > 80


def test_super_resolution_starts_as_the_identity() -> None:
    x = torch.rand(2, 1, 9, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seeded(SuperResolutionNet, 0)(x), x)
