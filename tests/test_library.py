"""The ops as `torch.library` ops: registrations, `torch.compile`, instruction sets, life without the native library."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICES, Backend, load_emulated_kernels, need_cuda
from every_op import NAMES, arguments, overload, tensors
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import integralrob as ir
from integralrob.__main__ import main
from integralrob.build_info import runs_on
from integralrob.ops import _library

PACKAGE = Path(ir.__file__).parent


def test_every_op_is_named_here() -> None:
    registered = {
        str(schema.name).removeprefix("integralrob::") + "." + (schema.overload_name or "default")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("integralrob::")
    }
    assert registered == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, device: str, rng: torch.Generator) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        torch.library.opcheck(overload(name), arguments(name, dtype, rng, device))


@pytest.mark.parametrize("name", NAMES)
def test_kernels_write_to_what_the_schema_says(backend: Backend, name: str, rng: torch.Generator) -> None:
    kernel = overload(name) if backend.kernel is None else backend.kernel(overload(name))
    given = [x.detach() if isinstance(x, Tensor) else x for x in arguments(name, torch.float32, rng, backend.device)]
    before = [x.clone() if isinstance(x, Tensor) else x for x in given]
    kernel(*given)
    written = [i for i, x in enumerate(given) if isinstance(x, Tensor) and not torch.equal(x, before[i])]
    assert written == ([0] if "_." in name else [])


@pytest.mark.parametrize("name", NAMES)
def test_has_native_kernels_and_a_fallback(name: str) -> None:
    full = name.removesuffix(".default")
    load_emulated_kernels()
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"integralrob::{full}", "CPU")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"integralrob::{full}", "CompositeExplicitAutograd")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"integralrob_simt::{full}", "CPU")
    if "cuda" in DEVICES:
        need_cuda()
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"integralrob::{full}", "CUDA")
    assert not set(DEVICES) & _library.native_problems().keys()


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors_give_shapes_and_dtypes(name: str, rng: torch.Generator) -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        given = arguments(name, dtype, rng)
        expected = overload(name)(*(x.detach().clone() if isinstance(x, Tensor) else x for x in given))
        actual = overload(name)(*(x.detach().to("meta") if isinstance(x, Tensor) else x for x in given))
        results = zip(tensors(actual), tensors(expected), strict=True)
        assert all(meta.is_meta and (meta.shape, meta.dtype) == (real.shape, real.dtype) for meta, real in results)


# ------------------------------------------------------------------------------------------------------------ compiling


def check_compiled(
    function: Callable[..., Tensor], cases: list[tuple[Tensor, ...]], *, backend: str = "aot_eager"
) -> None:
    """Eager and compiled agree on each case, gradients included, and the graph of the first case serves all."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for case in cases:
        outcomes = []
        for run in (function, compiled):
            leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in case]
            out = run(*leaves)
            if out.requires_grad:
                out.square().sum().backward()
            outcomes.append([out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
        assert len(outcomes[1]) == len(outcomes[0]) == 1 + sum(x.requires_grad for x in case)
        for eager, graph in zip(*outcomes, strict=True):
            torch.testing.assert_close(graph, eager, rtol=1e-12, atol=1e-12)
        compilations.append(counter.frame_count)
    assert compilations[0] > 0
    assert len(set(compilations)) == 1


def sampling_cases(sizes: list[tuple[int, ...]], rng: torch.Generator) -> list[tuple[Tensor, ...]]:
    cases = []
    for size0, size1, points0, points1, inner in sizes:
        values = torch.randn(size0, size1, inner, dtype=torch.float64, generator=rng, requires_grad=True)
        axes = [
            (torch.rand(points, dtype=torch.float64, generator=rng) * 2.2 - 1.1).requires_grad_()
            for points in (points0, points1)
        ]
        cases.append((values, *axes))
    return cases


# The first ones, and 4 taps, are all different: equal sizes are taken for one symbol. At least 4 points: torch.compile
# makes special cases of 0 and 1, the sizes of slices included.
SIZES = [(9, 7, 5, 6, 3), (8, 12, 6, 10, 5), (17, 6, 25, 5, 2), (30, 31, 12, 13, 9)]


@pytest.mark.parametrize(
    "mode", [{"padding": "border"}, {"padding": "zeros"}, {"padding": "reflection"}, {"antialias": True}], ids=str
)
def test_sample_weight_compiles_once_for_all_sizes(mode: dict[str, Any], rng: torch.Generator) -> None:
    def sample(values: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return ir.ops.sample_weight(values, (p, q), **mode)

    check_compiled(sample, sampling_cases(SIZES, rng))


def test_one_dim_with_scales_compiles_once(rng: torch.Generator) -> None:
    def sample(values: Tensor, p: Tensor, scale: Tensor) -> Tensor:
        return ir.ops.sample_weight(values, p, scale, dims=1, a=-0.5)

    cases = [(v, q, torch.ones_like(q).requires_grad_()) for v, _, q in sampling_cases(SIZES, rng)]
    check_compiled(sample, cases)


def test_ready_made_bands_compile_once(rng: torch.Generator) -> None:
    """What a layer does: the bands come from outside of the graph."""

    def sample(values: Tensor, *bands: Tensor) -> Tensor:
        return ir.ops.sample_with_bands(values, (bands[:2], bands[2:]), (0, 1))

    cases = []
    for v, p, q in sampling_cases(SIZES, rng):
        bands = [ir.ops.cubic_band(axis.detach(), v.shape[dim]) for dim, axis in enumerate((p, q))]
        cases.append((v, *itertools.chain(*bands)))
    check_compiled(sample, cases)


def test_inductor(rng: torch.Generator) -> None:
    def sample(values: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return ir.ops.sample_weight(values, (p, q)) * 2

    check_compiled(sample, sampling_cases(SIZES[:2], rng), backend="inductor")


def test_project_linf_compiles_once(rng: torch.Generator) -> None:
    def project(delta: Tensor, eps: Tensor, center: Tensor) -> Tensor:
        return ir.ops.project_linf(delta, eps, center=center, bounds=(0, 1))

    cases = [
        tuple(
            torch.rand(shape, dtype=torch.float64, generator=rng).requires_grad_() for shape in ((b, d), (b,), (b, d))
        )
        for b, d in ((2, 3), (3, 5), (7, 11))
    ]
    check_compiled(project, cases)


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_steps_compile_once(per_sample: bool, norm: str, rng: torch.Generator) -> None:
    step, step_ = (getattr(ir.ops, name) for name in (f"{norm}_step", f"{norm}_step_"))

    def attack(x_adv: Tensor, grad: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        radius = eps if per_sample else 0.3
        k: dict[str, Any] = {"k": eps if per_sample else 0.3} if norm == "l1" else {}
        moved = step(x_adv, grad, x, radius, 0.1, **k)
        written = moved.clone()
        step_(written, -grad, x, radius, 0.2, bounds=(0.1, 0.9), **k)
        return step_(x_adv, grad, x, radius, 0.1, momentum=0.25, previous=moved, **k) + written - moved

    cases = [
        tuple(torch.rand(shape, dtype=torch.float64, generator=rng) for shape in ((b, d), (b, d), (b, d), (b,)))
        for b, d in ((2, 3), (3, 5), (7, 11))
    ]
    check_compiled(attack, cases)


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
def test_compiled_in_place_step_writes_its_argument(norm: str, rng: torch.Generator) -> None:
    torch._dynamo.reset()
    x_adv, grad, x = (torch.rand(3, 4, generator=rng) for _ in range(3))
    step, step_ = (getattr(ir.ops, name) for name in (f"{norm}_step", f"{norm}_step_"))
    expected = step(x_adv, grad, x, 0.25, 0.1)
    version = x_adv._version
    compiled = torch.compile(step_, fullgraph=True, backend="aot_eager")
    assert compiled(x_adv, grad, x, 0.25, 0.1) is x_adv
    assert torch.equal(x_adv, expected)
    assert x_adv._version > version


def test_exports(rng: torch.Generator) -> None:
    class Sampled(torch.nn.Module):
        def forward(self, values: Tensor, points: Tensor) -> Tensor:
            return ir.ops.sample_weight(values, (points, points), antialias=True)

    values, points = torch.randn(6, 6, 3, generator=rng), torch.linspace(-1, 1, 4)
    program = torch.export.export(Sampled(), (values, points), strict=False)
    torch.testing.assert_close(program.module()(values, points), Sampled()(values, points))


# ----------------------------------------------------------------------------------------------------- native libraries

EVERY_OP = """
import sys
import torch
import integralrob as ir

torch.set_num_threads(1)
OPS = torch.ops.integralrob
rng = torch.Generator().manual_seed(7)
results = {}
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rand = lambda *shape, dtype=dtype: torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)
    for inner in (1, 3, 7, 9, 20, 33):
        start0, start1 = torch.randint(0, 27, (23,), generator=rng), torch.arange(26)
        w0, w1 = rand(23, 4, dtype=wide), rand(26, 4, dtype=wide)
        v, g, rows = rand(30, 29, inner), rand(23, 26, inner), rand(30, 26, inner)
        results[f"{dtype} {inner}"] = [
            OPS.sample_1d(v, start1, w1),
            OPS.sample_1d_adjoint(rows, start1, w1, 29),
            OPS.sample_1d_weight_grad(rows, v, start1, 4),
            OPS.sample_2d(v, start0, w0, start1, w1),
            OPS.sample_2d_adjoint(g, start0, w0, start1, w1, 30, 29),
            OPS.sample_2d_weight0_grad(g, v, start0, start1, w1, 4),
            OPS.sample_2d_weight1_grad(g, v, start0, w0, start1, 4),
            ir.ops.project_linf(rows, 0.5),
            ir.ops.project_linf(rows, 0.5, center=rows.flip(1), bounds=(0, 1)),
            ir.ops.linf_step(rows, rows.flip(0), rows.flip(1), 0.3, 0.1),
            ir.ops.linf_step_(rows.clone(), rows.flip(0), rows.flip(1), torch.rand(30, generator=rng), 0.1),
            ir.ops.project_l1(rows, 5, center=rows.flip(1), bounds=(0, 1)),
            ir.ops.project_l2(rows, 2, center=rows.flip(1), bounds=(0, 1)),
            ir.ops.l1_step(rows, rows.flip(0), rows.flip(1), 5, 2),
            ir.ops.l2_step(rows, rows.flip(0), rows.flip(1), 2, 1),
        ]
torch.save(results, sys.argv[1])
"""


def start_python(program: str, *argv: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", program, *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def test_instruction_sets_agree(tmp_path: Path) -> None:
    """Each up to the order of its sums: the error of a sum of 700 products at most."""
    isas = ["baseline", "avx2", "avx512"]
    files = {isa: tmp_path / isa for isa in isas}
    runs = [start_python(EVERY_OP, str(files[isa]), cwd=PACKAGE.parent, INTEGRALROB_ISA=isa) for isa in isas]
    for run in runs:
        finish(run)
    baseline, *others = (torch.load(file) for file in files.values())
    for other in others:
        assert other.keys() == baseline.keys()
        for key, results in baseline.items():
            for index, (expected, actual) in enumerate(zip(results, other[key], strict=True)):
                scale = expected.abs().amax().item()
                wide = torch.finfo(torch.float64 if "float64" in key else torch.float32).eps
                sums = not 7 <= index <= 10  # in l-infinity there are none: bit-equal
                narrow = torch.finfo(expected.dtype).eps
                torch.testing.assert_close(
                    actual, expected, rtol=narrow * sums, atol=100 * wide * scale * sums, msg=f"{key} {index}"
                )


WITHOUT_NATIVE = """
import json, warnings
import torch

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import integralrob as ir
    at_import = len(caught)
    values = torch.linspace(0, 1, 60).view(5, 4, 3).requires_grad_()
    p, q = torch.linspace(-0.9, 0.8, 3).requires_grad_(), torch.linspace(-1, 1, 2)
    sampled = ir.ops.sample_weight(values, (p, q))
    sampled.square().sum().backward()
    x = torch.full((2, 3), 0.5)
    stepped = ir.ops.linf_step_(x.clone(), torch.ones(2, 3), x, torch.tensor([0.1, 0.2]), 1.0)
    projected = ir.ops.project_linf(x, 0.25)
    sparse = ir.ops.l1_step(x, torch.arange(6.0).view(2, 3), x, 1.0, 0.25, k=2)
    compiled = torch.compile(ir.ops.project_linf, fullgraph=True, backend="aot_eager")(x, 0.25)
ours = [w for w in caught if "integralrob" in str(w.message)]
print(json.dumps({
    "file": ir.__file__,
    "at_import": at_import,
    "warnings": [[w.category.__name__, str(w.message), w.filename, w.lineno] for w in ours],
    "sampled": sampled.tolist(), "values": values.grad.tolist(), "points": p.grad.tolist(),
    "stepped": stepped.tolist(), "projected": projected.tolist(), "compiled": compiled.tolist(),
    "sparse": sparse.tolist(),
}))
"""


def test_without_the_native_library_all_works_and_one_warning_says_why(tmp_path: Path) -> None:
    for name in ("missing", "broken"):
        shutil.copytree(PACKAGE, tmp_path / name / PACKAGE.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (tmp_path / name / PACKAGE.name / "_native").mkdir(exist_ok=True)
    (tmp_path / "broken" / PACKAGE.name / "_native" / "libintegralrob_cpu.so").write_text("not a library")
    folders = {"native": PACKAGE.parent, "missing": tmp_path / "missing", "broken": tmp_path / "broken"}
    runs = {name: start_python(WITHOUT_NATIVE, cwd=folder) for name, folder in folders.items()}
    results = {name: json.loads(finish(run)[0]) for name, run in runs.items()}

    native = results.pop("native")
    assert (native.pop("file"), native.pop("at_import"), native.pop("warnings")) == (ir.__file__, 0, [])
    reasons = {"missing": "is not built (build it with: ", "broken": "could not be loaded: "}
    for name, result in results.items():
        assert Path(result["file"]).is_relative_to(folders[name])
        assert result["at_import"] == 0
        ((category, message, file, line),) = result["warnings"]
        assert file == "<string>"
        assert "ir.ops.sample_weight" in WITHOUT_NATIVE.splitlines()[line - 1]
        assert category == "RuntimeWarning"
        assert f"slow pure-torch reference: libintegralrob_cpu.so {reasons[name]}" in message
        for key, value in native.items():
            torch.testing.assert_close(torch.tensor(result[key]), torch.tensor(value), rtol=1e-6, atol=1e-6)


def test_problems_are_told_for_each_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = _library.native_problems.__wrapped__
    monkeypatch.setattr(_library, "NATIVE_DIRECTORY", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert load() == {
        "cpu": "libintegralrob_cpu.so is not built (build it with: pip install --no-build-isolation .)",
        "cuda": "libintegralrob_cuda.so is not built (build it where nvcc is on the PATH, with: "
        "CMAKE_ARGS=-DINTEGRALROB_CUDA=on pip install --no-build-isolation .)",
    }
    for device in ("cpu", "cuda"):
        (tmp_path / f"libintegralrob_{device}.so").write_text("not a library")
        assert load()[device].startswith(f"libintegralrob_{device}.so could not be loaded: ")
    monkeypatch.setattr(torch.version, "cuda", None)  # on the CPU, or a GPU of another make
    assert load().keys() == {"cpu"}


def test_a_device_without_its_library_is_named_in_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "native_problems", lambda: {"cuda": "libintegralrob_cuda.so is not built (…)"})
    for device, op, reason in (
        ("cuda", None, r"libintegralrob_cuda\.so is not built"),
        ("mps", None, "this version has no kernels for the device type 'mps'"),
        ("cpu", "swirl", "this version has no kernel of swirl for the device type 'cpu'"),
    ):
        with pytest.warns(RuntimeWarning, match=f"slow pure-torch reference: {reason}"):
            _library._warn_once.__wrapped__(device, op)


def test_the_library_tells_its_instruction_set() -> None:
    assert ir.build_info()["instruction_set"] in ("baseline", "avx2", "avx512")


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("sm_90", (9, 0), True),
        ("sm_90", (10, 0), False),
        ("sm_90", (8, 9), False),
        ("compute_90", (8, 9), False),
        ("compute_90", (12, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_90a", (10, 0), False),
        ("sm_120", (12, 0), True),
        ("native", (9, 0), False),
    ],
)
def test_which_gpus_run_the_code(architecture: str, capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(architecture, capability) is runs


def test_build_info_names_the_gpus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With stand-ins for a CUDA library and two GPUs."""
    module = importlib.import_module("integralrob.build_info")
    assert (ir.build_info()["cuda_architectures"] != []) == ("cuda" in ir.build_info()["libraries"])
    monkeypatch.setattr(module, "native_devices", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(module, "native_problems", dict)
    monkeypatch.setattr(module, "_ask", lambda path, name: {"integralrob_isa": "avx2"}.get(name, "sm_80 sm_90"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((8, 9), (7, 5))[index])
    info = ir.build_info()
    assert info["cuda_architectures"] == ["sm_80", "sm_90"]
    assert info["cuda_devices"] == [
        "GPU 0 (compute capability 8.9: the CUDA kernels run)",
        "GPU 1 (compute capability 7.5: the CUDA kernels are not compiled for it)",
    ]
    assert main(["info"]) == 0
    assert "GPU 1 (compute capability 7.5" in capsys.readouterr().out
