"""Scores a trained workdir on a split: every example exactly once.

mtjax evaluate WORKDIR [--evals=test] [--split=test2] [--root=DIR]
"""

import sys
from pathlib import Path

import jax

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.compute import distributed
from mtjax.lookup import ConfigError
from mtjax.run import checkpoint
from mtjax.run.evaluation import check_overlap, run_eval, save_rows
from mtjax.run.experiment import open_run
from mtjax.run.results import to_json


@shell.command("evaluate")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("evaluate", __doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--evals", default="", help="names in config.evals, comma separated (default: all)")
    parser.add_argument("--split", default="", help="score this split instead of the evals' own")
    parser.add_argument("--root", default="", help="dataset folder, if it has moved")
    arguments.add_allow_code(parser)
    parser.add_argument("--step", default="selected", help="selected (default), latest, or a number")
    parser.add_argument(
        "--allow_overlap", action="store_true", help="score clips that were trained on; they are counted"
    )
    parser.add_argument("--distributed", action="store_true", help="join the other processes, as mtjax.train does")
    args = parser.parse_args(argv)
    lookup.allow_code(args.allow_code)
    if args.distributed:
        distributed.initialize()
    experiment, state, meta = open_run(
        args.workdir, args.step, data={"root": args.root} if args.root else None, scored=True
    )
    names = args.evals.split(",") if args.evals else list(experiment.evaluators)
    if unknown := [name for name in names if name not in experiment.evaluators]:
        raise ConfigError(f"--evals={unknown[0]!r}: the config has {list(experiment.evaluators)}")
    if args.split:
        experiment.score_with(names, args.split)
    results: dict[str, float] = {}
    unwritable: OSError | None = None
    for name in names:
        split = experiment.evaluators[name].split
        shared = check_overlap(experiment, checkpoint.unpack_ids(meta["train_ids"]), split, args.allow_overlap)
        scores, rows = run_eval(experiment, state, name)
        try:
            save_rows(args.workdir, name if not args.split else f"{name}-{args.split}", rows)
        except OSError as e:  # the scores are there by now, and are printed all the same
            unwritable = e
        results |= scores | ({f"{name}/overlap": shared} if shared else {})
    if jax.process_index() == 0:
        print(to_json({"step": meta["step"], **results}))
    if unwritable:
        raise unwritable
    return 0


if __name__ == "__main__":
    sys.exit(main())
