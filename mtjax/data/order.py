"""The order in which training sees the clips: a pure function of (seed, clips, global batch, step).

So the whole position of a run is its step: any number of hosts, workers or devices continues the same order, and the same
few lines give it on the host (NumPy) and inside jit (`jax.numpy`), in memory that does not grow with the dataset.
"""

import dataclasses
import math
from typing import Any

import numpy as np

ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class Order:
    """Every epoch visits every position once, in an order of its own; batches run across the borders of epochs.

    Attributes:
      num_clips: positions run from 0 to num_clips - 1.
      global_batch: examples a step over all hosts.
      seed: any int.
    """

    num_clips: int
    global_batch: int
    seed: int

    def cursor(self, step: int) -> np.ndarray:
        """uint32 [2]: epoch and offset in it of the first example of a step (step 0 is the first)."""
        return np.array(divmod(step * self.global_batch, self.num_clips), np.uint32)

    def positions(self, cursor: Any, xp: Any = np) -> Any:
        """int32 [global_batch]: which clips a step sees.

        Args:
          cursor: what `cursor(step)` gave; may be traced when `xp` is `jax.numpy`.
          xp: `numpy` or `jax.numpy`.
        """
        within = cursor[1] + xp.arange(self.global_batch, dtype=np.uint32)
        epoch = cursor[0] + within // np.uint32(self.num_clips)
        keys = _mix(_mix(epoch ^ np.uint32(0x9E3779B9)) ^ np.uint32(self.seed & 0xFFFFFFFF))
        return _permute(within % np.uint32(self.num_clips), keys, self.num_clips, xp).astype(np.int32)

    def __call__(self, step: int) -> np.ndarray:
        return self.positions(self.cursor(step))

    def seeds(self, step: int) -> np.ndarray:
        """uint64 [global_batch]: for what the host draws at random for each row of a step's batch."""
        return _seeds(np.uint64(step * self.global_batch) + np.arange(self.global_batch, dtype=np.uint64), self.seed)


def copy_seeds(clips: np.ndarray, copy: int) -> np.ndarray:
    """uint64 [b]: for the `copy`-th augmented view of clips (rows of the catalog), whatever batch they come in."""
    return _seeds(np.asarray(clips, np.uint64), ~copy)


def _seeds(numbers: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64's mixing of a number and a seed."""
    x = numbers + _splitmix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return _splitmix(x)


def _splitmix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: Any) -> Any:
    """MurmurHash3's 32-bit finaliser."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _round_key(r: int) -> np.uint32:
    return np.uint32(r * 0x9E3779B9 & 0xFFFFFFFF)


def _permute(index: Any, keys: Any, n: int, xp: Any) -> Any:
    """A keyed permutation of 0..n-1: a Feistel network on a grid just larger than n, walked until it lands inside.

    Alternating `left += F(right) mod rows`, `right += F(left) mod columns` is invertible for any grid (Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", 2002).
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)

    def network(x):
        left, right = x // np.uint32(columns), x % np.uint32(columns)
        for r in range(ROUNDS):
            left = (left + _mix(right ^ (keys + _round_key(2 * r))) % np.uint32(rows)) % np.uint32(rows)
            right = (right + _mix(left ^ (keys + _round_key(2 * r + 1))) % np.uint32(columns)) % np.uint32(columns)
        return left * np.uint32(columns) + right

    x = network(index)
    if xp is np:
        while (outside := x >= n).any():
            x = np.where(outside, network(x), x)
        return x
    import jax  # only the traced form needs it; reader processes never do

    return jax.lax.while_loop(lambda x: (x >= n).any(), lambda x: xp.where(x >= n, network(x), x), x)
