"""Robust accuracy of a model on a data set."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DistributedSampler, IterableDataset, SequentialSampler
from tqdm import tqdm

from .._checks import check_bool, check_choice, check_int, check_real, describe
from .._model_state import frozen
from ..ops._arguments import Bounds, check_bounds, check_like
from ._arguments import check_index, check_logits, check_model, check_samples, normalisation
from ._records import Record, Records, digests
from .apgd import apgd
from .balls import BALLS
from .result import AttackResult
from .square import square

Attack = Callable[..., AttackResult]
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What became of each of N samples, in the order of their indices.

    Attributes:
        attacks: names, in the order in which they were tried.
        index: int64 ``[N]``.
        correct: bool ``[N]``, whether the model was right about the sample itself.
        broken_by: int64 ``[N]``, the position in `attacks` of what the sample fell to; -1 if it was wrong from the
            start or has withstood all.
    """

    attacks: tuple[str, ...]
    index: Tensor
    correct: Tensor
    broken_by: Tensor

    @property
    def clean_accuracy(self) -> float:
        """Share of the samples that the model is right about; NaN of none."""
        return self.correct.double().mean().item()

    @property
    def robust_accuracy(self) -> float:
        """Share of the samples that the model is right about under every attack; NaN of none."""
        return (self.correct & (self.broken_by < 0)).double().mean().item()

    @property
    def accuracy_after(self) -> dict[str, float]:
        """Share of the samples that are left after each attack and those before it."""
        left = [self.correct & ((self.broken_by < 0) | (self.broken_by > i)) for i in range(len(self.attacks))]
        return {name: kept.double().mean().item() for name, kept in zip(self.attacks, left, strict=True)}

    def __str__(self) -> str:
        rows = {"clean": self.clean_accuracy, **{f"after {name}": share for name, share in self.accuracy_after.items()}}
        return "\n".join(f"{name:24} {100 * share:6.2f} %" for name, share in rows.items())


def evaluate(
    model: Model,
    loader: Iterable[Sequence[Tensor]],
    attacks: str | Mapping[str, Attack] = "standard",
    *,
    norm: str = "linf",
    eps: float,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Clean and robust accuracy: a cascade of attacks, of which each gets the samples that withstood those before.

    A sample is broken if the model, asked again, gives another class than the label to what the attack returned, and
    that is in ball and box.

    What becomes of a sample follows from the seed and its index, not from batch size, order or number of processes, as
    far as the model itself computes the same for a sample in every batch: its sums may round otherwise in others.

    Under `torch.distributed` each process calls this with the same loader, works on every so many-th batch, and gets
    the result for all.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, K]``, K ≥ 2. A module's batches are moved to where its parameters are.
        loader: batches ``(x, y)`` in a fixed order, or in any order ``(x, y, index)`` with the numbers of the samples
            in their data set, int64 ``[B]``; without these a sample's number is its position.
        attacks: name → function ``(model, x, y, *, norm, eps, bounds, mean, std, index, generator) -> AttackResult``,
            which may leave out the last two; attacks of this module, by `functools.partial` with other options. Or
            ``"standard"``: AutoAttack's without FAB, that is APGD with cross entropy, APGD with the DLR loss for 9
            targets, 100 steps each, and 5,000 queries of the square attack; in l1 five runs of the first and two of the
            second. (Two classes: without DLR, which is cross entropy there. Three: DLR without targets.)
        norm, eps, bounds, mean, std: as in `pgd`; one radius for all samples.
        seed: of all randomness; attack number i draws from generators with ``seed + i``.
        output: a folder for ``settings.json``; ``results-<process>.jsonl``, one line for each sample (index, sample: a
            digest of its values, label, correct, broken_by, norm of the perturbation); and
            ``adversarial-<index>.pt``, one for each batch, with a dictionary of the broken samples' ``index [n]`` and
            ``adversarial [n, ...]`` for `torch.load(..., weights_only=True)`.
        resume: go on with what the folder has; its settings must be these, functions going by their names. Batches and
            processes may be others. Of the model its parameters are compared, and the samples.
        progress: show a bar with the accuracy so far, in the first process.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        FileExistsError: `output` has results, and `resume` is False.
        RuntimeError: an attack returned samples outside of ball or box.

    Source: F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020.

    >>> def model(x):
    ...     total = x.sum(1)
    ...     return torch.stack([total, 1 - total], dim=1)
    >>> batches = [(torch.tensor([[0.3, 0.4], [0.6, 0.8], [0.1, 0.2]]), torch.tensor([0, 0, 0]))]
    >>> attacks = {"apgd": partial(apgd, steps=10), "square": partial(square, queries=10)}
    >>> print(evaluate(model, batches, attacks, eps=0.2, progress=False))
    clean                     66.67 %
    after apgd                33.33 %
    after square              33.33 %
    """
    check_model(model)
    check_choice("norm", norm, BALLS)
    if not check_real("eps", eps, 0) < torch.inf:
        raise ValueError(f"eps: expected a finite number, got {eps}")
    check_bounds(bounds)
    if (seed := check_int("seed", seed, 0)) >= 2**63:
        raise ValueError(f"seed: expected an int below 2**63, got {seed}")
    resume, progress = check_bool("resume", resume), check_bool("progress", progress)
    if resume and output is None:
        raise ValueError("output: expected a folder with resume=True, got None")
    _check_attacks(attacks)
    _check_loader(loader)
    options = {"norm": norm, "eps": float(eps), "bounds": bounds, "mean": mean, "std": std}
    batches = _indexed(loader, bounds)
    first = next(batches, None)
    if isinstance(attacks, str):
        attacks = {} if first is None else _standard(_classes(_Cascade(model, {}, options, seed), *first), norm)
    described = [{"name": name, **_describe(attack)} for name, attack in attacks.items()]
    together = distributed.is_available() and distributed.is_initialized()
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    settings = {**options, "seed": seed, "attacks": described, "model": output and _fingerprint(model)}
    records = Records(output, settings, rank, resume)
    if together:
        distributed.barrier()  # nobody writes before all have read
    cascade = _Cascade(model, attacks, options, seed)
    asked: list[int] = []
    bar = tqdm(total=_length(loader), unit="batch", disable=not progress or rank > 0)
    with _gathered(records, ranks) as done, frozen(model), bar:
        for number, (x, y, index) in enumerate(chain([] if first is None else [first], batches)):
            asked.extend(index.tolist())
            fresh = records.missing(x, y, index)
            if number % ranks == rank and fresh.any():
                records.add(*cascade.run(x[fresh.to(x.device)], y[fresh.to(y.device)], index[fresh]))
            bar.update()
            bar.set_postfix(records.shares())
    return _summary([done[index] for index in sorted(asked)], tuple(attacks))


@contextmanager
def _gathered(records: Records, ranks: int) -> Iterator[dict[int, Record]]:
    """At the end, the records of all processes. Where one has failed, all raise, and none waits for it."""
    done: dict[int, Record] = {}
    failure: Exception | None = None
    try:
        yield done
    except Exception as error:
        failure = error
    own = (records.done, failure and repr(failure))
    gathered = [own] * ranks
    if ranks > 1:
        distributed.all_gather_object(gathered, own)
    if failure is not None:
        raise failure
    for rank, (part, failed) in enumerate(gathered):
        if failed is not None:
            raise RuntimeError(f"evaluate: expected records from all processes, got from process {rank}: {failed}")
        done.update(part)


@dataclass(frozen=True)
class _Cascade:
    """The attacks, one after another, on what is left of a batch."""

    model: Model
    attacks: Mapping[str, Attack]
    options: dict[str, Any]
    seed: int

    def run(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[list[Record], Tensor, Tensor]:
        """A record for each sample, and index and adversarial examples of those that were broken."""
        device = self._device(x)
        x, y, index = x.to(device), y.to(device), index.to(device)
        logits = self.logits(x)
        check_logits(logits, y, differentiable=False)
        correct = (logits.argmax(1) == y) & ~logits.isnan().any(1)
        broken_by = torch.full_like(y, -1)
        adversarial = x.clone()
        for number, (name, attack) in enumerate(self.attacks.items()):
            left = (correct & (broken_by < 0)).nonzero()[:, 0]
            if not len(left):
                break
            random = {"index": index[left], "generator": torch.Generator().manual_seed(self.seed + number)}
            result = attack(self.model, x[left], y[left], **self.options, **_accepted(attack, random))
            if not isinstance(result, AttackResult):
                raise TypeError(f"{name}: expected an AttackResult, got {describe(result)}")
            found = result.adversarial
            check_like(name, found, "x", x[left])
            self._check_inside(name, found, x[left])
            logits = self.logits(found)
            broken = (logits.argmax(1) != y[left]) & ~logits.isnan().any(1)
            broken_by[left[broken]] = number
            adversarial[left[broken]] = found[broken].detach()
        norms = BALLS[self.options["norm"]].norm(adversarial.double() - x)
        names = (*self.attacks, None)
        columns = (column.tolist() for column in (index, y, correct, broken_by, norms))
        records = [
            Record(index, sample, label, correct, names[broken], norm)
            for sample, index, label, correct, broken, norm in zip(digests(x), *columns, strict=True)
        ]
        rows = broken_by >= 0
        return records, index[rows], adversarial[rows]

    def _device(self, x: Tensor) -> torch.device:
        return next(self.model.parameters(), x).device if isinstance(self.model, nn.Module) else x.device

    def logits(self, x: Tensor) -> Tensor:
        """What the model gives for samples."""
        x = x.to(self._device(x))
        with torch.no_grad(), frozen(self.model):
            return self.model(normalisation(self.options["mean"], self.options["std"], x)(x))

    def _check_inside(self, name: str, adversarial: Tensor, x: Tensor) -> None:
        norm, eps, bounds = (self.options[key] for key in ("norm", "eps", "bounds"))
        rounding = torch.finfo(x.dtype).eps
        size = BALLS[norm].norm(adversarial.double() - x.double()).max().item()
        # a few roundings of the radius, as an attack may sum in the dtype of x, and one of an entry of x + δ
        if not size <= eps + rounding * (8 * eps + x.abs().max().item()):
            raise RuntimeError(f"{name}: expected samples within eps={eps} of x in {norm}, got one at {size}")
        low, high = (value.item() for value in torch.aminmax(adversarial))
        lowest, highest = (-torch.inf, torch.inf) if bounds is None else torch.tensor(bounds, dtype=x.dtype).tolist()
        if low < lowest or high > highest:
            raise RuntimeError(f"{name}: expected samples within bounds {bounds}, got values from {low} to {high}")


def _fingerprint(model: Model) -> str:
    """Tells a model from one with other parameters, and a function from one of another name."""
    if not isinstance(model, nn.Module):
        return getattr(model, "__qualname__", type(model).__qualname__)
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        is_tensor = isinstance(value, Tensor)
        content = value.detach().cpu().flatten().view(torch.uint8).numpy() if is_tensor else repr(value).encode()
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()


def _classes(cascade: _Cascade, x: Tensor, y: Tensor, _: Tensor) -> int:
    """How many the model tells apart."""
    logits = cascade.logits(x[:2])
    check_logits(logits, y[:2], differentiable=False)
    return logits.shape[1]


def _standard(classes: int, norm: str) -> dict[str, Attack]:
    runs, again = (5, 2) if norm == "l1" else (1, 1)
    attacks: dict[str, Attack] = {"apgd-ce": partial(apgd, restarts=runs, early_stop=True)}
    if classes >= 3:
        targets = min(9, classes - 1) if classes >= 4 else None
        attacks["apgd-dlr"] = partial(apgd, loss="dlr", targets=targets, restarts=again, early_stop=True)
    attacks["square"] = partial(square, early_stop=True)
    return attacks


def _check_attacks(attacks: Any) -> None:
    if isinstance(attacks, str):
        check_choice("attacks", attacks, ("standard",))
    elif not isinstance(attacks, Mapping):
        raise TypeError(f"attacks: expected 'standard' or a mapping from names to functions, got {describe(attacks)}")
    else:
        for name, attack in attacks.items():
            if not isinstance(name, str) or not callable(attack):
                raise TypeError(f"attacks: expected names and functions, got {describe(name)}: {describe(attack)}")


def _accepted(attack: Attack, options: dict[str, Any]) -> dict[str, Any]:
    """Those options that the attack takes."""
    parameters = inspect.signature(attack).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def _describe(attack: Attack) -> dict[str, Any]:
    """What distinguishes the results of one attack from those of another."""
    if isinstance(attack, partial):
        first = {"arguments": attack.args} if attack.args else {}
        return {**_describe(attack.func), **first, **attack.keywords}
    return {"function": getattr(attack, "__qualname__", type(attack).__qualname__)}


def _check_loader(loader: Any) -> None:
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader: expected an iterable of batches (x, y) or (x, y, index), got {describe(loader)}")
    if isinstance(_sampler(loader), DistributedSampler):
        raise ValueError("loader: expected all samples in each process, which deals them out, got a DistributedSampler")


def _sampler(loader: Any) -> Any:
    """What puts the samples in their order, as far as the loader has such a thing: a `DataLoader` of a map."""
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return None
    batch_sampler = getattr(loader, "batch_sampler", None)
    if batch_sampler is None:
        return getattr(loader, "sampler", None)
    return getattr(batch_sampler, "sampler", batch_sampler)  # the loader's own is another, unused, where this was given


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _indexed(loader: Iterable[Sequence[Tensor]], bounds: Bounds) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches with the numbers of their samples, checked: a bad one is an error in every process."""
    in_order = isinstance(_sampler(loader), SequentialSampler | None)
    seen: set[int] = set()
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(f"loader: expected batches (x, y) or (x, y, index), got {describe(batch)}")
        x, y = check_samples(batch[0], batch[1], bounds)
        if len(batch) == 3:
            index = check_index(batch[2], x)
        elif in_order:
            index = torch.arange(len(seen), len(seen) + len(x))
        else:
            raise ValueError("loader: expected batches (x, y, index), or samples in a fixed order, got a shuffled one")
        size = len(seen)
        seen.update(index.tolist())
        if len(seen) < size + len(x):
            raise ValueError("loader: expected each index once, got one again")
        yield x, y, index.cpu()


def _summary(records: list[Record], names: tuple[str, ...]) -> Evaluation:
    return Evaluation(
        names,
        torch.tensor([record.index for record in records], dtype=torch.int64),
        torch.tensor([record.correct for record in records], dtype=torch.bool),
        torch.tensor(
            [-1 if record.broken_by is None else names.index(record.broken_by) for record in records],
            dtype=torch.int64,
        ),
    )
