"""`integralrob.attacks.evaluate`: the cascade, what a sample depends on, the files, several processes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attack_methods import RowByRow
from test_attacks import Recorder, batch, linear
from torch import Tensor, distributed, multiprocessing
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, RandomSampler, TensorDataset

import integralrob as ir
from integralrob.attacks import Evaluation, apgd, evaluate, fgsm, pgd, square

ATTACKS: dict[str, Callable[..., ir.attacks.AttackResult]] = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=3, early_stop=True),
    "apgd": partial(apgd, steps=5, early_stop=True),
    "square": partial(square, queries=10, early_stop=True),
}
OPTIONS: dict[str, Any] = {"eps": 0.08, "progress": False, "seed": 3}


def samples(count: int = 40) -> tuple[Tensor, Tensor]:
    x, _ = batch(count, (2, 3), 4, torch.float64)
    y = RowByRow()(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4  # misclassified
    return x, y


def batches(size: int, count: int = 40) -> list[tuple[Tensor, Tensor]]:
    x, y = samples(count)
    return list(zip(x.split(size), y.split(size), strict=True))


class Stream(IterableDataset[Any]):
    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __iter__(self) -> Any:
        return zip(*self.tensors, strict=True)


def same(a: Evaluation, b: Evaluation) -> bool:
    return a.attacks == b.attacks and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("index", "correct", "broken_by")
    )


def test_only_samples_that_are_left_go_on() -> None:
    """The shares are those of the attacks, tried one after another by hand."""
    x, y = samples()
    model = RowByRow()
    got: list[Tensor] = []

    def watched(number: int, model: Any, x: Tensor, y: Tensor, **options: Any) -> ir.attacks.AttackResult:
        got.append(options["index"])
        return ATTACKS[list(ATTACKS)[number]](model, x, y, **{k: v for k, v in options.items() if number or k in KEPT})

    KEPT = ("norm", "eps", "bounds", "mean", "std")
    attacks = {name: partial(watched, number) for number, name in enumerate(ATTACKS)}
    result = evaluate(model, [(x, y)], attacks, eps=0.3, seed=3, progress=False)
    left = model(x).argmax(1) == y
    assert torch.equal(result.correct, left)
    assert result.clean_accuracy == pytest.approx(34 / 40)
    for number, (name, attack) in enumerate(ATTACKS.items()):
        index = left.nonzero()[:, 0]
        assert torch.equal(got[number], index)
        random = {} if attack is fgsm else {"index": index, "generator": torch.Generator().manual_seed(3 + number)}
        success = attack(model, x[index], y[index], eps=0.3, **random).success
        left[index[success]] = False
        assert torch.equal(result.broken_by == number, ~left & result.correct & (result.broken_by >= number))
        assert result.accuracy_after[name] == pytest.approx(left.double().mean().item())
    assert result.robust_accuracy == result.accuracy_after["square"] < result.accuracy_after["fgsm"]
    assert (result.broken_by[~result.correct] == -1).all()
    assert str(result).splitlines()[0] == "clean                     85.00 %"


def test_no_dependence_on_batches_or_order() -> None:
    x, y = samples()
    run = partial(evaluate, RowByRow(), attacks=ATTACKS, **OPTIONS)
    expected = run(batches(40))
    for size in (1, 7):
        assert same(run(batches(size)), expected)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = [(x[rows], y[rows], rows) for rows in order.split(9)]
    assert same(run(shuffled), expected)
    assert same(run(DataLoader(TensorDataset(x, y), batch_size=16)), expected)
    assert same(run(DataLoader(Stream(x, y), batch_size=16)), expected)
    assert same(run(DataLoader(TensorDataset(x, y, torch.arange(40)), batch_size=16, shuffle=True)), expected)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_standard_cascade(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("integralrob.attacks.evaluate")  # the package has a function of that name
    monkeypatch.setattr(module, "apgd", partial(apgd, steps=3))
    monkeypatch.setattr(module, "square", partial(square, queries=3))
    x, y = batch(10, (6,), classes)
    result = evaluate(linear(classes=classes), [(x, y)], norm="l2", eps=0.2, progress=False)
    assert result.attacks == (("apgd-ce", "square") if classes == 2 else ("apgd-ce", "apgd-dlr", "square"))
    assert result.index.tolist() == list(range(10))


@pytest.mark.parametrize(("norm", "runs", "again"), [("linf", 1, 1), ("l2", 1, 1), ("l1", 5, 2)])
def test_the_standard_cascade_of_each_norm(norm: str, runs: int, again: int, tmp_path: Path) -> None:
    loader = [(torch.empty(0, 6), torch.empty(0, dtype=torch.int64))]
    evaluate(linear(classes=11), loader, norm=norm, eps=0.1, output=tmp_path, progress=False)
    ce, dlr, last = json.loads((tmp_path / "settings.json").read_text())["attacks"]
    assert ce == {"name": "apgd-ce", "function": "apgd", "restarts": runs, "early_stop": True}
    options = {"loss": "dlr", "targets": 9, "restarts": again, "early_stop": True}
    assert dlr == {"name": "apgd-dlr", "function": "apgd", **options}
    assert last == {"name": "square", "function": "square", "early_stop": True}


def test_adversarial_examples_on_disk(tmp_path: Path) -> None:
    x, y = samples()
    model = RowByRow()
    result = evaluate(model, batches(16), ATTACKS, output=tmp_path / "new" / "run", **OPTIONS)
    folder = tmp_path / "new" / "run"
    lines = [json.loads(line) for line in (folder / "results-0.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["label"] for line in lines] == y.tolist()
    assert [line["correct"] for line in lines] == result.correct.tolist()
    broken = {line["index"] for line in lines if line["broken_by"]}
    stored = [torch.load(path, weights_only=True) for path in sorted(folder.glob("adversarial-*.pt"))]
    index = torch.cat([part["index"] for part in stored])
    adversarial = torch.cat([part["adversarial"] for part in stored])
    assert set(index.tolist()) == broken == set((result.broken_by >= 0).nonzero()[:, 0].tolist())
    assert (model(adversarial).argmax(1) != y[index]).all()
    distance = (adversarial - x[index]).flatten(1).abs().amax(1)
    assert distance.max() <= 0.08 + 1e-15
    assert distance.tolist() == [lines[i]["norm"] for i in index.tolist()]
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


def test_resume_after_a_crash(tmp_path: Path) -> None:
    """In a batch, with a line that was being written; with other batches, the samples that are done not asked again."""
    expected = evaluate(RowByRow(), batches(40), ATTACKS, **OPTIONS)

    def dying(model: Any, x: Tensor, y: Tensor, **options: Any) -> ir.attacks.AttackResult:
        if options["index"].max() > 25:
            raise KeyboardInterrupt
        return fgsm(model, x, y, **{key: options[key] for key in ("norm", "eps", "bounds", "mean", "std")})

    dying.__qualname__ = "fgsm"
    with pytest.raises(KeyboardInterrupt):
        evaluate(RowByRow(), batches(8), {**ATTACKS, "fgsm": dying}, output=tmp_path, **OPTIONS)
    path = tmp_path / "results-0.jsonl"
    assert len(path.read_text().splitlines()) == 24
    with path.open("a") as file:
        file.write('{"index": 24, "lab')
    asked: list[int] = []

    def counting(model: Any, x: Tensor, y: Tensor, **options: Any) -> ir.attacks.AttackResult:
        asked.extend(options.pop("index").tolist())
        options.pop("generator")
        return fgsm(model, x, y, **options)

    counting.__qualname__ = "fgsm"
    with pytest.raises(FileExistsError, match="output: expected a folder without results, or resume=True"):
        evaluate(RowByRow(), batches(7), ATTACKS, output=tmp_path, **OPTIONS)
    result = evaluate(RowByRow(), batches(7), {**ATTACKS, "fgsm": counting}, output=tmp_path, resume=True, **OPTIONS)
    assert same(result, expected)
    assert min(asked) >= 24
    again = evaluate(RowByRow(), batches(5), ATTACKS, output=tmp_path, resume=True, **OPTIONS)
    assert same(again, expected)
    assert len(path.read_text().splitlines()) == 40
    other = RowByRow()
    with torch.no_grad():
        next(other.parameters()).flatten()[-1] += 1
    part = evaluate(RowByRow(), batches(5)[:2], ATTACKS, output=tmp_path, resume=True, **OPTIONS)
    assert part.index.tolist() == list(range(10))
    for changes, message in (
        ({"eps": 0.1}, "eps=0.1 instead of 0.08"),
        ({"norm": "l2"}, "norm='l2' instead of 'linf'"),
        ({"seed": 4}, "seed=4 instead of 3"),
        ({"attacks": {"fgsm": fgsm}}, "attacks="),
        ({"attacks": dict(reversed(ATTACKS.items()))}, "attacks="),
        ({"model": other}, "model="),
        ({"model": RowByRow().forward}, "model='RowByRow.forward' instead of"),
    ):
        arguments = {"model": RowByRow(), "attacks": ATTACKS, **OPTIONS, **changes}
        with pytest.raises(ValueError, match=f"resume: expected the settings of .*, got others: {message}"):
            evaluate(loader=batches(7), output=tmp_path, resume=True, **arguments)


def test_what_is_resumed_is_told_by_samples_and_names(tmp_path: Path) -> None:
    """Other samples are refused, and so are lines that say nothing; a function is the same one in another process."""

    def attacks() -> dict[str, Any]:
        def margin(logits: Tensor, y: Tensor) -> Tensor:
            return -logits.gather(1, y[:, None])[:, 0]

        return {"pgd": partial(pgd, steps=2, loss=margin)}

    (x, y), rest = batches(20)
    run = partial(evaluate, RowByRow(), output=tmp_path, **OPTIONS)
    run([(x, y)], attacks())
    expected = evaluate(RowByRow(), batches(40), attacks(), **OPTIONS)
    assert same(run([(x, y), rest], attacks(), resume=True), expected)
    for others in ((x, (y + 1) % 4), (x.where(x != x[0, 0, 0], 0.5), y)):
        with pytest.raises(ValueError, match=rf"^loader: .*, whose number 0 has label {int(y[0])} and digest \w+, got"):
            run([others], attacks(), resume=True)
    path = tmp_path / "results-0.jsonl"
    path.write_bytes(b"\0\0\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"output: expected a record in each line of .*results-0\.jsonl"):
        run([(x, y), rest], attacks(), resume=True)


def _worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = evaluate(RowByRow(), batches(6), ATTACKS, output=f"{folder}/run", **OPTIONS)
    torch.save(vars(result), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    expected = evaluate(RowByRow(), batches(40), ATTACKS, **OPTIONS)
    for rank in range(2):
        assert same(Evaluation(**torch.load(tmp_path / f"{rank}.pt", weights_only=True)), expected)
        done = [json.loads(line)["index"] for line in (tmp_path / "run" / f"results-{rank}.jsonl").open()]
        assert done == [i for i in range(40) if i // 6 % 2 == rank]
    resumed = evaluate(RowByRow(), batches(9), ATTACKS, output=tmp_path / "run", resume=True, **OPTIONS)
    assert same(resumed, expected)


def _failing_worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network = RowByRow()
    model = network if rank == 0 else lambda x: network(x) if len(x) == 6 else network(x)[:1]
    message = (
        "model: expected logits" if rank else "evaluate: .* got from process 1: ValueError.*model: expected logits"
    )
    with pytest.raises((ValueError, RuntimeError), match=message):
        evaluate(model, [*batches(6, 18), *batches(5, 10)], {}, **OPTIONS)
    distributed.destroy_process_group()


def test_a_process_that_fails_leaves_no_other_waiting(tmp_path: Path) -> None:
    multiprocessing.spawn(_failing_worker, (str(tmp_path),), nprocs=2)


def test_a_model_in_any_state_comes_back_as_it_was() -> None:
    model = Recorder()
    x, y = batch(classes=3)
    before = model.state()
    evaluate(model, [(x, y)], ATTACKS, eps=0.05, progress=False)
    torch.testing.assert_close(model.state(), before, rtol=0, atol=0)


def test_nan_logits_are_wrong_and_never_broken() -> None:
    x, y = samples()
    network = RowByRow()

    def model(batch: Tensor) -> Tensor:
        right = network(batch).argmax(1) == y[:1]
        return torch.where(right[:, None], network(batch), torch.nan)

    y[:] = y[1]
    result = evaluate(model, [(x, y)], ATTACKS, **OPTIONS)
    assert torch.equal(result.correct, network(x).argmax(1) == y)
    assert (result.broken_by == -1).all()
    assert result.robust_accuracy == result.clean_accuracy


def test_nothing_to_evaluate() -> None:
    for loader in ([], [(torch.zeros(0, 6), torch.zeros(0).long())]):
        result = evaluate(linear(classes=4), loader, ATTACKS, eps=0.1, progress=False)
        assert len(result.index) == 0
        assert result.clean_accuracy != result.clean_accuracy
    assert evaluate(linear(), [], eps=0.1, progress=False).attacks == ()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": 3}, TypeError, "model: "),
        ({"norm": "l3"}, ValueError, "norm: "),
        ({"eps": -1.0}, ValueError, "eps: expected a number of at least 0"),
        ({"eps": float("inf")}, ValueError, "eps: expected a finite number"),
        ({"eps": torch.ones(4)}, TypeError, "eps: expected a number"),
        ({"bounds": (1, 0)}, ValueError, "bounds: "),
        ({"seed": -1}, ValueError, "seed: "),
        ({"seed": 2**64}, ValueError, "seed: "),
        ({"resume": True}, ValueError, "output: expected a folder with resume=True, got None"),
        ({"attacks": "strong"}, ValueError, "attacks: expected one of 'standard'"),
        ({"attacks": [pgd]}, TypeError, "attacks: expected 'standard' or a mapping"),
        ({"attacks": {"pgd": "pgd"}}, TypeError, "attacks: expected names and functions"),
        ({"loader": 3}, TypeError, "loader: expected an iterable"),
        ({"loader": [torch.zeros(4, 6)]}, TypeError, r"loader: expected batches \(x, y\)"),
        ({"loader": batches(8)[:1] * 2, "attacks": {}}, None, ""),
        ({"loader": [(*batches(8)[0], torch.zeros(8).long())]}, ValueError, "loader: expected each index once"),
        ({"loader": [(*batches(8)[0], torch.zeros(7).long())]}, ValueError, "index: expected"),
        ({"loader": DataLoader(TensorDataset(*samples()), shuffle=True)}, ValueError, "loader: .* shuffled"),
        (
            {
                "loader": DataLoader(
                    TensorDataset(*samples()), batch_sampler=BatchSampler(RandomSampler(range(40)), 8, False)
                )
            },
            ValueError,
            "loader: .* shuffled",
        ),
        ({"loader": [(samples()[0].numpy(), samples()[1])]}, TypeError, "x: expected a tensor"),
        ({"loader": [(samples()[0], samples()[1][:3])]}, ValueError, "y: expected one class index per sample"),
        ({"attacks": {"own": lambda model, x, y, **options: x}}, TypeError, "own: expected an AttackResult"),
        (
            {"attacks": {"own": lambda model, x, y, eps, **options: fgsm(model, x.float(), y, eps=0)}},
            ValueError,
            "own: expected a torch.float64 tensor",
        ),
        (
            {
                "loader": DataLoader(
                    TensorDataset(*samples()), sampler=DistributedSampler(TensorDataset(*samples()), 2, 0)
                )
            },
            ValueError,
            "loader: .* DistributedSampler",
        ),
        ({"loader": [(torch.full((4, 2, 3), 2.0), torch.zeros(4).long())]}, ValueError, "x: expected values within"),
        ({"loader": [(torch.zeros(4, 2, 3), torch.full((4,), 4))]}, ValueError, "y: expected class indices"),
        ({"mean": "mean"}, TypeError, "mean: "),
        ({"model": lambda x: (x, x), "attacks": "standard"}, TypeError, "model: expected a tensor, got"),
        ({"model": lambda x: x, "attacks": "standard"}, ValueError, "model: expected logits of shape"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], error: Any, message: str, tmp_path: Path) -> None:
    arguments = {"model": RowByRow(), "loader": batches(8), "attacks": ATTACKS, **OPTIONS, **changes}
    if error is None:
        assert len(evaluate(**arguments).index) == 16
        return
    with pytest.raises(error, match=message):
        evaluate(**arguments)


@pytest.mark.parametrize(
    ("shift", "bounds", "message"),
    [
        (0.1, None, "expected samples within eps=0.08 of x in linf"),
        (-0.07, (0.0, 1.0), "expected samples within bounds"),
    ],
)
def test_an_attack_that_leaves_ball_or_box_is_refused(shift: float, bounds: Any, message: str) -> None:
    def careless(model: Any, x: Tensor, y: Tensor, **options: Any) -> ir.attacks.AttackResult:
        good = fgsm(model, x, y, eps=0.0)
        return ir.attacks.AttackResult(x + shift, good.success, good.loss, good.norm, good.trace)

    with pytest.raises(RuntimeError, match=f"careless: {message}"):
        evaluate(RowByRow(), batches(40), {"careless": careless}, bounds=bounds, **OPTIONS)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(RowByRow(), batches(20), {"fgsm": fgsm}, eps=0.08)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "clean=85.0%" in shown
