"""Which entries of which axes belong together: axes are cut into segments, and linked segments united.

An axis of a layer need not carry one set of channels. Behind a concatenation it carries several, one behind the other;
before a split it carries several, and a gated unit ties its two halves to each other. So an axis (a *space* here, of
so many entries) is cut wherever one that is linked to it begins, ends or is cut. What is left are segments that
are linked as a whole or not at all.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Component", "Link", "Segment", "Space", "components"]

Space = tuple[Any, int]
"""An axis: what has it, and which one it is."""


@dataclass(frozen=True)
class Link:
    """`count` channels in two spaces: from entry `start` on, each channel has `block` consecutive entries."""

    space: Space
    start: int
    block: int
    other: Space
    other_start: int
    other_block: int
    count: int

    def reversed(self) -> Link:
        return Link(self.other, self.other_start, self.other_block, self.space, self.start, self.block, self.count)


@dataclass(frozen=True)
class Segment:
    """Entries from `start` to before `stop` of a space."""

    space: Space
    start: int
    stop: int


@dataclass(frozen=True)
class Component:
    """Segments that carry the same `size` channels; `torn` if a cut goes through a channel of one of them."""

    size: int
    segments: tuple[Segment, ...]
    torn: bool


def components(sizes: Mapping[Space, int], links: Iterable[Link]) -> list[Component]:
    """The segments of all spaces, united where linked.

    Args:
        sizes: number of entries of each space.
        links: between spaces, or within one.

    Complexity: ``O(links · cuts)`` for each round of new cuts, of which there are as many as concatenations and splits
    follow each other.

    >>> a, b, cat, flat = ((name, 0) for name in ("a", "b", "cat", "flat"))
    >>> links = [Link(a, 0, 1, cat, 0, 1, 2), Link(b, 0, 1, cat, 2, 1, 3), Link(cat, 0, 1, flat, 0, 4, 5)]
    >>> for component in components({a: 2, b: 3, cat: 5, flat: 20}, links):
    ...     print(component.size, [(segment.space[0], segment.start, segment.stop) for segment in component.segments])
    2 [('a', 0, 2), ('cat', 0, 2), ('flat', 0, 8)]
    3 [('b', 0, 3), ('cat', 2, 5), ('flat', 8, 20)]
    """
    both_ways = [direction for link in links for direction in (link, link.reversed())]
    cuts, torn = _cuts(sizes, both_ways)
    segments: dict[Space, dict[int, Segment]] = {}
    for space, at in cuts.items():
        ordered = sorted(at)
        segments[space] = {start: Segment(space, start, stop) for start, stop in itertools.pairwise(ordered)}
    sets = _Sets(segment for row in segments.values() for segment in row.values())
    for link in both_ways:
        for start, segment in segments[link.space].items():
            inside = start - link.start
            if 0 <= inside < link.count * link.block and inside % link.block == 0:
                other = segments[link.other][link.other_start + inside // link.block * link.other_block]
                sets.unite(segment, other, channels=(segment.stop - start) // link.block)
    return [
        Component(max(1, size), tuple(members), any(not torn.isdisjoint(_ends(segment)) for segment in members))
        for size, members in sets.all()
    ]


def _cuts(sizes: Mapping[Space, int], links: Iterable[Link]) -> tuple[dict[Space, set[int]], set[tuple[Space, int]]]:
    """Where each space is cut, its ends included; and the cuts that go through a channel."""
    cuts = {space: {0, size} for space, size in sizes.items()}
    links_of = defaultdict(list)
    for link in links:
        links_of[link.space].append(link)
        cuts[link.space] |= {link.start, link.start + link.count * link.block}
    torn = set()
    changed = list(sizes)
    while changed:
        space = changed.pop()
        for link in links_of[space]:
            new = set()
            for cut in cuts[space]:
                inside = cut - link.start
                if 0 <= inside <= link.count * link.block:
                    new.add(link.other_start + inside // link.block * link.other_block)
                    if inside % link.block:
                        torn.add((space, cut))
            if not new <= cuts[link.other]:
                cuts[link.other] |= new
                changed.append(link.other)
    return cuts, torn


def _ends(segment: Segment) -> tuple[tuple[Space, int], tuple[Space, int]]:
    return (segment.space, segment.start), (segment.space, segment.stop)


class _Sets:
    """Disjoint sets of segments, and how many channels each set's segments can have at most."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.parent = {segment: segment for segment in segments}
        self.size = {segment: segment.stop - segment.start for segment in self.parent}

    def root(self, segment: Segment) -> Segment:
        while self.parent[segment] != segment:
            self.parent[segment] = self.parent[self.parent[segment]]
            segment = self.parent[segment]
        return segment

    def unite(self, segment: Segment, other: Segment, channels: int) -> None:
        first, second = self.root(segment), self.root(other)
        self.parent[second] = first
        self.size[first] = math.gcd(self.size[first], self.size[second], channels)

    def all(self) -> list[tuple[int, list[Segment]]]:
        members = defaultdict(list)
        for segment in self.parent:
            members[self.root(segment)].append(segment)
        return [(self.size[root], segments) for root, segments in members.items()]
