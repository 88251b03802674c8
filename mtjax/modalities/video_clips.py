"""Clips of a video whose frames or flow fields lie as JPEG in a column: drawn and cropped on the host (motionfit.md §2, §5, §7)."""

import copy
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, Positive, Share
from mtjax.modalities import clip_sampling, images
from mtjax.modalities.one_column import OneColumn
from mtjax.records import CorruptRecord

NO_LABEL = -1
PADDING_S = -1.0  # `centre_s` of a view that only fills the batch


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a training clip.

    Attributes:
      flip: probability of the mirror image of all clips of a video. 0.0 disables. Never for labels with a direction.
    """

    flip: Share = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoClips(OneColumn):
    """What RGB clips and clips of flow share. Batches hold, beside the clips under the modality's own name,

    - `observed` bool [b]: False for a video without a record, whose clips are all one colour;
    - `centre_s` float32 [b k]: the time of each clip's middle;
    - with `ordered`, `in_order` bool [b]: whether the video was long enough for clips that do not overlap;
    - with `pseudo`, labels by time: in training `label` [b k] and the labels before and after each clip, `label_before` and
      `label_after` [b k], -1 where the video has begun or ended. Evaluation then looks at one clip a video, the one in the
      middle, and `label` [b] is the label of its time: what is scored and selected by is what training learns, a clip and its
      own label. `dense` shows all clips, so there `label` [b] is the one of most of the video (`labels.main_label`).

    k is 1 and left out unless `clips` or `views` is above 1 or `dense` is set.

    Attributes:
      frames: t of a clip; stride: items from one of them to the next. Shorter videos are looped.
      clips: k in training, from independent random starts. views: k in evaluation, evenly spaced (`clip_sampling`); of one,
        the middle. With `pseudo` there is one, whatever is said here. dense: in evaluation all clips that begin so many items
        apart instead, 0 for none; k is that of the longest video, and what a shorter one lacks has `centre_s` -1.
      ordered: training clips follow each other, `gap` items apart.
      resize: (h, w) of a whole image, whatever that does to its aspect; size: h = w of what is cut out of it: in
        evaluation the middle, in training one square for each clip, the same in all its images.
      augment: keywords of `Augment`.
    """

    augments: ClassVar[type] = Augment
    output: ClassVar[str]
    colours: ClassVar[str]  # of an image: "RGB" or "GRAY"
    channels: ClassVar[int]  # of an item, those of its images together
    empty: ClassVar[int]  # the byte of a clip that is not there

    frames: Positive = 16
    stride: Positive = 1
    clips: Positive = 1
    views: Positive = 1
    dense: Count = 0
    ordered: bool = False
    gap: Count = 8
    resize: tuple[Positive, Positive] = (128, 171)
    size: Positive = 112

    def __post_init__(self):
        super().__post_init__()
        if self.cache == "device":
            raise InputError("config.data.cache='device': clips of videos are cut out while they are read; set 'none'")
        if min(self.resize) < self.size:
            raise InputError(f"config.data.resize={self.resize}: must be (h, w), at least size={self.size} each")
        if self.ordered and self.clips < 2:
            raise InputError("config.data.ordered: needs data.clips of 2 or more")

    # What a modality adds.

    @property
    def fields(self) -> tuple[str, ...]:
        """Lists of JPEG in the column; the i-th of each make the i-th item."""
        raise TypeError(f"{type(self).__name__} names no fields")

    # What is shared.

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.column, self.pseudo) if self.pseudo else (self.column,)

    @functools.cached_property
    def dense_views(self) -> int:
        """Views of the longest video."""
        return int(self._dense_counts(np.arange(len(self.columns[0]))).max(initial=1))

    def _dense_counts(self, records: np.ndarray) -> np.ndarray:
        """int64 [n]: views of some videos; as many as `_dense_starts` gives."""
        stored = self.columns[0].counts(self.fields[0], records)
        return np.maximum(stored - clip_sampling.extent(self.frames, self.stride), 0) // self.dense + 1

    def in_groups(self, clips: np.ndarray) -> list[tuple["VideoClips", np.ndarray]]:
        """See `Data.in_groups`. With `dense`, videos with at most 1, 2, 4, 8 … views: less than half of what is read of a group
        then is padding, and not nearly all where one video is long."""
        if not self.dense:
            return [(self, clips)]
        at = self.columns[0].rows(self.catalog.clips[row].id for row in clips)
        views = np.ones(len(clips), np.int64)  # of a clip without a record, which `missing` may keep
        views[at >= 0] = self._dense_counts(at[at >= 0])
        bound = np.minimum(2 ** np.ceil(np.log2(views)).astype(np.int64), self.dense_views)
        return [(self._with_views(int(most)), clips[bound == most]) for most in np.unique(bound)]

    def _with_views(self, most: int) -> "VideoClips":
        """This data for videos with at most so many dense views. What was opened is shared."""
        other = copy.copy(self)
        vars(other)["dense_views"] = most
        return other

    def _dense_starts(self, stored: int) -> np.ndarray:
        return np.arange(0, max(stored - clip_sampling.extent(self.frames, self.stride), 0) + 1, self.dense)

    @property
    def _seen(self) -> int:
        """Views of a video in evaluation."""
        if self.dense and self.present:
            return self.dense_views
        return 1 if self.pseudo and not self.dense else self.views

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Of evaluation; training has `clips` in place of `views`."""
        schema = self.columns[0].spec.schema if self.present else {}
        if self.present and any(schema.get(f) is None or schema[f].dtype != "jpeg" for f in self.fields):
            raise InputError(
                f"config.data.field={self.field!r}: column {self.column!r} has no JPEG images in {self.fields}, but "
                f"{sorted(schema)}; `mtjax extract` makes such columns"
            )
        lead = self._lead(self._seen)
        return {
            self.output: ((*lead, *self._clip_shape), np.dtype(np.uint8)),
            "observed": ((), np.dtype(bool)),
            "centre_s": (lead, np.dtype(np.float32)),
        }

    def fake(self, batch: int, num_classes: int) -> dict[str, np.ndarray]:
        """As training sees it: a dry run is about a training step."""
        lead = (batch, *self._lead(self.clips))
        arrays = super().fake(batch, num_classes) | {"centre_s": np.zeros(lead, np.float32)}
        if self.ordered:
            arrays["in_order"] = np.ones(batch, bool)
        if self.pseudo:
            labels = np.broadcast_to(arrays["label"].reshape(-1, *(1,) * (len(lead) - 1)), lead)
            arrays |= dict.fromkeys(("label", "label_before", "label_after"), labels)
        return arrays | {self.output: np.full((*lead, *self._clip_shape), self.empty, np.uint8)}

    @property
    def _clip_shape(self) -> tuple[int, ...]:
        return (self.frames, self.size, self.size, self.channels)

    def _lead(self, clips: int) -> tuple[int, ...]:
        return () if self.clips == self.views == 1 and not self.dense else (clips,)

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        """
        Raises:
          CorruptRecord: an image cannot be decoded, or a record has none, or more of one field than of another.
        """
        return self._clips(values, seeds, self._seen if seeds is None else self.clips)

    def views_of(self, record: dict[str, Any]) -> dict[str, np.ndarray]:
        """A record from outside of any dataset → what `decode` gives of its views, with b = 1. `dense` gives as many views as
        this video has."""
        views = len(self._dense_starts(len(record[self.fields[0]]))) if self.dense else self.views
        return dataclasses.replace(self, pseudo="")._clips([(record,)], None, views)

    def _clips(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None, k: int) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {
            self.output: np.empty((len(values), k, *self._clip_shape), np.uint8),
            "observed": np.array([v is not None for v in values], bool),
            "centre_s": np.full((len(values), k), PADDING_S, np.float32),
        }
        if self.ordered and seeds is not None:
            found["in_order"] = np.zeros(len(values), bool)
        if self.pseudo:
            found |= {name: np.full((len(values), k), NO_LABEL, np.int32) for name in LABELS}
        for i, value in enumerate(values):
            if value is None:
                found[self.output][i] = self.empty
                continue
            starts, in_order = self._show(value[0], None if seeds is None else seeds[i], found[self.output][i])
            found[self.output][i, len(starts) :] = self.empty
            centre, length = self._times(value[0], starts)
            found["centre_s"][i, : len(starts)] = centre
            if "in_order" in found:
                found["in_order"][i] = in_order
            if self.pseudo:
                for name, at in zip(LABELS, (centre, centre - length, centre + length), strict=True):
                    found[name][i, : len(starts)] = label_at(value[1], at, self._end(value[0]))
        if not self._lead(k):
            found = {name: a[:, 0] if name not in ("observed", "in_order") else a for name, a in found.items()}
        return found

    def read(self, clips, valid=None, *, train=False, seeds=None):
        """See `Data.read`; with `pseudo` the labels are those of the clips' times."""
        batch = super().read(clips, valid, train=train, seeds=seeds)
        if not self.pseudo:
            return batch
        label = batch.pop("pseudo_label")
        if seeds is None:
            middle = {} if self.dense else {"label": label.reshape(len(label))}
            return {k: v for k, v in batch.items() if k not in LABELS} | middle
        hidden = batch["label"] == NO_LABEL  # by `fraction` and the like
        for name, values in (("label", label), *((n, batch[n]) for n in LABELS[1:])):
            batch[name] = np.where(hidden.reshape(-1, *(1,) * (values.ndim - 1)), NO_LABEL, values)
        return batch

    def _show(self, record: dict[str, Any], seed: np.uint64 | None, into: np.ndarray) -> tuple[np.ndarray, bool]:
        """Writes the clips of one video [k t h w c]; their starts, and whether they follow each other without overlap.
        Only the images that are shown are decoded."""
        lists = [record[field] for field in self.fields]
        stored = len(lists[0])
        if not stored or any(len(other) != stored for other in lists[1:]):
            raise CorruptRecord(f"column {self.column!r}: {[len(x) for x in lists]} images in {self.fields}")
        extent = clip_sampling.extent(self.frames, self.stride)
        room = np.array(self.resize) - self.size
        in_order = False
        if seed is None:
            starts = self._dense_starts(stored) if self.dense else clip_sampling.even_starts(stored, extent, len(into))
            corners = np.tile(np.round(room / 2).astype(np.int64), (len(starts), 1))  # a half to even, as torchvision's
        else:
            rng = np.random.default_rng(seed)
            if self.ordered:
                starts, in_order = clip_sampling.ordered_starts(stored, extent, self.clips, self.gap, rng)
            else:
                starts = clip_sampling.random_starts(stored, extent, self.clips, rng)
            corners = rng.integers(0, room + 1, (self.clips, 2))

        items = clip_sampling.items(starts, self.frames, self.stride, stored)
        shown: dict[int, list[tuple[int, int]]] = {}  # item → where: views overlap, and a short video comes again
        for clip, times in enumerate(items.tolist()):
            for t, item in enumerate(times):
                shown.setdefault(item, []).append((clip, t))
        corners_px = [tuple(corner) for corner in corners.tolist()]
        for item, places in shown.items():
            try:
                self._cut([x[item] for x in lists], [(corners_px[clip], into[clip, t]) for clip, t in places])
            except CorruptRecord as e:
                raise CorruptRecord(f"column {self.column!r}: item {item} in {self.fields}: {e}") from None
        return starts, in_order

    def _cut(self, encoded: list[bytes], places: list[tuple[tuple[int, int], np.ndarray]]) -> None:
        """Decodes the images of one item and writes its squares: pairs of (top, left) and where to, [h w c]."""
        channels = self.channels // len(encoded)
        for i, image in enumerate(encoded):
            pixels, done = images.decode_for(image, self.colours, self.resize), {}
            for corner, into in places:
                plane = into[..., i * channels : (i + 1) * channels]
                plane[...] = (
                    done[corner] if corner in done else images.cut_square(pixels, self.resize, self.size, *corner)
                )
                done[corner] = plane

    def _times(self, record: dict[str, Any], starts: np.ndarray) -> tuple[np.ndarray, float]:
        """Seconds of the clips' middles, and from one clip to where the next one would begin."""
        times, extent = item_times(record, self.fields[0]), clip_sampling.extent(self.frames, self.stride)
        step = float(np.diff(times).mean()) if len(times) > 1 else 1.0
        return times[(starts + (extent - 1) // 2) % len(times)], extent * step

    def _end(self, record: dict[str, Any]) -> float:
        return float(item_times(record, self.fields[0])[-1])


def item_times(record: dict[str, Any], field: str) -> np.ndarray:
    """float64 seconds of the images in `field`; they are numbered where the record does not say."""
    stored = len(record[field])
    return np.asarray(record.get("times_s", np.arange(stored) / float(record.get("fps", 1.0))), np.float64)


LABELS = ("pseudo_label", "label_before", "label_after")


def label_at(record: dict[str, Any], at_s: np.ndarray, end_s: float) -> np.ndarray:
    """int32: the label of the segment that contains each time; -1 before the video begins and after it ends."""
    segment = np.searchsorted(record["start_s"], at_s, side="right") - 1
    label = np.asarray(record["label"])[np.maximum(segment, 0)]
    return np.where((at_s < 0) | (at_s > end_s), NO_LABEL, label).astype(np.int32)
