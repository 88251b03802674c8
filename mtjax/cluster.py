"""Clusters a column of features; the clusters become a column of pseudo labels (MotionFit, Sec. 3.3).

mtjax cluster ROOT --features=mplg.embedding --column=pseudo.k1000 --k=1000 [--granularity=clip|change|thirds|video]

Fits on the clips of --splits alone and labels every clip that has features. A killed run goes on after its last iteration.
"""

import json
import sys
from pathlib import Path

from mtjax.clusters import segments
from mtjax.clusters.pseudo_labels import cluster
from mtjax.command import arguments, shell
from mtjax.compute import distributed
from mtjax.data.selection import class_list


@shell.command("cluster", again="the same command does what is left")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("cluster", __doc__)
    parser.add_argument("root", type=Path, help="the dataset folder")
    parser.add_argument("--features", required=True, help="column of features")
    parser.add_argument("--field", default="embedding", help="of that column")
    parser.add_argument("--column", required=True, help="to write, e.g. pseudo.k1000")
    parser.add_argument("--k", type=int, required=True, help="clusters")
    parser.add_argument("--splits", default="train", help="comma separated: what is fitted; every clip gets a label")
    parser.add_argument("--leave_out", default="", help="file of class names, one a line, whose clips are not fitted")
    parser.add_argument("--granularity", default="clip", choices=segments.GRANULARITIES, help="what shares a label")
    parser.add_argument("--percentile", type=float, default=90.0, help="of a video's steps, for --granularity=change")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the first centroids")
    parser.add_argument("--iterations", type=int, default=25, help="of Lloyd's algorithm")
    parser.add_argument("--points_per_centroid", type=int, default=256, help="at most this many are fitted; 0: all")
    parser.add_argument("--overwrite", action="store_true", help="what the column holds, if it was made differently")
    parser.add_argument("--distributed", action="store_true", help="join the other processes, as mtjax train does")
    args = vars(parser.parse_args(argv))
    if args.pop("distributed"):
        distributed.initialize()
    given = {"splits": tuple(args["splits"].split(",")), "leave_out": ()}
    if args["leave_out"]:
        given["leave_out"] = class_list(args["leave_out"])
    facts = cluster(args.pop("root"), **args | given)
    if facts is not None:
        print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
