"""The `tapir` tracker: BootsTAPIR (Doersch et al., 2024, arXiv 2402.00847), from its authors' `tapnet`, Apache-2.0.

The package's PyTorch model, not its JAX one: the JAX weights are pickles inside `.npy` files, and loading one runs
whatever code it holds.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from preprocessing.extraction import backends

INSTALL = 'pip install "tapnet[torch] @ git+https://github.com/google-deepmind/tapnet"'
PUBLISHED = "https://storage.googleapis.com/dm-tapnet/bootstap/bootstapir_checkpoint_v2.pt"
SIDE_PX = 256  # the model's training resolution, square


@dataclasses.dataclass(frozen=True)
class Tapir:
    """Tracks with `tapnet.torch.tapir_model.TAPIR`, several videos at once, all resized to SIDE_PX squared.

    Attributes:
      checkpoint: see `backends.checkpoint_file`; "" is the authors'.
      device: "auto", or PyTorch's name of one.
      batch_size: videos at once.
    """

    checkpoint: str = ""
    device: str = "auto"
    batch_size: int = 8
    weights: str = dataclasses.field(init=False, default="")

    name: ClassVar[str] = "tapir"
    licence: ClassVar[str] = "Apache-2.0"
    short_side: ClassVar[int] = SIDE_PX

    def __post_init__(self):
        backends.require("tapnet.torch.tapir_model", INSTALL)
        path = backends.checkpoint_file(self.checkpoint, PUBLISHED)
        object.__setattr__(self, "checkpoint", str(path))
        object.__setattr__(self, "weights", backends.weights_hash(path))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"version": 1, "checkpoint": Path(self.checkpoint).name, "side_px": SIDE_PX}

    def track(self, videos: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `tracks.Tracker`. Visible as in tapnet's `postprocess_occlusions`: not occluded, and likely near."""
        import torch

        device = backends.torch_device(self.device)
        small, queries, scales = [], [], []
        for frames, xy in zip(videos, points, strict=True):
            small.append([cv2.resize(f, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for f in frames])
            scales.append(SIDE_PX / np.array(frames.shape[2:0:-1]))
            raster = (xy + 0.5) * scales[-1]  # TAPIR's coordinates begin at the corner of the first pixel
            queries.append(np.concatenate([np.zeros((len(xy), 1)), raster[:, ::-1]], axis=1))  # (t, y, x)
        video = torch.from_numpy(np.array(small)).to(device).float() / 255 * 2 - 1
        with torch.inference_mode():
            out = _model(self.checkpoint, device)(video, torch.from_numpy(np.stack(queries)).float().to(device))
            visible = (1 - torch.sigmoid(out["occlusion"])) * (1 - torch.sigmoid(out["expected_dist"])) > 0.5
        results = []
        # tracks [b n t 2] (x, y), visible [b n t]
        found = zip(out["tracks"].float().cpu().numpy(), visible.cpu().numpy(), points, scales, strict=True)
        for raster, seen, xy, scale in found:
            pixels, occluded = (raster / scale - 0.5).swapaxes(0, 1).astype(np.float32), ~seen.T
            pixels[0], occluded[0] = xy, False  # the query itself, which the model returns only roughly
            results.append((pixels, occluded))
        return results


@functools.lru_cache(maxsize=1)
def _model(checkpoint: str, device: str):
    """The model, once a process."""
    module = backends.require("tapnet.torch.tapir_model", INSTALL)
    model = module.TAPIR(pyramid_level=1)  # as in tapnet's colabs/torch_tapir_demo.ipynb
    model.load_state_dict(backends.load_state(Path(checkpoint)))
    return model.to(device).eval()
