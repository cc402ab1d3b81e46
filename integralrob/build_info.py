"""What this installation consists of, and why something is missing.

Native libraries lie in the package. The environment variable ``INTEGRALROB_NATIVE_DIRECTORY`` names a folder whose
libraries are loaded in their place, e.g. to compare two builds; those that it does not hold come from the package.
"""

from __future__ import annotations

import ctypes
import platform
import re
from typing import Any

import torch

from .conversion.native_solver import module_path, solver_module
from .ops._library import native_devices, native_path, native_problems


def build_info() -> dict[str, Any]:
    """Versions, native libraries, instruction set, CUDA.

    Returns:
        A dict of plain values:

        - ``integralrob``, ``torch``, ``python``: versions;
        - ``libraries``: device type -> file of the native op library that is loaded; ``ordering`` -> file of the module
          that orders channels;
        - ``missing``: device type -> why its library is not loaded (the slow references run instead), ``ordering`` ->
          why that module is not (2-opt runs instead);
        - ``instruction_set``: of the CPU kernels in use (``baseline``, ``avx2``, ``avx512``), None without the library;
        - ``threads``: ``torch.get_num_threads()``;
        - ``torch_cuda``: CUDA version that torch was built for, or None;
        - ``cuda_architectures``: what the CUDA kernels are compiled for, e.g. ``["sm_90", "compute_90"]`` (machine
          code, PTX); empty without the library;
        - ``cuda_devices``: the GPUs: name, compute capability, and whether the CUDA kernels run on it.

    >>> sorted(build_info())[:3]
    ['cuda_architectures', 'cuda_devices', 'instruction_set']
    """
    from . import __version__

    problems = dict(native_problems())
    libraries = {device: str(native_path(device)) for device in native_devices() if device not in problems}
    module = solver_module()
    if isinstance(module, str):
        problems["ordering"] = module
    else:
        libraries["ordering"] = str(module_path())
    architectures = None
    if "cuda" in libraries:
        architectures = _ask(libraries["cuda"], "integralrob_cuda_architectures").split()
    return {
        "integralrob": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "libraries": libraries,
        "missing": problems,
        "instruction_set": _ask(libraries["cpu"], "integralrob_isa") if "cpu" in libraries else None,
        "threads": torch.get_num_threads(),
        "torch_cuda": torch.version.cuda,
        "cuda_architectures": architectures or [],
        "cuda_devices": [_describe_gpu(index, architectures) for index in range(torch.cuda.device_count())],
    }


def _ask(path: str, function_name: str) -> str:
    """What a library's C function without arguments says."""
    function = getattr(ctypes.CDLL(path), function_name)
    function.restype = ctypes.c_char_p
    return function().decode()


def _describe_gpu(index: int, architectures: list[str] | None) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    verdict = ""
    if architectures is not None:
        runs = any(runs_on(architecture, (major, minor)) for architecture in architectures)
        verdict = ": the CUDA kernels run" if runs else ": the CUDA kernels are not compiled for it"
    return f"{torch.cuda.get_device_name(index)} (compute capability {major}.{minor}{verdict})"


def runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether machine code (``sm_86``) or PTX (``compute_86``) runs on a GPU of this compute capability.

    Machine code runs on the same major version from its minor version on, PTX on all later GPUs. What is specific to
    an architecture (``sm_90a``, ``compute_100f``) is taken to run on no other.

    >>> [runs_on(architecture, (8, 9)) for architecture in ("sm_86", "sm_75", "compute_75", "compute_90")]
    [True, False, True, False]
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if found is None:
        return False
    compiled = (int(found[2]), int(found[3]))
    if found[4]:
        return compiled == capability
    return compiled <= capability and (found[1] == "compute" or compiled[0] == capability[0])
