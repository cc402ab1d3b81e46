"""What a tensor between layers has: channels along one dim, or none."""

from __future__ import annotations

from dataclasses import dataclass

from .segments import Space

__all__ = ["Channels", "Nothing", "State"]


@dataclass(frozen=True)
class Channels:
    """A tensor has the entries from `start` on of a space, `size` of them, along `dim`, counted from the last (-1).

    The space is the output (0) or input axis (1) of a layer, a parameter outside of layers (by its name), or what an
    operation made of several axes, or of blocks of one.
    """

    space: Space
    start: int
    size: int
    dim: int


@dataclass(frozen=True)
class Nothing:
    """A tensor has no channels that are followed: `what` it has instead, or None if that is one for all channels."""

    what: str | None = None


State = Channels | Nothing
