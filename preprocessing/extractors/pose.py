"""The `pose` column: every person's joints in every frame, and for each frame those of one person."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mtjax import records
from mtjax.command.errors import InputError
from preprocessing.extraction.shards import Failure
from preprocessing.extractors.pose_models import DETECTORS, JOINTS, POSES, Detector, PoseModel
from preprocessing.videos import video_clip


@dataclasses.dataclass(frozen=True)
class Poses:
    """Extracts the records of a `pose` column (a `shards.Extractor`); motion_guidance.md §1.

    A record of t frames with p persons in all, in pixels of the upright video, pixel centres at whole numbers:

    - `pose` [t 17 3] = x, y, score of the person chosen in each frame (`choose`); zeros where nobody was found;
    - `people` [p 17 3] and `box` [p 5] = x0, y0, x1, y1 (edges), score of all of them; `frame` int32 [p]: on which frame;
    - `times_s` [t]; `size_px` int32 (W, H); `fps` of the video; and `partial`, when damaged videos are allowed.

    Attributes:
      fps: frames a second; those of a slower video repeat.
      short_side: to decode at; 0 keeps the video's. RT-DETR sees 640 x 640 and ViTPose 256 x 192 whatever this is.
      min_side_px: a box that is narrower or lower than this, in pixels of the video, is dropped.
      max_persons: a frame, the best scores first.
      partial: records say whether their video is damaged.
      name: of the column; "" calls it after the pose model.
    """

    detector: Detector
    model: PoseModel
    fps: float = 25.0
    short_side: int = 720
    min_side_px: float = 10.0
    max_persons: int = 10
    partial: bool = False
    name: str = ""

    num_frames: ClassVar[int] = 0  # as many as the rate gives
    batch_size: ClassVar[int] = 1  # clip; the batches of the models are within it
    window: ClassVar[int] = 1

    def __post_init__(self):
        if not (0 < self.fps < 1000 and self.max_persons >= 1 and self.min_side_px >= 0 and self.short_side >= 0):
            raise InputError(
                f"fps {self.fps} must be above 0, max_persons {self.max_persons} at least 1, "
                f"min_side_px {self.min_side_px} and short_side {self.short_side} at least 0"
            )
        if not self.name:
            object.__setattr__(self, "name", f"pose.{self.model.kind}")

    @property
    def schema(self) -> dict[str, records.Feature]:
        return schema(self.partial)

    @property
    def parameters(self) -> dict[str, Any]:
        of_boxes = {k: getattr(self, k) for k in ("fps", "short_side", "min_side_px", "max_persons")}
        detector = {"kind": self.detector.kind, "min_score": self.detector.min_score, "half": self.detector.half}
        return {
            "version": 1,
            "detector": detector,
            "pose": {"kind": self.model.kind, "half": self.model.half},
        } | of_boxes

    @property
    def weights(self) -> str:
        return f"{self.detector.weights} {self.model.weights}"

    @property
    def licence(self) -> str:
        return "Apache-2.0"  # of both families of models as published

    def extract(self, clip_ids: Sequence[str], clips: Sequence[video_clip.Clip]) -> list[Mapping[str, Any] | Failure]:
        """See `shards.Extractor`."""
        return [self._record(clip) for clip in clips]

    def _record(self, clip: video_clip.Clip) -> dict[str, Any]:
        # A frame that repeats has its time again: it is looked at once.
        _, first, again = np.unique(clip.times_s, return_index=True, return_inverse=True)
        size, scale = np.array(clip.size_px), np.array(clip.size_px) / clip.frames.shape[2:0:-1]
        found = self.detector.detect(clip.frames[first])
        boxes = [clean_boxes(*f, clip.frames.shape[2:0:-1], self.min_side_px / scale, self.max_persons) for f in found]
        frame = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes])
        box = np.concatenate(boxes)
        people = self.model.estimate(clip.frames[first], frame, box[:, :4])
        people[..., :2] = (people[..., :2] + 0.5) * scale - 0.5  # shrinking kept edges, not the pixels' centres
        people = without_nan(people)
        box[:, :4] *= np.tile(scale, 2)
        rows = [np.flatnonzero(frame == i) for i in again]
        frame, rows = np.repeat(np.arange(len(again)), [len(r) for r in rows]), np.concatenate(rows)
        values = {
            "pose": choose(people[rows], frame, len(again)),
            "people": people[rows],
            "box": box[rows],
            "frame": frame.astype(np.int32),
            "times_s": clip.times_s,
            "size_px": size.astype(np.int32),
            "fps": np.float32(clip.fps),
        }
        return values | ({"partial": np.uint8(clip.partial)} if self.partial else {})


def schema(partial: bool) -> dict[str, records.Feature]:
    """Of a record of `Poses`."""
    fields = {
        "pose": records.Feature("float32", (-1, JOINTS, 3)),
        "people": records.Feature("float32", (-1, JOINTS, 3)),
        "box": records.Feature("float32", (-1, 5)),
        "frame": records.Feature("int32", (-1,)),
        "times_s": records.Feature("float32", (-1,)),
        "size_px": records.Feature("int32", (2,)),
        "fps": records.Feature("float32"),
    }
    return fields | ({"partial": records.Feature("uint8")} if partial else {})


def clean_boxes(
    boxes: np.ndarray, scores: np.ndarray, size: Sequence[int], min_side: Sequence[float], max_persons: int
) -> np.ndarray:
    """What can be cut out of a frame: float32 [k 5] (x0, y0, x1, y1, score), the best scores first, ties as they come.

    Args:
      boxes: [n 4], x0, y0, x1, y1 in pixels; may reach outside, be inverted or not finite. scores: [n].
      size: (w, h) of the frame, to which boxes are cut. min_side: the least width and height.
    """
    rows = np.concatenate([boxes, scores[:, None]], axis=1).astype(np.float32)
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows[:, :4] = rows[:, :4].clip(0, np.tile(size, 2))
    sides = rows[:, 2:4] - rows[:, :2]
    rows = rows[(sides > 0).all(axis=1) & (sides >= min_side).all(axis=1)]
    return rows[np.argsort(-rows[:, 4], kind="stable")[:max_persons]]


def choose(people: np.ndarray, frame: np.ndarray, num_frames: int) -> np.ndarray:
    """One person a frame: the one with the highest mean of its joint scores, the first of equals (paper 000, 4.1.1).

    Args:
      people: [p n 3], x, y, score of each joint. frame: int [p], which frame each is on.

    Returns:
      [num_frames n 3]; zeros for a frame without anybody. No identity is kept from frame to frame.
    """
    chosen = np.zeros((num_frames, *people.shape[1:]), people.dtype)
    mean = people[..., 2].mean(axis=1)
    for row in np.lexsort((-np.arange(len(people)), mean)):  # the last one written stays
        chosen[frame[row]] = people[row]
    return chosen


def without_nan(people: np.ndarray) -> np.ndarray:
    """[... 3]: a joint with any value that is not finite becomes 0, 0, 0, which is "not seen"."""
    return np.where(np.isfinite(people).all(axis=-1, keepdims=True), people, 0).astype(people.dtype)


HELP = "joints of persons"
AFTER = "who was found: mtjax data coverage {root} --column={column}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `kinds.Kind`."""
    add, published = parser.add_argument, "a folder, or owner/repository on the Hugging Face hub; default: "
    add("--detector", choices=tuple(DETECTORS), default="rt_detr")
    add("--detector_checkpoint", default="", help=published + DETECTORS["rt_detr"][2] + " or its v2")
    add("--pose", choices=tuple(POSES), default="vitpose_b")
    add("--pose_checkpoint", default="", help=published + POSES["vitpose_b"][2] + ", or --pose's own")
    add("--name", default="", help="of the column; default pose.POSE")
    add("--device", default="auto", help="PyTorch's; default cuda where there is one")
    add("--half", action="store_true", help="compute in float16 on a GPU, bfloat16 on a CPU")
    add("--fps", type=float, default=25.0, help="frames a second")
    add("--short_side", type=int, default=720, help="to decode at; 0 keeps the video's")
    add("--batch_size", type=int, default=8, help="frames a call of the detector")
    add("--person_batch", type=int, default=16, help="persons a call of the pose model")
    add("--min_score", type=float, default=0.3, help="of a person, by the detector")
    add("--min_side_px", type=float, default=10.0, help="smaller boxes are dropped")
    add("--max_persons", type=int, default=10, help="a frame, the best scores first")


def from_flags(args: argparse.Namespace) -> Poses:
    """See `kinds.Kind`."""
    shared = {"device": args.device, "half": args.half}
    limits = {"batch_size": args.batch_size, "min_score": args.min_score}
    return Poses(
        Detector(args.detector, args.detector_checkpoint, **limits, **shared),
        PoseModel(args.pose, args.pose_checkpoint, batch_size=args.person_batch, **shared),
        fps=args.fps,
        short_side=args.short_side,
        min_side_px=args.min_side_px,
        max_persons=args.max_persons,
        partial=args.allow_partial,
        name=args.name,
    )


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """See `kinds.Kind`. Checkpoints are known by their hash alone, so these are the published ones unless they are named."""
    detector, pose = parameters["detector"], parameters["pose"]
    made = {k: parameters[k] for k in ("fps", "short_side", "min_side_px", "max_persons")}
    return made | {
        "detector": detector["kind"],
        "min_score": detector["min_score"],
        "pose": pose["kind"],
        "half": pose["half"],
    }
