"""Columns of made-up tracks and of made-up videos, as large as asked, and the config of a run over tracks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from configs import movt_jester
from mtjax import records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.modalities import flow_bytes, images
from mtjax.run import plain_config

CLASSES = 27
DISTINCT = 256  # different clips; reading and training cost the same for the thousandth copy of one
SCENE_PX = (256, 342)
FALLOFF = 1.6  # of amplitude with frequency; a video of 256 × 340 pixels has about as many bytes in JPEG
FRAME_QUALITY, FLOW_QUALITY = 90, 95  # as `preprocessing.extract frames` and `flow`


class _Copies(Mapping):
    """Clip id → its record, one of a few, without holding all of them."""

    def __init__(self, clips: int, distinct: Sequence[Mapping[str, Any]]):
        self._clips, self._distinct = clips, distinct

    def __getitem__(self, clip_id: str) -> Mapping[str, Any]:
        return self._distinct[int(clip_id) % len(self._distinct)]

    def __iter__(self) -> Iterator[str]:
        return (f"{i:06d}" for i in range(self._clips))

    def __len__(self) -> int:
        return self._clips


def _write_catalog(root: Path, clips: int) -> None:
    names = tuple(f"gesture {c}" for c in range(CLASSES))
    listed = tuple(Clip(f"{i:06d}", ("train",), label=names[i % CLASSES]) for i in range(clips))
    Catalog(root, "synthetic", "1", names, listed, {}).save()


def write_dataset(root: Path, *, clips: int, frames: int = 32, points: int = 60, shards: int = 16) -> Path:
    """A dataset with split "train" and one column "tracks", float16 [frames, points, 3] a clip. Returns `root`."""
    tracks = np.random.default_rng(0).random((min(clips, DISTINCT), frames, points, 3)).astype(np.float16)
    tracks[..., 2] = tracks[..., 2] > 0.9
    _write_catalog(root, clips)
    schema = {"tracks": records.Feature("float16", (frames, points, 3))}
    values = _Copies(clips, [{"tracks": of_clip} for of_clip in tracks])
    column_writer.write_column(root, columns.Spec("tracks", schema, shards, "benchmarks"), values)
    return root


def write_videos(
    root: Path, *, videos: int, frames: int, sizes: Mapping[str, tuple[int, int]], distinct: int = 8, shards: int = 4
) -> Path:
    """A dataset with split "train" and, for each name in `sizes`, JPEG images of that size (h, w) in the columns
    "frames.NAME" and "flow.NAME". Returns `root`."""
    made = [_records(np.random.default_rng(seed), frames, sizes) for seed in range(min(videos, distinct))]
    _write_catalog(root, videos)
    for name in sizes:
        for column, fields in (("frames", ("frames",)), ("flow", ("flow_x", "flow_y"))):
            schema = {field: records.Feature("jpeg", (-1,)) for field in fields}
            values = _Copies(videos, [{field: of_size[name][field] for field in fields} for of_size in made])
            column_writer.write_column(root, columns.Spec(f"{column}.{name}", schema, shards, "benchmarks"), values)
    return root


def _records(
    rng: np.random.Generator, frames: int, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, list[bytes]]]:
    """Size → field → images of one scene."""
    out = {name: {field: [] for field in ("frames", "flow_x", "flow_y")} for name in sizes}
    for t, (picture, motion_px) in enumerate(_scene(rng, frames)):
        stored = flow_bytes.to_bytes(motion_px)
        for name, (height, width) in sizes.items():
            for field, pixels in (("frames", picture), ("flow_x", stored[..., :1]), ("flow_y", stored[..., 1:])):
                if field != "frames" and t == frames - 1:  # a video has one field less than frames
                    continue
                small = images.resized(pixels, (width, height), (0.0, 0.0, SCENE_PX[1], SCENE_PX[0]))
                colours, quality = ("RGB", FRAME_QUALITY) if field == "frames" else ("GRAY", FLOW_QUALITY)
                encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality, colours)
                out[name][field].append(encoded)
    return out


def _scene(rng: np.random.Generator, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A textured square crosses a textured background, and the camera pans: pictures uint8 [h w 3] of SCENE_PX, and the
    motion to the next one, float32 [h w 2] (x, y) in pixels."""
    (height, width), room, side = SCENE_PX, 64, 96
    background, square = (_colours(rng, h + room, w + room) for h, w in (SCENE_PX, (side, side)))
    uneven = 0.3 * np.stack([_texture(rng, *SCENE_PX) for _ in range(2)], axis=-1)  # as estimated motion is

    def path(times: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
        """int64 [t 2] (y, x) within `extent`, smooth."""
        phase, period = rng.uniform(0, 2 * np.pi, 2), rng.uniform(60, 120, 2)
        at = 0.5 + 0.5 * np.sin(phase + 2 * np.pi * times[:, None] / period)
        return (at * np.array(extent)).astype(np.int64)

    times = np.arange(frames + 1)
    camera, place = path(times, (room, room)), path(times, (height - side, width - side))
    for t in range(frames):
        (top, left), (y, x) = camera[t], place[t]
        picture = background[top : top + height, left : left + width].copy()
        picture[y : y + side, x : x + side] = square[:side, :side]
        motion = np.zeros((height, width, 2), np.float32) - (camera[t + 1] - camera[t])[::-1]
        motion[y : y + side, x : x + side] = (place[t + 1] - place[t])[::-1]
        yield picture, (motion + uneven).astype(np.float32)


def _colours(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 [h w 3]; light differs more than colour."""
    light = _texture(rng, height, width)
    planes = [light + 0.3 * _texture(rng, height, width) for _ in range(3)]
    return (128 + 50 * np.stack(planes, axis=-1)).clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float64 [h w] of mean 0 and deviation 1, its spectrum like that of natural pictures."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitude = np.maximum(frequency, 1 / max(height, width)) ** -FALLOFF
    amplitude[0, 0] = 0.0
    noise = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), s=(height, width))
    return noise / noise.std()


def jester_config(root: Path, **changes: Any) -> dict[str, Any]:
    """`configs/movt_jester.py` over tracks of `write_dataset`, without evaluations; changes are dotted paths with `__` for
    the dot."""
    config = movt_jester.get_config()
    config.data.update({"root": str(root), "column": "tracks", "holdout": 0.0})
    config.evals = {}
    config.train.update({"watch": (), "select": "", "table": ()})
    plain = plain_config.plain(config)
    for path, value in changes.items():
        section, key = path.split("__")
        plain[section][key] = value
    return plain
