"""Shows what a config comes to: every field with its value, and the batch that the model sees.

    mtjax config configs/movt_jester.py
    mtjax config configs/movt_jester.py --config.optimizer.lr=3e-4 --diff      # what differs from the constructors' defaults

Lines marked "default" are not in the file. Shapes need the dataset only where its columns decide them.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mtjax.command import arguments, shell
from mtjax.run import config_fields, flags


def batch_lines(config: Mapping[str, Any]) -> list[str]:
    """What `prepare` gives the model in training, a line an array: name, shape, dtype.

    Raises:
      ValueError: the dataset decides and is not here.
    """
    import jax

    from mtjax.run.experiment import Experiment

    exp = Experiment(config, fake=True)
    classes = exp.program.shapes["params"].get("head/bias", jax.ShapeDtypeStruct((2,), "float32")).shape[0]
    host = exp.data.fake(exp.rows, classes)
    if not exp.data.teacher:
        host = {k: v for k, v in host.items() if k not in ("teacher", "taught")}
    prepare = functools.partial(exp.data.prepare, train=True, key=jax.random.key(0))
    return [f"{name:<12} {tuple(a.shape)!s:<24} {a.dtype}" for name, a in sorted(jax.eval_shape(prepare, host).items())]


@shell.command("config")
def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments.parser("config", __doc__)
    parser.add_argument("config", metavar="CONFIG", help="FILE or FILE:ARGUMENT")
    parser.add_argument("--diff", action="store_true", help="only what differs from the constructors' defaults")
    changes = [a for a in argv if a.startswith("--config.")]
    known = parser.parse_args([a for a in argv if a not in changes])
    config, _ = flags.parse([f"--config={known.config}", *changes], flags.define())
    print(*config_fields.lines(config, only_different=known.diff), sep="\n")
    if not known.diff:
        try:
            batch = batch_lines(config)
        except ValueError as e:
            batch = [f"not known here: {e}"]
        print("\nA batch, prepared:", *batch, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
