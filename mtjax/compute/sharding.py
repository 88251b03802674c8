"""The mesh `data × fsdp × tensor`, where each array lies on it, and global batches.

Shardings are `Auto`: XLA places the intermediate results. Models carry no annotations.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtjax.command.ranges import Positive
from mtjax.lookup import ConfigError

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
MIN_FSDP_SIZE = 1024  # elements; sharding a bias costs more in latency than it saves in memory

Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(*, data: int = -1, fsdp: Positive = 1, tensor: Positive = 1) -> Mesh:
    """A mesh over all devices; -1 for `data` takes what the others leave.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if data == -1 and min(fsdp, tensor) > 0:
        data = devices // (fsdp * tensor)
    if data * fsdp * tensor != devices or min(data, fsdp, tensor) < 1:
        raise ConfigError(f"config.mesh: data={data} × fsdp={fsdp} × tensor={tensor} is not the {devices} devices here")
    # Explicit axes, the new default, reject FSDP under ordinary layers ("Contracting dimensions are sharded").
    shape, types = (data, fsdp, tensor), (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in jax.devices()})
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=types)
    if (
        data % slices
    ):  # `fsdp` and `tensor` talk in every layer, `data` once a step: it goes over the network between slices
        raise ConfigError(f"config.mesh: data={data} must be a multiple of the {slices} slices of these devices")
    sizes = (data // slices, fsdp, tensor), (slices, 1, 1)
    arranged = mesh_utils.create_hybrid_device_mesh(*sizes, devices=jax.devices())
    return Mesh(arranged, AXES, axis_types=types)


def param_specs(shapes: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh, rules: Rules = ()) -> dict[str, P]:
    """Where each parameter lies: the first rule whose regex matches its path, else its largest divisible dimension over fsdp.

    Raises:
      ConfigError: a rule that matches no parameter, names an unknown axis, or does not divide a dimension.
    """
    used, specs = set(), {}
    for path, leaf in shapes.items():
        rule = next(((pattern, axes) for pattern, axes in rules if re.search(pattern, path)), None)
        if rule is None:
            specs[path] = _fsdp_spec(leaf.shape, mesh.shape["fsdp"])
            continue
        pattern, axes = rule
        used.add(pattern)
        axes = [a or None for a in axes]  # a config writes "" for "not sharded"
        wrong = [a for a in axes if a is not None and a not in AXES]
        sizes = [mesh.shape.get(a, 1) for a in axes]
        if wrong or len(axes) != len(leaf.shape) or any(d % s for d, s in zip(leaf.shape, sizes, strict=True)):
            raise ConfigError(
                f"config.mesh.rules: {pattern!r} → {tuple(axes)} does not fit {path} of shape {leaf.shape}"
            )
        specs[path] = P(*axes)
    if unused := [p for p, _ in rules if p not in used]:
        raise ConfigError(f"config.mesh.rules: {unused} match no parameter; paths look like {sorted(shapes)[:3]}")
    return specs


def _fsdp_spec(shape: tuple[int, ...], size: int) -> P:
    divisible = [i for i, d in enumerate(shape) if d % size == 0]
    if size == 1 or not divisible or np.prod(shape) < MIN_FSDP_SIZE:
        return P()
    largest = max(divisible, key=lambda i: shape[i])
    return P(*["fsdp" if i == largest else None for i in range(len(shape))])


def state_shardings(state, specs: Mapping[str, P], mesh: Mesh):
    """Shardings for a whole train state: whatever is keyed by a parameter's path and has its shape lies where it lies."""

    def of(path, leaf):
        key = next((k.key for k in reversed(path) if getattr(k, "key", None) in specs), None)
        spec = specs[key] if key is not None and len(specs[key]) <= len(leaf.shape) else P()
        return NamedSharding(mesh, spec)

    return jax.tree.map_with_path(of, state)


def padded_batch(batch: int, mesh: Mesh) -> int:
    """How many rows the devices hold of a batch of so many examples: the next multiple of data × fsdp. What is more than the
    batch is padding (`valid` False)."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch // shards) * shards


def local_positions(global_batch: int, mesh: Mesh) -> np.ndarray:
    """int64 [rows]: which positions of a global batch this process's devices hold, in order.

    Raises:
      ConfigError: the batch does not divide over the mesh (see `padded_batch`).
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if global_batch % shards:
        raise ConfigError(
            f"config.train.batch={global_batch} does not divide over {shards} (data × fsdp) shards of the mesh"
        )
    slices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((global_batch,)).values()
    return np.array(sorted({i for (s,) in slices for i in range(*s.indices(global_batch))}), np.int64)


def to_global(
    batch: Mapping[str, np.ndarray], local: np.ndarray, global_batch: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """This process's rows → arrays of the global batch. The callback form does not depend on how rows fall on processes."""
    sharding = NamedSharding(mesh, BATCH)
    if len(local) == global_batch:
        return jax.device_put(dict(batch), sharding)
    at = {int(position): i for i, position in enumerate(local)}

    def make(values: np.ndarray) -> jax.Array:
        def rows(index):
            return values[[at[r] for r in range(*index[0].indices(global_batch))]]

        return jax.make_array_from_callback((global_batch, *values.shape[1:]), sharding, rows)

    return {name: make(values) for name, values in batch.items()}


def replicate(tree, mesh: Mesh):
    """Puts equal host arrays on every device of every process."""
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree)
