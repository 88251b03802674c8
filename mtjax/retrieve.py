"""Retrieval with the features of a trained workdir: R@k of clips and of videos (MotionFit, Table 7; motionfit.md §8).

mtjax retrieve WORKDIR [--root=DATASET] [--queries=test] [--gallery=train] [--views=10]
mtjax retrieve WORKDIR --relevant=video --dense=16       # other clips of the same video; no labels needed

Describes the clips once, in a column of the dataset, adds the scores to WORKDIR/results.json as `NAME/video_R@1` and so on, and
keeps the neighbours in WORKDIR/NAME.npz for the report. A second dataset wants another --name and --root.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.compute import distributed
from mtjax.run.retrieval import LABEL, VIDEO, notes_of, retrieve, table_of


@shell.command("retrieve", again="the same command does what is left")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("retrieve", __doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--root", default="", help="dataset folder (default: the training one)")
    parser.add_argument("--column", default="", help="of descriptors (default: retrieval.WORKDIR)")
    parser.add_argument("--name", default="retrieval", help="of the scores in results.json, NAME/video_R@1 …")
    parser.add_argument("--queries", default="test", help="split that asks")
    parser.add_argument("--gallery", default="", help="split that is searched (default: train)")
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--views", type=int, default=10, help="evenly spaced clips of each video")
    clips.add_argument("--dense", type=int, default=0, help="clips that begin so many items apart instead")
    parser.add_argument(
        "--relevant", default=LABEL, choices=(LABEL, VIDEO), help="what a clip has to share with the query"
    )
    parser.add_argument("--at", type=_numbers, default=(1, 5, 10, 20, 50), help="k of R@k, comma separated")
    parser.add_argument("--batch", type=int, default=0, help="videos described at once (default: the run's)")
    arguments.add_allow_code(parser)
    parser.add_argument("--step", default="selected", help="selected (default), latest, or a number")
    parser.add_argument("--distributed", action="store_true", help="join the other processes, as mtjax train does")
    args = vars(parser.parse_args(argv))
    lookup.allow_code(args.pop("allow_code"))
    if args.pop("distributed"):
        distributed.initialize()
    answer = retrieve(args.pop("workdir"), **args)
    if answer is None:  # the first process has it
        return 0
    scores, facts = answer
    header, rows = table_of(scores)
    table = Table(*header, title=f"{args['name']} (%)")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, color_system=None).print(table)
    print(*notes_of(scores, facts), sep="\n")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(k) for k in text.split(",")}))


if __name__ == "__main__":
    sys.exit(main())
