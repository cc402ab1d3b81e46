import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from integralrob.conversion.ordering import _nearest_neighbours, channel_distance, path_length, resolve_order, two_opt


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


@given(points=st.lists(st.integers(-1000, 1000), min_size=2, max_size=40, unique=True))
@settings(max_examples=50, deadline=None)
def test_points_on_a_line_are_sorted(points):
    points = np.array(points, dtype=np.float64)
    ordered = points[two_opt(np.abs(points[:, None] - points))]
    assert np.all(np.diff(ordered) > 0) or np.all(np.diff(ordered) < 0)


def test_counts_the_end_edges_of_an_open_path_correctly():
    # A circle: the best open path leaves out the one long edge, wherever the labels start.
    angles = np.delete(np.linspace(0, 2 * np.pi, 13)[:-1], 5)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)[np.random.default_rng(0).permutation(11)]
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    assert path_length(distance, two_opt(distance)) == pytest.approx(10 * 2 * np.sin(np.pi / 12), rel=1e-12)


def test_is_deterministic_and_leaves_its_argument_alone():
    distance = random_distance(40, 3)
    before = distance.copy()
    assert np.array_equal(two_opt(distance), two_opt(distance))
    assert np.array_equal(distance, before)


def test_ends_with_ties():
    assert sorted(two_opt(np.ones((30, 30)) - np.eye(30))) == list(range(30))
    assert two_opt(np.zeros((5, 5))).tolist() == [0, 1, 2, 3, 4]


def test_orders_256_channels_in_under_a_second():
    distance = random_distance(256, 0, features=64)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        two_opt(distance)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0


def test_channel_distance_is_euclidean_over_all_tensors():
    generator = torch.Generator().manual_seed(0)
    slices = [torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (1, 5, 40)]
    expected = torch.cdist(torch.cat(slices, 1), torch.cat(slices, 1), compute_mode="donot_use_mm_for_euclid_dist")
    np.testing.assert_allclose(channel_distance(slices), expected.numpy(), rtol=1e-12)


def test_channel_distance_far_from_the_origin_and_of_equal_channels():
    rows = torch.randn(5, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    near, far = channel_distance([rows]), channel_distance([rows + 1e6])
    np.testing.assert_allclose(far, near, rtol=1e-6)
    assert channel_distance([torch.ones(3, 4)]).tolist() == [[0.0] * 3] * 3


def test_channel_distance_does_not_depend_on_the_block(monkeypatch):
    rows = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    whole = channel_distance([rows])
    monkeypatch.setattr("integralrob.conversion.ordering._BLOCK_ELEMENTS", 8 * 7)
    np.testing.assert_allclose(channel_distance([rows]), whole, rtol=1e-13)


@pytest.mark.parametrize("order", ["2opt", 3, ("two_opt",)])
def test_unknown_orders_are_refused(order):
    with pytest.raises(ValueError, match="order: expected"):
        resolve_order(order)


@pytest.mark.parametrize("result", [[0, 0, 1], [0, 1], [0.0, 1.0, 2.0], None])
def test_a_function_must_return_a_permutation(result):
    with pytest.raises(ValueError, match=r"^order\(distance\): expected a permutation of range\(3\)"):
        resolve_order(lambda distance: result)(np.zeros((3, 3)))
