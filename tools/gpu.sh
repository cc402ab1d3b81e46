#!/usr/bin/env bash
# All that needs a GPU, in less than ten minutes and with nothing but what is installed: builds for the GPU at hand,
# runs every test (one that needs a GPU fails if it finds none), the benchmarks, and compute-sanitizer where there is
# one. Goes on after a failure. Logs and results are in $OUT, a table comes last.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-build/gpu}
mkdir -p "$out"
export FAIL_WITHOUT_CUDA=1 PYTHONUNBUFFERED=1

table=()
failed=0

# step NAME SECONDS COMMAND...: under a time limit, or what is left of the ten minutes; its output in NAME.log
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0 verdict
  shift 2
  limit=$((limit < 585 - SECONDS ? limit : 585 - SECONDS))
  limit=$((limit > 1 ? limit : 1))
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  case $status in
    0) verdict="passed" ;;
    124 | 137) verdict="FAILED: not done after $limit s" ;;
    *) verdict="FAILED: exit status $status" ;;
  esac
  [ "$status" -eq 0 ] || failed=1
  table+=("$(printf '%-12s %4d s  %s' "$name" $((SECONDS - begin)) "$verdict")")
  echo "== ${table[-1]}"
  tail -n 25 "$out/$name.log"
}

information() {
  nvidia-smi
  nvcc --version
  "$python" -m integralrob info
}

# With CMake alone: pip and setuptools, of whatever version, have no part in it.
build() {
  local gpu torch
  gpu=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())") || return
  torch=$("$python" -c "import os, torch; print(os.path.dirname(torch.__file__))") || return
  cmake -S . -B build/native -G Ninja "-DINTEGRALROB_TORCH=$torch" "-DPYTHON=$(command -v "$python")" \
    -DCMAKE_BUILD_TYPE=Release -DINTEGRALROB_CUDA=on -DINTEGRALROB_TESTS=ON "-DCMAKE_CUDA_ARCHITECTURES=$gpu-real" &&
    cmake --build build/native --parallel &&
    cmake --install build/native --prefix integralrob/_native
}

# A process for each file: together they take as long as the longest.
other_tests() {
  find tests -name 'test_*.py' ! -name 'test_cuda.py' ! -name 'test_cuda_models.py' |
    xargs -P 8 -I FILE bash -c 'log=$("$python" -m pytest -q --durations=3 FILE 2>&1); status=$?
      printf "%s\n%s\n" FILE "$log"
      [ "$status" -eq 0 ] || [ "$status" -eq 5 ]  # 5: a package that all tests of the file need is absent'
}

# Each op once, on memory of its own rather than in blocks of torch's allocator, so that a stray access shows.
sanitizer() {
  local tool status=0
  for tool in memcheck racecheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$python" -m pytest -q -p no:cacheprovider tests/test_library.py -k "schema_says and cuda" || status=$?
  done
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$python" -m pytest -q -p no:cacheprovider \
      "tests/test_sampling.py::test_2d_ops_equal_dense_products[cuda-(40, 6, 20, 33, 5, 17)-torch.float32]" \
      "tests/test_sampling.py::test_1d_ops_equal_dense_products[cuda-11-(12, 9, 4, 17, 13, 4)-torch.bfloat16]" \
      "tests/test_steps.py::test_rows_are_independent[cuda-300-torch.float32-l1]" \
      "tests/test_steps.py::test_rows_are_independent[cuda-300-torch.bfloat16-linf]" || status=$?
  done
  return "$status"
}

# `timeout` runs programs: the functions above become one each.
export -f information build other_tests sanitizer
export python

step build 150 bash -c build
step information 20 bash -c information
step gpu_tests 110 "$python" -m pytest -q --durations=10 tests/test_cuda.py tests/test_cuda_models.py
step other_tests 110 bash -c other_tests
step benchmarks 110 "$python" -m benchmarks --device cuda --seconds 0.6 --json "$out/benchmarks.json"
step graphs 40 "$python" -m benchmarks.attack_graphs --rounds 3
step ctest 25 ctest --test-dir build/native --output-on-failure --no-tests=error --parallel 8 --exclude-regex sanitized
if command -v compute-sanitizer >/dev/null; then
  step sanitizer 150 bash -c sanitizer
else
  table+=("$(printf '%-12s %6s  %s' sanitizer '' 'absent: compute-sanitizer is not on the PATH')")
fi

echo
printf '%s\n' "${table[@]}"
exit "$failed"
