"""From a dataset root to batches: which clips a run uses, how their columns are joined, and in what order they arrive."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from mtjax import records
from mtjax.data import catalog as catalogs
from mtjax.data.columns import Column
from mtjax.data.order import Order

MISSING = ("drop", "mask")
ON_CORRUPT = ("raise", "skip")
CACHES = ("none", "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The `data` section that every modality shares; a modality adds its columns, `decode` and `prepare`.

    Attributes:
      root: dataset folder.
      generate: arguments of a procedural dataset made at `root` on first use, `{}` for none.
      train: split to train on. val: split to select on; "" holds out `holdout` of train instead.
      holdout: share of the (reduced) training clips kept aside as split "val"; 0.0 disables.
      classes: class names to keep, renumbered in this order; () keeps all.
      fraction, k_shot: of the labelled training clips (see `catalog.select`); subset_seed: of that choice and the holdout.
      balance: repeat clips of rare classes so that an epoch sees every class about equally often.
      missing: "drop" clips without a record, or "mask": keep them with nothing visible.
      on_corrupt: "raise" at a damaged record, or "skip": count it and give it no weight.
      cache: "device" keeps the whole split on the device and shuffles inside jit; "none" reads from disk.
      workers: reader processes; 0 reads in a thread, which is faster unless `decode` does real work.
    """

    root: str
    generate: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: str = "train"
    val: str = ""
    holdout: float = 0.0
    classes: tuple[str, ...] = ()
    fraction: float = 1.0
    k_shot: int = 0
    subset_seed: int = 0
    balance: bool = False
    missing: str = "drop"
    on_corrupt: str = "raise"
    cache: str = "none"
    workers: int = 0

    def __post_init__(self):
        for field, known in (("missing", MISSING), ("on_corrupt", ON_CORRUPT), ("cache", CACHES)):
            if getattr(self, field) not in known:
                raise ValueError(f"config.data.{field}={getattr(self, field)!r}: must be one of {known}")
        if self.val and self.holdout:
            raise ValueError(f"config.data: val={self.val!r} and holdout={self.holdout} exclude each other")

    # What a modality adds.

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns that `decode` needs."""
        raise TypeError(f"{type(self).__name__} names no columns")

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name → (shape without b, dtype) of what `decode` gives."""
        raise TypeError(f"{type(self).__name__} has no element_spec")

    def decode(self, values: list[tuple[dict, ...] | None]) -> dict[str, np.ndarray]:
        """One tuple of records a clip (in the order of `column_names`; None: no data) → arrays with leading dimension b."""
        raise TypeError(f"{type(self).__name__} does not decode")

    def prepare(self, batch, *, train: bool, key=None):
        """On the device, inside jit: from decoded arrays to what models read. `key` is None unless `train`."""
        return batch

    # What is shared.

    @property
    def present(self) -> bool:
        """False in a dry run on a machine without the dataset."""
        return (Path(self.root) / "dataset.json").is_file()

    @functools.cached_property
    def catalog(self) -> catalogs.Catalog:
        return catalogs.Catalog.load(self.root)

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(self.root, name) for name in self.column_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes or self.catalog.class_names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [clips]: index into `class_names`, -1 for none."""
        if not self.classes:
            return self.catalog.labels()
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(c.label, catalogs.UNLABELLED) for c in self.catalog.clips], np.int32)

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """float32 [clips, targets]; width 0 for a dataset without regression targets."""
        width = max((len(c.targets) for c in self.catalog.clips), default=0)
        wrong = [c.id for c in self.catalog.clips if len(c.targets) not in (0, width)]
        if wrong:
            raise catalogs.CatalogError(f"{self.root}: clips {wrong[:3]} have another number of targets than {width}")
        return np.array([c.targets or (np.nan,) * width for c in self.catalog.clips], np.float32).reshape(
            -1 if width else len(self.catalog.clips), width
        )

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """Of everything that training reads: the catalog and each column's content."""
        return {"catalog": self.catalog.fingerprint} | {c.spec.name: c.fingerprint for c in self.columns}

    @functools.cached_property
    def _train_and_val(self) -> tuple[np.ndarray, np.ndarray]:
        kept = {"fraction": self.fraction, "k_shot": self.k_shot, "seed": self.subset_seed}
        train = catalogs.select(self.catalog, self.train, classes=self.classes, **kept)
        train = self._with_records(train, self.train)
        if self.holdout:
            return catalogs.hold_out(self.catalog, train, self.holdout, self.subset_seed)
        return train, self.rows(self.val) if self.val else np.array([], np.int64)

    def rows(self, split: str) -> np.ndarray:
        """int64 [n], sorted: the clips of "train", "val", or any split of the catalog that the columns allow."""
        if split == "train":
            return self._train_and_val[0]
        if split == "val" and (self.holdout or self.val not in ("", "val")):
            return self._train_and_val[1]
        return self._with_records(catalogs.select(self.catalog, split, classes=self.classes), split)

    def _with_records(self, rows: np.ndarray, split: str) -> np.ndarray:
        ids = [self.catalog.clips[r].id for r in rows]
        present = np.all([c.rows(ids) >= 0 for c in self.columns], axis=0)
        if not present.all():
            gone = [i for i, p in zip(ids, present, strict=True) if not p]
            what = "dropped" if self.missing == "drop" else "kept with nothing visible"
            logging.warning("%s: %d of %d clips have no record in %s and are %s: %s …",
                            split, len(gone), len(ids), self.column_names, what, gone[:3])  # fmt: skip
        kept = rows[present] if self.missing == "drop" else rows
        if not len(kept):
            raise catalogs.CatalogError(f"{self.root}: no clip of split {split!r} has a record in {self.column_names}")
        return kept

    def training_clips(self) -> np.ndarray:
        """int64 [n]: rows of one epoch, repeated where `balance` asks for it."""
        rows = self.rows("train")
        if not self.balance:
            return rows
        labels = self.labels[rows]
        most = np.bincount(labels[labels >= 0]).max()
        return np.concatenate([np.resize(rows[labels == c], most) for c in np.unique(labels)])

    def read(self, clips: np.ndarray, valid: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Reads, verifies and decodes some clips.

        Args:
          clips: rows of the catalog, [b]. valid: bool [b]; False rows are padding and are not read.

        Returns:
          what `decode` gives, and `clip` int32 [b], `label` int32 [b], `target` float32 [b, targets], `valid` bool [b].
        """
        valid = np.ones(len(clips), bool) if valid is None else valid.copy()
        ids = [self.catalog.clips[r].id for r in clips]
        located = [c.rows(ids) for c in self.columns]
        wanted = valid & np.all([at >= 0 for at in located], axis=0)
        values: list[tuple[dict, ...] | None] = [None] * len(clips)
        try:
            joined = [c.read(at[wanted]) for c, at in zip(self.columns, located, strict=True)]
            for i, together in zip(np.flatnonzero(wanted), zip(*joined, strict=True), strict=True):
                values[i] = together
        except records.CorruptRecord:
            if self.on_corrupt == "raise":
                raise
            for i in np.flatnonzero(wanted):
                try:
                    values[i] = tuple(c.read(at[[i]])[0] for c, at in zip(self.columns, located, strict=True))
                except records.CorruptRecord as e:
                    valid[i] = False
                    logging.warning("skipped (data.on_corrupt=skip): %s", e)
        return self.decode(values) | {
            "clip": np.asarray(clips, np.int32),
            "label": self.labels[clips],
            "target": self.targets[clips],
            "valid": valid,
        }

    def fake(self, batch: int, num_classes: int) -> dict[str, np.ndarray]:
        """Random decoded arrays of the right shapes, for `--dry_run` on a machine without the data."""
        rng = np.random.default_rng(0)
        arrays = {k: rng.random((batch, *shape)).astype(dtype) for k, (shape, dtype) in self.element_spec().items()}
        return arrays | {
            "clip": np.arange(batch, dtype=np.int32),
            "label": np.arange(batch, dtype=np.int32) % num_classes,
            "target": np.zeros((batch, num_classes), np.float32),
            "valid": np.ones(batch, bool),
        }


def stack(clips: list[np.ndarray | None], shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Clips of different length as one array [b, *shape], padded with zeros at the end, and their lengths int32 [b];
    a missing clip (None) has length 0."""
    array = np.empty((len(clips), *shape), dtype)
    length = np.zeros(len(clips), np.int32)
    for i, clip in enumerate(clips):
        if clip is not None:
            length[i] = len(clip)
            array[i, : len(clip)] = clip
        array[i, length[i] :] = 0
    return array, length


@dataclasses.dataclass
class _ReadStep(grain.transforms.Map):
    """Step → this process's rows of the global batch of that step. Batched before anything is read: Grain's Python is
    paid once a batch, not once a record."""

    data: Data
    clips: np.ndarray
    order: Order
    local: np.ndarray

    def map(self, step):
        return self.data.read(self.clips[self.order(int(step))[self.local]])


@dataclasses.dataclass
class _ReadBlock(grain.transforms.Map):
    """Number of a block → this process's rows of `clips[block]`, padded at the end."""

    data: Data
    clips: np.ndarray
    global_batch: int
    local: np.ndarray

    def map(self, block):
        wanted = int(block) * self.global_batch + self.local
        inside = wanted < len(self.clips)
        return self.data.read(self.clips[np.where(inside, wanted, 0)], inside)


def training_batches(
    data: Data, order: Order, local: np.ndarray, start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps start..stop-1; `local` are this process's positions in the global batch."""
    reader = _ReadStep(data, data.training_clips(), order, local)
    return _iterate(grain.MapDataset.range(start, stop).map(reader), data.workers)


def evaluation_batches(
    data: Data, clips: np.ndarray, global_batch: int, local: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """Every clip exactly once in order; the last batch is padded with `valid` False."""
    reader = _ReadBlock(data, clips, global_batch, local)
    return _iterate(grain.MapDataset.range(-(-len(clips) // global_batch)).map(reader), data.workers)


def _iterate(dataset: grain.MapDataset, workers: int) -> Iterator[dict[str, np.ndarray]]:
    # One reading thread: more of them fight for the interpreter lock and cut the throughput to a third (measured).
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=0 if workers else 1, prefetch_buffer_size=0 if workers else 2)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags when it starts processes (google/grain#1355)
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(batches)
