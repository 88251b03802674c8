"""Attention over time under the frames of a clip: what a teacher that pools rows looked at (motion_guidance.md §2)."""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from mtjax import lookup
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.columns import Column, ColumnError, list_columns
from mtjax.evaluators import top1
from mtjax.modalities import motion_features
from mtjax.modalities.pose import Pose
from mtjax.report import charts
from mtjax.report.found import Context
from mtjax.report.page import Section
from mtjax.report.pictures import FRAMES, Pictures, evenly
from mtjax.run.evaluation import ROWS
from mtjax.run.results import Result
from mtjax.types import Rows

MAX_CLIPS = 8
SHOWN = 8  # frames of a clip
Of = TypeVar("Of")


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip to draw: its position in the rows, true class, answer and the answer's probability."""

    row: int
    label: int
    predicted: int
    confidence: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is known of a clip besides its attention.

    Attributes:
      pictures: of the `frames` column, evenly spaced; () if there is none.
      pose: float32 [t joints 3], None without a readable pose column.
    """

    pictures: tuple[np.ndarray, ...]
    pose: np.ndarray | None


def sections(run: Result) -> list[Section]:
    """One section for each eval whose rows hold attention; none for a run without."""
    out = []
    for path in sorted((run.workdir / ROWS).glob("*.npz")):
        with np.load(path) as file:
            if "attention" not in file or "probs" not in file:
                continue
            rows = dict(file)
        title = f"Attention over time, {run.workdir.name}, {path.stem}"
        try:
            catalog, source = run.catalog(), Source(run)
        except (CatalogError, ColumnError, lookup.ConfigError) as e:  # a run may have come without its dataset
            out.append(Section(title, (f"Not drawn: {e}",)))
            continue
        names = run.results["class_names"]
        chosen = examples(rows)
        plots = [(f"attention, {names[e.label]}", strip(e, rows, names, catalog, source)) for e in chosen]
        wrong = sum(not e.right for e in chosen)
        note = (
            f"{len(plots)} clips, at most one a class, {wrong} of them answered wrongly (red). Blue: attention of each row at "
            "its frame; dotted: the same for all; grey: mean speed of the joints relative to the shoulders, scaled to its largest."
        )
        out.append(Section(title, (note,) if plots else ("No labelled clip has attention.",), tuple(plots)))
    return out


def examples(rows: Rows, most: int = MAX_CLIPS) -> list[Example]:
    """Which clips to draw: `right_and_wrong` of the most confident. A clip without attention (nothing observed) is never drawn."""
    probs, labels = top1.labelled(rows)
    place = np.flatnonzero(rows["label"] >= 0)
    seen = rows["attention"][place].sum(1) > 0
    # Stable in the order of the rows; the most confident first.
    order = [int(i) for i in np.argsort(-probs.max(1), kind="stable") if seen[i]]
    found = [Example(int(place[i]), int(labels[i]), int(probs[i].argmax()), float(probs[i].max())) for i in order]
    return right_and_wrong(found, most)


def right_and_wrong(found: Sequence[Of], most: int) -> list[Of]:
    """Some of the examples, which have a `label` and whether they are `right`: classes evenly spaced, one each, by turns the
    first wrong and right one.

    If all chosen are right although some example is wrong, or the other way round, the first one of that kind takes the last
    place (of its own class if that was chosen).
    """
    classes = sorted({e.label for e in found})
    if len(classes) > most:
        classes = [classes[i * len(classes) // most] for i in range(most)]
    chosen = []
    for number, label in enumerate(classes):
        of_class = [e for e in found if e.label == label]
        chosen.append(next((e for e in of_class if e.right == bool(number % 2)), of_class[0]))
    for right in (True, False):
        missing = next((e for e in found if e.right == right), None)
        if chosen and missing and not any(e.right == right for e in chosen):
            if any(e.label == missing.label for e in chosen) and len(chosen) > 1:
                chosen = [e for e in chosen if e.label != missing.label]
            chosen = [*chosen[: most - 1], missing]
    return sorted(chosen, key=lambda e: e.label)


class Source:
    """Pictures and poses of a run's clips.

    Raises:
      ConfigError, ColumnError: neither a `frames` column nor a pose column can be read.
    """

    def __init__(self, run: Result):
        data = lookup.build("modalities", run.config["data"])
        self.pictures = Pictures(data.root) if FRAMES in list_columns(data.root) else None
        self.data = data if isinstance(data, Pose) else None
        self.poses = Column(data.root, data.column) if self.data else None
        if self.pictures is None and self.poses is None:
            raise lookup.ConfigError(f"{data.root} has no column {FRAMES!r}, and the run reads no poses")

    def read(self, clip_id: str) -> Clip:
        """Raises CorruptRecord for a damaged record."""
        pictures, pose = () if self.pictures is None else self.pictures.evenly(clip_id, SHOWN), None
        if self.poses is not None and clip_id in self.poses:
            pose = np.asarray(self.poses.read(self.poses.rows([clip_id]))[0][self.data.field])
        return Clip(pictures, pose)


def speed(pose: np.ndarray, data: Pose) -> np.ndarray:
    """float32 [t]: mean over the joints seen of their speed as the teacher reads it, relative to the shoulders and so without
    the camera's motion; NaN for a frame that gives it nothing."""
    found = motion_features.motion(
        jnp.asarray(pose[None], jnp.float32), jnp.ones((1, len(pose)), bool), data.body,
        min_score=data.min_score, min_visible=data.min_visible, min_scale=data.min_scale, scale=data.scale,
    )  # fmt: skip
    seen = np.asarray(found.seen[0])
    total = np.where(seen, np.asarray(found.features[0])[:, 2::3], 0).sum(1)
    return np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), np.nan).astype(np.float32)


def curve(rows: Rows, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames, attention) of one clip's real rows, in order of time."""
    frame, attention = rows["row_frame"][row], rows["attention"][row]
    real = frame >= 0
    order = np.argsort(frame[real], kind="stable")
    return frame[real][order], attention[real][order]


def pieces(frame: np.ndarray) -> list[slice]:
    """Where frames follow one another at their usual distance: a line over a gap would show attention that there was not."""
    step = np.diff(frame)
    cuts = np.flatnonzero(step > 2 * np.median(step)) + 1 if len(step) else []
    edges = [0, *cuts, len(frame)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def strip(example: Example, rows: Rows, names: list[str], catalog: Catalog, source: Source) -> str:
    """The frames of a clip, evenly spaced in time, over its attention."""
    listed = catalog.clips[int(rows["clip"][example.row])]
    clip = source.read(listed.id)
    frame, attention = curve(rows, example.row)
    length = len(clip.pose) if clip.pose is not None else int(frame.max()) + 1
    tall = clip.pictures[0].shape[0] / clip.pictures[0].shape[1] / len(clip.pictures) if clip.pictures else 0.2
    top, bottom, figure = _axes(tall)
    if clip.pictures:
        _draw_pictures(top, clip.pictures, length)
    elif clip.pose is not None:
        _draw_skeletons(top, clip.pose, source.data, tall)
    if clip.pose is not None:
        moving = speed(clip.pose, source.data)
        if np.nan_to_num(moving).max(initial=0) > 0:
            bottom.fill_between(np.arange(length), moving / np.nanmax(moving) * attention.max(), color="0.87")
    for piece in pieces(frame):
        bottom.plot(frame[piece], attention[piece], ".-", color="tab:blue", markersize=4)
    bottom.axhline(1 / len(frame), color="tab:blue", linewidth=0.8, linestyle=":")
    bottom.set_ylim(0, None)
    bottom.set_xlabel("frame")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    bottom.set_ylabel("attention")
    for axis in (top, bottom):
        axis.set_xlim(-0.5, length - 0.5)
    said = f"true {names[example.label]}, answered {names[example.predicted]} ({example.confidence:.0%}), {listed.id}"
    top.set_title(said, fontsize=10, color="k" if example.right else "tab:red")
    return charts.png(figure)


def _axes(tall: float) -> tuple[plt.Axes, plt.Axes, plt.Figure]:
    """Pictures above a curve, over the same time; `tall`: height of the row of pictures in units of its width."""
    width, curve_in = 6.0, 1.2  # inches
    height = width * tall + curve_in + 0.1
    figure = plt.figure(figsize=(width, height))
    top = figure.add_axes((0, 1 - width * tall / height, 1, width * tall / height))
    top.axis("off")
    return top, figure.add_axes((0, 0, 1, curve_in / height)), figure


def _draw_pictures(axis: plt.Axes, pictures: tuple[np.ndarray, ...], length: int) -> None:
    """Side by side, each over the part of the time axis that it stands for."""
    width = length / len(pictures)
    for i, picture in enumerate(pictures):
        left = i * width - 0.5
        axis.imshow(picture, extent=(left + 0.02 * width, left + 0.98 * width, 0, 1), aspect="auto")
    axis.set_ylim(0, 1)


def _draw_skeletons(axis: plt.Axes, pose: np.ndarray, data: Pose, tall: float) -> None:
    """Limbs of evenly spaced frames, each over its time, all to the scale of the whole clip; y of an image points down."""
    visible = pose[..., 2] >= data.min_score
    if not visible.any():
        return
    shown = evenly(len(pose), SHOWN)
    width = len(pose) / len(shown)
    low, high = pose[visible][:, :2].min(0), pose[visible][:, :2].max(0)
    centre, size = (low + high) / 2, np.maximum(high - low, 1e-6)
    span = 1.1 * max(size[1], tall * len(shown) * size[0])  # of y, so that the widest frame fits its part of the time
    frames_a_unit = len(pose) * tall / span  # as long in x as a unit is in y
    for i, t in enumerate(shown):
        x = (i + 0.5) * width - 0.5 + (pose[t, :, 0] - centre[0]) * frames_a_unit
        for a, b in data.body.limb_indices:
            if visible[t, a] and visible[t, b]:
                axis.plot(x[[a, b]], pose[t, [a, b], 1], color="k", linewidth=1.2, solid_capstyle="round")
    axis.set_ylim(centre[1] + span / 2, centre[1] - span / 2)


ORDER = 50


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`. It has none."""


def make(context: Context) -> list[Section]:
    """See `found`."""
    return [section for group in context.groups for section in sections(group.runs[0])]
