# What the scripts that run a chain share; to be sourced, with `python` and `runs` set. Each step is skipped when what it makes is there.
# shellcheck shell=bash disable=SC2154
# Runs that differ in their seed are compiled once.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(realpath -m "$runs/.compiled")}
finished=() # workdirs, for the report

train() { # WORKDIR CONFIG FLAGS...
  local workdir=$1 config=$2
  shift 2
  if [[ ! -f $workdir/results.json ]]; then
    echo "== train $workdir"
    "$python" -m mtjax.train --config="$config" --workdir="$workdir" "$@"
  fi
  finished+=("$workdir")
}

column() { # ROOT COLUMN WORKDIR FLAGS...
  local root=$1 name=$2 workdir=$3
  shift 3
  if [[ ! -f $root/columns/$name/index.npz ]]; then
    echo "== column $name"
    "$python" -m mtjax.predict "$workdir" --root="$root" --column="$name" "$@"
  fi
}

clusters() { # ROOT COLUMN FEATURES K FLAGS...
  local root=$1 name=$2 features=$3 k=$4
  shift 4
  if [[ ! -f $root/columns/$name/clusters.json ]]; then
    echo "== clusters $name"
    "$python" -m mtjax.cluster "$root" --features="$features" --column="$name" --k="$k" "$@"
  fi
}

retrieval() { # WORKDIR FLAGS...
  local workdir=$1
  shift
  if [[ ! -f $workdir/retrieval.npz ]]; then
    echo "== retrieval $workdir"
    "$python" -m mtjax.retrieve "$workdir" "$@"
  fi
}
