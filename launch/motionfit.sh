#!/usr/bin/env bash
# MotionFit from a dataset to its tables: flow, generator, features, clusters, self-training, fine-tuning, retrieval.
# What exists is skipped and what was interrupted goes on, so the same command may be given again at any time.
#
#   launch/motionfit.sh mannequin               embedded data: 20 % labelled, with the baselines (appearance's labels, random)
#   launch/motionfit.sh transfer TARGET SOURCE  labels of TARGET (data/ucf101, data/hmdb51), videos of SOURCE (data/kinetics400)
#   launch/motionfit.sh semi TARGET             20 % and 50 % of TARGET's labels, split 1, 3D ResNet-18 (Table 8)
#
# RUNS=runs/motionfit  workdirs      SEEDS="0"  (mannequin: "0 1 2")      SPLITS="1 2 3"  of TARGET      K=1000  clusters
# ROWS="tune appearance mers mars"   of transfer, also tune_len32, motion_R1 … (configs/motionfit.py)
# FRAME_ARGS, FLOW_ARGS  more flags for the two extractions, e.g. "--num_workers=16"
# JOBS=1                 seeds of mannequin at a time, each on its share of the cores: 3 keep two cores busiest
# TRAIN_ARGS             more flags for whatever is trained, e.g. --config.train.steps=10
# PREDICT_ARGS           more flags for features and retrieval, e.g. --batch=64
# PYTHON=python          interpreter
set -euo pipefail

kind=${1:-}
if ! [[ $kind == mannequin && $# == 1 || $kind == transfer && $# == 3 || $kind == semi && $# == 2 ]]; then
  sed -n '2,19s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
python=${PYTHON:-python} runs=${RUNS:-runs/motionfit}
read -ra extra <<<"${TRAIN_ARGS:-}"
read -ra more <<<"${PREDICT_ARGS:-}"
source launch/chain.sh
granularity=clip # each clip has its own label

extract() { # ROOT
  echo "== frames and flow of $1"
  # shellcheck disable=SC2086  # several flags in one variable
  "$python" -m preprocessing.extract frames "$1" --fps=25 --short_side=256 --size=171x128 --name=frames.25fps --max_failures=1% ${FRAME_ARGS:-}
  # shellcheck disable=SC2086
  "$python" -m preprocessing.extract flow "$1" --method=tvl1 --size=171x128 --max_failures=1% ${FLOW_ARGS:-}
}

pseudo() { # SOURCE NAME GENERATOR SPLIT K: features of every clip, and their clusters as the column pseudo.NAME
  column "$1" "mplg.$2" "$3" --dense="$dense" --splits="$4" "${more[@]}"
  clusters "$1" "pseudo.$2" "mplg.$2" "$5" --granularity="$granularity" --splits="$4"
  clustered=${clustered:-pseudo.$2} # the first ones are shown
}

few_labels() { # CONFIG ROOT SPLIT K SUFFIX FLAGS...: labels for a part of ROOT's videos, the others without (Sec. 4.7)
  local config=$1 root=$2 split=$3 k=$4 suffix=$5 by
  local flags=("--config.data.root=$root" "--config.data.train=$split" "--config.seed=$seed" "${@:6}")
  local labels=("--config.data.fraction=$share" "--config.data.subset_seed=$seed")
  for by in $generators; do
    local hidden=() # the paper's rows are of motion's pseudo labels
    if [[ $by == appearance ]]; then hidden=("--config.train.table=()"); fi
    train "$runs/$by$suffix" "$config:$by$place" "${flags[@]}" "${labels[@]}" "${extra[@]}"
    pseudo "$root" "$by$suffix" "$runs/$by$suffix" "$split" "$k"
    train "$runs/self_$by$suffix" "$config:self$place" "${flags[@]}" --config.data.pseudo="pseudo.$by$suffix" \
      "${hidden[@]}" "${extra[@]}"
    train "$runs/tune_$by$suffix" "$config:tune$place" "${flags[@]}" "${labels[@]}" \
      --config.train.init="$runs/self_$by$suffix" "${of_tune[@]}" "${hidden[@]}" "${extra[@]}"
    retrieval "$runs/self_$by$suffix" --root="$root" --gallery="$split" --queries="${split/train/test}" "${more[@]}"
  done
}

one_seed() { # of mannequin
  few_labels configs/motionfit_mannequin.py "$root" train "${K:-32}" "-$seed"
  train "$runs/motion_R1-$seed" configs/motionfit_mannequin.py:motion_R1 --config.seed="$seed" \
    --config.data.subset_seed="$seed" "${extra[@]}"
}

case $kind in
mannequin)
  root=data/mannequin dense=4 granularity=video place="" share=0.2 generators="motion appearance" tables=mf.t1,mf.t7,mf.t8 of_tune=()
  "$python" -m preprocessing.mannequin "$root" --clips=2400 --frames
  "$python" -m preprocessing.extract frames "$root" --from=frames --frames=32 --size=36x36 --name=frames.36
  "$python" -m preprocessing.extract flow "$root" --from=frames --method=dis --short_side=0 --size=36x36 --name=flow.36
  jobs=${JOBS:-1} running=0
  if ((jobs > 1)); then # each on its share of the cores (NPROC is XLA's); afterwards there is nothing left to do but the report
    export NPROC=$((($(nproc) + jobs - 1) / jobs))
    for seed in ${SEEDS:-0 1 2}; do
      if ((++running > jobs)); then wait -n; fi
      one_seed &
    done
    wait
  fi
  for seed in ${SEEDS:-0 1 2}; do one_seed; done
  ;;
semi)
  root=$2 dense=16 generators=motion tables=mf.t8
  place=",$(basename "$root"),1"
  extract "$root"
  for seed in ${SEEDS:-0}; do
    for percent in 20 50; do
      share=0.$percent of_tune=("--config.train.table=('mf.t8/ours/labeled$percent=test/top1',)")
      few_labels configs/motionfit.py "$root" train1 "${K:-1000}" "_$percent-$seed" --config.model.name=r3d.R3D18
    done
  done
  ;;
transfer)
  target=$2 source=$3 dense=16 tables=mf.t1,mf.t4,mf.t5,mf.t6,mf.t7
  name=$(basename "$target")
  extract "$target"
  extract "$source"
  for seed in ${SEEDS:-0}; do
    for split in ${SPLITS:-1 2 3}; do
      on=",$name,$split" id="$name-$split-$seed"
      here=("--config.data.root=$target" "--config.seed=$seed")
      there=("--config.data.root=$source" "--config.seed=$seed")
      train "$runs/motion-$id" "configs/motionfit.py:motion$on" "${here[@]}" "${extra[@]}"
      pseudo "$source" "$id" "$runs/motion-$id" train "${K:-1000}"
      train "$runs/self-$id" "configs/motionfit.py:self$on" "${there[@]}" --config.data.pseudo="pseudo.$id" "${extra[@]}"
      retrieval "$runs/self-$id" --root="$target" --gallery="train$split" --queries="test$split" "${more[@]}"
      for row in ${ROWS:-tune appearance mers mars}; do
        case $row in
        tune*) flags=("${here[@]}" --config.train.init="$runs/self-$id") ;;
        mers)
          train "$runs/mers_source-$id" "configs/motionfit.py:mers$on" "${there[@]}" \
            --config.task.teacher="$runs/motion-$id" "${extra[@]}"
          flags=("${here[@]}" --config.train.init="$runs/mers_source-$id")
          ;;
        mars) flags=("${here[@]}" --config.task.teacher="$runs/motion-$id") ;;
        *) flags=("${here[@]}") ;;
        esac
        train "$runs/$row-$id" "configs/motionfit.py:${row/#mers/tune_mers}$on" "${flags[@]}" "${extra[@]}"
      done
    done
  done
  ;;
esac
"$python" -m mtjax.report "${finished[@]}" --table="$tables" --clusters="$clustered" --out="$runs/report.html"
