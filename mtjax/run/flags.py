"""The flags of a training: a config file, any field of it, and how to run it."""

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.lookup import ConfigError
from mtjax.run import config_fields
from mtjax.run.experiment import Train
from mtjax.run.plain_config import plain

SWITCHES = {
    "dry_run": "Compile on fake data, print sizes and costs, and stop; needs no --workdir.",
    "distributed": "Join the other processes of this run (TPU pods, Slurm, launch/*).",
    "allow_config_change": "Resume although the config differs.",
    "allow_data_change": "Resume although the dataset differs.",
    "allow_overlap": "Score evaluation clips although they are trained on.",
}
ALLOW_CODE = "Modules outside of mtjax that the workdirs in train.init and task.teacher may name and run, e.g. my_lab."


def define() -> flags.FlagValues:
    """The flags of `mtjax train`, anew: a process may parse several command lines."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and reports of this run lie.", values)
    flags.DEFINE_list("allow_code", [], ALLOW_CODE, values)
    for name, text in SWITCHES.items():
        flags.DEFINE_bool(name, False, text, values)
    return values


def parse(argv: Sequence[str], values: flags.FlagValues) -> tuple[dict[str, Any], list[str]]:
    """(plain config, what is no flag) of a command line; `values` then hold the other flags.

    A key that the file leaves out may be set as well; `Experiment` knows whether the constructor takes it.

    Raises:
      ConfigError: no config file, one that cannot be run, an unknown flag, or a value of the wrong type.
    """
    given = [a.split("=", 1) for a in argv if a.startswith("--config=")]
    path = given[-1][1] if given else argv[argv.index("--config") + 1 :][:1] if "--config" in argv else ""
    if not path:
        raise ConfigError(
            "needs --config=FILE or --config=FILE:ARGUMENT, e.g. --config=configs/movt_mannequin.py; see --help"
        )
    _check_file(path if isinstance(path, str) else path[0])
    words = ["mtjax", *argv]
    holder = config_flags.DEFINE_config_file(
        "config", None, "FILE or FILE:ARGUMENT", values, lock_config=False, accept_new_attributes=True, sys_argv=words
    )
    try:
        rest = values(words)
        config = plain(holder.value)  # a file that could not be loaded raises only when it is touched
    except Exception as e:  # ml_collections lets the config file's own exceptions and its KeyErrors through
        raise ConfigError(_innermost(e)) from None
    return config, rest[1:]


def load(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain config of FILE or FILE:ARGUMENT with flags like "--config.train.steps=2".

    Raises:
      ConfigError: the file cannot be loaded, or a flag does not fit.
    """
    loaded, rest = parse([f"--config={config}", *overrides], define())
    if rest:
        raise ConfigError(f"--config={config}: unexpected arguments {rest}; settings are --config.a.b=value")
    return loaded


def usage(values: flags.FlagValues, doc: str) -> str:
    """What `--help` prints: the flags, and the fields of the sections whose constructor no config chooses."""
    out = [doc.strip(), "", "flags:"]
    shown = {"config": (None, "FILE or FILE:ARGUMENT, needed: a Python file with get_config(ARGUMENT).")}
    shown |= {name: (values[name].default, values[name].help) for name in ("workdir", "allow_code", *SWITCHES)}
    for name, (default, text) in shown.items():
        out.append(f"  --{name:<22} {text}" + (f" (default: {default})" if default not in (None, False, []) else ""))
    out += ["", "fields of every config, as --config.SECTION.FIELD=VALUE, with their defaults:"]
    for section, constructor in (("train", Train), ("optimizer", Optimizer), ("mesh", sharding.make_mesh)):
        for name, default in config_fields.defaults_of(constructor).items():
            text = "needed" if default is inspect.Parameter.empty else repr(default)
            out.append(f"  --config.{section + '.' + name:<24} {text}")
    out += [
        "",
        "Fields of data, model, task and evals are their constructor's: `mtjax config CONFIG` shows all of a config.",
    ]
    return "\n".join(out)


def _check_file(config: str) -> None:
    path = Path(config.rpartition(":")[0] if ".py:" in config else config)
    if path.is_file():
        return
    beside = sorted(str(p) for p in (path.parent if path.parent.is_dir() else Path("configs")).glob("*.py"))
    near = difflib.get_close_matches(str(path), beside, n=3, cutoff=0.5)
    advice = f"; did you mean {' or '.join(near)}?" if near else "; it is the path of a Python file with get_config()"
    raise ConfigError(f"--config={config}: no such file{advice}")


def _innermost(e: BaseException) -> str:
    while isinstance(e, OSError) and e.__context__ is not None:
        e = e.__context__  # "not available because of an earlier failure": show that failure
    text = " ".join(str(e.args[0] if isinstance(e, KeyError) and e.args else e).split())
    return text if isinstance(e, ValueError | flags.Error) else f"{type(e).__name__}: {text}"
