"""Builds the native libraries with CMake; everything else is in pyproject.toml and CMakeLists.txt.

Environment: CMAKE_ARGS is handed on to CMake (CMAKE_ARGS=-DINTEGRALROB_CUDA=off leaves CUDA out); TORCH_CUDA_ARCH_LIST
names the GPUs to compile for; INTEGRALROB_NATIVE=0 leaves the native libraries out, and the package works without them,
slower.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:  # older ones cannot read pyproject.toml's license field
    sys.exit(
        f"integralrob is built with setuptools 77 or newer, found {setuptools.__version__}: pip install -U setuptools"
    )

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def torch_folder() -> Path:
    try:
        import torch
    except ImportError as error:
        sys.exit(
            f"integralrob is built against an installed torch, and this Python ({sys.executable}) has none: {error}.\n"
            "Install torch first, then build in the same environment:\n"
            "    pip install 'torch>=2.11'\n"
            "    pip install --no-build-isolation ."
        )
    return Path(torch.__file__).parent


def tool(name: str) -> str | None:
    """A program on the PATH, or beside this Python (a virtual environment need not be activated)."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


class BuildNative(build_ext):
    """Into integralrob/_native: `libintegralrob_*.so`, plain libraries of torch ops, and the module of this Python."""

    def run(self) -> None:
        if os.environ.get("INTEGRALROB_NATIVE") == "0":
            return
        torch = torch_folder()
        cmake, ninja = tool("cmake"), tool("ninja")
        if cmake is None:
            sys.exit(
                "integralrob's native code is built with CMake 3.18 or newer, which was not found (pip install cmake)"
            )
        package = ROOT if self.inplace else Path(self.build_lib).resolve()
        build = ROOT / "build" / "native"
        configure = [
            cmake,
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-UINTEGRALROB_*",  # what is built does not depend on an earlier call's choices
            "-UCMAKE_CUDA_ARCHITECTURES",
            f"-DINTEGRALROB_TORCH={torch}",
            f"-DPYTHON={sys.executable}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        if ninja is not None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        subprocess.run([*configure, *shlex.split(os.environ.get("CMAKE_ARGS", ""))], check=True)
        subprocess.run([cmake, "--build", str(build), "--parallel"], check=True)
        native = package / "integralrob" / "_native"
        for library in native.glob("*.so"):  # of an earlier build, which may have had more of them
            library.unlink()
        subprocess.run([cmake, "--install", str(build), "--prefix", str(native)], check=True)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "integralrob" / "_native").glob("*.so")]


setup(
    ext_modules=[Extension("integralrob._native", sources=[])],
    cmdclass={"build_ext": BuildNative},
)
