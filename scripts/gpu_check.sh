#!/usr/bin/env bash
# Checks and measures cullama on a machine with a GPU: unattended, within ten minutes, into one
# folder, with one line for each step in summary.txt.
#
#     scripts/gpu_check.sh [--model PATH] [--out FOLDER] [--minutes N]
#
# Steps have time limits, and their output is saved without being interpreted. A step that fails or
# runs out of time is noted, and the next one begins. Exits with 0 only if every step passed.
# PYTHON names the interpreter that has cullama's dependencies (default: .venv's, else python3), for
# machines without a network; `make gpu-check` prepares .venv first.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=gpu-check-$(date +%Y-%m-%d-%H%M%S)
minutes=10
model=() models=()
# The tests to run under the sanitizer, which slows kernels tenfold and more.
sanitized=${CULLAMA_SANITIZED_TESTS:-tests/operators}

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --model) model=(--model "$2") models=(--models "$2") ;;
    --out) out=$2 ;;
    --minutes) minutes=$2 ;;
    *) usage ;;
  esac
  shift 2
done

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
summary=$out/summary.txt
: >"$summary"
end=$((SECONDS + 60 * minutes - 10))
steps=0 failures=0
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 CULLAMA_TEST_GPU=1

note() { # RESULT SECONDS NAME REMARK
  printf '%-5s %4ss  %-20s %s\n' "$1" "$2" "$3" "$4" | tee -a "$summary"
  [ "$1" = pass ] || failures=$((failures + 1))
}

# step NAME LIMIT COMMAND…: writes the command's output to its own file, its result to the summary.
step() {
  local name=$1 limit=$2 file left=$((end - SECONDS)) begun=$SECONDS code
  shift 2
  steps=$((steps + 1))
  file=$(printf '%s/%02d-%s.txt' "$out" "$steps" "$name")
  if [ "$left" -le 0 ]; then
    note fail 0 "$name" "not started: the $minutes minutes are over"
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  { printf '$'; printf ' %q' "$@"; echo; } >"$file"
  timeout --kill-after=5 "$limit" "$@" >>"$file" 2>&1 </dev/null
  code=$?
  case $code in
    0) note pass $((SECONDS - begun)) "$name" "" ;;
    124 | 137) note fail $((SECONDS - begun)) "$name" "not finished within ${limit}s: ${file##*/}" ;;
    *) note fail $((SECONDS - begun)) "$name" "exit $code: ${file##*/}" ;;
  esac
}

machine() {
  date -u +%Y-%m-%dT%H:%M:%SZ
  git describe --always --dirty 2>/dev/null || echo "not a git checkout"
  uname -srm
  "$python" --version
  "$python" -m pip list 2>/dev/null | grep -i -E '^(cuda|nvidia|numpy|pytest)' || true
  nvcc --version 2>/dev/null | tail -2 || echo "no nvcc on PATH"
  nvidia-smi && nvidia-smi -q -d CLOCK,POWER,ECC
}

# Drivers older than 580 do not load what nvcc 13 writes.
build() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
  if [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then
    make ptx PYTHON="$python"
  else
    make ptx-release PYTHON="$python"
  fi
}

sanitizer() {
  local packages
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  PATH=$PATH:/usr/local/cuda/bin:$packages/nvidia/cu13/bin command -v compute-sanitizer
}

# sanitize TOOL: runs the operator tests under one of compute-sanitizer's tools. Errors of driver
# calls are not reported, as some tests provoke them on purpose.
sanitize() {
  local tool
  tool=$(sanitizer) || {
    echo "no compute-sanitizer: pip install nvidia-cuda-sanitizer-api (18 MB)"
    return 1
  }
  "$tool" --tool "$1" --error-exitcode 9 --report-api-errors no \
    "$python" -m pytest -q -m gpu -p no:cacheprovider "$sanitized"
}

# `timeout` starts programs, not functions: functions are exported, and run by another shell.
export python sanitized
export -f machine build sanitizer sanitize
cullama=("$python" -m cullama)

step machine 20 bash -c machine
step ptx 90 bash -c build
step doctor 120 "${cullama[@]}" doctor
step doctor-json 120 "${cullama[@]}" doctor --json
step story 60 "${cullama[@]}" story --backend cuda --seed 1 --max-tokens 64 "${model[@]}"
step diff-bfloat16 60 "${cullama[@]}" diff --backends cpu,cuda --dtypes bfloat16 "${models[@]}"
step diff-float32 60 "${cullama[@]}" diff --backends cpu,cuda --dtypes float32 "${models[@]}"
# Speed does not depend on the values of weights: random ones will do.
for shape in smollm2-135m llama-3.2-1b; do
  step "bench-$shape" 120 "${cullama[@]}" bench --backend cuda --json --config "$shape"
done
step test-gpu 180 "$python" -m pytest -m gpu -p no:cacheprovider
for tool in memcheck racecheck initcheck synccheck; do
  step "$tool" 60 bash -c "sanitize $tool"
done

echo "$((steps - failures)) of $steps steps passed; output in $out" | tee -a "$summary"
[ "$failures" -eq 0 ]
