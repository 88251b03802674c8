"""A trained model on one raw video: extracted as its training column was, then prepared and predicted as in evaluation."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtjax.compute import sharding
from mtjax.compute.step import State
from mtjax.lookup import ConfigError
from mtjax.modalities.frames import Frames
from mtjax.modalities.pose import Pose
from mtjax.modalities.tracks import Tracks
from mtjax.run import preprocessing_door
from mtjax.run.experiment import Experiment

PRODUCER = "preprocessing.extract"


def extraction(experiment: Experiment, meta: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What to extract from a raw video and how: as the training column was made, if we extracted it; else by default.

    Raises:
      ConfigError: nothing that a video alone can give.
    """
    data = experiment.data
    column = meta["columns"].get(getattr(data, "column", ""), {})
    made = column["parameters"] if column.get("producer", "").startswith(PRODUCER) else {}
    if isinstance(data, Tracks):
        asked = {"backend": "lk", "frames": data.frames, "points": data.points}
        kept = {k: made[k] for k in ("backend", "short_side", "substeps") if k in made}
        if made.get("sampling", "mask") != "mask":  # a raw video has no mask
            kept |= {"sampling": made["sampling"], "box": tuple(made["box"])}
        return "tracks", asked | kept
    if isinstance(data, Frames):
        kept = {k: made[k] for k in ("fps", "short_side", "quality") if k in made}
        kept |= {"size": tuple(made["size"])} if "size" in made else {}
        return "frames", kept | ({"num_frames": made["frames"]} if "frames" in made else {})
    if isinstance(data, Pose) and made:
        kept = {k: made[k] for k in ("fps", "short_side", "min_side_px", "max_persons")}
        detector = {"detector": made["detector"]["kind"], "min_score": made["detector"]["min_score"]}
        return "pose", kept | detector | {"pose": made["pose"]["kind"], "half": made["pose"]["half"]}
    raise ConfigError(
        f"prediction on raw videos needs tracks, frames, or a pose column of `{PRODUCER} pose`; this run reads "
        f"{type(data).__name__} of {column.get('producer', 'no column')}"
    )


def predict(
    experiment: Experiment, state: State, meta: dict[str, Any], video: Path, *, top: int = 5, **changes: Any
) -> dict[str, Any]:
    """Decodes, extracts and classifies one video; `changes` go to the extraction.

    Returns:
      JSON values (`predictions`: label and probability, most probable first); for tracks also `frames` uint8 [t h w 3],
      `tracks` [t n 3] in units of the image and `saliency` [n] in [0, 1], which an overlay draws.
    """
    kind, keywords = extraction(experiment, meta)
    record, frames = preprocessing_door.extract_video(kind, str(video), **keywords | changes)
    data, program, batch = experiment.data, experiment.program, experiment.train.batch
    host = {name: np.repeat(values, batch, 0) for name, values in data.alone(record).items()} | {
        "clip": np.zeros(batch, np.int32),
        "label": np.full(batch, -1, np.int32),
        "valid": np.ones(batch, bool),
        "target": np.zeros((batch, program.task.outputs.get("num_targets", 0)), np.float32),
    }
    arrays = sharding.to_global(
        {k: v[experiment.local] for k, v in host.items()}, experiment.local, batch, experiment.mesh
    )
    rows = jax.device_get(program.predict_step(state, arrays))
    result: dict[str, Any] = {"video": str(video), "fps": float(record["fps"]), "seconds": float(record["times_s"][-1])}
    drawn = {"frames": frames, "tracks": np.asarray(record["tracks"])} if kind == "tracks" else {}
    if "probs" not in rows:
        return result | drawn | {"prediction": rows["prediction"][0].tolist()}
    probs, names = rows["probs"][0], meta["class_names"]
    best = np.argsort(-probs, kind="stable")[:top]
    result["predictions"] = [{"label": names[c], "probability": round(float(probs[c]), 6)} for c in best]
    if "observed" in rows:
        result["observed"] = bool(rows["observed"][0])
    if not drawn:
        return result
    prepared = data.prepare(arrays, train=False)
    module = program.predictor(state)
    saliency = jax.device_get(program.task.saliency(module, prepared, np.full(batch, best[0], np.int32)))[0]
    return result | drawn | {"salient_points": int((saliency > 0.5).sum()), "saliency": saliency}
