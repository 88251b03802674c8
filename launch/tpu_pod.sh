#!/usr/bin/env bash
# The same training command on every host of a Cloud TPU slice; JAX finds the other hosts by itself.
#
#   launch/tpu_pod.sh NAME ZONE -- --config=FILE --workdir=DIR [--config.a.b=VALUE ...]
#   launch/tpu_pod.sh NAME ZONE --stop       saves and leaves, on all hosts
#
# Run again to resume. A lost connection does not stop the run; its output is CHECKOUT/train.log on each host.
#
# CHECKOUT=mtjax  the repository on the hosts, below the home directory, with its environment in CHECKOUT/.venv
set -eu

if [[ $# -lt 3 || ($3 != -- && $3 != --stop) ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 what=$3
shift 3
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [[ $what == --stop ]]; then
  on_all_hosts "pkill -TERM -f '[m]tjax.train'"
  exit
fi
run="nohup python -m mtjax.train $(printf '%q ' "$@")--distributed"
on_all_hosts "cd ${CHECKOUT:-mtjax} && . .venv/bin/activate && export PYTHONUNBUFFERED=1 && : >train.log &&
{ $run >>train.log 2>&1 </dev/null & } && tail -n +1 --pid=\$! -f train.log; wait \$!"
