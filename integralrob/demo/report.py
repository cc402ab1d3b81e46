"""The results as a table for the terminal and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

__all__ = ["Row", "save", "table", "versions"]


@dataclass
class Row:
    """What was measured of one network at one size; None where a measure does not apply.

    Attributes:
        task: "digits" or "photos".
        model: "discrete", "integral", or "integral-adversarial" of one that was trained against attacks.
        sampling: how the integral network is sampled, and whether and how it was trained over random sizes.
        fraction: of the channels.
        clean: accuracy in percent.
        linf, l1, l2: accuracy in percent under attack in the ball of that norm.
        psnr: in dB.
        parameters: of the discretised network.
        milliseconds: of a forward pass of the discretised network, median.
    """

    task: str
    model: str
    sampling: str | None
    fraction: float
    clean: float | None = None
    linf: float | None = None
    l1: float | None = None
    l2: float | None = None
    psnr: float | None = None
    parameters: int | None = None
    milliseconds: float | None = None


_FORMATS = {
    "fraction": "{:.2f}",
    "clean": "{:.1f}",
    "linf": "{:.1f}",
    "l1": "{:.1f}",
    "l2": "{:.1f}",
    "psnr": "{:.2f}",
    "parameters": "{:,}",
    "milliseconds": "{:.2f}",
}


def table(rows: Sequence[Row]) -> str:
    """The rows in aligned columns, without the columns in which nothing was measured.

    >>> digits, photos = (Row(task, "discrete", None, 1.0) for task in ("digits", "photos"))
    >>> digits.clean, photos.psnr = 99.5, 25.0
    >>> print(table([digits, photos]))
    task    model     fraction  clean   psnr
    digits  discrete      1.00   99.5      -
    photos  discrete      1.00      -  25.00
    """
    names = [field.name for field in fields(Row) if any(getattr(row, field.name) is not None for row in rows)]
    lines = [names]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append(
            ["-" if v is None else _FORMATS.get(name, "{}").format(v) for name, v in zip(names, values, strict=True)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(names, line, widths, strict=True)
        return "  ".join(f"{c:>{w}}" if name in _FORMATS else f"{c:<{w}}" for name, c, w in cells).rstrip()

    return "\n".join(aligned(line) for line in lines)


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    import sklearn

    from .. import __version__

    return {
        "integralrob": __version__,
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
    }


def save(path: Path, rows: Sequence[Row], seed: int, settings: Mapping[str, Any]) -> None:
    """Writes the rows, the seed, the versions and the settings."""
    content = {"versions": versions(), "seed": seed, "settings": settings, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n")
