"""`python -m preprocessing.extract pose` over real videos with random weights: frames/s, and where the time goes.

    python -m benchmarks.pose_extraction --videos=FOLDER                          # tiny models: what all but they cost
    python -m benchmarks.pose_extraction --videos=FOLDER --size=full --shortest=1 # RT-DETR R50 and ViTPose-B, one video
    python -m benchmarks.pose_extraction --videos=FOLDER --size=full --half --num_workers=4   # on a GPU

Random weights cost what trained ones do; the detector's scores mean nothing, so it has one class only, and a fixed number of
its boxes a frame counts as persons. `decoding` is what the extractor waits for: a child process decodes the next clip meanwhile.
"""

import argparse
import functools
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import av
import torch
import transformers

from mtjax.data.columns import Column
from preprocessing import catalog, extract
from preprocessing.extractors import pose_models

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")
SMALL_DETECTOR = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 50,
    "encoder_in_channels": [16, 24, 32],
    "decoder_in_channels": [32, 32, 32],
}


def save_models(size: str, folder: Path) -> list[str]:
    """Writes both models with random weights; returns the options that choose them."""
    torch.manual_seed(0)
    small = size == "small"
    resnet = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}
    backbone = transformers.RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **(resnet if small else {}))
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        id2label={0: "person"},
        label2id={"person": 0},
        **(SMALL_DETECTOR if small else {}),
    )
    transformers.RTDetrForObjectDetection(config).save_pretrained(folder / "detector")
    side = 128 if small else 640
    transformers.RTDetrImageProcessor(size={"height": side, "width": side}).save_pretrained(folder / "detector")
    height, width = (64, 48) if small else (256, 192)
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "out_indices": [2]}
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(height, width), **(vit if small else {"out_indices": [12]})
    )
    model = transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone, num_labels=17))
    model.save_pretrained(folder / "pose")
    transformers.VitPoseImageProcessor(size={"height": height, "width": width}).save_pretrained(folder / "pose")
    return [f"--detector_checkpoint={folder / 'detector'}", f"--pose_checkpoint={folder / 'pose'}"]


def seconds_of(path: Path) -> float:
    with av.open(str(path)) as container:
        return (container.duration or 0) / av.time_base


def timed(owner: type, method: str, spent: dict[str, float]) -> None:
    """Adds the time spent in a method to `spent`."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def wrapper(*args):
        start = time.perf_counter()
        try:
            return original(*args)
        finally:
            spent[method] += time.perf_counter() - start

    setattr(owner, method, wrapper)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--shortest", type=int, default=0, help="only so many videos, the shortest; 0: all")
    parser.add_argument("--persons", type=int, default=1, help="a frame, at most")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--person_batch", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    names = sorted(p for p in args.videos.iterdir() if p.suffix in SUFFIXES)
    names = sorted(names, key=seconds_of)[: args.shortest or None]
    spent: dict[str, float] = defaultdict(float)
    for owner, method in ((pose_models.Detector, "detect"), (pose_models.PoseModel, "estimate")):
        timed(owner, method, spent)
    with tempfile.TemporaryDirectory() as folder:
        root, listing = Path(folder, "set"), Path(folder, "clips.csv")
        listing.write_text("path,label\n" + "".join(f"{p.name},any\n" for p in names))
        if catalog.main(["csv", str(listing), str(root), f"--videos={args.videos}"]):
            raise SystemExit("no catalog")
        models = save_models(args.size, Path(folder))
        options = [f"--{k}={getattr(args, k)}" for k in ("fps", "batch_size", "person_batch", "num_workers", "device")]
        options += [f"--max_persons={args.persons}", "--min_score=0.0", "--min_side_px=1"] + ["--half"] * args.half
        start = time.perf_counter()
        if extract.main(["pose", str(root), *models, *options]):
            raise SystemExit("not all videos were extracted")
        seconds = time.perf_counter() - start
        column = Column(root, "pose.vitpose_b")
        records = column.read(list(range(len(column))))
    frames, persons = sum(len(r["pose"]) for r in records), sum(len(r["people"]) for r in records)
    result = {
        "size": args.size,
        "clips": len(records),
        "frames": frames,
        "persons": persons,
        "seconds": round(seconds, 2),
    }
    result |= {"frames_per_s": round(frames / seconds, 2), "half": args.half, "threads": torch.get_num_threads()}
    if args.num_workers == 1:
        result |= {f"{k}_s": round(v, 2) for k, v in spent.items()}
        result["decoding_and_rest_s"] = round(seconds - sum(spent.values()), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
