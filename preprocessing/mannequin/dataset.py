"""`mannequin`: the embedded dataset, a procedural world of people whose actions only motion tells apart.

    mtjax mannequin OUT --clips=2400 --seed=0 [--frames] [--contact_sheet=sheet.png]

17-joint COCO figures perform 16 actions under varied bodies, viewpoints, rhythms, phases, camera shake and occluders.
What a clip looks like is drawn from a stream of random numbers that never sees its class.

Columns: `pose` (keypoints), `tracks` (points on the body, as from a tracker) and, on demand, `frames` (JPEG).
Splits: `train`, `test`, and `test_shift`, which looks different (see `mannequin_look`) and moves alike; about 70, 15
and 15 %, with no person in two of them. Clip `i` shows person `i // 16` doing action `i % 16` and depends on the seed
and `i` alone, so a larger dataset begins with the smaller one. The same arguments give the same bytes (on one machine:
the last bit of a sine is the processor's own).
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.command.errors import Missing
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, CatalogError, Clip
from mtjax.records import Feature
from preprocessing.mannequin import scene as mannequin_scene
from preprocessing.mannequin.actions import CLASSES, DURATION_S
from preprocessing.mannequin.body import JOINTS, Body
from preprocessing.mannequin.look import Look
from preprocessing.mannequin.scene import Scene

VERSION = "1.0"  # of the world: raise it with any change that changes a clip
LICENCE = "Apache-2.0 (generated)"
NUM_SHARDS = 8
# Split of person `p`: the entry at `p % 20`. The first three cover all splits, and any prefix is nearly 70/15/15.
SPLIT_CYCLE = ("train", "test", "test_shift", *("train",) * 5, "test", "test_shift", *("train",) * 5)
SPLIT_CYCLE += ("test", "test_shift", *("train",) * 3)
MIN_CLIPS = 3 * len(CLASSES)
# Streams of random numbers: none depends on what another one drew.
BODY, MOTION, VIEW, LOOK, TRACKER, DETECTOR = range(6)


@dataclasses.dataclass(frozen=True)
class World:
    """The parameters of a dataset, and each of its clips.

    Attributes:
      clips: over all splits. seed: of everything. frames_per_clip: over 2 s. points: tracked. size_px: of a side.
    """

    clips: int
    seed: int
    frames_per_clip: int = 32
    points: int = 60
    size_px: int = 128

    def __post_init__(self):
        least = {"clips": MIN_CLIPS, "seed": 0, "frames_per_clip": 4, "points": 1, "size_px": 32}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise CatalogError(f"mannequin: {name} must be at least {low}, got {value}")

    @property
    def fps(self) -> float:
        return self.frames_per_clip / DURATION_S

    @property
    def parameters(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self)}

    def split(self, index: int) -> str:
        return SPLIT_CYCLE[index // len(CLASSES) % len(SPLIT_CYCLE)]

    def rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, index))

    def catalog(self, root: Path) -> Catalog:
        size = {"fps": self.fps, "width": self.size_px, "height": self.size_px, "frames": self.frames_per_clip}
        clips = []
        for i in range(self.clips):
            subject, action = divmod(i, len(CLASSES))
            clips.append(Clip(clip_id(i), (self.split(i),), CLASSES[action], group=f"subject-{subject:05d}", **size))
        info = {"source": "procedural", "joint_names": list(JOINTS), "generator": self.parameters, "licence": LICENCE}
        return Catalog(root, "mannequin", VERSION, CLASSES, tuple(clips), info)

    def look(self, index: int) -> Look:
        return Look.draw(self.rng(LOOK, index), shifted=self.split(index) == "test_shift")

    def scene(self, index: int, label: str = "") -> Scene:
        """The geometry of a clip; `label` makes the same person, seen by the same camera, do something else."""
        body = Body.draw(self.rng(BODY, index // len(CLASSES)))
        motion, view = self.rng(MOTION, index), self.rng(VIEW, index)
        label = label or CLASSES[index % len(CLASSES)]
        return mannequin_scene.make_scene(label, self.frames_per_clip, body, self.look(index).girth, motion, view)

    def render(self, index: int, label: str = "") -> np.ndarray:
        """uint8 RGB [t, size_px, size_px, 3]."""
        return _renderer().render(self.scene(index, label), self.look(index), self.size_px)

    def record(self, index: int, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Values of some columns of a clip."""
        scene, values = self.scene(index), {}
        if "pose" in names:
            values["pose"] = mannequin_scene.pose(scene, self.rng(DETECTOR, index), self.size_px)
        if "tracks" in names:
            values["tracks"] = mannequin_scene.tracks(scene, self.rng(TRACKER, index), self.points, self.size_px)
        if "frames" in names:
            values["frames"] = _renderer().encode(_renderer().render(scene, self.look(index), self.size_px))
        video = {"size_px": np.full(2, self.size_px, np.int32), "fps": np.float32(self.fps)}
        return {name: {name: value, **video} for name, value in values.items()}

    def spec(self, name: str) -> columns.Spec:
        """Of the column `pose`, `tracks` or `frames`, each with one field of its own name, `size_px` and `fps`."""
        own = {
            "pose": Feature("float32", (self.frames_per_clip, len(JOINTS), 3)),  # x_px, y_px, score
            "tracks": Feature("float16", (self.frames_per_clip, self.points, 3)),  # x_unit, y_unit, occluded
            "frames": Feature("jpeg", (-1,)),
        }
        schema = {name: own[name], "size_px": Feature("int32", (2,)), "fps": Feature("float32")}
        return columns.Spec(name, schema, NUM_SHARDS, "preprocessing.mannequin", self.parameters, licence=LICENCE)


def clip_id(index: int) -> str:
    return f"mannequin-{index:06d}"


def _renderer():
    try:
        from preprocessing.mannequin import render as mannequin_render
    except ImportError as e:
        raise Missing(f"drawing frames needs OpenCV and simplejpeg ({e}): pip install 'mtjax[video]'") from None
    return mannequin_render


def generate(
    out: str | os.PathLike,
    *,
    clips: int,
    seed: int,
    frames: bool = False,
    frames_per_clip: int = 32,
    points: int = 60,
    size_px: int = 128,
) -> Path:
    """Makes the dataset, or what is missing of it: at once when it is finished, resumed after a kill.

    Args:
      clips: over all splits, at least 48. frames: also the `frames` column, about ten times the time of the others.

    Returns:
      the dataset's root, `out`.

    Raises:
      CatalogError: `out` holds another dataset or one with other parameters (which are named), or a value is too small.
      ImportError: `frames` without OpenCV and simplejpeg.
    """
    root, world = Path(out), World(clips, seed, frames_per_clip, points, size_px)
    wanted = ("pose", "tracks", "frames") if frames else ("pose", "tracks")
    if _missing(root, world, wanted):
        if frames:
            _renderer()  # fail before the first clip
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):  # another process may have made it while this one waited
            if missing := _missing(root, world, wanted):
                _write(root, world, missing)
    return root


def _missing(root: Path, world: World, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The columns to be made; refuses a folder that belongs to something else."""
    if not (root / "dataset.json").is_file():
        return wanted
    there = json.loads((root / "dataset.json").read_text(encoding="utf-8")).get("generator", {})
    if not there:
        raise CatalogError(f"{root} holds another dataset; choose an empty folder for mannequin")
    if different := [
        f"{k} is {there.get(k)} there, {v} here" for k, v in world.parameters.items() if there.get(k) != v
    ]:
        shown = ", ".join(different)
        raise CatalogError(f"{root} holds a mannequin dataset with other parameters: {shown}; name another folder")
    finished = columns.list_columns(root)
    return tuple(name for name in wanted if name not in finished)


@contextlib.contextmanager
def _locked(root: Path):
    """One generating process at a time; the kernel drops the lock of a killed one."""
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(root: Path, world: World, names: tuple[str, ...]) -> None:
    """The catalog, then the columns side by side, so that each scene is computed once."""
    world.catalog(root).save()
    index_of = {clip_id(i): i for i in range(world.clips)}
    specs = {name: world.spec(name) for name in names}
    folders = {name: column_writer.create(root, spec) for name, spec in specs.items()}
    todo = {name: column_writer.pending(folders[name], spec, list(index_of)) for name, spec in specs.items()}
    for shard in range(NUM_SHARDS):
        ids = {name: shards[shard] for name, shards in todo.items() if shard in shards}
        if not ids:
            continue
        with contextlib.ExitStack() as stack:
            writers = {
                name: stack.enter_context(column_writer.shard_writer(folders[name], specs[name], shard, ids[name]))
                for name in ids
            }
            for clip in next(iter(ids.values())):  # the same for each column
                for name, values in world.record(index_of[clip], tuple(writers)).items():
                    writers[name].write(clip, values)
    for folder in folders.values():
        column_writer.finish(folder)


def contact_sheet(root: str | os.PathLike, path: str | os.PathLike, split: str = "test") -> None:
    """Draws a PNG: a row for each action, of different people where there are enough, 8 frames in time order."""
    catalog = Catalog.load(root)
    world = World(**{k: v for k, v in catalog.info["generator"].items() if k != "version"})
    rows = []
    for action, label in enumerate(CLASSES):
        clips = [i for i, clip in enumerate(catalog.clips) if clip.label == label and split in clip.splits]
        rows.append((label, world.render(clips[action % len(clips)])))
    _renderer().write_sheet(path, rows)
