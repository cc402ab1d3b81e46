import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integralrob as ir
from integralrob.conversion.native_solver import solver_module
from integralrob.conversion.ordering import (
    _nearest_neighbours,
    _start,
    channel_distance,
    path_length,
    resolve_order,
    shortest_path,
    two_opt,
)

PACKAGE = Path(ir.__file__).parent
SOLVERS = [shortest_path, two_opt]


def random_distance(size: int, seed: int, features: int = 4) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(size, features))
    return np.abs(points[:, None] - points).sum(-1)


def assert_no_reversal_helps(distance: np.ndarray, path: np.ndarray) -> None:
    length = path_length(distance, path)
    for i, j in itertools.combinations(range(len(path) + 1), 2):
        reversed_path = np.concatenate([path[:i], path[i:j][::-1], path[j:]])
        assert path_length(distance, reversed_path) >= length - 1e-9 * length


@given(size=st.integers(1, 24), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_is_a_local_optimum_and_never_longer_than_either_start(size, seed):
    distance = random_distance(size, seed)
    path = two_opt(distance)
    assert sorted(path) == list(range(size))
    bound = min(path_length(distance, np.arange(size)), path_length(distance, _nearest_neighbours(distance)))
    assert path_length(distance, path) <= bound * (1 + 1e-12)
    assert_no_reversal_helps(distance, path)


@given(size=st.integers(2, 7), seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_is_close_to_the_brute_force_optimum(size, seed):
    distance = random_distance(size, seed)
    optimum = min(path_length(distance, np.array(p)) for p in itertools.permutations(range(size)))
    length = path_length(distance, two_opt(distance))
    assert optimum * (1 - 1e-12) <= length <= 1.5 * optimum


@pytest.mark.parametrize("solve", SOLVERS)
@given(points=st.lists(st.integers(-1000, 1000), min_size=2, max_size=40, unique=True))
@settings(max_examples=50, deadline=None)
def test_points_on_a_line_are_sorted(solve, points):
    points = np.array(points, dtype=np.float64)
    ordered = points[solve(np.abs(points[:, None] - points))]
    assert np.all(np.diff(ordered) > 0) or np.all(np.diff(ordered) < 0)


def test_counts_the_end_edges_of_an_open_path_correctly():
    # A circle: the best open path leaves out the one long edge, wherever the labels start.
    angles = np.delete(np.linspace(0, 2 * np.pi, 13)[:-1], 5)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)[np.random.default_rng(0).permutation(11)]
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    assert path_length(distance, two_opt(distance)) == pytest.approx(10 * 2 * np.sin(np.pi / 12), rel=1e-12)


@pytest.mark.parametrize("solve", SOLVERS)
def test_is_deterministic_and_leaves_its_argument_alone(solve):
    distance = random_distance(40, 3)
    before = distance.copy()
    assert np.array_equal(solve(distance), solve(distance))
    assert np.array_equal(distance, before)


@pytest.mark.parametrize("solve", SOLVERS)
def test_ends_with_ties(solve):
    assert sorted(solve(np.ones((30, 30)) - np.eye(30))) == list(range(30))
    assert sorted(solve(np.zeros((12, 12)))) == list(range(12))


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("size", range(4))
def test_few_channels(solve, size):
    path = solve(random_distance(size, 0))
    assert path.dtype == np.int64
    assert sorted(path) == list(range(size))


@pytest.mark.parametrize("solve", SOLVERS)
def test_duplicates_stay_together(solve):
    points = np.random.default_rng(5).permutation(np.repeat(np.arange(8.0), 5))
    path = solve(np.abs(points[:, None] - points))
    assert np.sum(np.diff(points[path]) != 0) == 7


def test_orders_256_channels_in_under_a_second():
    distance = random_distance(256, 0, features=64)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        two_opt(distance)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0


# ------------------------------------------------------------------------------------------------------ native solver


@given(size=st.integers(0, 8), seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_path_of_few_channels_is_the_shortest(size, seed, ties):
    distance = random_distance(size, seed)
    if ties:
        distance = np.round(distance)
    ends = np.array(list(itertools.permutations(range(size))), dtype=np.int64)
    optimum = distance[ends[:, :-1], ends[:, 1:]].sum(1).min()
    assert path_length(distance, shortest_path(distance)) <= optimum * (1 + 1e-12)


@given(size=st.integers(3, 120), features=st.integers(1, 60), seed=st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_is_never_longer_than_two_opt_from_the_same_start(size, features, seed):
    distance = random_distance(size, seed, features)
    path = shortest_path(distance, kicks=0)
    assert sorted(path) == list(range(size))
    assert path_length(distance, path) <= path_length(distance, two_opt(distance)) * (1 + 1e-12)


def test_the_search_is_worth_its_time():
    lengths = {}
    for name, solve in (
        ("two_opt", two_opt),
        ("descent", lambda distance: shortest_path(distance, kicks=0)),
        ("search", shortest_path),
    ):
        lengths[name] = sum(path_length(d, solve(d)) for d in (random_distance(150, seed) for seed in range(4)))
    assert lengths["search"] < 0.99 * lengths["descent"] < 0.99 * lengths["two_opt"]


def test_the_seed_decides():
    distance = random_distance(300, 0)
    paths = [shortest_path(distance, seed=seed, kicks=200).tolist() for seed in (0, 0, 1, (1 << 64) - 1)]
    assert paths[0] == paths[1]
    assert paths[0] != paths[2] != paths[3]


def test_any_layout_and_real_type_will_do():
    distance = np.round(100 * random_distance(30, 0))
    expected = shortest_path(distance).tolist()
    wide = np.zeros((60, 60))
    wide[::2, ::2] = distance
    for same in (wide[::2, ::2], np.asfortranarray(distance), distance.astype(np.float32), distance.astype(np.int32)):
        assert shortest_path(same).tolist() == expected
    # Rounding: the mean of both triangles is taken.
    skew = np.triu(np.full((30, 30), 1e-7), 1)
    assert shortest_path(distance + skew - skew.T).tolist() == expected


def with_entry(i, j, value):
    distance = random_distance(5, 0)
    distance[i, j] = value
    return distance


@pytest.mark.parametrize(
    ("error", "message", "distance"),
    [
        (ValueError, r"a square matrix, got an array of shape \(2, 3\)", np.zeros((2, 3))),
        (ValueError, r"a square matrix, got an array of shape \(4,\)", np.zeros(4)),
        (ValueError, r"finite numbers, got nan at \[1, 2\]", with_entry(1, 2, np.nan)),
        (ValueError, r"finite numbers, got inf at \[3, 0\]", with_entry(3, 0, np.inf)),
        (ValueError, r"no negative numbers, got -1.0 at \[4, 1\]", with_entry(4, 1, -1)),
        (ValueError, r"a symmetric matrix, got 9.0 at \[0, 1\] and .* at \[1, 0\]", with_entry(0, 1, 9)),
        (TypeError, r"real numbers, got one of complex128", np.zeros((2, 2), dtype=complex)),
        (TypeError, r"real numbers, got one of <U1", [["a"]]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_distances(error, message, distance):
    with pytest.raises(error, match=rf"^distance: expected .*{message}"):
        shortest_path(distance)


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "seed", -1),
        (ValueError, "seed", 1 << 64),
        (TypeError, "seed", 1.5),
        (ValueError, "kicks", -1),
        (TypeError, "stall", True),
        (ValueError, "time_limit", -0.1),
        (ValueError, "time_limit", math.nan),
        (TypeError, "progress", 1),
    ],
)
def test_bad_options(error, name, value):
    with pytest.raises(error, match=f"^{name}: expected"):
        shortest_path(random_distance(5, 0), **{name: value})


def test_the_module_takes_nothing_on_trust():
    options = {"seed": 0, "kicks": 10, "stall": 10, "seconds": math.inf, "progress": None}
    distance = random_distance(4, 0)
    for start in ([0, 1, 2], [0, 1, 2, 4], [0, 1, 1, 2], [-1, 0, 1, 2], [[0, 1, 2, 3]]):
        with pytest.raises(ValueError, match=r"^start: expected a permutation"):
            solver_module().shortest_path(distance, np.array(start), **options)
    with pytest.raises(ValueError, match=r"^distance: expected a square matrix"):
        solver_module().shortest_path(distance[:3], np.arange(4), **options)


def test_limits_end_the_search():
    distance = random_distance(200, 1)
    for name, limits in (("kicks", {"stall": 1 << 80}), ("stall", {"kicks": 1 << 80})):
        few, many = (path_length(distance, shortest_path(distance, **limits, **{name: n})) for n in (0, 1000))
        assert many < few
    begin = time.perf_counter()
    path = shortest_path(distance, kicks=1 << 80, stall=1 << 80, time_limit=0.2)
    assert 0.2 <= time.perf_counter() - begin < 10
    assert sorted(path) == list(range(200))
    # Before anything was tried.
    assert shortest_path(distance, time_limit=0).tolist() == _start(distance).tolist()


FOR_EVER = {"kicks": 1 << 80, "stall": 1 << 80}


def test_progress_tells_of_time_and_length():
    distance = random_distance(150, 2)
    told = []
    path = shortest_path(distance, **FOR_EVER, time_limit=1.0, progress=lambda *news: told.append(news))
    seconds, lengths = np.array(told).T
    assert 3 <= len(told) <= 10
    assert np.diff(seconds).min() >= 0.1
    assert np.all(np.diff(lengths) <= 0)
    assert lengths[0] == pytest.approx(path_length(distance, _start(distance)))
    assert path_length(distance, path) <= lengths[-1] * (1 + 1e-9)


def test_an_error_in_progress_is_the_callers():
    def fail(seconds, length):
        raise KeyError("progress")

    with pytest.raises(KeyError, match="progress"):
        shortest_path(random_distance(50, 0), progress=fail)


def test_other_threads_run_meanwhile():
    distance = random_distance(150, 0)
    searching, enough = threading.Event(), threading.Event()
    calls = []

    def progress(seconds, length):
        calls.append(seconds)
        searching.set()
        if enough.is_set():
            raise StopIteration

    def search():
        with contextlib.suppress(StopIteration):
            shortest_path(distance, **FOR_EVER, progress=progress)

    thread = threading.Thread(target=search)
    thread.start()
    assert searching.wait(10)
    begin, begin_running, begin_calls = time.perf_counter(), time.thread_time(), len(calls)
    while time.perf_counter() - begin < 0.5:
        pass
    running, told = time.thread_time() - begin_running, len(calls) - begin_calls
    assert thread.is_alive()
    enough.set()
    thread.join(10)
    assert not thread.is_alive()
    # If the search kept the GIL, this thread would have it for a switch interval of 5 ms after each call of `progress`.
    assert running > 0.01 * max(told, 1)


INTERRUPTED = """
import json, os, signal, sys, warnings
import numpy as np
from integralrob.conversion.ordering import _start, path_length, shortest_path

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has ignored
points = np.random.default_rng(0).normal(size=(300, 4))
distance = np.linalg.norm(points[:, None] - points, axis=-1)
told = []

def progress(seconds, length):
    told.append(length)
    if len(told) == 3:
        print("searching", flush=True)

if "silent" in sys.argv:
    print("searching", flush=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    path = shortest_path(distance, kicks=1 << 80, stall=1 << 80, progress=progress if "progress" in sys.argv else None)
result = {
    "sorted": sorted(path.tolist()) == list(range(300)),
    "length": path_length(distance, path), "start": path_length(distance, _start(distance)),
    "warnings": [[w.category.__name__, str(w.message), w.filename] for w in caught],
}

def handler(*_):
    raise TimeoutError("from a handler")

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    shortest_path(distance, kicks=1 << 80, stall=1 << 80)
except TimeoutError as error:
    result["raised"] = str(error)
print(json.dumps(result))
"""


@pytest.mark.parametrize("way", ["progress", "silent"])
def test_ctrl_c_returns_the_best_so_far(way):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, way],
        cwd=PACKAGE.parent,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "searching\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    result = json.loads(out.splitlines()[-1])
    assert process.returncode == 0
    assert result["sorted"]
    assert result["length"] < 0.95 * result["start"]
    ((category, message, file),) = result["warnings"]
    assert (category, file) == ("RuntimeWarning", "<string>")
    assert message == "the ordering of channels was stopped by Ctrl-C: it is the best found so far"
    assert result["raised"] == "from a handler"


WITHOUT_SOLVER = """
import json, warnings
import numpy as np
import integralrob as ir
from integralrob.conversion.ordering import shortest_path, two_opt

points = np.random.default_rng(0).normal(size=(60, 4))
distance = np.linalg.norm(points[:, None] - points, axis=-1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    paths = [shortest_path(distance).tolist(), shortest_path(distance, seed=1).tolist(), two_opt(distance).tolist()]
info = ir.build_info()
print(json.dumps({
    "file": ir.__file__, "paths": paths, "missing": info["missing"].get("ordering"), "libraries": info["libraries"],
    "warnings": [[w.category.__name__, str(w.message), w.filename] for w in caught],
}))
"""


@pytest.mark.parametrize(
    ("state", "reason"), [("missing", r"is not built (build it with: pip"), ("broken", "could not be loaded: ")]
)
def test_without_the_native_solver_two_opt_runs_and_one_warning_says_why(tmp_path, state, reason):
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    native = tmp_path / PACKAGE.name / "_native"
    native.mkdir(exist_ok=True)
    file = Path(ir.build_info()["libraries"]["ordering"])
    if state == "broken":
        (native / file.name).write_text("not a library")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("INTEGRALROB_NATIVE_DIRECTORY", None)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SOLVER], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["file"]).is_relative_to(tmp_path)
    assert result["paths"][0] == result["paths"][1] == result["paths"][2]
    ((category, message, where),) = result["warnings"]
    assert (category, where) == ("RuntimeWarning", "<string>")
    assert f"by 2-opt, which finds longer paths than its native solver: {file.name} {reason}" in message
    assert f"{file.name} {reason}" in result["missing"]
    assert "ordering" not in result["libraries"]


# ---------------------------------------------------------------------------------------------------------- distances


def euclidean(rows: torch.Tensor) -> np.ndarray:
    return torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").numpy()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.float16, 1e-6)])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e4])
def test_channel_distance_is_euclidean_over_all_tensors(dtype, rtol, scale):
    generator = torch.Generator().manual_seed(0)
    slices = [(scale * torch.randn(6, n, generator=generator, dtype=torch.float64)).to(dtype) for n in (1, 5, 40)]
    np.testing.assert_allclose(channel_distance(slices), euclidean(torch.cat(slices, 1)), rtol=rtol)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_overflow_nor_vanish(scale):
    rows = scale * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(channel_distance([rows]), euclidean(rows), rtol=1e-6)


def test_channel_distance_far_from_the_origin_and_of_equal_channels():
    rows = torch.randn(5, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    near, far = channel_distance([rows]), channel_distance([rows + 1e6])
    np.testing.assert_allclose(far, near, rtol=1e-6)
    assert channel_distance([torch.ones(3, 4)]).tolist() == [[0.0] * 3] * 3


def test_the_error_of_near_channels_is_as_documented():
    rows = torch.randn(300, 3000, generator=torch.Generator().manual_seed(3))
    rows = torch.cat([rows, rows + 1e-3 * rows.roll(1, 0)])
    squares = channel_distance([rows]) ** 2
    error = abs(squares - euclidean(rows) ** 2).max()
    assert error < 1e-6 * float(rows.square().sum(1).mean())
    assert (squares == squares.T).all()
    assert (squares[:300, 300:].argmin(1) == np.arange(300)).all()


def test_channel_distance_does_not_depend_on_the_blocks(monkeypatch):
    rows = torch.randn(23, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = channel_distance([rows])
    monkeypatch.setattr("integralrob.conversion.ordering._TILE", 5)
    monkeypatch.setattr("integralrob.conversion.ordering._FEATURES", 7)
    np.testing.assert_allclose(channel_distance([rows]), whole, rtol=1e-13)


def test_channel_distance_is_as_exact_whatever_precision_products_are_set_to():
    rows = torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    expected, before = channel_distance([rows]), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(channel_distance([rows]), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("order", ["2opt", 3, ("two_opt",)])
def test_unknown_orders_are_refused(order):
    with pytest.raises(ValueError, match="order: expected"):
        resolve_order(order)


@pytest.mark.parametrize("result", [[0, 0, 1], [0, 1], [0.0, 1.0, 2.0], None])
def test_a_function_must_return_a_permutation(result):
    with pytest.raises(ValueError, match=r"^order\(distance\): expected a permutation of range\(3\)"):
        resolve_order(lambda distance: result)(np.zeros((3, 3)))
