#!/usr/bin/env bash
# Checks and measures cullama on a machine with a GPU: unattended, in one call of at most 9.5 minutes,
# without a network, into one folder, with one line for each step in summary.txt.
#
#     scripts/gpu_check.sh [--model PATH] [--shapes A,B] [--wheels FOLDER] [--card NAME]
#                          [--backend cuda|emulated] [--out FOLDER] [--minutes N]
#
# What is most wanted comes first. Steps have time limits, and their output is saved without being
# interpreted. A step that fails or runs out of time is noted, and the next one begins. Exits with 0
# only if every step passed; what this machine lacks programs for is skipped, and said.
# PYTHON names the interpreter that has cullama's dependencies (default: .venv's, else python3);
# packages that it lacks are taken from --wheels. `make gpu-check` prepares .venv instead. Kernels
# are compiled where there is a compiler, else those in the checkout are used. `--backend emulated`
# rehearses the script, slowly, with what does not need a card. `--card` is what is predicted for.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=gpu-check-$(date +%Y-%m-%d-%H%M%S)
minutes=9.5 backend=cuda shapes=llama-3.2-1b,smollm2-135m,llama-3.1-8b wheels='' card=h200
model=() models=()
# The tests to run under the sanitizer, which slows kernels tenfold and more.
sanitized=${CULLAMA_SANITIZED_TESTS:-tests/operators}

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --model) model=(--model "$2") models=(--models "$2") ;;
    --shapes) shapes=$2 ;;
    --wheels) wheels=$2 ;;
    --card) card=$2 ;;
    --backend) backend=$2 ;;
    --out) out=$2 ;;
    --minutes) minutes=$2 ;;
    *) usage ;;
  esac
  shift 2
done
case $backend in cuda | emulated) ;; *) usage ;; esac
[[ $minutes =~ ^[0-9]+([.][0-9]+)?$ ]] || usage

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
summary=$out/summary.txt
: >"$summary"
end=$((SECONDS + $(awk "BEGIN { print int(60 * $minutes) }") - 10))
steps=0 failures=0 skipped=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$scratch/site:src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
[ "$backend" = emulated ] || export CULLAMA_TEST_GPU=1

note() { # RESULT SECONDS NAME REMARK
  printf '%-5s %4ss  %-20s %s\n' "$1" "$2" "$3" "$4" | tee -a "$summary"
  [ "$1" != fail ] || failures=$((failures + 1))
}

skip() { # NAME REASON
  steps=$((steps + 1)) skipped=$((skipped + 1))
  note skip 0 "$1" "$2"
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
  [ "$backend" = emulated ] || { nvidia-smi && nvidia-smi -q -d CLOCK,POWER,ECC; }
}

# Drivers older than 580 do not load what nvcc 13 writes. A machine without a compiler has what was
# built elsewhere.
build() {
  local driver
  "$python" scripts/build_ptx.py --which || {
    ls -l src/cullama/cuda/ptx/*/gather.ptx
    return
  }
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1)
  if [ "$backend" = emulated ] || [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then
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

wheels() {
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$1" "$2"/*.whl
}

# `timeout` starts programs, not functions: functions are exported, and run by another shell.
export python sanitized backend
export -f machine build sanitizer sanitize wheels
cullama=("$python" -m cullama)
prompt="Once upon a time there was a little girl"

[ -z "$wheels" ] || step wheels 40 bash -c "wheels '$scratch/site' '$wheels'"
step machine 20 bash -c machine
step ptx 90 bash -c build
step doctor 90 "${cullama[@]}" doctor --backend "$backend" --json
step story 60 "${cullama[@]}" story "Once upon a time" --backend "$backend" --seed 1 --max-tokens 64 "${model[@]}"
for dtype in float32 bfloat16; do
  step "diff-$dtype" 40 "${cullama[@]}" diff "$prompt" --backends "cpu,$backend" --dtypes "$dtype" "${models[@]}"
done
# The card's constants, decode after short and long contexts, and prefill, as shares of them. Speed
# does not depend on the values of weights: random ones will do.
for shape in ${shapes//,/ }; do
  if [ "$backend" = emulated ]; then
    skip "bench-$shape" "the emulated GPU's speed says nothing"
  else
    step "bench-$shape" 75 "${cullama[@]}" bench --backend cuda --json --config "$shape" \
      --contexts 64,512,2048 --prefill 512,2048 --repeats 3
  fi
done
first=${shapes%%,*}
if [ "$backend" = emulated ]; then
  skip batches "the emulated GPU's speed says nothing"
else
  step batches 60 "${cullama[@]}" bench serve --backend cuda --json --config "$first" --requests 128 --batch 128
fi
# Counted on the emulated GPU, whatever the backend: to be read beside the figures above.
step predicted 90 "${cullama[@]}" kernels profile --config "$first" --card "$card" --json
step test-gpu 110 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/operators tests/cuda
for mode in eager compiled; do
  if "$python" -c 'import torch, transformers; assert torch.cuda.is_available()' >/dev/null 2>&1; then
    step "peer-$mode" 90 "$python" scripts/gpu_peer.py "$first" "$mode"
  else
    skip "peer-$mode" "torch and transformers are not installed, or see no GPU"
  fi
done
for tool in memcheck racecheck initcheck synccheck; do
  if [ "$backend" = emulated ]; then
    skip "$tool" "compute-sanitizer needs a card"
  else
    step "$tool" 45 bash -c "sanitize $tool"
  fi
done

echo "$((steps - failures - skipped)) of $steps steps passed, $skipped skipped; output in $out" | tee -a "$summary"
[ "$failures" -eq 0 ]
