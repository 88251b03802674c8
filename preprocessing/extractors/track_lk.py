"""The `lk` tracker: pyramidal Lucas–Kanade with a forward–backward check. CPU, no weights, the default.

Bouguet, "Pyramidal implementation of the Lucas Kanade feature tracker", 2000; the forward–backward error is
Kalal et al., ICPR 2010. A point is visible while three things hold, and occluded from the frame on where one fails:
it lies inside the frame, tracking it back returns to where it came from, and the patch around it still looks as it did
one frame and `LAG` frames ago (which catches the slow edge of an occluder: it pushes a point along in small steps).

A lost point can be found again within `patience` frames and is lost for good afterwards: it is sought from the last
frame that showed it, starting where the visible points' median motion would have carried it. Until it is found, that
place is the guess which the column stores with occluded = 1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

WORKING_SIDE_PX = 256  # frames are tracked at this short side: more pixels cost time and bring nothing LK can use
PATCH_PX = 11
LAG = 4
SAME_PATCH = 0.7  # least correlation with the patch one frame ago; the four were chosen on scenes with a known occluder
STILL_SAME_PATCH = 0.6  # and LAG frames ago
FOUND_PATCH = 0.85  # stricter for a lost point, which a look-alike next door may capture
CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)


@dataclasses.dataclass(frozen=True)
class LucasKanade:
    """Tracks points from frame 0 on; the module's docstring says what counts as occluded.

    Attributes:
      threshold_px: largest forward–backward error, at working size.
      patience: a lost point is sought again 2, 4, 8 ... frames, up to this many, after it was last seen; 0: never.
    """

    threshold_px: float = 1.0
    patience: int = 16

    name: ClassVar[str] = "lk"
    weights: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    batch_size: ClassVar[int] = 1
    short_side: ClassVar[int] = WORKING_SIDE_PX

    @property
    def parameters(self) -> dict[str, Any]:
        return {"version": 1, "working_side_px": WORKING_SIDE_PX, **dataclasses.asdict(self)}

    def track(self, videos: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tracks one set of points through each video.

        Args:
          videos: uint8 [t h w 3] each.
          points: float32 [n 2] each, (x, y) in pixels of frame 0, pixel centres at whole numbers.

        Returns:
          For each video float32 [t n 2] in the same pixels, and bool [t n]: True where occluded.
        """
        return [self._track_one(frames, xy) for frames, xy in zip(videos, points, strict=True)]

    def _track_one(self, frames: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grey, scale = _working_frames(frames)
        shape = (len(frames), len(points))
        xy, occluded = np.empty((*shape, 2), np.float32), np.zeros(shape, bool)
        patches = np.zeros((*shape, PATCH_PX**2), np.float32)
        xy[0] = (points + 0.5) * scale - 0.5  # resizing keeps the frame's corners, not its corner pixels' centres
        patches[0] = _patches(grey[0], xy[0])
        last_seen, found_again = np.zeros((2, len(points)), np.int64)
        gaps = {2**i for i in range(1, self.patience.bit_length())}

        def look(source: int, t: int, rows: np.ndarray, references: Sequence[tuple[np.ndarray | int, float]]):
            """Seeks the points `rows` of frame `source` in frame t, starting at xy[t]; returns the rows believed."""
            position, good = self._flow(grey[source], grey[t], xy[source, rows], xy[t, rows])
            patch = _patches(grey[t], position)
            for reference, least in references:
                good &= _correlation(patch, patches[reference, rows]) >= least
            seen = rows[good]
            xy[t, seen], patches[t, seen], occluded[t, seen], last_seen[seen] = position[good], patch[good], False, t
            return seen

        for t in range(1, len(frames)):
            xy[t], occluded[t] = xy[t - 1], True
            rows = np.flatnonzero(last_seen == t - 1)
            before = np.maximum(t - LAG, found_again[rows])
            seen = look(t - 1, t, rows, [(t - 1, SAME_PATCH), (before, STILL_SAME_PATCH)]) if len(rows) else rows
            lost = np.flatnonzero(occluded[t])
            if len(seen):
                xy[t, lost] += np.median(xy[t, seen] - xy[t - 1, seen], axis=0)
            for source in np.unique(last_seen[lost]):
                if (t - source) in gaps:
                    seen = look(source, t, lost[last_seen[lost] == source], [(source, FOUND_PATCH)])
                    found_again[seen] = t
        return (xy + 0.5) / scale - 0.5, occluded

    def _flow(
        self, before: np.ndarray, after: np.ndarray, xy: np.ndarray, guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the points `xy` [n 2] of `before` are in `after`, and bool [n]: inside the frame, and consistent."""
        height, width = before.shape
        # OpenCV's default of 21 pixels, and an eighth of the short side of smaller frames, where 21 would span objects.
        side = 2 * int(np.clip(min(height, width) // 16, 5, 10)) + 1
        options = {"winSize": (side, side), "maxLevel": 3, "criteria": CRITERIA}
        flags = cv2.OPTFLOW_USE_INITIAL_FLOW
        found, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, xy, guess.copy(), flags=flags, **options)
        # No guess on the way back: started where it should end, it would agree too easily.
        back, ok_back, _ = cv2.calcOpticalFlowPyrLK(after, before, found, None, **options)
        good = (ok.ravel() == 1) & (ok_back.ravel() == 1) & (np.linalg.norm(back - xy, axis=1) <= self.threshold_px)
        return found, good & ((found >= 0) & (found <= (width - 1, height - 1))).all(axis=1)


def _working_frames(frames: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Grey frames [h w] whose short side is at most WORKING_SIDE_PX, and their (x, y) scale float32 [2]."""
    height, width = frames.shape[1:3]
    factor = min(1.0, WORKING_SIDE_PX / min(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    if size != (width, height):
        grey = [cv2.resize(g, size, interpolation=cv2.INTER_AREA) for g in grey]
    return grey, np.array([size[0] / width, size[1] / height], np.float32)


def _patches(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """float32 [n PATCH_PX²]: the pixels around each point, zero mean."""
    offsets = np.arange(PATCH_PX, dtype=np.float32) - PATCH_PX // 2
    # Lost points may be anywhere; the border's pixels continue outside, where remap wants small numbers.
    centre = np.clip(xy, -PATCH_PX, np.array(image.shape[::-1], np.float32) + PATCH_PX)
    grid = np.empty((len(xy), PATCH_PX, PATCH_PX, 2), np.float32)
    grid[..., 0] = centre[:, 0, None, None] + offsets
    grid[..., 1] = centre[:, 1, None, None] + offsets[:, None]
    grid = grid.reshape(-1, PATCH_PX, 2)
    pixels = cv2.remap(image, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    pixels = pixels.reshape(len(xy), PATCH_PX**2).astype(np.float32)
    return pixels - pixels.mean(axis=1, keepdims=True)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Normalised cross-correlation [n] of zero-mean patches [n p]; 1 where both are flat, for want of evidence."""
    energy = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(energy > a.shape[1], (a * b).sum(axis=1) / np.maximum(energy, 1.0), 1.0)
