"""Values with one entry per sample, of which some samples can be taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R", bound="Rows")


class Rows:
    """Base of dataclasses whose tensors all have one entry per sample, ``[B, ...]``, and whose other fields have none.

    A field may be a `Rows` itself.
    """

    def take(self: R, rows: Tensor) -> R:
        """The same for the samples `rows`, a mask ``[B]`` or indices."""
        return self._map(lambda tensor: tensor[rows])

    def clone(self: R) -> R:
        """The same in memory of its own, for each tensor."""
        return self._map(torch.clone)

    def copy_(self: R, other: R) -> None:
        """Write the tensors of `other` into these, which are apart from each other; some may be these themselves."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        moves = [(to, source) for to, source in pairs if not source.is_set_to(to)]
        overwritten = [to for to, _ in moves]
        for to, source in [(to, _apart(source, overwritten)) for to, source in moves]:
            to.copy_(source)

    def _map(self: R, function: Callable[[Tensor], Tensor]) -> R:
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name, value in fields.items():
            if isinstance(value, Tensor):
                fields[name] = function(value)
            elif isinstance(value, Rows):
                fields[name] = value._map(function)
        return type(self)(**fields)

    def _tensors(self) -> Iterator[Tensor]:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, Rows):
                yield from value._tensors()


def _apart(source: Tensor, overwritten: list[Tensor]) -> Tensor:
    return source.clone() if any(source.is_set_to(tensor) for tensor in overwritten) else source
