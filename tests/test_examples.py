"""The programs in `examples/` run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["average_over_the_ball", "fast_attack_step", "resize_a_network"])
def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 1


def test_walkthrough(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network of two epochs: what the files hold is what was attacked, to the last of 255 levels."""
    pytest.importorskip("sklearn")
    imread: Any = pytest.importorskip("matplotlib.image").imread
    monkeypatch.delattr(torch, "set_num_threads")  # only the program may
    runpy.run_path(str(EXAMPLES / "pgd_walkthrough.py"))["main"](tmp_path, epochs=2)
    image, *attacked = (
        (imread(tmp_path / f"{name}.png") * 255).round() for name in ("image", "untargeted", "targeted")
    )
    assert image.shape == (8, 8)
    for changed in attacked:
        assert 0 < abs(changed - image).max() <= 24
    assert imread(tmp_path / "walkthrough.png").std() > 0.1
    lines = capsys.readouterr().out.splitlines()
    ascent = [float(line.split()[-1]) for line in lines if " loss " in line and line[:4].strip().isdigit()]
    assert len(ascent) == 7
    assert ascent[-1] > ascent[0]
    descent = [float(line.split()[-1]) for line in lines if " = " in line and line[:4].strip().isdigit()]
    assert len(descent) == 11
    assert descent[-1] < descent[0]
