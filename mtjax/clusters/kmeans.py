"""k-means on the device (motionfit.md §5): k-means++ to begin with, then Lloyd's iterations, points sharded over all devices."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from mtjax.command.errors import InputError

BLOCK = 8192  # points whose distances to all centroids exist at once, per device
CPU_BLOCK = 2048  # on a CPU, where they shall stay in the cache
SPLIT = 1e-4  # relative distance between the two halves of a split cluster

Progress = Callable[[int, np.ndarray, float], None]


class Clusters(NamedTuple):
    """centroids [k d]; inertia: the sum of squared distances before the last move; split: empty clusters that were refilled."""

    centroids: Float[np.ndarray, "k d"]
    inertia: float
    split: int


def fit(
    points: Float[np.ndarray, "n d"],
    k: int,
    *,
    seed: int,
    iterations: int = 25,
    first: Float[np.ndarray, "k d"] | None = None,
    resume: tuple[int, Float[np.ndarray, "k d"]] | None = None,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> Clusters:
    """Lloyd's algorithm for a fixed number of iterations; Euclidean, on raw features (motionfit.md §5).

    A cluster that loses its last point takes one half of the largest: twice the same centroid, moved apart by `SPLIT`.
    The same points, seed and devices give the same clusters.

    Args:
      points: float32. seed: of the first centroids.
      first: centroids to begin with instead of k-means++.
      resume: an iteration and its centroids, as `progress` saw them: what was interrupted then ends, bit for bit, as it
        would have.
      progress: called after each iteration with its number (from 1), the centroids about the mean of the points, and the
        inertia.
      mesh: of the devices; default all of them.

    Raises:
      ValueError: fewer points than clusters, or values that are not finite.
    """
    check(points, k)
    # Distances are differences of squares: without the mean they keep more of their digits.
    mean = points.mean(0, dtype=np.float64).astype(np.float32)
    mesh = mesh or jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    centred, weights = _in_blocks(points, mean, mesh)
    begin, centroids = resume or (
        0,
        plus_plus(centred.reshape(-1, len(mean))[: len(points)], k, seed=seed)
        if first is None
        else np.asarray(first, np.float32) - mean,
    )
    sharding = NamedSharding(mesh, P(None, mesh.axis_names))
    blocks, weights = (jax.make_array_from_callback(a.shape, sharding, a.__getitem__) for a in (centred, weights))
    step = _lloyd(mesh, jax.default_backend() != "cpu")
    inertia, split = math.nan, 0
    for i in range(begin, iterations):
        moved, distance, empty = step(blocks, weights, centroids)
        centroids, inertia, split = np.asarray(moved), float(distance), split + int(empty)
        if progress:
            progress(i + 1, centroids, inertia)
    return Clusters(centroids + mean, inertia, split)


def check(points: Float[np.ndarray, "n d"], k: int) -> None:
    """Raises ValueError as `fit` does."""
    if not 0 < k <= len(points):
        raise InputError(f"k-means: {k} clusters need 1 to {len(points)} (the number of points)")
    check_finite(points)


def check_finite(points: Float[np.ndarray, "n d"]) -> None:
    """Raises ValueError where a point is not: it would be nearest to no centroid."""
    if not np.isfinite(points).all():
        raise InputError(f"k-means: {(~np.isfinite(points).all(1)).sum()} of {len(points)} points are not finite")


def assign(points: Float[np.ndarray, "n d"], centroids: Float[np.ndarray, "k d"]) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each point, int32 [n] (the first of equals), and its squared distance, float32 [n].

    Raises:
      ValueError: values that are not finite.
    """
    check_finite(points)
    mean = centroids.mean(0)
    centred, labels, distances = centroids - mean, [], []
    for start in range(0, len(points), BLOCK):
        part = np.zeros((BLOCK, points.shape[1]), np.float32)  # one shape: compiled once
        count = len(points[start : start + BLOCK])
        part[:count] = points[start : start + count] - mean
        label, distance = _nearest_jit(part, centred)
        labels.append(np.asarray(label)[:count])
        distances.append(np.asarray(distance)[:count])
    none = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    return np.concatenate(labels or none[0]), np.concatenate(distances or none[1])


def plus_plus(points: Float[np.ndarray, "n d"], k: int, *, seed: int) -> Float[np.ndarray, "k d"]:
    """First centroids by greedy k-means++ (Arthur and Vassilvitskii 2007): points drawn by their squared distance to the
    nearest one so far; of 2 + ln k candidates the one that lowers the sum of distances most, as scikit-learn does."""
    return np.asarray(_plus_plus(jnp.asarray(points), jax.random.key(seed), k, 2 + int(math.log(k))))


@functools.partial(jax.jit, static_argnames=("k", "trials"))
def _plus_plus(points: Float[Array, "n d"], key: Key[Array, ""], k: int, trials: int) -> Float[Array, "k d"]:
    squares = (points**2).sum(-1)

    def distance(chosen: Float[Array, "m d"]) -> Float[Array, "n m"]:
        product = jnp.matmul(points, chosen.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.maximum(squares[:, None] - 2 * product + (chosen**2).sum(-1), 0.0)

    first = points[jax.random.randint(key, (), 0, len(points))]

    def add(i: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids, nearest = state
        total = jnp.cumsum(nearest)
        drawn = jax.random.uniform(jax.random.fold_in(key, i), (trials,)) * total[-1]
        candidates = points[jnp.searchsorted(total, drawn).clip(0, len(points) - 1)]
        lowered = jnp.minimum(nearest[:, None], distance(candidates))
        best = lowered.sum(0).argmin()
        return centroids.at[i].set(candidates[best]), lowered[:, best]

    begun = jnp.zeros((k, points.shape[1]), points.dtype).at[0].set(first)
    return jax.lax.fori_loop(1, k, add, (begun, distance(first[None])[:, 0]))[0]


def _nearest(
    points: Float[Array, "n d"], centroids: Float[Array, "k d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    product = jnp.matmul(points, centroids.T, precision=jax.lax.Precision.HIGHEST)
    distance = (centroids**2).sum(-1) - 2 * product  # but for the point's own square, the same for all centroids
    # Two minima, for XLA computes an argmin one number at a time on a CPU; of the same numbers, not of numbers computed twice.
    distance = jax.lax.optimization_barrier(distance)
    least = distance.min(-1)
    numbers = jnp.arange(len(centroids), dtype=jnp.int32)
    label = jnp.where(distance <= least[:, None], numbers, len(centroids)).min(-1)
    return label, jnp.maximum(least + (points**2).sum(-1), 0.0)


_nearest_jit = jax.jit(_nearest)


def _in_blocks(
    points: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"], mesh: Mesh
) -> tuple[Float[np.ndarray, "blocks size d"], Float[np.ndarray, "blocks size"]]:
    """Points without their mean, as many at a time as all devices take, and 1.0 for points, 0.0 for the padding at the end."""
    n, d = points.shape
    devices = mesh.devices.size
    block = CPU_BLOCK if mesh.devices.flat[0].platform == "cpu" else BLOCK
    size = min(block, -(-n // devices)) * devices
    padded = np.empty((-(-n // size) * size, d), np.float32)
    np.subtract(points, mean, out=padded[:n])
    padded[n:] = 0.0
    weights = (np.arange(len(padded)) < n).astype(np.float32)
    return padded.reshape(-1, size, d), weights.reshape(-1, size)


@functools.cache
def _lloyd(mesh: Mesh, by_product: bool) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    """The jitted iteration. by_product: sum points by a product with one-hot labels, which is in order on any device; on a
    CPU a scatter is in order too, and has less to do."""
    axes = mesh.axis_names

    def sums(blocks: Array, weights: Array, centroids: Array) -> tuple[Array, Array, Array]:
        k = len(centroids)

        def add(
            total: tuple[Array, Array, Array], block: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array, Array], None]:
            points, weight = block
            label, distance = _nearest(points, centroids)
            if by_product:
                chosen = jax.nn.one_hot(label, k, dtype=points.dtype) * weight[:, None]
                summed = jnp.matmul(chosen.T, points, precision=jax.lax.Precision.HIGHEST)
            else:
                summed = jax.ops.segment_sum(points, jnp.where(weight > 0, label, k), k)  # k, of padding, is left out
            count = jax.ops.segment_sum(weight.astype(jnp.int32), label, k)
            return (total[0] + summed, total[1] + count, total[2] + (distance * weight).sum()), None

        nothing = (jnp.zeros_like(centroids), jnp.zeros(k, jnp.int32), jnp.zeros(()))
        nothing = jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), nothing)
        return jax.lax.psum(jax.lax.scan(add, nothing, (blocks, weights))[0], axes)

    everywhere = jax.shard_map(sums, mesh=mesh, in_specs=(P(None, axes), P(None, axes), P()), out_specs=P())

    @jax.jit
    def step(blocks: Array, weights: Array, centroids: Array) -> tuple[Array, Array, Array]:
        summed, count, inertia = everywhere(blocks, weights, centroids)
        moved = summed / jnp.maximum(count, 1)[:, None].astype(summed.dtype)
        return refill(moved, count), inertia, (count == 0).sum()

    return step


def refill(centroids: Float[Array, "k d"], count: Int[Array, " k"]) -> Float[Array, "k d"]:
    """Gives the i-th empty cluster one half of the i-th largest."""
    k, d = centroids.shape
    empty = count == 0
    place = jnp.where(empty, jnp.cumsum(empty) - 1, 0)  # the how-manieth empty one
    largest = jnp.argsort(-count, stable=True)
    sign = jnp.where(jnp.arange(d) % 2 == 0, 1.0, -1.0).astype(centroids.dtype)
    halved = jnp.zeros(k, bool).at[largest].set(jnp.arange(k) < empty.sum()) & ~empty
    source = jnp.where(empty, largest[place], jnp.arange(k))
    shift = jnp.where(empty, -1.0, jnp.where(halved, 1.0, 0.0)).astype(centroids.dtype)[:, None]
    return centroids[source] * (1 + shift * SPLIT * sign)
