"""What a checkpoint says of itself, under a seal: its step, its metric, which arrays it holds, how it was trained."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtjax.command.errors import InputError

META = "meta"


def seal_of(meta: Mapping[str, Any]) -> str:
    """A digest of all of it but `seal`."""
    kept = {k: v for k, v in meta.items() if k != "seal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What was saved with a step. Raises InputError when it was altered; Orbax what it likes."""
    meta = manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]
    if not isinstance(meta, dict) or meta.get("seal") != seal_of(meta):
        raise InputError("the meta data differ from their seal")
    return meta


def metric_of(manager: ocp.CheckpointManager, step: int) -> float | None:
    """What the step's own meta data say; None where they are damaged, which is found out when it is restored."""
    try:
        metric = read_meta(manager, step)["metric"]
    except Exception:
        return None
    return metric if metric is not None and np.isfinite(metric) else None


def structure_of(tree: Any) -> str:
    """A hash of the paths, shapes and types of a state's arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{jax.tree_util.keystr(path)} {tuple(leaf.shape)} {leaf.dtype}" for path, leaf in leaves]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def fits(meta: Mapping[str, Any], template: Any) -> bool:
    """Whether the state is made of the arrays that a step holds."""
    if "structure" not in meta:  # an earlier version's
        return len(meta["checksums"]) == len(jax.tree.leaves(template))
    return meta["structure"] == structure_of(template)
