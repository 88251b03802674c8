"""mtjax: motion teachers and the video students that learn from them.

model = mtjax.load("runs/mine")
model.predict("a.mp4")["predictions"]                 # [{"label": "wave", "probability": 0.93}, …]
model.predict({"tracks": array})                      # or what the run reads, without a video
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtjax.raw_video.predict import Predictor

__version__ = "0.1.0"


def load(workdir: str | Path, step: str = "selected", *, features_from: str = "") -> "Predictor":
    """A trained run, to be asked about videos and arrays (`Predictor.predict`); its dataset need not be there.

    Args:
      workdir: of its training. step: "selected" (the best by `train.select`, else the latest), "latest", or a number.
      features_from: workdir of the run whose features it reads, where its column does not say.

    Raises:
      mtjax.command.errors.InputError: no such run, or it reads what a video cannot give.
    """
    from mtjax.raw_video import predict  # takes JAX along, which `import mtjax` does not

    return predict.load(Path(workdir), step, features_from=features_from)
