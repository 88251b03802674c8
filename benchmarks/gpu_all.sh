#!/usr/bin/env bash
# Everything here that says something about one GPU, in under 10 minutes; JSON lines go to the file named first.
#
#   benchmarks/gpu_all.sh results.jsonl [PEAK_TFLOPS]     # 989 is an H100's or H200's dense bfloat16 peak
set -uo pipefail
out=$(realpath -m "${1:?usage: benchmarks/gpu_all.sh OUT.jsonl [PEAK_TFLOPS]}")
peak=${2:-989}
cd "$(dirname "$0")/.."
: > "$out"
failed=0

bench() { # seconds allowed, then the module and its arguments
  local limit=$1 start=$SECONDS
  shift
  echo "== $* =="
  timeout "$limit" python -m "benchmarks.$@" | tee >(grep '^{' >> "$out") | grep -v '^{'
  [[ ${PIPESTATUS[0]} == 0 ]] || { echo "benchmarks.$1 failed" >&2; failed=1; }
  echo "   $((SECONDS - start)) s"
}

torch=() sklearn=()
python -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null || torch=(--ours_only)
python -c 'import sklearn' 2> /dev/null || sklearn=(--ours_only)
# The seconds allowed make 600 in all.
bench 100 step_vs_torch --dtype=bfloat16 --peak_tflops="$peak" "${torch[@]}"
[[ ${#torch[@]} == 0 ]] && bench 90 step_vs_torch --dtype=bfloat16 --peak_tflops="$peak" --torch_compile --equal_work --kinds train
bench 60 xclip_vs_torch --dtype=bfloat16 --peak_tflops="$peak" --batches 8 64 --rounds=5 --attention sdpa "${torch[@]}"
bench 40 mil_vs_torch --dtype=bfloat16 --peak_tflops="$peak" --batches 64 1024 --rows 256 --rounds=5 --adamw fused "${torch[@]}"
bench 80 conv3d_vs_torch --dtype=bfloat16 --peak_tflops="$peak" --batches 8 64 --rounds=5 "${torch[@]}"
bench 60 jester_epochs --dtype=bfloat16 --peak_tflops="$peak" --steps=300
bench 60 kmeans_vs_sklearn --iterations=10 "${sklearn[@]}"
bench 35 host_overhead --rounds=2
bench 30 checkpoint_stall --model=full_count --saves=10
bench 15 track_pipeline --windows=3 --workers 0
bench 30 clip_pipeline --videos=32 --windows=3 --steps=4
exit $failed
