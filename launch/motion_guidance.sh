#!/usr/bin/env bash
# "Size Doesn't Matter" from a dataset to Table 1: motion teacher, its soft labels, students with and without it, the table.
# What exists is skipped and what was interrupted goes on, so the same command may be given again at any time.
#
#   launch/motion_guidance.sh mannequin                          embedded data, a small X-CLIP from random weights
#   launch/motion_guidance.sh ucf101 ROOT XCLIP TOKENIZER        ROOT: `preprocessing.catalog ucf101` made it; XCLIP: a folder of
#                                                                `mtjax.convert xclip`; TOKENIZER: bpe_simple_vocab_16e6.txt.gz
#
# RUNS=runs/NAME  workdirs      SEEDS="0 1 2"  (five for the paper's protocol)      ROWS="…"  some rows alone
# CLIP=FOLDER     adds the row clip_zs           POSE_ARGS, FRAME_ARGS  more flags for the two extractions
# TRAIN_ARGS      more flags for whatever is trained, e.g. --config.train.steps=10
# MODEL_ARGS      more flags for the rows that hold X-CLIP or CLIP, e.g. --config.model.patch=32
# PYTHON=python   interpreter
set -euo pipefail

kind=${1:-}
if ! [[ $kind == mannequin && $# == 1 || $kind == ucf101 && $# == 4 ]]; then
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
python=${PYTHON:-python} runs=${RUNS:-runs/$kind} seeds=${SEEDS:-0 1 2}
read -ra extra <<<"${TRAIN_ARGS:-}"
source launch/chain.sh

if [[ $kind == mannequin ]]; then
  root=data/mannequin config=configs/guidance_mannequin.py splits=train
  rows=${ROWS:-xclip_k2 xclip_k8 motion_ts_k2 motion_ts_k8 xclip_ts_k2 xclip_ts_k8 xclip_full}
  for seed in $seeds; do train "$runs/motion_raw-$seed" configs/mil_mannequin.py --config.seed="$seed" "${extra[@]}"; done
else
  root=$2 config=configs/guidance_ucf101.py splits=train1_fit,train1_val
  rows=${ROWS:-xclip_k2 xclip_k8 motion_ts_k2 motion_ts_k8 xclip_ts_k2 xclip_ts_k8 xclip_full}
  at=(--config.data.root="$root")
  # shellcheck disable=SC2086  # several flags in one variable
  "$python" -m preprocessing.extract frames "$root" --frames=32 --short_side=256 ${FRAME_ARGS:-}
  # shellcheck disable=SC2086
  "$python" -m preprocessing.extract pose "$root" --detector=rt_detr_v2 --pose=vitpose_b ${POSE_ARGS:-}
  read -ra model <<<"--config.task.tokenizer=$4 ${MODEL_ARGS:-}"
  if [[ -n ${CLIP:-} ]]; then train "$runs/clip_zs" "$config:clip_zs" "${at[@]}" "${model[@]}" --config.train.init="$CLIP"; fi
  for row in xclip_zs xclip_zs_prompted; do
    train "$runs/$row" "$config:$row" "${at[@]}" "${model[@]}" --config.train.init="$3"
  done
  column "$root" xclip.embedding "$runs/xclip_zs" --fields=embedding --copies=5
  for seed in $seeds; do train "$runs/motion_raw-$seed" "$config:motion_raw" "${at[@]}" --config.seed="$seed" "${extra[@]}"; done
fi

first=${seeds%% *}
column "$root" "mil.$kind" "$runs/motion_raw-$first" --splits="$splits"
for row in $rows; do
  for seed in $seeds; do
    flags=(--config.seed="$seed" --config.data.subset_seed="$seed" --config.data.root="$root")
    if [[ $row == xclip_ts_* ]]; then # its teacher has seen the same few labels
      shots=${row##*_}
      teacher=xclip_$shots.$kind.$seed
      column "$root" "$teacher" "$runs/xclip_$shots-$seed" --splits="$splits"
      flags+=(--config.data.teacher="$teacher")
    fi
    train "$runs/$row-$seed" "$config:$row" "${flags[@]}" "${extra[@]}"
  done
done
"$python" -m mtjax.report "${finished[@]}" --table=mg.t1 --out="$runs/report.html"
