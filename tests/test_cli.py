"""The command line: what it computes is what the functions compute, and the user's mistakes are told in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import integralrob as ir
from integralrob.__main__ import main
from integralrob.cli import bench
from integralrob.cli.errors import UsageError
from integralrob.cli.values import number

pytest.importorskip("torch_pruning")

NETS = """
import torch
from torch import nn
import beside  # as a script's neighbour

def network(classes=4, channels=8):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes),
    )

def integral(keep_bn=False):
    import integralrob
    return integralrob.convert(network(), torch.rand(1, 1, 6, 6), order=None, fuse_bn=not keep_bn, progress=False)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 16), nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, x, y):
        return self.head((self.first(x) + self.second(y)).relu())

class Starred(Tokens):
    def forward(self, *inputs):
        return super().forward(*inputs)

class Branching(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return super().forward(2 * x if x.sum() > 0 else x)

class Buggy(nn.Linear):
    def forward(self, x):
        raise RuntimeError("a bug")

class Pair(nn.Flatten):
    def forward(self, x):
        return super().forward(x), x

def nan():
    model = network()
    nn.init.constant_(model[0].bias, float("nan"))
    return model

instance, number = network(), 3
"""


class Evil:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def network(seed: int = 0) -> nn.Sequential:
    """That of NETS, with statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = 8
        model = nn.Sequential(
            *(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 4)),
        )
        model(torch.rand(64, 1, 6, 6))
        return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user: Python files, weights, data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("")
    model, (x, y) = network(), samples()
    torch.save(model.state_dict(), "net.pt")
    torch.save({"epoch": 3, "model": model.state_dict()}, "checkpoint.pt")
    torch.save({"x": x, "y": y}, "test.pt")
    np.savez("test.npz", x=x.double().numpy(), y=y.int().numpy())
    return tmp_path


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples, and what the network says of most of them."""
    x = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = network()(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    return x, y


def run(command: str) -> None:
    assert main(shlex.split(command)) == 0


@pytest.mark.parametrize("command", ["", "info", "demo", "attack", "convert"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([*command.split(), "--help"])
    assert error.value.code == 0
    assert f"python -m integralrob {command}" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ convert


@pytest.mark.parametrize("options", ["", "--keep-bn --order none"])
def test_convert_and_back(folder: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"convert nets.py:network --weights net.pt --input 2x1x6x6 --size 0.5 0.5 --output out/net {options}")
    text = capsys.readouterr().out
    assert "0: 8 channels" in text
    assert "5: 5 is an output of the model" in text
    original, x = network(), torch.rand(5, 1, 6, 6)

    command = next(line for line in text.splitlines() if "load_state_dict" in line)
    convert = next(line for line in text.splitlines() if "ir.convert" in line)
    names: dict[str, Any] = {"ir": ir, "torch": torch, "model": network(seed=2)}
    exec(f"{convert.strip()}\n{command.strip()}", names)
    integral = names["integral"].eval()
    torch.testing.assert_close(integral(x), original(x))
    for size in (1.0, 0.5):
        integral.resize(size)
        parameters = sum(p.numel() for p in integral.discretize().parameters())
        assert re.search(rf"^ +{size:g} +{parameters} +{int(8 * size)}$", text, re.MULTILINE)
    small = torch.export.load("out/net/size-0.5.pt2").module()
    torch.testing.assert_close(small(x), integral(x))
    assert {path.name for path in Path("out/net").iterdir()} == {"integral.pt", "size-0.5.pt2"}


def test_convert_says_what_cannot_be_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("convert nets.py:Branching --input 1x3 --size 0.5 --output out")
    assert "--size: torch.export does not take this network" in capsys.readouterr().err
    assert Path("out/integral.pt").exists()


def test_convert_takes_several_inputs_instances_and_checkpoints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert nets.py:Tokens --input 5x3 5x2 --size 0.5 --multiple-of 4")
    assert re.search(r"^ +0.5 +\d+ +8$", capsys.readouterr().out, re.MULTILINE)
    run("convert nets.py:Starred --input 1x3 1x2 --size 0.5 --output any")
    assert torch.export.load("any/size-0.5.pt2").module()(torch.rand(5, 3), torch.rand(5, 2)).shape == (5, 2)
    run("convert nets:instance --input 1x1x6x6 --weights checkpoint.pt --weights-key model")
    run("""convert nets:network --input 1x1x6x6 --kwargs '{"classes": 7}' --order two_opt""")
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {
        "__pycache__",
        "any",
    }  # nothing else was written


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_weights_of_a_wrapped_model(folder: Path, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The prefixes are those of nn.DataParallel and torch.compile."""
    torch.save({f"{prefix}{name}": value for name, value in network().state_dict().items()}, "wrapped.pt")
    for weights in ("net.pt", "wrapped.pt"):
        run(f"attack nets.py:network --weights {weights} --data test.pt --eps 0.1 --attacks fgsm")
    first, second = capsys.readouterr().out.split("24 samples")[1:]
    assert first == second
    (folder / "parallel.py").write_text(f"{NETS}\ndef parallel():\n    return nn.DataParallel(network())")
    if prefix == "module.":
        run("attack parallel.py:parallel --weights wrapped.pt --data test.pt --eps 0.1 --attacks fgsm")
        assert capsys.readouterr().out == f"24 samples{first}"


def test_a_model_in_a_file_that_reads_arguments(folder: Path) -> None:
    Path("script.py").write_text(f"import argparse\nargparse.ArgumentParser().parse_args()\n{NETS}")
    before = list(sys.argv)
    sys.argv.append("--option-of-ours")
    try:
        run(f"convert script.py:network {CONVERT}")
        assert sys.argv[-1] == "--option-of-ours"
    finally:
        sys.argv[:] = before


# ------------------------------------------------------------------------------------------------------------- attack


def test_attack_prints_what_evaluate_finds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = samples()
    attacks = {
        "fgsm": partial(ir.attacks.fgsm),
        "apgd:5": partial(ir.attacks.apgd, steps=5, early_stop=True),
        "square:20": partial(ir.attacks.square, queries=20, early_stop=True),
    }
    expected = ir.attacks.evaluate(
        network(), [(x, y)], attacks, norm="l2", eps=0.5, mean=[0.1], std=2.0, seed=3, progress=False
    )
    assert expected.robust_accuracy < expected.clean_accuracy
    options = f"--weights net.pt --norm l2 --eps 1/2 --attacks {','.join(attacks)} --mean 0.1 --std 2 --seed 3"
    for data in ("test.pt", "test.npz"):
        run(f"attack nets.py:network {options} --data {data} --batch-size 7")
        assert str(expected) in capsys.readouterr().out
    first = ir.attacks.evaluate(
        network(), [(x[:4], y[:4])], attacks, norm="l2", eps=0.5, mean=[0.1], std=2.0, seed=3, progress=False
    )
    run(f"attack nets.py:network {options} --data test.pt --samples 4")
    assert str(first) in capsys.readouterr().out


@pytest.mark.parametrize("keep_bn", [False, True])
def test_attack_at_every_size(folder: Path, keep_bn: bool, capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--keep-bn" if keep_bn else ""
    run(f"convert nets.py:network --weights net.pt --input 1x1x6x6 --output out {flag}")
    saved = torch.load("out/integral.pt", weights_only=True)
    integral = ir.convert(network(), torch.rand(1, 1, 6, 6), fuse_bn=not keep_bn, order=None, progress=False)
    integral.load_state_dict(saved["state_dict"])
    x, y = samples()
    attack = {"pgd:3": partial(ir.attacks.pgd, steps=3, early_stop=True)}
    rows = []
    for size in (1.0, 0.5):
        integral.resize(size)
        found = ir.attacks.evaluate(integral, [(x, y)], attack, eps=0.1, progress=False)
        rows.append([f"{size:g}", f"{100 * found.clean_accuracy:.2f}", f"{100 * found.robust_accuracy:.2f}"])
    capsys.readouterr()
    options = "--data test.pt --eps 0.1 --attacks pgd:3 --size 1 0.5 --output runs"
    run(f"attack nets.py:network --integral out/integral.pt {options}")
    made = f"nets.py:integral --kwargs '{json.dumps({'keep_bn': keep_bn})}'"
    loaded = f"attack {made} --weights out/integral.pt --weights-key state_dict {options}"
    run(f"{loaded}/again")
    run(f"{loaded} --resume")  # nothing is left to attack
    lines = [line.replace("%", "").split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[0] in ("1", "0.5")] == rows * 3
    assert len((Path("runs") / "size-0.5" / "results-0.jsonl").read_text().splitlines()) == len(x)


def test_the_program_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "attack nets:network --weights net.pt --data test.npz --eps 8/255 --attacks pgd:2 --output runs"
    program = [sys.executable, "-m", "integralrob", *shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(Path(ir.__file__).parent.parent)}
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    run(f"{command} --resume")
    assert capsys.readouterr().out == done.stdout
    assert "output: expected a folder without results" in refusal(command, capsys)


def test_the_page_of_the_documentation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Python and its commands, in their order, with less training and on a few samples."""
    pytest.importorskip("sklearn")
    page = (Path(__file__).parent.parent / "docs" / "command_line.md").read_text()
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert {language for language, _ in blocks} == {"python", "sh"}
    names: dict[str, Any] = {}
    for i, (language, code) in enumerate(blocks):
        if language == "python":
            exec(compile(code.replace("epochs=15", "epochs=1"), f"block {i}", "exec"), names)
            x = names["digits"].test_x[:3]
            torch.save({"x": x, "y": names["network"](x).argmin(1)}, "test.pt")  # all wrong: nothing to attack
        else:
            run(code.removeprefix("python -m integralrob "))
    assert "3 samples, linf, eps = 0.05" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------------- bench


def test_bench_hands_its_arguments_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import __main__ as program

    given: list[list[str]] = []
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(program, "main", lambda arguments: given.append(list(arguments)) or 7)
    command = ["linf_step ", "--quick", "--json", "x.json", "--help"]
    assert main(["bench", *command]) == 7
    assert given == [command]
    monkeypatch.setattr(bench, "REPOSITORY", Path("nowhere"))
    assert "clone" in refusal("bench --quick", capsys)


# ------------------------------------------------------------------------------------------------------------- errors


def refusal(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which a command ends, with status 2."""
    with pytest.raises(SystemExit) as error:
        main(shlex.split(command))
    text = capsys.readouterr()
    assert error.value.code == 2
    assert text.err.count("\n") == 1
    assert text.err.startswith("python -m integralrob")
    return text.err


CONVERT, ATTACK = "--input 1x1x6x6", "--data test.pt --eps 0.1 --attacks pgd:1"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "command"),
        ("conver", "invalid choice"),
        ("info --fast", "unrecognized arguments: --fast"),
        ("demo --seed -1", "--seed"),
        ("demo --output nets.py", "File exists: 'nets.py'"),
        ("convert", "MODEL"),
        (f"convert nets.py:network {CONVERT} --quick", "unrecognized arguments: --quick"),
        ("convert nets.py:network", "--input"),
        (f"convert nets.py {CONVERT}", "MODEL: expected package.module:attribute or file.py:attribute"),
        (f"convert :network {CONVERT}", "MODEL: expected"),
        (f"convert nets.py: {CONVERT}", "MODEL: expected"),
        (f"convert absent.py:network {CONVERT}", "no such file: absent.py"),
        (f"convert absent:network {CONVERT}", "No module named 'absent'"),
        (f"convert absent.nets:network {CONVERT}", "No module named 'absent'"),
        (f"convert .nets:network {CONVERT}", "got the module '.nets'"),
        (f"convert nets.py:absent {CONVERT}", "nets.py has no 'absent'"),
        (f"convert nets.py:number {CONVERT}", "got 3 (int)"),
        (f"convert nets.py:torch.nn {CONVERT}", "nets.py has no 'torch.nn'"),
        (f"convert builtins:dict {CONVERT}", "got {} (dict)"),
        (f"convert nets.py:integral {CONVERT}", "expected a discrete network"),
        (f"convert nets.py:network {CONVERT} --kwargs 3", "expected a JSON object"),
        (f"convert nets.py:network {CONVERT} --kwargs {{", "expected a JSON object"),
        (f"convert nets.py:network {CONVERT} --kwargs '{{\"depth\": 3}}'", "unexpected keyword argument 'depth'"),
        (f"convert nets.py:instance {CONVERT} --kwargs '{{}}'", "--kwargs: expected a MODEL that is a function"),
        (f"convert nets.py:network {CONVERT} --weights absent.pt", "no such file: absent.pt"),
        (f"convert nets.py:network {CONVERT} --weights .", "--weights: "),
        (f"convert nets.py:network {CONVERT} --weights nets.py", "--weights: expected"),
        (f"convert nets.py:network {CONVERT} --weights evil.pt", "other objects, which are not unpickled: evil.pt: "),
        (f"convert nets.py:network {CONVERT} --weights mixed.pt", "state dict of the model, got a dict with 'module.0"),
        (f"convert nets.py:network {CONVERT} --weights cut.pt", "--weights: expected a file written by torch.save"),
        (f"convert nets.py:network {CONVERT} --weights list.pt", "--weights: expected a state dict, got [1, 2]"),
        (f"convert nets.py:network {CONVERT} --weights checkpoint.pt", "got a dict with 'epoch', 'model'"),
        (f"convert nets.py:Tokens {CONVERT} --weights net.pt", "--weights: expected the state dict of the model"),
        (
            f"convert nets.py:network {CONVERT} --weights checkpoint.pt --weights-key state",
            "--weights-key: expected an entry 'state', got a dict with 'epoch', 'model'",
        ),
        (f"convert nets.py:network {CONVERT} --weights-key state", "--weights-key: expected --weights too"),
        ("convert nets.py:network --input 3xx", "expected a shape, such as 1x3x32x32, got '3xx'"),
        ("convert nets.py:network --input 0x1x6x6", "expected a shape"),
        ("convert nets.py:network --input 1x-1", "expected a shape"),
        ("convert nets.py:network --input 999999999x999999999x999", "--input: "),
        ("convert nets.py:network --input 1x3x6x6", "--input: Given groups=1"),
        ("convert nets.py:Tokens --input 1x3x9", "--input"),
        (f"convert nets.py:network {CONVERT} --size 0", "expected a fraction above 0"),
        (f"convert nets.py:network {CONVERT} --size nan", "expected a number"),
        (f"convert nets.py:network {CONVERT} --size 0.5 65", "at most 64"),
        (f"convert nets.py:network {CONVERT} --multiple-of 0", "expected a whole number of at least 1"),
        (f"convert nets.py:network {CONVERT} --order random", "invalid choice"),
        (f"convert nets.py:network {CONVERT} --output nets.py", "--output: expected a folder"),
        (f"convert nets.py:network {CONVERT} --output nets.py/out", "Not a directory: 'nets.py/out'"),
        (f"convert nets.py:network {CONVERT} --output /sys/kernel", "denied: '/sys/kernel/integral.pt'"),
        (f"convert nets.py:network {CONVERT} --output full", "--output: expected a folder without integral.pt"),
        ("attack nets.py:network --eps 0.1", "--data"),
        ("attack nets.py:network --data test.pt", "--eps"),
        ("attack nets.py:network --data test.pt --eps 8/0", "expected a number, such as 0.5 or 8/255, got '8/0'"),
        ("attack nets.py:network --data test.pt --eps 1/2/3", "expected a number"),
        ("attack nets.py:network --data test.pt --eps inf", "expected a number"),
        ("attack nets.py:network --data test.pt --eps -1", "eps: expected a number of at least 0"),
        (f"attack nets.py:network {ATTACK} --norm l3", "invalid choice: 'l3'"),
        (f"attack nets.py:network {ATTACK} --attacks fab", "some of fgsm, pgd, apgd, square, each once, got 'fab'"),
        (f"attack nets.py:network {ATTACK} --attacks pgd,pgd", "each once"),
        (f"attack nets.py:network {ATTACK} --attacks fgsm:3", "got 'fgsm:3'"),
        (f"attack nets.py:network {ATTACK} --attacks pgd:", "expected a whole number of at least 1, got ''"),
        (f"attack nets.py:network {ATTACK} --attacks ,", "expected standard"),
        (f"attack nets.py:network {ATTACK} --mean 0.1 0.2", "mean: expected a number or 1 of them"),
        (f"attack nets.py:network {ATTACK} --std 0", "std: expected numbers above 0"),
        (f"attack nets.py:network {ATTACK} --bounds 1 0", "bounds: expected lo <= hi"),
        (f"attack nets.py:network {ATTACK} --bounds 0 0.5", "x: expected values within bounds"),
        (f"attack nets.py:network {ATTACK} --batch-size 0", "--batch-size"),
        (f"attack nets.py:network {ATTACK} --samples 0", "--samples"),
        (f"attack nets.py:network {ATTACK} --seed 99999999999999999999", "--seed"),
        (f"attack nets.py:network {ATTACK} --device abacus", "expected a torch device that works here, got 'abacus'"),
        (f"attack nets.py:network {ATTACK} --device meta", "expected a torch device that works here, got 'meta'"),
        (f"attack nets.py:network {ATTACK} --device hpu", "expected a torch device that works here, got 'hpu'"),
        (f"attack nets.py:network {ATTACK} --device vulkan", "expected a torch device that works here, got 'vulkan'"),
        (f"attack nets.py:network {ATTACK} --size 0.5", "--size: expected an integral network"),
        (f"attack nets.py:network {ATTACK} --resume", "output: expected a folder with resume=True"),
        (f"attack nets.py:network {ATTACK} --output full", "output: expected a folder without results"),
        (f"attack nets.py:network {ATTACK} --output nets.py", "nets.py"),
        (f"attack nets.py:network {ATTACK} --integral net.pt", "--integral: expected an entry 'input'"),
        (f"attack nets.py:network {ATTACK} --integral odd.pt", "--integral: "),
        (f"attack nets.py:Tokens {ATTACK} --integral other.pt", "--integral"),
        (f"attack nets.py:network {ATTACK} --integral other.pt", "--integral: expected the state dict"),
        (f"attack nets.py:network {ATTACK} --integral other.pt --weights net.pt", "without --weights"),
        (f"attack nets.py:Tokens {ATTACK}", "--data"),
        (f"attack nets.py:nan {ATTACK}", "MODEL: expected outputs that are numbers, got NaN"),
        ("attack nets.py:Pair --data test.pt --eps 0.1", "model: expected a tensor, got"),
        (f"attack nets.py:network {ATTACK} --data absent.npz", "no such file: absent.npz"),
        (f"attack nets.py:network {ATTACK} --data absent.pt", "no such file: absent.pt"),
        (f"attack nets.py:network {ATTACK} --data evil.npz", "--data: expected an archive of NumPy arrays"),
        (f"attack nets.py:network {ATTACK} --data evil.pt", "which are not unpickled"),
        (f"attack nets.py:network {ATTACK} --data text.npz", "--data: expected an archive"),
        (f"attack nets.py:network {ATTACK} --data list.pt", "--data: expected x and y, tensors or arrays"),
        (f"attack nets.py:network {ATTACK} --data x.npz", "got a dict with 'a', 'x'"),
    ],
)
def test_mistakes(folder: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    trap = folder / "trap"
    evil = np.array([Evil(trap)], dtype=object)
    torch.save({"x": Evil(trap)}, "evil.pt")
    np.savez("evil.npz", x=evil, y=evil)
    Path("text.npz").write_text("x, y")
    np.savez("x.npz", a=np.array(["text"]), x=np.zeros((2, 1, 6, 6)))
    torch.save([1, 2], "list.pt")
    torch.save({"module.0.weight": torch.zeros(1), "0.weight": torch.zeros(1)}, "mixed.pt")
    Path("cut.pt").write_bytes(Path("net.pt").read_bytes()[:-100])
    Path("full").mkdir()
    Path("full/integral.pt").touch()
    Path("full/results-0.jsonl").touch()
    torch.save({"input": "abc", "fuse_bn": True, "state_dict": {}}, "odd.pt")
    torch.save({"input": [[1, 1, 6, 6]], "fuse_bn": True, "state_dict": {"weight": torch.zeros(2)}}, "other.pt")
    assert message in refusal(command, capsys)
    assert not trap.exists()


def test_the_last_sample_is_checked_before_the_first_is_attacked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = samples()
    wrong_x, wrong_y = x.clone(), y.clone()
    wrong_x[-1, 0, 0, 0], wrong_y[-1] = 1.5, 4
    for wrong, message in (((wrong_x, y), "x: expected values within"), ((x, wrong_y), "y: expected class indices")):
        torch.save(dict(zip("xy", wrong, strict=True)), "wrong.pt")
        command = "attack nets.py:network --data wrong.pt --eps 0.1 --attacks fgsm --batch-size 8 --output runs"
        assert message in refusal(command, capsys)
        assert not Path("runs").exists()


X, Y = samples()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:-1], "y: expected a class index for each of 24 samples"),
        (X, Y.double(), "y: expected a class index"),
        (X, Y + 9, "y: expected class indices from 0 to 3"),
        (X, Y - 9, "y: expected class indices from 0 to 3"),
        (X, "labels", "expected x and y, tensors"),
        (X * 255, Y, "x: expected values within bounds (0.0, 1.0)"),
        (X / 0, Y, "x: expected finite values"),
        ((X * 255).byte(), Y, "x: expected samples [N, ...] of a floating-point dtype, got a torch.uint8 tensor"),
        (X[:0], Y[:0], "x: expected samples"),
        (torch.tensor(1.0), Y, "x: expected samples"),
        (X.repeat(1, 3, 1, 1), Y, "--data: Given groups=1"),
        (X.flatten(1), Y, "--data: "),
        (X.to_sparse(), Y, "--data: expected dense tensors"),
        (X, Y.to_sparse(), "--data: expected dense tensors"),
    ],
)
def test_wrong_data(folder: Path, x: Any, y: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": x, "y": y}, "wrong.pt")
    assert message in refusal("attack nets.py:network --data wrong.pt --eps 0.1 --attacks pgd:1", capsys)


def test_bugs_of_the_model_show_their_traceback(folder: Path) -> None:
    model = 'nets.py:Buggy --kwargs \'{"in_features": 6, "out_features": 3}\''
    for command in (f"convert {model} {CONVERT}", f"attack {model} {ATTACK}"):
        with pytest.raises(RuntimeError, match="a bug"):
            main(shlex.split(command))
    Path("broken.py").write_text("int('three')")
    for source in ("broken.py", "broken"):
        with pytest.raises(ValueError, match="three"):
            main(shlex.split(f"convert {source}:network {CONVERT}"))
    Path("lacking.py").write_text("import no_such_package")
    for source in ("lacking.py", "lacking"):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            main(shlex.split(f"convert {source}:network {CONVERT}"))


def test_demo_without_its_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'integralrob[demo]'" in refusal("demo", capsys)


def test_ctrl_c(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stop.py").write_text("def network():\n    raise KeyboardInterrupt")
    assert main(["convert", "stop.py:network", *CONVERT.split()]) == 130
    assert capsys.readouterr().err == "stopped\n"


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_numbers(numerator: int, denominator: int) -> None:
    assert number(f"{numerator}/{denominator}") == numerator / denominator
    assert number(str(numerator / denominator)) == numerator / denominator


def test_a_long_message_is_one_line() -> None:
    text = str(UsageError("--weights", "a\nb " * 1000))
    assert len(text) == 400
    assert "\n" not in text
