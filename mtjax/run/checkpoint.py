"""Checkpoints that can be trusted: asynchronous, checksummed, with a fall-back to the last good one.

Orbax makes a save atomic, but restores a checkpoint with a flipped bit without a word and trips over an emptied one. So a
manifest with one checksum for each array goes into every step, is compared at every restore, and a step that fails is set
aside as `N.bad`.
"""

import base64
import concurrent.futures
import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers

from mtjax.command.errors import InputError, MtjaxError

STATE, META = "state", "meta"


class NoGoodCheckpoint(MtjaxError, RuntimeError):
    """There are checkpoints and none can be used. Never a reason to start from scratch in silence."""


@jax.jit
def checksums(tree: Any) -> UInt32[Array, " leaves"]:
    """One position-weighted sum modulo 2^32 for each leaf: the same for any sharding, and any single flipped bit shows
    (its weight is odd)."""

    def one(leaf):
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32).ravel()
        weight = (jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(2654435761)) | jnp.uint32(1)
        return jnp.sum(bits * weight, dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


def _seal(meta: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in meta.items() if k != "seal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def pack_ids(ids: Sequence[str]) -> str:
    """Clip ids as a short printable string, for the checkpoint's meta data."""
    return base64.b64encode(zlib.compress("\n".join(ids).encode())).decode()


def unpack_ids(packed: str) -> list[str]:
    return zlib.decompress(base64.b64decode(packed)).decode().split("\n")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class Checkpoints:
    """The checkpoints of one run, under `directory`."""

    def __init__(self, directory: str, *, keep: int = 2, best_mode: str = "max", read_only: bool = False):
        """Keeps the `keep` latest steps and the best one (`best_mode` "max" or "min" of the metric given to `save`)."""
        self.directory = epath.Path(directory)
        if read_only and not self.directory.exists():
            raise NoGoodCheckpoint(f"{directory} does not exist: no checkpoint was saved there")
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["metric"],
            n=1,
            reverse=best_mode == "min",
            keep_checkpoints_without_metrics=False,
        )
        latest = checkpoint_managers.LatestN(keep)
        self._best_mode = best_mode
        with _without_warnings():  # that a read-only manager will not write
            self._options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
                best_fn=lambda metrics: metrics["metric"],
                best_mode=best_mode,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            )
        self._manager = self._open()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._started: concurrent.futures.Future | None = None
        self._host: Any = None

    def _open(self) -> ocp.CheckpointManager:
        with _without_warnings():  # that a read-only manager will not write
            return ocp.CheckpointManager(self.directory, options=self._options)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Mapping[str, Any], *, metric: float | None = None, wait: bool = False):
        """Starts a save and returns; errors of an earlier one are raised here.

        In one process the loop waits only for a copy of the state to host memory that is kept for the next save; the
        rest of Orbax's preparations run in a thread. Several processes meet inside those, so there they run at once.
        A step that exists is left as it is, unless it gains a metric: a run stopped before its evaluation was done.
        """
        self.wait()
        if step in self._manager.all_steps():
            if metric is None or self._metric(step) is not None:
                return
            self._manager.delete(step)
        sums = checksums(state)
        if jax.process_count() > 1:
            self._write(step, state, sums, meta, metric)
        else:
            self._started = self._thread.submit(self._write, step, self._copy(state), sums, meta, metric)
        if wait:
            self.wait()

    def _copy(self, state: Any) -> Any:
        """The state in host memory that is allocated once: fresh pages cost more than the copy."""
        if self._host is None:
            self._host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), state)
        for leaf in jax.tree.leaves(state):
            leaf.copy_to_host_async()
        jax.tree.map(lambda host, leaf: np.copyto(host, np.asarray(leaf)), self._host, state)
        return self._host

    def _write(self, step: int, state: Any, sums: Array, meta: Mapping[str, Any], metric: float | None) -> None:
        meta = dict(meta) | {"step": step, "metric": metric, "checksums": np.asarray(sums).tolist()}
        meta["seal"] = _seal(meta)
        metrics = None if metric is None or not np.isfinite(metric) else {"metric": float(metric)}
        args = ocp.args.Composite(**{STATE: ocp.args.StandardSave(state), META: ocp.args.JsonSave(meta)})
        with _without_warnings():  # that a step has no metric
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Until the save under way is on disk; raises what went wrong with it."""
        if self._started is not None:
            started, self._started = self._started, None
            started.result()
        self._manager.wait_until_finished()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()

    def restore_latest(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, meta) of the newest step that passes its checks, None when nothing was ever saved.

        Args:
          template: `jax.ShapeDtypeStruct`s with the shardings that the state shall have here, whatever mesh saved it.

        Raises:
          NoGoodCheckpoint: every step failed; they are kept as `N.bad`.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            if (found := self._try(step, template)) is not None:
                return found
        bad = sorted(p.name for p in self.directory.glob("*.bad")) if self.directory.exists() else []
        if steps or bad:
            raise NoGoodCheckpoint(
                f"{self.directory}: no checkpoint passes its checks (set aside: {bad}). Start again with an empty --workdir, "
                "or put a good copy of a step back"
            )
        return None

    def restore(self, step: int, template: Any) -> tuple[Any, dict[str, Any]]:
        """(state, meta) of one step.

        Raises:
          NoGoodCheckpoint: it is missing or fails its checks.
        """
        if step not in self._manager.all_steps() or (found := self._try(step, template)) is None:
            raise NoGoodCheckpoint(f"{self.directory}: step {step} is missing or damaged; there are {self.steps()}")
        return found

    def best_step(self) -> int | None:
        """The kept step with the best metric; the earliest of equals; None when no step has one."""
        scores = {s: self._metric(s) for s in self.steps()}
        sign = 1 if self._best_mode == "max" else -1
        rated = [(-sign * score, s) for s, score in scores.items() if score is not None]
        return min(rated)[1] if rated else None

    def number_of(self, step: str, *, best: bool) -> tuple[int, bool]:
        """The step that "selected" (the best one if `best`, else the latest), "latest" or a number means, and whether it is this
        one alone: an older one does as well where the latest is damaged.

        Raises:
          InputError: none of these. NoGoodCheckpoint: there is no such step.
        """
        steps, chosen = self.steps(), self.best_step() if best and step == "selected" else None
        if step not in ("selected", "latest") and not step.isdigit():
            raise InputError(f"step {step!r}: must be 'selected', 'latest' or a number")
        exact = step.isdigit() or chosen is not None
        number = int(step) if step.isdigit() else max(steps, default=-1) if chosen is None else chosen
        if number not in steps:
            there = f"no step {step}; there are {steps}" if steps else "no checkpoint yet"
            raise NoGoodCheckpoint(f"{self.directory}: {there}")
        return number, exact

    def _metric(self, step: int) -> float | None:
        metrics = self._manager.metrics(step)
        return metrics["metric"] if metrics else None

    def read_meta(self, step: int) -> dict[str, Any]:
        """The meta data alone, checked against its seal.

        Raises:
          ValueError: it was altered.
        """
        meta = self._manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]
        if meta.get("seal") != _seal(meta):
            raise InputError("the meta data differ from their seal")
        return meta

    def _try(self, step: int, template: Any) -> tuple[Any, dict[str, Any]] | None:
        problem, found = "", None
        try:
            meta = self.read_meta(step)
            args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template)})
            state = self._manager.restore(step, args=args)[STATE]
            if np.asarray(checksums(state)).tolist() != meta["checksums"]:
                problem = "an array differs from its checksum"
            found = state, meta
        except Exception as e:  # Orbax raises whatever the damaged layer raised; all of it means "not this step"
            problem = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]
        if jax.process_count() > 1:  # a step is good only if every process could read it
            everywhere = multihost_utils.process_allgather(np.array([not problem]))
            problem = problem or ("" if everywhere.all() else "another process cannot read it")
        if not problem:
            return found
        logging.error("checkpoint %s/%d is not used: %s", self.directory, step, problem)
        if not self._options.read_only:
            self._set_aside(step)
        return None

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        if jax.process_index() == 0:
            target = self.directory / f"{step}.bad"
            if target.exists():
                target.rmtree()
            (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager = self._open()


def template_of(shapes: Any, shardings: Any) -> Any:
    """What `restore_latest` wants: shapes and dtypes with target shardings."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
