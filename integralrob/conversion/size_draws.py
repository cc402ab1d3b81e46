"""Random numbers that are the same on every process and go on where a checkpoint was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .._checks import check_int, describe

__all__ = ["SizeDraws"]


class SizeDraws(nn.Module):
    """A source of random sizes: each draw is a function of a seed and of how many draws there were before.

    So processes that draw equally often draw the same, whatever else they do with their generators, and a draw costs no
    communication. Both numbers are in the `state_dict`.

    Attributes:
        seed: an int of at least 0.
        count: how many draws there were.

    >>> draws, again = SizeDraws(seed=3), SizeDraws(seed=3)
    >>> first = draws.next()
    >>> torch.rand((), generator=first) == torch.rand((), generator=again.next())
    tensor(True)
    >>> again.load_state_dict(draws.state_dict())
    <All keys matched successfully>
    >>> again.count
    1
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = check_int("seed", seed, 0)
        self.count = 0

    def next(self) -> torch.Generator:
        """The generator of the next draw, on the CPU."""
        mixed = np.random.SeedSequence((self.seed, self.count)).generate_state(1, np.uint64)
        self.count += 1
        return torch.Generator("cpu").manual_seed(int(mixed[0]))

    def get_extra_state(self) -> dict[str, int]:
        """Seed and count, for `state_dict`."""
        return {"seed": self.seed, "count": self.count}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores seed and count.

        Raises:
            TypeError, ValueError: anything else; nothing is changed then.
        """
        if not isinstance(state, Mapping) or set(state) != {"seed", "count"}:
            raise TypeError(f"state_dict: random sizes: expected a dict of seed and count, got {describe(state)}")
        seed, count = (check_int(f"state_dict: random sizes: {name}", state[name], 0) for name in ("seed", "count"))
        self.seed, self.count = seed, count
