"""Makes a pose column of skeletons that others have extracted: `mtjax import_skeletons KIND SRC ROOT`.

KIND and its SRC:
  pyskl   a pickle of pyskl or MMAction2 (ucf101_hrnet.pkl); it is read without running anything in it
  vpd     a folder of <video>/coco_keypoints.json.gz

ROOT is a dataset that exists (`mtjax catalog`). A clip is found by its id, or by the last part of its id
(`ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01` by `v_ApplyEyeMakeup_g08_c01`) where that is one clip's alone. Clips that SRC does
not have are in the column's failures.jsonl, skeletons of no clip in its unmatched.txt; both are counted and shown.

Scores are those of the network that made the skeletons: see `mtjax data coverage ROOT --column=NAME`.
Exit status 3: more clips have no record than `--max_failures` allows; all else is written all the same.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.command import arguments, shell
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.files import write_atomically
from mtjax.records import Feature, RecordError
from preprocessing.annotations.skeleton_files import People, SkeletonError, read_pyskl, read_vpd

with shell.imports_extras("import_skeletons"):
    from preprocessing.extraction import column_run
    from preprocessing.extraction.backends import folder_hash, weights_hash
    from preprocessing.extractors import pose

READERS = {"pyskl": read_pyskl, "vpd": read_vpd}
SHOWN = 10  # names shown of a long list
Readers = Mapping[str, Callable[[], People]]


def _flags() -> argparse.ArgumentParser:
    parser = arguments.parser("import_skeletons", __doc__)
    parser.add_argument("kind", metavar="KIND", choices=READERS)
    parser.add_argument("src", metavar="SRC", type=Path)
    parser.add_argument("root", metavar="ROOT", type=Path, help="the dataset folder")
    parser.add_argument("--name", required=True, help="of the column, e.g. pose.hrnet")
    parser.add_argument("--licence", default="", help="of the skeletons, to be recorded")
    parser.add_argument("--overwrite", action="store_true", help="replace a column of this name")
    parser.add_argument(
        "--max_failures", default="0", metavar="N|P%", help="exit with 3 above this many clips without one"
    )
    return parser


@shell.command("import_skeletons", again="the same command does what is left")
def main(argv: Sequence[str] | None = None) -> int:
    args = _flags().parse_args(argv)
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    catalog = Catalog.load(args.root)
    try:
        allowed = column_run.allowed_failures(args.max_failures, len(catalog.clips))
    except ValueError:
        raise CatalogError(f"--max_failures={args.max_failures}: expected a number or a percentage like 1%") from None
    if not args.src.exists():
        raise CatalogError(f"{args.src}: does not exist")
    found = READERS[args.kind](args.src)
    names, unmatched, ambiguous = match(found, [c.id for c in catalog.clips])
    if not names:
        some = f"{sorted(found)[:3]} there, {[c.id for c in catalog.clips[:3]]} here"
        raise CatalogError(f"{args.src}: none of its {len(found)} clips is in {args.root}: {some}")
    spec = _spec(args, found, names)
    directory = column_writer.create(args.root, spec, overwrite=args.overwrite)
    request = {c.id: names.get(c.id, "") for c in catalog.clips}
    for shard, clips in column_writer.pending(directory, spec, request).items():
        with column_writer.shard_writer(directory, spec, shard, clips) as writer:
            for clip_id, name in clips.items():
                _write(writer, clip_id, found.get(name), spec)
    index = column_writer.finish(directory)
    write_atomically(directory / "unmatched.txt", "".join(f"{name}\n" for name in sorted(unmatched)))
    failures = len(catalog.clips) - len(index.ids)
    print(f"{args.name}: {len(index.ids)} records, {failures} clips without one, in {directory}")
    for kept, what in (
        (sorted(unmatched), "skeletons belong to no clip"),
        (sorted(ambiguous), "names are the last part of several clips' ids"),
        ([c.id for c in catalog.clips if c.id not in names], "clips have no skeletons"),
    ):
        if kept:
            print(f"{len(kept)} {what}: {kept[:SHOWN]}" + (", ..." if len(kept) > SHOWN else ""))
    if failures > allowed:
        print(f"more than --max_failures={args.max_failures}; all are in {directory}/failures.jsonl", file=sys.stderr)
        return 3
    return 0


def match(names: Iterable[str], clip_ids: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Clip id → name, the names that are no clip's, and those of them that could be several clips'."""
    known, by_end = set(clip_ids), defaultdict(list)
    for clip_id in clip_ids:
        by_end[clip_id.rsplit("/", 1)[-1]].append(clip_id)
    matched, unmatched, ambiguous = {}, [], []
    for name in sorted(names, key=lambda name: name not in known):  # whole ids first
        candidates = [name] if name in known else by_end.get(name, [])
        if len(candidates) == 1 and candidates[0] not in matched:
            matched[candidates[0]] = name
        else:
            unmatched.append(name)
            ambiguous += [name] if len(candidates) > 1 else []
    return matched, unmatched, ambiguous


def _spec(args: argparse.Namespace, found: Readers, names: Mapping[str, str]) -> columns.Spec:
    """Fields as of an extracted pose column, as far as the source has them; joints as of the first good clip."""
    for name in names.values():
        try:
            people = found[name]()
            break
        except SkeletonError as e:
            reason = f"{name}: {e}"
    else:
        raise CatalogError(f"{args.src}: no clip in it can be used; the last one: {reason}")
    whole, joints = pose.schema(partial=False), people.joints.shape[1]
    schema = {"pose": Feature("float32", (-1, joints, 3)), "people": Feature("float32", (-1, joints, 3))}
    schema |= {key: whole[key] for key in ("box", "frame") if key == "frame" or args.kind == "vpd"}
    schema |= {"size_px": whole["size_px"]} if args.kind == "pyskl" else {}
    source = {"kind": args.kind, "file": args.src.name, "sha256": _hash(args.src)}
    num_shards = column_run.default_num_shards(schema, len(names), 1)
    return columns.Spec(
        args.name, schema, num_shards, f"preprocessing.import_skeletons {args.kind}", source, licence=args.licence
    )


def _hash(source: Path) -> str:
    return weights_hash(source) if source.is_file() else folder_hash(source, "**/coco_keypoints.json.gz")


def _write(
    writer: column_writer.ShardWriter, clip_id: str, read: Callable[[], People] | None, spec: columns.Spec
) -> None:
    if read is None:
        writer.fail(clip_id, "import", "the source has no skeletons of this clip")
        return
    try:
        writer.write(clip_id, {k: v for k, v in _record(read()).items() if k in spec.schema})
    except (SkeletonError, RecordError) as e:
        writer.fail(clip_id, "import", str(e))


def _record(people: People) -> dict[str, Any]:
    return {
        "pose": pose.choose(people.joints, people.frame, people.num_frames),
        "people": people.joints,
        "box": people.box,
        "frame": people.frame.astype(np.int32),
        "size_px": np.array(people.size_px, np.int32),
    }


if __name__ == "__main__":
    sys.exit(main())
