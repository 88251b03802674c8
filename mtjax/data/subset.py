"""Which clips of a dataset a run uses, and which labels: the part of a `data` section that no modality changes."""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import numpy as np
from absl import logging

from mtjax import lookup
from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, Range
from mtjax.data import catalog as catalogs
from mtjax.data import selection
from mtjax.data.columns import Column
from mtjax.data.labels import CatalogLabels, LabelSource, PseudoLabels

MISSING = ("drop", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """The `data` section about clips and labels.

    Attributes:
      root: dataset folder.
      train: split to train on. val: split to select on; "" holds out `holdout` of train instead.
      holdout: share of the training clips kept aside as split "val"; 0.0 disables. Taken before `k_shot` or `shots` say which
        labels are used, after `fraction`.
      classes: class names to keep, renumbered in this order; () keeps all. leave_out: class names whose clips are in no split,
        for a source without what the target shows; the other classes keep their numbers.
      fraction, k_shot: of the labelled training clips (see `selection.reduce`); subset_seed: of that choice and the holdout.
      shots: file that lists the labelled training clips instead (`selection.listed`); "" for none.
      unlabelled: splits whose clips are trained on as well, without their labels, for a teacher to label: with
        ("train", "val") and k_shot=2 two clips a class have a label and all clips a teacher.
      balance: repeat labelled clips of rare classes so that an epoch sees every class about equally often.
      missing: "drop" clips without a record, or "mask": keep them with nothing visible.
      pseudo: column of `mtjax.cluster` whose clusters are the labels (`labels.PseudoLabels`), "" for the catalog's own. A clip
        without a record there is one without a record; `k_shot`, `fraction` and `classes` go by the catalog all the same.
    """

    root: str
    train: str = "train"
    val: str = ""
    holdout: Annotated[float, Range(0.0, below=1.0)] = 0.0
    classes: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    fraction: Annotated[float, Range(high=1.0, above=0.0)] = 1.0
    k_shot: Count = 0
    subset_seed: int = 0
    shots: str = ""
    unlabelled: tuple[str, ...] = ()
    balance: bool = False
    missing: str = "drop"
    pseudo: str = ""

    def __post_init__(self):
        lookup.check_fields(self, "data")
        if self.missing not in MISSING:
            raise InputError(f"config.data.missing={self.missing!r}: must be one of {MISSING}")
        if self.val and self.holdout:
            raise InputError(f"config.data: val={self.val!r} and holdout={self.holdout} exclude each other")
        if self.shots and (self.k_shot or self.fraction != 1.0):
            raise InputError("config.data: shots lists the labelled clips, so k_shot and fraction have to be 0 and 1.0")

    @property
    def needed(self) -> tuple[Column, ...]:
        """The columns without whose record nothing is known of a clip (`missing`)."""
        raise TypeError(f"{type(self).__name__} names no columns")

    @property
    def present(self) -> bool:
        """False in a dry run on a machine without the dataset."""
        return (Path(self.root) / "dataset.json").is_file()

    @functools.cached_property
    def catalog(self) -> catalogs.Catalog:
        return catalogs.Catalog.load(self.root)

    @functools.cached_property
    def pseudo_column(self) -> Column | None:
        return Column(self.root, self.pseudo) if self.pseudo else None

    @functools.cached_property
    def label_source(self) -> LabelSource:
        """Raises ValueError for a column that has no pseudo labels."""
        if self.pseudo_column is not None:
            return PseudoLabels(self.catalog, self.pseudo_column)
        return CatalogLabels(self.catalog, self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.label_source.class_names

    @property
    def labels(self) -> np.ndarray:
        """int32 [clips]: index into `class_names`, -1 for none."""
        return self.label_source.labels

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
    def _chosen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64, sorted: the training clips, those among them whose label is used, the validation clips."""
        whole, others = self.catalog_rows(self.train), np.array([], np.int64)
        if self.unlabelled:
            of_splits = [self._selected(split) for split in self.unlabelled]
            others = self._with_records(np.unique(np.concatenate(of_splits)), "+".join(self.unlabelled))
        val = self.catalog_rows(self.val) if self.val else np.array([], np.int64)
        first = bool(self.k_shot or self.shots or self.unlabelled)
        if self.holdout and first:
            pool, val = selection.hold_out(self.catalog, np.union1d(whole, others), self.holdout, self.subset_seed)
            whole, others = np.intersect1d(whole, pool), np.intersect1d(others, pool)
        labelled = self._labelled(whole)
        if self.holdout and not first:
            labelled, val = selection.hold_out(self.catalog, labelled, self.holdout, self.subset_seed)
        return np.union1d(labelled, others), labelled, val

    def _labelled(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows`, training clips, whose label is used."""
        if not self.shots:
            return selection.reduce(
                self.catalog, rows, fraction=self.fraction, k_shot=self.k_shot, seed=self.subset_seed
            )
        wanted = self._with_records(selection.listed(self.catalog, self.shots), self.train)
        if outside := [self.catalog.clips[r].id for r in np.setdiff1d(wanted, rows)]:
            raise catalogs.CatalogError(
                f"{self.shots}: {len(outside)} clips are not in split {self.train!r} (or held out): {outside[:3]}"
            )
        return wanted

    @functools.cached_property
    def training_labels(self) -> np.ndarray:
        """int32 [clips]: `labels`, -1 for the clips whose label training must not see."""
        train, labelled, _ = self._chosen
        labels = self.labels.copy()
        labels[np.setdiff1d(train, labelled)] = catalogs.UNLABELLED
        return labels

    def rows(self, split: str) -> np.ndarray:
        """int64 [n], sorted: the clips of "train", "val", or any split of the catalog that the columns allow."""
        if split == "train":
            return self._chosen[0]
        if split == "val" and (self.holdout or self.val not in ("", "val")):
            return self._chosen[2]
        return self.catalog_rows(split)

    def catalog_rows(self, name: str) -> np.ndarray:
        """int64 [n], sorted: a split as the catalog has it, whatever part of it this run trains or selects on."""
        return self._with_records(self._selected(name), name)

    def _selected(self, split: str) -> np.ndarray:
        return selection.select(self.catalog, split, classes=self.classes, leave_out=self.leave_out)

    def only_selects(self, split: str) -> bool:
        """Whether training sees this split's clips and, as the config says, none of their labels: the validation split
        of a student that a teacher labels."""
        return bool(self.val) and self.val in self.unlabelled and split in ("val", self.val)

    def _with_records(self, rows: np.ndarray, split: str) -> np.ndarray:
        ids = [self.catalog.clips[r].id for r in rows]
        labelling = () if self.pseudo_column is None else (self.pseudo_column,)
        needed = {c.spec.name: c for c in (*self.needed, *labelling)}
        present = np.all([c.rows(ids) >= 0 for c in needed.values()], axis=0)
        if not present.all():
            gone = [i for i, p in zip(ids, present, strict=True) if not p]
            what = "dropped" if self.missing == "drop" else "kept with nothing visible"
            logging.warning("%s: %d of %d clips have no record in %s and are %s: %s …",
                            split, len(gone), len(ids), tuple(needed), what, gone[:3])  # fmt: skip
        kept = rows[present] if self.missing == "drop" else rows
        if not len(kept):
            raise catalogs.CatalogError(f"{self.root}: no clip of split {split!r} has a record in {tuple(needed)}")
        return kept

    def training_clips(self) -> np.ndarray:
        """int64 [n]: rows of one epoch, repeated where `balance` asks for it."""
        rows = self.rows("train")
        if not self.balance:
            return rows
        labels = self.training_labels[rows]
        known = labels[labels >= 0]
        most = np.bincount(known).max(initial=0)
        return np.concatenate([rows[labels < 0], *(np.resize(rows[labels == c], most) for c in np.unique(known))])
