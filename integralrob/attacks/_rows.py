"""Values with one entry per sample, of which some samples can be taken."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from torch import Tensor

R = TypeVar("R", bound="Rows")


class Rows:
    """Base of dataclasses whose tensors all have one entry per sample, ``[B, ...]``, and whose other fields have none.

    A field may be a `Rows` itself.
    """

    def take(self: R, rows: Tensor) -> R:
        """The same for the samples `rows`, a mask ``[B]`` or indices."""
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name, value in fields.items():
            if isinstance(value, Tensor):
                fields[name] = value[rows]
            elif isinstance(value, Rows):
                fields[name] = value.take(rows)
        return type(self)(**fields)
