"""Makes the procedural dataset `mannequin`: `mtjax mannequin OUT`."""

import sys
import time
from pathlib import Path

from mtjax.command import arguments, shell
from mtjax.data import columns
from mtjax.data.catalog import Catalog
from preprocessing.mannequin.actions import DURATION_S
from preprocessing.mannequin.dataset import MIN_CLIPS, contact_sheet, generate


@shell.command("mannequin", again="the same command does what is left")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("mannequin", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="dataset folder")
    parser.add_argument("--clips", type=int, default=2400, help=f"over all splits, at least {MIN_CLIPS}")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--frames", action="store_true", help="also the column of JPEG frames; needs mtjax[video]")
    parser.add_argument("--frames_per_clip", type=int, default=32, help=f"over {DURATION_S:g} s")
    parser.add_argument("--points", type=int, default=60, help="tracked points on the body")
    parser.add_argument("--size_px", type=int, default=128, help="width and height of a frame")
    parser.add_argument("--contact_sheet", metavar="PNG", help="also draw one clip of each action; needs mtjax[video]")
    given = vars(parser.parse_args(argv))
    sheet, started = given.pop("contact_sheet"), time.perf_counter()
    root = generate(**given)
    if sheet:
        contact_sheet(root, sheet)
    made = f"{Catalog.load(root).splits}, columns {columns.list_columns(root)}"
    print(f"{root}: {made}, {time.perf_counter() - started:.1f} s" + (f"; {sheet}" if sheet else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
