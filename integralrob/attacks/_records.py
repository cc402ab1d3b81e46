"""What is known of each sample, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import describe


@dataclass(frozen=True)
class Record:
    """A line of ``results-<process>.jsonl``."""

    index: int
    sample: str  # tells it from others
    label: int
    correct: bool
    broken_by: str | None
    norm: float  # of the perturbation of a broken sample, else 0


class Records:
    """The records of a process; with a folder, also those that are there.

    A batch's adversarial examples are on disk before its lines are, each line whole before the next one: whatever ends
    the process, a line stands for finished work, but for a last one without its end, which is dropped.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any], process: int, resume: bool) -> None:
        self.done: dict[int, Record] = {}
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        settings = json.loads(json.dumps(settings, default=_plain))
        path = self.folder / "settings.json"
        files = sorted(self.folder.glob("results-*.jsonl"))
        if files and not resume:
            raise FileExistsError(f"output: expected a folder without results, or resume=True, got {self.folder}")
        if files and (before := json.loads(path.read_text())) != settings:
            changed = [name for name in settings if settings[name] != before.get(name)]
            raise ValueError(
                f"resume: expected the settings of {path}, got others: "
                + ", ".join(f"{name}={settings[name]!r} instead of {before.get(name)!r}" for name in changed)
            )
        for file in files:
            self.done.update((record.index, record) for record in _read(file))
        self.folder.mkdir(parents=True, exist_ok=True)
        if process == 0:
            _replace(path, json.dumps(settings, indent=2).encode())
        self.lines = self.folder / f"results-{process}.jsonl"

    def missing(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Bool ``[B]``, which samples have no record."""
        records = [self.done.get(i) for i in index.tolist()]
        known = torch.tensor([record is not None for record in records], dtype=torch.bool)
        rows = known.nonzero()[:, 0].tolist()
        if rows:
            samples = digests(x[known.to(x.device)])
            for i, sample, label in zip(rows, samples, y[known.to(y.device)].tolist(), strict=True):
                record = records[i]
                if record is not None and (record.sample, record.label) != (sample, label):
                    raise ValueError(
                        f"loader: expected the samples of {self.folder}, whose number {record.index} has label "
                        f"{record.label} and digest {record.sample}, got label {label} and digest {sample}"
                    )
        return ~known

    def add(self, records: list[Record], index: Tensor, adversarial: Tensor) -> None:
        """The records of a batch, and of its broken samples index and adversarial examples."""
        if self.folder is not None:
            if len(index):
                path = self.folder / f"adversarial-{int(index.min()):09d}.pt"
                temporary = path.with_suffix(".tmp")
                torch.save({"index": index.cpu(), "adversarial": adversarial.cpu()}, temporary)
                temporary.replace(path)
            if self.lines.exists():
                _drop_unfinished_line(self.lines)
            with self.lines.open("a") as file:
                file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
                file.flush()
                os.fsync(file.fileno())
        self.done.update((record.index, record) for record in records)

    def shares(self) -> dict[str, str]:
        """Clean and robust accuracy so far."""
        known = self.done.values()
        count = max(1, len(known))
        clean = sum(record.correct for record in known)
        robust = sum(record.correct and record.broken_by is None for record in known)
        return {"clean": f"{100 * clean / count:.1f}%", "robust": f"{100 * robust / count:.1f}%"}


def digests(x: Tensor) -> list[str]:
    """A hash of each sample's values, in float64."""
    rows = x.detach().cpu().double().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in rows]


def _read(path: Path) -> Iterator[Record]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError):
                raise ValueError(f"output: expected a record in each line of {path}, got {describe(line)}") from None


def _drop_unfinished_line(path: Path) -> None:
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        _replace(path, whole)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return getattr(value, "__qualname__", None) or repr(value)  # of a function, repr gives an address
