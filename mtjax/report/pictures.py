"""Pictures of a dataset's clips, for all sections: the images of a column, found, decoded and chosen by time."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mtjax.data.columns import Column, list_columns
from mtjax.lookup import ConfigError
from mtjax.modalities import images
from mtjax.modalities.video_clips import item_times
from mtjax.records import CorruptRecord

FRAMES = "frames"  # the column of pictures, if the dataset has one
PICTURE_PX = (128, 160)  # (h, w): no picture is drawn larger


class Pictures:
    """The images of a dataset's clips, by clip id and time.

    Raises:
      ConfigError: none of the columns named is there with JPEG images. ColumnError: it cannot be read.
    """

    def __init__(self, root: str | Path, names: Sequence[str] = (FRAMES,)):
        there = [Column(root, name) for name in names if name in list_columns(root)]
        fields = [(column, field) for column in there for field, of in column.spec.schema.items() if of.dtype == "jpeg"]
        if not fields:
            raise ConfigError(
                f"{root} has no images in a column {' or '.join(map(repr, names))}; `mtjax extract frames {root}` makes one"
            )
        self.column, self.field = fields[0]

    @property
    def name(self) -> str:
        """Of the column."""
        return self.column.spec.name

    def has(self, clip_ids: Iterable[str]) -> np.ndarray:
        """bool [clips]: which have a record."""
        return self.column.rows(clip_ids) >= 0

    def chosen(self, clip_id: str, which: Callable[[np.ndarray], Sequence[int]]) -> tuple[list[np.ndarray], np.ndarray]:
        """Some pictures of a clip that has a record, each uint8 [h w 3], and the times of all its images, float64 seconds.

        Args:
          which: times [t] → numbers of those wanted.

        Raises:
          CorruptRecord: an image cannot be decoded, or there is none; names the clip.
        """
        try:
            record = self.column.read(self.column.rows([clip_id]))[0]
            stored = record[self.field]
            if not stored:
                raise CorruptRecord("no image")
            times = item_times(record, self.field)
            return [images.decode(stored[i], "RGB", at_least=PICTURE_PX) for i in which(times)], times
        except CorruptRecord as e:
            raise CorruptRecord(f"{self.column.directory}: clip {clip_id!r}, {self.field!r}: {e}") from None

    def evenly(self, clip_id: str, most: int) -> tuple[np.ndarray, ...]:
        """At most so many pictures, evenly spaced; () of a clip without a record. Raises what `chosen` does."""
        if clip_id not in self.column:
            return ()
        return tuple(self.chosen(clip_id, lambda times: evenly(len(times), most))[0])

    def nearest(self, clip_id: str, time_s: float) -> np.ndarray | None:
        """The picture nearest to a time; None of a clip that has none, or a damaged one."""
        if clip_id not in self.column:
            return None
        try:
            return self.chosen(clip_id, lambda times: [int(np.abs(times - time_s).argmin())])[0][0]
        except CorruptRecord:
            return None


def evenly(frames: int, shown: int) -> list[int]:
    """Frames at the middles of `shown` equal parts of a clip; each frame once if there are fewer."""
    shown = min(frames, shown)
    return [(2 * i + 1) * frames // (2 * shown) for i in range(shown)]
