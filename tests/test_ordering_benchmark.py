"""The benchmark of channel ordering: what it measures and what it calls a miss. fast-tsp is not needed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import ordering
from integralrob.conversion.ordering import path_length, two_opt


@pytest.mark.parametrize("data", ["random", "smooth, noise 0.1"])
def test_a_row_without_fast_tsp(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_tsp", None)  # cannot be imported
    row = ordering.measure(data, 40, seed=0, seconds=0.1)
    assert row.fast_tsp is None
    assert list(row.misses()) == []
    assert row.solver <= row.two_opt <= row.given
    distance = ordering.DATA[data][0](40, 0)
    assert row.two_opt == path_length(distance, two_opt(distance))
    assert str(row).endswith("ok")


def test_misses_are_told() -> None:
    row = ordering.Row(
        "random", 512, 0, 9.0, two_opt=4.0, two_opt_seconds=0.1, solver=5.0, solver_seconds=1.5, fast_tsp=4
    )
    assert list(row.misses()) == ["longer than 2-opt", "longer than 1.01 x fast-tsp", "slower than 1.0 s"]


def test_fast_tsp_is_asked_for_an_open_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find_tour(distances: np.ndarray, seconds: float) -> list[int]:
        asked.append((distances.tolist(), seconds))
        return [1, 3, 2, 0]  # the depot is 3

    monkeypatch.setitem(sys.modules, "fast_tsp", SimpleNamespace(find_tour=find_tour))
    path = ordering.fast_tsp_path(np.array([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]]), 0.5)
    assert path is not None
    assert path.tolist() == [2, 0, 1]
    scaled = [[0, 16384, 32768, 0], [16384, 0, 65535, 0], [32768, 65535, 0, 0], [0, 0, 0, 0]]
    assert asked == [(scaled, 0.5)]
