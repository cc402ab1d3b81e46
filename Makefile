# make demo | test | bench | clean: each sets itself up in .venv; a second run reuses all of it.
# make gpu: build, tests and benchmarks on a machine with a GPU, with what is installed there and no network.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Names the torch that .venv holds, so that another TORCH installs again.
DEPENDENCIES := $(VENV)/.dependencies-$(subst /,_,$(subst $(eval) ,_,$(TORCH)))
NATIVE := build/native.stamp
NATIVE_TESTS := build/native-tests.stamp
SOURCES := CMakeLists.txt setup.py tools/cuda_resources.py $(shell find cmake csrc tests/cpp tests/simt -type f)
CXX_FILES := $(filter %.h %.cpp %.cu %.cuh,$(SOURCES))
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test bench check gpu clean

demo: $(NATIVE)
	$(BIN)/python -m integralrob demo

test: check $(NATIVE_TESTS)
	ctest --test-dir build/native --output-on-failure --no-tests=error --parallel 2
	test ! -e build/native/libintegralrob_cuda.so || $(BIN)/python tools/cuda_resources.py check build/native
	$(BIN)/python -m pytest

check: $(DEPENDENCIES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

bench: $(NATIVE)
	$(BIN)/python -m benchmarks --json build/benchmarks.json

gpu:
	PYTHON=$(PYTHON) tools/gpu.sh

$(DEPENDENCIES): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'setuptools>=77' wheel ninja $(TORCH)
	INTEGRALROB_NATIVE=0 $(PIP) install --no-build-isolation -e '.[demo,test]'
	rm -f $(VENV)/.dependencies-*
	touch $@

build_native = mkdir -p build && CMAKE_ARGS="$(1) $(CMAKE_ARGS)" $(BIN)/python setup.py -q build_ext --inplace > build/native.log 2>&1 || { cat build/native.log; exit 1; }

# The libraries alone: CUDA's only where torch could load it.
$(NATIVE): $(DEPENDENCIES) $(SOURCES)
	$(call build_native)
	rm -f $(NATIVE_TESTS)
	touch $@

# With the C++ tests, which share the libraries' kernels, and CUDA wherever there is an nvcc, for one GPU: the emulator,
# not a GPU, runs its kernels here.
CUDA := -DINTEGRALROB_CUDA=$(if $(shell command -v nvcc),on,off) -DCMAKE_CUDA_ARCHITECTURES=90
$(NATIVE_TESTS): $(DEPENDENCIES) $(SOURCES)
	$(call build_native,-DINTEGRALROB_TESTS=ON -DINTEGRALROB_WERROR=ON $(CUDA))
	touch $(NATIVE) $@

clean:
	rm -rf build $(VENV) *.egg-info integralrob/_native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
