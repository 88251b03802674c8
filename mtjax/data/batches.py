"""Batches of a run: which clips come when, read by Grain in a thread or in processes."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from mtjax.data.order import Order, copy_seeds
from mtjax.data.pipeline import Data


@dataclasses.dataclass
class _ReadStep(grain.transforms.Map):
    """Step → this process's rows of the global batch of that step; positions behind its end are padding. Batched before
    anything is read: Grain's Python is paid once a batch, not once a record."""

    data: Data
    clips: np.ndarray
    order: Order
    local: np.ndarray

    def map(self, step):
        inside = self.local < self.order.global_batch
        at = np.where(inside, self.local, 0)
        clips = self.clips[self.order(int(step))[at]]
        return self.data.read(clips, inside, train=True, seeds=self.order.seeds(int(step))[at])


@dataclasses.dataclass
class _ReadBlock(grain.transforms.Map):
    """Number of a block → this process's rows of `clips[block]`, padded at the end."""

    data: Data
    clips: np.ndarray
    global_batch: int
    local: np.ndarray
    copy: int

    def map(self, block):
        wanted = int(block) * self.global_batch + self.local
        inside = (self.local < self.global_batch) & (wanted < len(self.clips))
        clips = self.clips[np.where(inside, wanted, 0)]
        return self.data.read(clips, inside, seeds=copy_seeds(clips, self.copy) if self.copy else None)


def training_batches(
    data: Data, order: Order, local: np.ndarray, start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps start..stop-1; `local` are this process's positions in the global batch, which may be padded
    (`sharding.padded_batch`)."""
    reader = _ReadStep(data, data.training_clips(), order, local)
    return _iterate(grain.MapDataset.range(start, stop).map(reader), data.workers)


def evaluation_batches(
    data: Data, clips: np.ndarray, global_batch: int, local: np.ndarray, copy: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Every clip exactly once in order; the last batch is padded with `valid` False, and so is what `local` holds behind the
    end of a batch.

    Args:
      copy: 0 reads clips as evaluation does; n > 0 as training would, the n-th time.
    """
    reader = _ReadBlock(data, clips, global_batch, local, copy)
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
