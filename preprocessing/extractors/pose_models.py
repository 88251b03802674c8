"""A person detector (RT-DETR) and a pose estimator (ViTPose), as published for `transformers`, in PyTorch.

Both always see batches of one shape, whatever the clips have, so that a GPU plans its kernels once; where memory runs out
the batch is halved. Weights are read from safetensors only: nothing here unpickles a file.
"""

import contextlib
import dataclasses
import functools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from mtjax.command.errors import InputError
from preprocessing.extraction import backends

INSTALL = "pip install 'mtjax[extract]'"
# Name → class in `transformers`, model type that config.json must state, published weights.
DETECTORS = {
    "rt_detr": ("RTDetrForObjectDetection", "rt_detr", "PekingU/rtdetr_r50vd"),
    "rt_detr_v2": ("RTDetrV2ForObjectDetection", "rt_detr_v2", "PekingU/rtdetr_v2_r50vd"),
}
# Of the plain models only the base size is published for `transformers`; "plus" are mixtures of experts.
POSES = {
    "vitpose_b": ("VitPoseForPoseEstimation", "vitpose", "usyd-community/vitpose-base-simple"),
    "vitpose_plus_s": ("VitPoseForPoseEstimation", "vitpose", "usyd-community/vitpose-plus-small"),
    "vitpose_plus_b": ("VitPoseForPoseEstimation", "vitpose", "usyd-community/vitpose-plus-base"),
    "vitpose_plus_l": ("VitPoseForPoseEstimation", "vitpose", "usyd-community/vitpose-plus-large"),
    "vitpose_plus_h": ("VitPoseForPoseEstimation", "vitpose", "usyd-community/vitpose-plus-huge"),
}
JOINTS = 17
COCO_EXPERT = 0  # of a mixture of experts: each is for one data set's joints, COCO's are the first (ViTPose+'s order)
PADDING = 1.25  # of a person's box (VitPoseImageProcessor: box_to_center_and_scale)


@dataclasses.dataclass(frozen=True)
class Detector:
    """Finds persons with RT-DETR (Zhao et al., CVPR 2024) or RT-DETRv2.

    Attributes:
      kind: of DETECTORS. checkpoint: see `backends.model_folder`; "" is the published one.
      device: "auto", or PyTorch's name of one.
      half: matrix products in float16 on a GPU and in bfloat16 on a CPU, parameters and sums in float32. A box is then
        exact to about 1/1000 (float16) or 1/256 (bfloat16) of the frame, less than what a crop is padded by.
      batch_size: frames a call.
      min_score: a person's sigmoid score must be above it (motion_guidance.md §1: 0.3).
    """

    kind: str = "rt_detr"
    checkpoint: str = ""
    device: str = "auto"
    half: bool = False
    batch_size: int = 8
    min_score: float = 0.3
    weights: str = dataclasses.field(init=False, default="")

    def __post_init__(self):
        _fetch(self, DETECTORS, "--detector_checkpoint")
        if not self._person:
            labels = list(_opened(self)[0].config.id2label.values())
            raise InputError(f"--detector_checkpoint={self.checkpoint} has no class 'person', but {labels[:10]}")

    @property
    def _person(self) -> list[int]:
        return [int(i) for i, name in _opened(self)[0].config.id2label.items() if name.lower() == "person"]

    def detect(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """uint8 [n h w 3] → for each frame boxes float32 [k 4] (x0, y0, x1, y1 in its pixels) and scores [k], falling.

        Raises:
          FloatingPointError: the model gives NaN or inf.
        """
        import torch

        model, processor, device = _opened(self)
        persons, size_hw = self._person, frames.shape[1:3]

        def run(rows: slice, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
            pixels = _resized(torch.from_numpy(frames[rows]), processor).to(device)
            outputs = _forward(self, model, _normalised(pixels, processor), size)
            kept = {k: _finite(outputs[k], len(pixels), self.kind) for k in ("logits", "pred_boxes")}
            found = processor.post_process_object_detection(
                SimpleNamespace(**kept), threshold=self.min_score, target_sizes=[size_hw] * len(pixels)
            )
            chosen = [np.isin(f["labels"].numpy(), persons) for f in found]
            return [(f["boxes"].numpy()[c], f["scores"].numpy()[c]) for f, c in zip(found, chosen, strict=True)]

        return backends.in_batches(run, len(frames), self.batch_size)


@dataclasses.dataclass(frozen=True)
class PoseModel:
    """Finds the 17 COCO joints of one person in a box with ViTPose (Xu et al., NeurIPS 2022) or ViTPose+.

    Attributes:
      kind: of POSES. checkpoint, device, half: as in `Detector`.
      batch_size: persons a call.
    """

    kind: str = "vitpose_b"
    checkpoint: str = ""
    device: str = "auto"
    half: bool = False
    batch_size: int = 16
    weights: str = dataclasses.field(init=False, default="")

    def __post_init__(self):
        _fetch(self, POSES, "--pose_checkpoint")
        joints = _opened(self)[0].config.num_labels
        if joints != JOINTS:
            raise InputError(f"--pose_checkpoint={self.checkpoint} gives {joints} joints, a pose column has COCO's 17")

    def estimate(self, frames: np.ndarray, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The joints of each box.

        Args:
          frames: uint8 [n h w 3]. frame: int [k], which of them a box is on; rising.
          boxes: float32 [k 4], x0, y0, x1, y1.

        Returns:
          float32 [k 17 3]: x and y in pixels of the frame (pixel centres at whole numbers), and the score, a heatmap's
          peak: it may exceed 1. Refined as the model's image processor does (DARK with UDP).

        Raises:
          FloatingPointError: the model gives NaN or inf.
        """
        import torch

        model, processor, device = _opened(self)

        def run(rows: slice, size: int) -> list[np.ndarray]:
            crops = [
                _crops(torch.from_numpy(frames[i]).to(device), boxes[rows][frame[rows] == i], processor)
                for i in np.unique(frame[rows])
            ]
            pixels = _normalised(torch.cat(crops).round(), processor)
            outputs = _forward(self, model, pixels, size)
            xywh = np.concatenate([boxes[rows, :2], boxes[rows, 2:] - boxes[rows, :2]], axis=1)
            heatmaps = SimpleNamespace(heatmaps=_finite(outputs["heatmaps"], len(pixels), self.kind))
            [people] = processor.post_process_pose_estimation(heatmaps, boxes=[xywh.tolist()])
            return [np.c_[p["keypoints"].numpy(), p["scores"].numpy()].astype(np.float32) for p in people]

        return np.array(backends.in_batches(run, len(boxes), self.batch_size), np.float32).reshape(-1, JOINTS, 3)


def crop_regions(boxes: np.ndarray, aspect: float) -> np.ndarray:
    """float64 [k 4]: centre x, centre y, width, height of what is cut out for boxes [k 4] (x0, y0, x1, y1).

    A box is enlarged to `aspect` = width / height, then by PADDING.
    """
    centre, (width, height) = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).T
    width, height = np.maximum(width, aspect * height), np.maximum(height, width / aspect)
    return np.c_[centre, PADDING * width, PADDING * height].astype(np.float64)


def _resized(images, processor):
    """uint8 tensor [n h w 3] → [n 3 height width], whatever that does to the aspect; as Pillow does, within a grey level.

    On the CPU, where whole numbers take a twentieth of the time that floating point takes.
    """
    import torch

    size = processor.size["height"], processor.size["width"]
    return torch.nn.functional.interpolate(images.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)


def _crops(image, boxes: np.ndarray, processor):
    """Cuts boxes [k 4] out of a uint8 tensor [h w 3]: float tensor [k 3 height width], black outside of the image.

    The centres of the corner pixels lie on the edges of the region (UDP: get_warp_matrix), bilinear.
    """
    import torch

    height, width = processor.size["height"], processor.size["width"]
    h, w = image.shape[:2]
    regions = crop_regions(boxes, width / height)
    x = regions[:, :1] + regions[:, 2:3] * np.linspace(-0.5, 0.5, width)
    y = regions[:, 1:2] + regions[:, 3:] * np.linspace(-0.5, 0.5, height)
    x, y = (
        torch.from_numpy(((2 * a + 1) / n - 1).astype(np.float32)) for a, n in ((x, w), (y, h))
    )  # grid_sample's unit
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1).to(image.device)
    source = image.permute(2, 0, 1).float()[None].expand(len(boxes), -1, -1, -1)
    return torch.nn.functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _normalised(pixels, processor):
    """0..255 → what the model was trained with, by its preprocessor_config.json."""
    import torch

    pixels = pixels.float()
    if processor.do_rescale:
        pixels = pixels * processor.rescale_factor
    if processor.do_normalize:
        mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in _moments(processor))
        pixels = (pixels - mean) / std
    return pixels


def _moments(processor) -> tuple[list[float], list[float]]:
    return list(processor.image_mean), list(processor.image_std)


def _forward(settings: Detector | PoseModel, model, pixels, size: int):
    """One call with `size` images: `pixels` and black ones."""
    import torch

    missing = size - len(pixels)
    batch = torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])]) if missing else pixels
    options = {}
    if getattr(getattr(model.config, "backbone_config", None), "num_experts", 1) > 1:
        options["dataset_index"] = torch.full((size,), COCO_EXPERT, device=batch.device)
    kind = batch.device.type
    half = torch.float16 if kind == "cuda" else torch.bfloat16
    with torch.inference_mode(), torch.autocast(kind, half) if settings.half else contextlib.nullcontext():
        return model(batch, **options)


def _finite(output, count: int, kind: str):
    """The first `count` rows in float32 on the CPU; without this a NaN score would pass for "nobody there"."""
    output = output[:count].float().cpu()
    if not output.isfinite().all():
        raise FloatingPointError(f"{kind} gives NaN or inf; try without --half")
    return output


def _fetch(settings: Detector | PoseModel, kinds: dict[str, tuple[str, str, str]], option: str) -> None:
    """Finds the weights and opens the model, so that whatever is wrong with them stops the run before it begins."""
    class_name, model_type, published = kinds[settings.kind]
    if settings.batch_size < 1:
        raise InputError(f"batch sizes must be at least 1, got {settings.batch_size} for {settings.kind}")
    backends.require("torch", INSTALL)
    backends.require("transformers", INSTALL)
    folder = backends.model_folder(settings.checkpoint or published, option)
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stated = found.get("model_type") if isinstance(found, dict) else None
    if stated != model_type:
        raise InputError(
            f"{option}={folder}: config.json says model_type {stated!r}, {settings.kind} is {model_type!r}"
        )
    object.__setattr__(settings, "checkpoint", str(folder))
    object.__setattr__(settings, "weights", backends.folder_hash(folder))
    _open(str(folder), class_name, backends.torch_device(settings.device))


def _opened(settings: Detector | PoseModel) -> tuple[Any, Any, str]:
    class_name = (DETECTORS | POSES)[settings.kind][0]
    return _open(settings.checkpoint, class_name, backends.torch_device(settings.device))


@functools.lru_cache(maxsize=2)  # a detector and a pose model, once a process
def _open(folder: str, class_name: str, device: str) -> tuple[Any, Any, str]:
    """The model, its image processor, its device.

    Raises:
      ValueError: the files do not hold a whole model of this class; a layer without weights would be random.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, class_name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        processor.size["height"], processor.size["width"], _moments(processor)
    except Exception as e:  # safetensors, JSON, torch and transformers each have their own
        raise InputError(f"{folder}: not a whole {class_name}: {type(e).__name__}: {str(e).strip()[:300]}") from None
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{folder}: not a whole {class_name}: {len(missing)} weights are missing, e.g. {missing[:3]}")
    return model.float().to(device).eval(), processor, device  # stored in half or not: `half` decides
