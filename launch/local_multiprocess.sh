#!/usr/bin/env bash
# One training run as N processes on this machine's CPU, as it would run on N hosts.
#
#   launch/local_multiprocess.sh N -- --config=FILE --workdir=DIR [--config.a.b=VALUE ...]
#
# Each line of output is prefixed with the number of its process. SIGTERM, Ctrl-C and a closed terminal are passed on; once
# a process has failed the others are told to stop, too. A second signal, or GRACE_S seconds (30), kills what is left.
# Exit status: that of the first process that failed, 143 for a run that was stopped and has saved.
#
# DEVICES_PER_PROCESS=1  fake devices of each process      PYTHON=python  interpreter
# COMMAND=train          or evaluate, predict, cluster, retrieve
set -u

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ && ${2:-} == -- ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
n=$1
shift 2
python=${PYTHON:-python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 2
pipes=$(mktemp -d) || exit 2
trap 'rm -rf "$pipes"' EXIT

pids=() readers=() status=0 deadline=

stop() { # the first time asks, the second time kills
  local signal=KILL i
  if [[ -z $deadline ]]; then
    signal=TERM deadline=$((SECONDS + ${GRACE_S:-30}))
  fi
  for i in "${!pids[@]}"; do kill -s "$signal" "${pids[i]}"; done
}
trap stop TERM INT
trap '' HUP # of a closed terminal: not for the processes, they would not save

for ((i = 0; i < n; i++)); do
  mkfifo "$pipes/$i"
  {
    trap '' TERM # sent to the whole group, as `timeout` does: the last lines are still wanted
    while IFS= read -r line || [[ -n $line ]]; do printf '[%d] %s\n' "$i" "$line"; done
  } <"$pipes/$i" &
  readers+=($!)
  JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1 \
    JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$n JAX_PROCESS_ID=$i \
    XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES_PER_PROCESS:-1}" \
    "$python" -m "mtjax.${COMMAND:-train}" "$@" --distributed >"$pipes/$i" 2>&1 &
  pids[i]=$!
  echo "[$i] pid $!"
done
trap stop HUP

{ # 2>/dev/null: bash's own "Killed" and "no such process"
  while ((${#pids[@]})); do
    sleep 0.1
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" && continue
      wait "${pids[i]}"
      code=$?
      unset 'pids[i]'
      ((code)) && echo "[$i] exit status $code"
      ((status)) || status=$code
      if ((code)) && [[ -z $deadline ]]; then stop; fi
    done
    if [[ -n $deadline ]] && ((SECONDS >= deadline)); then stop; fi
  done
} 2>/dev/null
wait "${readers[@]}"
exit "$status"
