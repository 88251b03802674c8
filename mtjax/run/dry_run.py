"""`--dry_run`: compiles a step on fake data and prints what it would cost."""

import jax

from mtjax.compute import sharding
from mtjax.run import complexity
from mtjax.run.experiment import Experiment


def dry_run(config) -> int:
    """Prints parameters, multiply-accumulates, memory and batch per device; needs no dataset and trains nothing."""
    exp = Experiment(config, fake=True)
    program, batch = exp.program, exp.rows
    classes = exp.program.shapes["params"].get("head/bias", jax.ShapeDtypeStruct((2,), "float32")).shape[0]
    host = {k: v[exp.local] for k, v in exp.data.fake(batch, classes).items()}
    arrays = sharding.to_global(host, exp.local, batch, exp.mesh)
    compiled = program.lower_train_step(program.shapes, arrays).compile()
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
