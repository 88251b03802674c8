"""A trained model as one file that runs with JAX alone: what `predict` computes, parameters and preparation included.

mtjax export runs/mine                      # writes runs/mine/model.jaxexport and model.json

import jax, numpy as np                               # anywhere else, without mtjax and Flax
model = jax.export.deserialize(bytearray(open("model.jaxexport", "rb").read()))
model.call({"tracks": np.zeros((5, 32, 32, 3), np.float32), "length": np.full(5, 32, np.int32)})["probs"]
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.compute.step import State
from mtjax.data.files import write_atomically
from mtjax.data.origin import config_hash
from mtjax.data.pipeline import completed
from mtjax.run.experiment import Experiment, open_run

PLATFORMS = ("cpu", "cuda", "tpu")


def export(experiment: Experiment, state: State, platforms: Sequence[str] = PLATFORMS) -> jax.export.Exported:
    """Decoded arrays of any batch size (`Data.element_spec`) → what the task predicts (`Task.predict`)."""
    targets = experiment.program.task.outputs.get("num_targets", 0)

    complete = functools.partial(completed, targets=targets, xp=jnp)
    (b,) = jax.export.symbolic_shape("b")
    inputs = {
        name: jax.ShapeDtypeStruct((b, *shape), dtype)
        for name, (shape, dtype) in experiment.data.element_spec().items()
    }
    return jax.export.export(experiment.program.frozen(state, complete), platforms=platforms)(inputs)


def describe(experiment: Experiment, meta: dict[str, Any], exported: jax.export.Exported) -> dict[str, Any]:
    """What one has to know to call it: names, shapes ("b" is the batch), dtypes, classes, and which run it is."""

    def spec(tree: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {
                "shape": [d if isinstance(d, int) else "b" for d in value.shape],
                "dtype": np.dtype(value.dtype).name,
            }
            for name, value in tree.items()
        }

    (inputs,), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return {
        "inputs": spec(inputs),
        "outputs": spec(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
        "class_names": list(meta["class_names"]),
        "platforms": list(exported.platforms),
        "step": meta["step"],
        "config": config_hash(experiment.config),
        "jax": jax.__version__,
    }


@shell.command("export")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("export", __doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--out", type=Path, default=None, help="file (default: WORKDIR/model.jaxexport)")
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="comma separated")
    arguments.add_allow_code(parser)
    parser.add_argument("--step", default="selected", help="selected (default), latest, or a number")
    args = parser.parse_args(argv)
    lookup.allow_code(args.allow_code)
    out = args.out or args.workdir / "model.jaxexport"
    experiment, state, meta = open_run(args.workdir, args.step)
    exported = export(experiment, state, args.platforms.split(","))
    facts = describe(experiment, meta, exported)
    write_atomically(out, bytes(exported.serialize()))
    write_atomically(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, step {meta['step']}, {', '.join(exported.platforms)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
