"""Runs a chain: the steps of a paper, from a dataset to its tables.

    mtjax chain configs/chains/motionfit.py:mannequin --seeds=0,1,2 --jobs=3
    mtjax chain FILE:FUNCTION --help          # its settings: the keywords of the function
    mtjax chain FILE:FUNCTION --dry_run       # its steps, what is done, and how long the rest takes where that is known

A step whose result is there and was made from what is there now is skipped; so the same command goes on after a kill. What is
there and was made from something else stops the chain: `--overwrite=stale` makes it again. --config.a.b=value goes to every
training. Exit status: 0 done, 2 wrong settings or something stale, 143 stopped by a signal, else the failed command's.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtjax.chain import load
from mtjax.chain.log import Log
from mtjax.chain.plan import Plan
from mtjax.chain.runner import Runner, one_at_a_time
from mtjax.chain.steps import Step
from mtjax.chain.trained import Train
from mtjax.command import arguments, shell


@shell.command("chain", again="the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in argv if not word.startswith("-")), "")
    function = load.function_of(named) if named else None
    args, settings, flags = _parse(argv, function)
    steps = [_with_flags(step, flags) for step in function(**settings)]
    plan, log = Plan.of(steps), Log(Path(settings["runs"]))
    chosen = plan.only([p for p in args.only.split(",") if p])
    if args.dry_run:
        table, line = plan.table(log, chosen)
        Console(width=None if sys.stdout.isatty() else 200).print(table)
        print(line)
        return 0
    with one_at_a_time(Path(settings["runs"])) as lock:
        return Runner(plan, log, lock, jobs=args.jobs, overwrite=args.overwrite == "stale").run(chosen)


def _parse(
    argv: list[str], function: Callable[..., list[Step]] | None
) -> tuple[argparse.Namespace, dict[str, Any], tuple[str, ...]]:
    """(flags of the command, settings of the chain, flags for training)."""
    parser = arguments.parser("chain", __doc__)
    parser.add_argument("chain", metavar="FILE:FUNCTION", help="e.g. configs/chains/motionfit.py:mannequin")
    parser.add_argument("--jobs", type=int, default=1, help="commands side by side, each on its share of the cores")
    parser.add_argument("--dry_run", action="store_true", help="show the steps and stop")
    parser.add_argument(
        "--only", default="", help="steps whose name has this in it, comma separated; * and ? as in a shell"
    )
    parser.add_argument("--overwrite", choices=("never", "stale"), default="never", help="make again what is stale")
    if function is not None:
        load.add_settings(parser, function)
    args, rest = parser.parse_known_args(argv)
    if wrong := [word for word in rest if not word.startswith("--config.")]:
        parser.error(f"unknown: {' '.join(wrong)}; --help shows the settings of this chain")
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args, {name: getattr(args, name) for name in load.settings_of(function)}, tuple(rest)


def _with_flags(step: Step, flags: tuple[str, ...]) -> Step:
    if isinstance(step, Train) and not step.weights_as_they_are:
        return dataclasses.replace(step, flags=(*step.flags, *flags))
    return step


if __name__ == "__main__":
    sys.exit(main())
