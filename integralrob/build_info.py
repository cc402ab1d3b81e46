"""What this installation consists of, and why something is missing."""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import torch

from .ops._library import NATIVE_DIRECTORY, native_problems


def build_info() -> dict[str, Any]:
    """Versions, native libraries, instruction set, CUDA.

    Returns:
        A dict of plain values:

        - ``integralrob``, ``torch``, ``python``: versions;
        - ``libraries``: device type -> file of the native op library that is loaded;
        - ``missing``: device type -> why its library is not loaded (the slow references run instead);
        - ``instruction_set``: of the CPU kernels in use (``baseline``, ``avx2``, ``avx512``), None without the library;
        - ``threads``: ``torch.get_num_threads()``;
        - ``torch_cuda``: CUDA version that torch was built for, or None; ``cuda_devices``: names of the GPUs.

    >>> sorted(build_info())[:3]
    ['cuda_devices', 'instruction_set', 'integralrob']
    """
    from . import __version__

    problems = native_problems()
    libraries = {
        device: str(NATIVE_DIRECTORY / f"libintegralrob_{device}.so")
        for device in ("cpu", "cuda")
        if device not in problems and (device == "cpu" or torch.version.cuda)
    }
    return {
        "integralrob": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "libraries": libraries,
        "missing": problems,
        "instruction_set": _instruction_set(libraries["cpu"]) if "cpu" in libraries else None,
        "threads": torch.get_num_threads(),
        "torch_cuda": torch.version.cuda,
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _instruction_set(path: str) -> str:
    function = ctypes.CDLL(path).integralrob_isa
    function.restype = ctypes.c_char_p
    return function().decode()
