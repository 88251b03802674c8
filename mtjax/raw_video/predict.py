"""A trained model on one raw video: extracted as its training column was, then prepared and predicted as in evaluation."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from mtjax.command.errors import InputError
from mtjax.compute import sharding
from mtjax.compute.step import State
from mtjax.data.pipeline import completed
from mtjax.data.recipes import Prediction, Recipe
from mtjax.lookup import ConfigError
from mtjax.run import preprocessing_door
from mtjax.run.evaluation import finite_rows
from mtjax.run.experiment import Experiment, open_run
from mtjax.types import Batch, Rows, Salient


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a raw video gave.

    Attributes:
      record: what the modality reads. frames: uint8 [t h w 3], those it was extracted from. fps, seconds: of the video.
    """

    record: Mapping[str, Any]
    frames: np.ndarray
    fps: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained run that predicts raw videos.

    Attributes:
      experiment, state, meta: see `open_run`. recipe: of the run's modality.
      source: the run that gives its features, if it reads another run's.
    """

    experiment: Experiment
    state: State
    meta: Mapping[str, Any]
    recipe: Recipe
    source: "Predictor | None" = None

    def show(self, video: Path, flags: Mapping[str, Any]) -> Shown:
        """Decodes and extracts a video, or has it predicted by `source`; `flags` of the extraction go before the recipe's."""
        if self.source is not None:
            shown = self.source.show(video, flags)
            rows, _ = self.source.rows(shown)
            record = {k: rows[k][0] for k in (self.recipe.field, "observed") if k in rows}
            return dataclasses.replace(shown, record=record)
        recipe = self.recipe
        flags = dict(recipe.flags) | dict(flags)
        record, frames = preprocessing_door.extract_video(recipe.kind, str(video), recipe.parameters, flags)
        seconds = float(record["times_s"][-1]) if len(record.get("times_s", ())) else float("nan")
        return Shown(record, frames, float(record.get("fps", "nan")), seconds)

    def rows(self, shown: Shown) -> tuple[Rows, Batch]:
        """What the task predicts, and the decoded batch: the video once for each of the batch's rows."""
        program, batch = self.experiment.program, self.experiment.rows
        repeated = {name: np.repeat(values, batch, 0) for name, values in self.recipe.to_batch(shown.record).items()}
        host = completed(repeated, targets=program.task.outputs.get("num_targets", 0))
        local = self.experiment.local
        arrays = sharding.to_global({k: v[local] for k, v in host.items()}, local, batch, self.experiment.mesh)
        return jax.device_get(program.predict_step(self.state, arrays)), arrays

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.meta["class_names"])

    def predict(self, video: str | Path | Mapping[str, np.ndarray], *, top: int = 5, **flags: Any) -> dict[str, Any]:
        """Extracts and predicts one video, or predicts the arrays of one clip.

        Args:
          video: a file, or what an extraction would give: field of the run's column → array, e.g. {"tracks": float [t n 3]}.
          top: how many classes. flags: of the extraction, in place of those of the training column.

        Returns:
          JSON values (`predictions`: label and probability, most probable first; of a regression `prediction`); for tracks also
          `frames` uint8 [t h w 3], `tracks` [t n 3] in units of the image and `saliency` [n] in [0, 1], which an overlay draws.

        Raises:
          InputError: the prediction is NaN or infinite.
        """
        if isinstance(video, Mapping):
            shown, result = Shown(video, np.zeros((0, 0, 0, 3), np.uint8), float("nan"), float("nan")), {}
        else:
            shown = self.show(Path(video), flags)
            result = {"video": str(video), "fps": shown.fps, "seconds": shown.seconds}
        rows, arrays = self.rows(shown)
        if not finite_rows(rows).all():
            raise InputError(
                "the prediction is NaN or infinite: the record, the weights or their moving average are not finite"
            )
        field = "" if isinstance(self.recipe, Prediction) or isinstance(video, Mapping) else self.recipe.overlay
        drawn = {"frames": shown.frames, "tracks": np.asarray(shown.record[field])} if field else {}
        if not {"probs", "prediction"} & set(rows):
            raise ConfigError(
                f"{self.meta['workdir']} predicts features alone; `mtjax predict --column` writes those of a dataset"
            )
        if "probs" not in rows:
            return result | drawn | {"prediction": rows["prediction"][0].tolist()}
        probs, names = rows["probs"][0], self.meta["class_names"]
        best = np.argsort(-probs, kind="stable")[:top]
        result["predictions"] = [{"label": names[c], "probability": round(float(probs[c]), 6)} for c in best]
        if "observed" in rows:
            result["observed"] = bool(rows["observed"][0])
        task, program = self.experiment.task, self.experiment.program
        if not drawn or not isinstance(task, Salient):
            return result | drawn
        prepared = self.experiment.data.prepare(arrays, train=False)
        label = jax.numpy.full(self.experiment.rows, best[0], "int32")
        saliency = jax.device_get(task.saliency(program.predictor(self.state), prepared, label))[0]
        return result | drawn | {"salient_points": int((saliency > 0.5).sum()), "saliency": saliency}


def load(workdir: Path, step: str = "selected", *, features_from: str = "") -> Predictor:
    """A run that predicts raw videos; its dataset need not be there.

    Args:
      step: see `open_run`. features_from: workdir of the run whose features it reads; "" for the one that its column
        named in training.

    Raises:
      ConfigError: the run reads what a video cannot give, or its features are of another run. checkpoint.NoGoodCheckpoint.
    """
    experiment, state, meta = open_run(workdir, step)
    recipe = experiment.data.raw_video(meta["columns"])
    if not isinstance(recipe, Prediction):
        if features_from:
            raise ConfigError(f"--features_from: {workdir} reads no features of another run")
        if not recipe.parameters:
            logging.warning("%s was not trained on a column of ours: the video is extracted by defaults", workdir)
        return Predictor(experiment, state, meta, recipe)
    wanted = features_from or recipe.workdir
    if not wanted:
        raise ConfigError(
            f"column {recipe.column!r} does not say which run wrote it; name it with --features_from=WORKDIR"
        )
    if not (Path(wanted) / "config.json").is_file():
        raise ConfigError(
            f"{wanted}, whose run wrote column {recipe.column!r}, is not there; --features_from=WORKDIR names it"
        )
    source = load(Path(wanted), str(recipe.step))
    if recipe.weights and not source.meta["seal"].startswith(recipe.weights):
        raise ConfigError(f"{wanted}: step {recipe.step} is not the checkpoint that wrote column {recipe.column!r}")
    return Predictor(experiment, state, meta, recipe, source)
