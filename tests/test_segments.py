import pytest

from integralrob.conversion.segments import Link, components


def found(sizes, links):
    """Components as (size, {space: [(start, stop)]}, torn), spaces by name."""
    sizes = {(name, 0): size for name, size in sizes.items()}
    links = [
        Link((a, 0), start, block, (b, 0), other, other_block, n) for a, start, block, b, other, other_block, n in links
    ]
    result = []
    for component in components(sizes, links):
        segments = {}
        for segment in component.segments:
            segments.setdefault(segment.space[0], []).append((segment.start, segment.stop))
        result.append((component.size, segments, component.torn))
    return result


def test_axes_without_links_are_alone():
    assert found({"a": 3, "b": 2}, []) == [(3, {"a": [(0, 3)]}, False), (2, {"b": [(0, 2)]}, False)]


def test_a_concatenation_is_cut_and_the_cut_goes_on_through_what_follows():
    links = [("a", 0, 1, "cat", 0, 1, 2), ("b", 0, 1, "cat", 2, 1, 3), ("cat", 0, 1, "relu", 0, 1, 5)]
    assert found({"a": 2, "b": 3, "cat": 5, "relu": 5}, links) == [
        (2, {"a": [(0, 2)], "cat": [(0, 2)], "relu": [(0, 2)]}, False),
        (3, {"b": [(0, 3)], "cat": [(2, 5)], "relu": [(2, 5)]}, False),
    ]


def test_a_sum_of_differently_cut_axes_is_cut_as_both():
    links = [
        ("a", 0, 1, "sum", 0, 1, 6),
        ("b", 0, 1, "sum", 0, 1, 6),
        ("c", 0, 1, "a", 0, 1, 2),
        ("d", 0, 1, "b", 0, 1, 4),
    ]
    sizes = {"a": 6, "b": 6, "c": 2, "d": 4, "sum": 6}
    assert [size for size, _, _ in found(sizes, links)] == [2, 2, 2]


def test_gates_tie_two_halves_of_an_axis():
    assert found({"a": 8}, [("a", 0, 1, "a", 4, 1, 4)]) == [(4, {"a": [(0, 4), (4, 8)]}, False)]


def test_blocks():
    links = [("conv", 0, 1, "flat", 0, 9, 4), ("shuffled", 0, 4, "conv", 0, 1, 4)]
    assert found({"conv": 4, "flat": 36, "shuffled": 16}, links) == [
        (4, {"conv": [(0, 4)], "flat": [(0, 36)], "shuffled": [(0, 16)]}, False)
    ]
    links = [("a", 0, 2, "b", 0, 1, 12), ("a", 0, 3, "c", 0, 1, 8)]
    assert [size for size, _, _ in found({"a": 24, "b": 12, "c": 8}, links)] == [4]


def test_a_cut_through_a_channel_is_told():
    links = [("conv", 0, 1, "flat", 0, 9, 4), ("part", 0, 1, "flat", 0, 1, 13)]
    assert any(torn for _, _, torn in found({"conv": 4, "flat": 36, "part": 13}, links))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_an_axis_tied_to_itself_by_a_shift_has_no_more_channels_than_that(shift):
    ((size, segments, _),) = found({"a": 6}, [("a", 0, 1, "a", shift, 1, 6 - shift)])
    assert size == {1: 1, 2: 2, 3: 3}[shift]
    assert sum(stop - start for start, stop in segments["a"]) == 6
