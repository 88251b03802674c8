"""Checkpoints that can be trusted: asynchronous, checksummed, with a fall-back to the last good one.

Orbax makes a save atomic, but restores a checkpoint with a flipped bit without a word and trips over an emptied one. So a
manifest with one checksum for each array goes into every step, is compared at every restore, and a step that fails is set
aside as `N.bad`.
"""

import base64
import concurrent.futures
import contextlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32

from mtjax.command.errors import InputError, MtjaxError
from mtjax.run import checkpoint_folder, checkpoint_meta

STATE = "state"


class NoGoodCheckpoint(MtjaxError, RuntimeError):
    """There are checkpoints and none can be used. Never a reason to start from scratch in silence."""


class Misfit(InputError):
    """A checkpoint is sound, but its arrays are not those of this config. It is no damage: nothing is set aside."""


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


def pack_ids(ids: Sequence[str]) -> str:
    """Clip ids as a short printable string, for the checkpoint's meta data."""
    return base64.b64encode(zlib.compress("\n".join(ids).encode())).decode()


def unpack_ids(packed: str) -> list[str]:
    return zlib.decompress(base64.b64decode(packed)).decode().split("\n")


class Checkpoints:
    """The checkpoints of one run, under `directory`.

    Attributes:
      closing: what is let go of when they are closed, e.g. the lock on their workdir.
    """

    def __init__(self, directory: str, *, keep: int = 2, best_mode: str = "max", read_only: bool = False):
        """Keeps the `keep` latest steps and the best one (`best_mode` "max" or "min" of the metric given to `save`).

        Raises:
          NoGoodCheckpoint: `read_only`, and the folder is not there. InputError: a URL that cannot be opened.
        """
        checkpoint_folder.without_tracebacks()
        self.directory = checkpoint_folder.opened(directory)
        if read_only and not self.directory.exists():
            raise NoGoodCheckpoint(f"{directory} does not exist: no checkpoint was saved there")
        self.closing = contextlib.ExitStack()
        self._best_mode = best_mode
        self._metrics: dict[int, float | None] = {}
        with checkpoint_folder.without_warnings():  # that a read-only manager will not write
            self._options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_folder.Kept(keep, self._best_of),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            )
        if not read_only:
            self._alone(checkpoint_folder.recover)
        self._manager = self._open()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._started: concurrent.futures.Future | None = None
        self._host: Any = None

    def _open(self) -> ocp.CheckpointManager:
        with checkpoint_folder.without_warnings():  # that a read-only manager will not write
            manager = ocp.CheckpointManager(self.directory, options=self._options)
        for step in manager.all_steps():
            if step not in self._metrics:
                self._metrics[step] = checkpoint_meta.metric_of(manager, step)
        return manager

    def _alone(self, change: Callable[..., None], *arguments: Any) -> None:
        """Lets process 0 change the folder while all others wait."""
        if jax.process_index() == 0:
            change(self.directory, *arguments)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{change.__name__} {arguments} {self.directory}")

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Mapping[str, Any], *, metric: float | None = None, wait: bool = False):
        """Starts a save and returns; errors of an earlier one are raised here.

        In one process the loop waits only for a copy of the state to host memory that is kept for the next save; the
        rest of Orbax's preparations run in a thread. Several processes meet inside those, so there they run at once.
        A step that exists is left as it is, unless it gains a metric: a run stopped before its evaluation was done.
        """
        self.wait()
        if step in self._manager.all_steps() and (metric is None or self._metrics.get(step) is not None):
            return
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
        metric = None if metric is None or not np.isfinite(metric) else float(metric)
        meta = dict(meta) | {"step": step, "metric": metric, "checksums": np.asarray(sums).tolist()}
        meta["structure"] = checkpoint_meta.structure_of(state)
        meta["seal"] = checkpoint_meta.seal_of(meta)
        args = ocp.args.Composite(
            **{STATE: ocp.args.StandardSave(state), checkpoint_meta.META: ocp.args.JsonSave(meta)}
        )
        exists = step in self._manager.all_steps()
        self._metrics[step] = metric
        with checkpoint_folder.named_in_errors(self.directory):
            if exists:
                self._rewrite(step, args)
            else:
                self._manager.save(step, args=args, force=True)

    def _rewrite(self, step: int, args: ocp.args.Composite) -> None:
        """Replaces a step: its replacement is complete before the old one goes, so one of them is always there."""
        with ocp.CheckpointManager(self.directory / checkpoint_folder.REWRITING) as beside:
            beside.save(step, args=args, force=True)
        self._manager.close()

        self._alone(checkpoint_folder.replace, step)
        self._manager = self._open()

    def wait(self) -> None:
        """Until the save under way is on disk; raises what went wrong with it."""
        with checkpoint_folder.named_in_errors(self.directory):
            if self._started is not None:
                started, self._started = self._started, None
                started.result()
            self._manager.wait_until_finished()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            try:
                with checkpoint_folder.named_in_errors(self.directory):
                    self._manager.close()
            finally:
                self.closing.close()

    def restore_latest(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, meta) of the newest step that passes its checks, None when nothing was ever saved.

        Args:
          template: `jax.ShapeDtypeStruct`s with the shardings that the state shall have here, whatever mesh saved it.

        Raises:
          NoGoodCheckpoint: every step failed; they are kept as `N.bad`.
          Misfit: the newest is sound, but of another model or optimizer.
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
          NoGoodCheckpoint: it is missing or fails its checks. Misfit: it is of another model or optimizer.
        """
        if step not in self._manager.all_steps() or (found := self._try(step, template)) is None:
            raise NoGoodCheckpoint(f"{self.directory}: step {step} is missing or damaged; there are {self.steps()}")
        return found

    def best_step(self) -> int | None:
        """The kept step with the best metric; the earliest of equals; None when no step has one."""
        return self._best_of(self.steps())

    def _best_of(self, steps: Iterable[int]) -> int | None:
        sign = 1 if self._best_mode == "max" else -1
        rated = [(-sign * metric, s) for s in steps if (metric := self._metrics.get(s)) is not None]
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

    def config(self) -> dict[str, Any] | None:
        """The config that the newest step was trained with; None where no step knows it."""
        for step in reversed(self.steps()):
            with contextlib.suppress(Exception):  # damaged: an older step knows it as well
                return self.read_meta(step)["config"]
        return None

    def read_meta(self, step: int) -> dict[str, Any]:
        """The meta data alone, checked against its seal.

        Raises:
          ValueError: it was altered.
        """
        return checkpoint_meta.read_meta(self._manager, step)

    def _try(self, step: int, template: Any) -> tuple[Any, dict[str, Any]] | None:
        problem, found = "", None
        try:
            meta = self.read_meta(step)
            if checkpoint_meta.fits(meta, template):
                args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template)})
                state = self._manager.restore(step, args=args)[STATE]
                if np.asarray(checksums(state)).tolist() != meta["checksums"]:
                    problem = "an array differs from its checksum"
                found = state, meta
        except Exception as e:  # Orbax raises whatever the damaged layer raised; all of it means "not this step"
            if isinstance(e, MemoryError | PermissionError) or "RESOURCE_EXHAUSTED" in str(e):
                raise  # of this machine, not of the step
            problem = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]
        if not problem and found is None:
            raise Misfit(
                f"{self.directory}/{step} is of another model or optimizer: its {len(meta['checksums'])} arrays are not the "
                f"{len(jax.tree.leaves(template))} of this config, or have other shapes. It is left as it is; take the config "
                "that it was saved with, or another --workdir"
            )
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

        self._alone(checkpoint_folder.set_aside, step)
        self._metrics.pop(step, None)
        self._manager = self._open()


def template_of(shapes: Any, shardings: Any) -> Any:
    """What `restore_latest` wants: shapes and dtypes with target shardings."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
