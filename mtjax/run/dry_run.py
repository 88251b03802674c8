"""`--dry_run`: compiles a step on fake data and prints what it would cost."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mtjax import lookup
from mtjax.compute import sharding
from mtjax.data.catalog import Catalog
from mtjax.lookup import ConfigError
from mtjax.run import checkpoint, complexity
from mtjax.run.experiment import Experiment

CLASSES = {"ucf101": 101, "hmdb51": 51, "kinetics400": 400}  # of published benchmarks, by the name of their folder
OTHER_CLASSES = 1000  # of any other dataset that is not there


def without_dataset(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(the config with what a task would learn from the dataset; a note where a number of classes is assumed).

    The number of classes is the dataset's where it is there, else the benchmark's, else OTHER_CLASSES.
    """
    section, data = config.get("task", {}), config.get("data", {})
    if "name" not in section:
        raise ConfigError("config.task needs a 'name'")
    takes = inspect.signature(lookup.resolve("tasks", section["name"])).parameters
    told, note = {}, ""
    if "clips" in takes and "clips" in data:
        told["clips"] = data["clips"]
    if "num_classes" in takes and not section.get("num_classes"):
        root = Path(data.get("root", ""))
        there = Catalog.load(root).class_names if (root / "dataset.json").is_file() else ()
        told["num_classes"] = len(there) or CLASSES.get(root.name, OTHER_CLASSES)
        if not there:
            note = f" (assumed: {root} is not here; --config.task.num_classes=N sets another number)"
    return {**config, "task": {**told, **{k: v for k, v in section.items() if v or k not in told}}}, note


def dry_run(config: Mapping[str, Any]) -> int:
    """Prints parameters, multiply-accumulates, memory and batch per device; needs no dataset and trains nothing."""
    config, note = without_dataset(config)
    exp = Experiment(config, fake=True)
    program, batch = exp.program, exp.rows
    classes = exp.program.shapes["params"].get("head/bias", jax.ShapeDtypeStruct((2,), "float32")).shape[0]
    host = {k: v[exp.local] for k, v in exp.data.fake(batch, classes).items()}
    arrays = sharding.to_global(host, exp.local, batch, exp.mesh)
    state = checkpoint.template_of(program.shapes, program.shardings)  # as a run's state lies on the mesh
    compiled = program.lower_train_step(state, arrays).compile()
    if jax.process_index():
        return 0
    memory = compiled.memory_analysis()
    shards = exp.mesh.shape["data"] * exp.mesh.shape["fsdp"]
    forward = complexity.forward_gmacs(program, host, len(exp.local))
    step = complexity.multiplications(program.train_step, program.shapes, arrays)
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind} in {jax.process_count()} process(es)"
    other = sum(x.size for x in program.shapes["rest"].values())
    print(f"mesh             {dict(exp.mesh.shape)} of {devices}")
    print(f"parameters       {program.num_params:,} trainable, {other:,} other")
    if note:
        print(f"classes          {config['task']['num_classes']}{note}")
    padding = f" with {batch - exp.train.batch} of padding" if batch > exp.train.batch else ""
    print(
        f"batch            {batch} global{padding}, {batch // shards} per device, {exp.train.accumulate} micro-batch(es)"
    )
    print(f"forward          {forward:.4f} GMAC a clip")
    print(f"training step    {step / 1e9:.2f} GMAC, what is recomputed included")
    if memory is not None:
        print(f"memory           {memory.argument_size_in_bytes / 2**20:.1f} MiB state and batch, "
              f"{memory.temp_size_in_bytes / 2**20:.1f} MiB temporaries per device")  # fmt: skip
    return 0
