"""Optical flow with RAFT (Teed and Deng, ECCV 2020), the large model of torchvision with its published weights."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mtjax.command.errors import InputError
from preprocessing.extraction import backends

INSTALL = "pip install torchvision"
MODULE = "torchvision.models.optical_flow"
PUBLISHED = "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"  # its Raft_Large_Weights.DEFAULT
CHUNK = 64  # pairs whose fields are in memory together
MULTIPLE, LEAST = 8, 128  # the model's features are an eighth of the frame, and are pooled to an eighth again


@dataclasses.dataclass(frozen=True)
class Raft:
    """Follows RGB, several pairs at once; where memory runs out with half of them.

    Attributes:
      checkpoint: see `backends.checkpoint_file`; "" is torchvision's C_T_SKHT_V2.
      device: "auto", or PyTorch's name of one.
      batch_size: pairs a call.

    Raises:
      MissingBackend: torchvision or the weights are missing; says what to do.
    """

    checkpoint: str = ""
    device: str = "auto"
    batch_size: int = 4
    weights: str = dataclasses.field(init=False, default="")

    name: ClassVar[str] = "raft"
    licence: ClassVar[str] = "BSD-3-Clause"  # torchvision's; its weights were trained on research data sets

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f"batch_size {self.batch_size} must be at least 1")
        backends.require(MODULE, INSTALL)
        path = backends.checkpoint_file(self.checkpoint, PUBLISHED)
        object.__setattr__(self, "checkpoint", str(path))
        object.__setattr__(self, "weights", backends.weights_hash(path))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"version": 1, "checkpoint": Path(self.checkpoint).name}

    def fields(self, frames: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `flow.Method`."""
        device = backends.torch_device(self.device)
        model = _model(self.checkpoint, device)
        pairs = len(frames) - 1
        for start in range(0, pairs, CHUNK):
            stop = min(start + CHUNK, pairs)
            images = _images(frames[start : stop + 1], device)

            def run(rows: slice, size: int, images=images) -> list[np.ndarray]:
                return _flow(model, images[rows], images[rows.start + 1 : rows.stop + 1], frames[0].shape[:2])

            yield from backends.in_batches(run, stop - start, self.batch_size)


def _images(frames: Sequence[np.ndarray], device: str):
    """uint8 [h w 3] each → float tensor [n 3 h w] in [-1, 1], the edges repeated up to a size that the model takes."""
    import torch

    images = torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    missing = [max(-n % MULTIPLE, LEAST - n) for n in images.shape[2:]]
    return torch.nn.functional.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")


def _flow(model, before, after, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """float32 [h w 2] of each pair: the last of the model's refinements, without what was padded."""
    import torch

    with torch.inference_mode():
        flow = model(before, after)[-1]
    height, width = size_hw
    return list(flow[:, :, :height, :width].permute(0, 2, 3, 1).float().cpu().numpy())


@functools.lru_cache(maxsize=1)
def _model(checkpoint: str, device: str):
    """Once a process."""
    model = backends.require(MODULE, INSTALL).raft_large(weights=None, progress=False)
    model.load_state_dict(backends.load_state(Path(checkpoint)))
    return model.to(device).eval()
