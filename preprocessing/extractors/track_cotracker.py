"""The `cotracker3` tracker: CoTracker3 offline (Karaev et al., 2024, arXiv 2410.11831) in its authors' PyTorch package.

Its licence is CC-BY-NC 4.0, non-commercial, and is written into the columns made with it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from preprocessing.extraction import backends

INSTALL = "pip install git+https://github.com/facebookresearch/co-tracker"
PUBLISHED = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"
WINDOW = 60  # of the published weights (hubconf.py: cotracker3_offline); longer videos interpolate its time embedding


@dataclasses.dataclass(frozen=True)
class CoTracker3:
    """Tracks with `cotracker.predictor.CoTrackerPredictor`, several videos at once.

    Videos are brought to the model's 384 x 512 one by one, so that a batch has one shape whatever its videos have.

    Attributes:
      checkpoint: see `backends.checkpoint_file`; "" is the authors'.
      device: "auto", or PyTorch's name of one.
      batch_size: videos at once; 8 of 32 frames and 60 points fit into 16 GB.
    """

    checkpoint: str = ""
    device: str = "auto"
    batch_size: int = 8
    weights: str = dataclasses.field(init=False, default="")

    name: ClassVar[str] = "cotracker3"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    short_side: ClassVar[int] = 384

    def __post_init__(self):
        backends.require("cotracker.predictor", INSTALL)
        path = backends.checkpoint_file(self.checkpoint, PUBLISHED)
        object.__setattr__(self, "checkpoint", str(path))
        object.__setattr__(self, "weights", backends.weights_hash(path))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"version": 1, "checkpoint": Path(self.checkpoint).name}

    def track(self, videos: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `tracks.Tracker`. A point counts as visible above the predictor's own threshold of 0.9."""
        import torch

        device = backends.torch_device(self.device)
        predictor = _predictor(self.checkpoint, device)
        height, width = predictor.interp_shape
        batch, queries, scales = [], [], []
        for frames, xy in zip(videos, points, strict=True):
            video = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()
            # As the predictor itself resizes: the corner pixels' centres stay where they are.
            batch.append(torch.nn.functional.interpolate(video, (height, width), mode="bilinear", align_corners=True))
            sizes = np.maximum(np.array(frames.shape[2:0:-1]) - 1, 1)
            scales.append((np.array([width, height]) - 1) / sizes)
            queries.append(np.concatenate([np.zeros((len(xy), 1)), xy * scales[-1]], axis=1))  # (t, x, y)
        asked = torch.from_numpy(np.stack(queries)).float().to(device)
        tracks, visible = predictor(torch.stack(batch), queries=asked)  # [b t n 2] pixels, bool [b t n]
        found = zip(tracks.float().cpu().numpy(), visible.cpu().numpy(), scales, strict=True)
        return [((xy / scale).astype(np.float32), ~seen.astype(bool)) for xy, seen, scale in found]


@functools.lru_cache(maxsize=1)
def _predictor(checkpoint: str, device: str):
    """The model, once a process. Built empty and filled here, as the package would unpickle whatever the file holds."""
    module = backends.require("cotracker.predictor", INSTALL)
    predictor = module.CoTrackerPredictor(checkpoint=None, offline=True, v2=False, window_len=WINDOW)
    predictor.model.load_state_dict(backends.load_state(Path(checkpoint)))
    return predictor.to(device).eval()
