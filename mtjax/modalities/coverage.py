"""How much of a dataset a pose column sees: `mtjax data coverage`."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mtjax.data import summary
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.columns import Column, ColumnError
from mtjax.modalities.skeletons import Skeleton

HEADER = ("clips", "with a record", "with a person", "frames", "with a person", "valid", "clips without valid")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one record shows.

    Attributes:
      frames: of the clip. people: those with a person. valid: those that give motion features (`valid_frames`).
    """

    frames: int
    people: int
    valid: int


def valid_frames(pose: np.ndarray, skeleton: Skeleton, min_score: float, min_visible: int) -> np.ndarray:
    """bool [t]: frames of `pose` [t n 3] (x, y, score) with enough visible joints, both shoulders among them.

    As `motion_features.motion` has it (motion_guidance.md §1), but for the distance between the shoulders.
    """
    visible = pose[..., 2] >= min_score
    return (visible.sum(axis=1) >= min_visible) & visible[:, list(skeleton.shoulder_indices)].all(axis=1)


def measure(
    column: Column,
    field: str,
    skeleton: Skeleton,
    *,
    min_score: float,
    min_visible: int,
    joint_names: Sequence[str] = (),
) -> dict[str, Seen]:
    """Reads a pose column once: clip id → what its record shows.

    Args:
      joint_names: of the dataset, where it names them.

    Raises:
      ColumnError: the field is not one of poses of this skeleton.
    """
    schema, joints = column.spec.schema, skeleton.joints
    shape = schema[field].shape if field in schema else ()
    if len(shape) != 3 or shape[1:] != (len(joints), 3):
        found = f"field {field!r} of shape {shape}" if field in schema else f"fields {sorted(schema)}"
        raise ColumnError(f"column {column.spec.name!r}: needs a field [t, {len(joints)}, 3] (--field), found {found}")
    if joint_names and tuple(joint_names) != joints:
        raise ColumnError(f"the dataset's joints are {tuple(joint_names)}, those of --skeleton {joints}")
    seen: dict[str, Seen] = {}
    for clip_id, record in zip(column.ids.tolist(), column.scan(), strict=True):
        pose = record[field]
        people = int((pose[..., 2] > 0).any(axis=1).sum())
        seen[clip_id] = Seen(len(pose), people, int(valid_frames(pose, skeleton, min_score, min_visible).sum()))
    return seen


def row(clips: Iterable[Clip], seen: dict[str, Seen]) -> tuple[str, ...]:
    """The cells of HEADER for some clips; shares of frames are of those of the clips with a record."""
    clips = list(clips)
    there = [seen[c.id] for c in clips if c.id in seen]
    frames = sum(s.frames for s in there)
    return (
        str(len(clips)),
        share(len(there), len(clips)),
        share(sum(s.people > 0 for s in there), len(clips)),
        str(frames),
        share(sum(s.people for s in there), frames),
        share(sum(s.valid for s in there), frames),
        str(sum(c.id not in seen or not seen[c.id].valid for c in clips)),
    )


def share(part: int, whole: int) -> str:
    """ "3 (25.0%)"."""
    return f"{part} ({part / whole:.1%})" if whole else "0"


def print_coverage(
    catalog: Catalog, title: str, header: Sequence[str], row: Callable[[list[Clip]], Sequence[str]]
) -> None:
    """A row for each split, then one for each class of each split; `row` gives the cells of `header` for some clips."""
    members = {split: [c for c in catalog.clips if split in c.splits] for split in catalog.splits}
    summary.print_table(title, ("split", *header), [(s, *row(clips)) for s, clips in members.items()])
    rows = []
    for split, clips in members.items():
        for label in [*catalog.class_names, ""]:
            if of_label := [c for c in clips if c.label == label]:
                rows.append((split, label or "(unlabelled)", *row(of_label)))
    summary.print_table("Classes", ("split", "class", *header), rows, left=2)
