"""A column of made-up tracks, as large as asked, and the config of a run over it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs import movt_jester
from mtjax import plain_config, records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip

CLASSES = 27
DISTINCT = 256  # different clips; reading and training cost the same for the thousandth copy of one


class _Tracks(Mapping):
    """Clip id → its record, without holding a gigabyte of them."""

    def __init__(self, clips: int, frames: int, points: int):
        rng = np.random.default_rng(0)
        self._tracks = rng.random((min(clips, DISTINCT), frames, points, 3)).astype(np.float16)
        self._tracks[..., 2] = self._tracks[..., 2] > 0.9
        self._clips = clips

    def __getitem__(self, clip_id: str) -> dict[str, np.ndarray]:
        return {"tracks": self._tracks[int(clip_id) % len(self._tracks)]}

    def __iter__(self) -> Iterator[str]:
        return (f"{i:06d}" for i in range(self._clips))

    def __len__(self) -> int:
        return self._clips


def write_dataset(root: Path, *, clips: int, frames: int = 32, points: int = 60, shards: int = 16) -> Path:
    """A dataset with split "train" and one column "tracks", float16 [frames, points, 3] a clip. Returns `root`."""
    values = _Tracks(clips, frames, points)
    names = tuple(f"gesture {c}" for c in range(CLASSES))
    listed = tuple(Clip(clip_id, ("train",), label=names[i % CLASSES]) for i, clip_id in enumerate(values))
    Catalog(root, "synthetic", "1", names, listed, {}).save()
    schema = {"tracks": records.Feature("float16", (frames, points, 3))}
    column_writer.write_column(root, columns.Spec("tracks", schema, shards, "benchmarks"), values)
    return root


def jester_config(root: Path, **changes: Any) -> dict[str, Any]:
    """`configs/movt_jester.py` over such a dataset, without evaluations; changes are dotted paths with `__` for the dot."""
    config = movt_jester.get_config()
    config.data.update({"root": str(root), "column": "tracks", "holdout": 0.0})
    config.evals = {}
    config.train.update({"watch": (), "select": "", "table": ()})
    plain = plain_config.plain(config)
    for path, value in changes.items():
        section, key = path.split("__")
        plain[section][key] = value
    return plain
