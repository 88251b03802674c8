"""A chain of five steps, all real: tracks out of images, a teacher, its soft labels, a student of them, the report."""

import json
from pathlib import Path

import numpy as np
from conftest import image_bytes, make_dataset, tiny_config, write_config

from mtjax.chain import __main__ as chain
from mtjax.records import Feature

CHAIN = """
from mtjax.chain import Predict, Report, Train, extract

def chain(runs: str, root: str, configs: str, seeds: tuple[int, ...] = (0,)):
    steps = [extract("tracks", root, "tracks.lk", "--frames=8", "--points=5", "--max_failures=1%", images="frames")]
    for seed in seeds:
        teacher = Train(f"{runs}/teacher-{seed}", f"{configs}/teacher.py", {"seed": seed})
        soft = Predict(teacher.workdir, root, f"soft.{seed}", splits=("train",))
        student = Train(f"{runs}/student-{seed}", f"{configs}/student.py", {"seed": seed, "data.teacher": soft.column})
        steps += [teacher, soft, student]
    workdirs = tuple(step.workdir for step in steps if isinstance(step, Train))
    return [*steps, Report(workdirs, f"{runs}/report.html", (f"--teacher={workdirs[0]}",))]
"""


def videos(root: Path) -> None:
    """Squares that move in one of two directions, as images."""
    rng = np.random.default_rng(0)
    values = {}
    for split, count in (("train", 8), ("test", 4)):
        for i in range(count):
            images = np.repeat(rng.integers(0, 60, (1, 64, 64, 3), np.uint8), 8, 0)
            for t, image in enumerate(images):
                image[20 + 3 * t * (i % 2) :, 20 + 3 * t * (1 - i % 2) :][:20, :20] = 200
            values[f"{split}-{i:03}"] = [image_bytes(image, "JPEG") for image in images]
    size, fps = ({i: value for i in values} for value in (np.array([64, 64], np.int32), np.float32(8)))
    times = {i: np.arange(8, dtype=np.float32) / 8 for i in values}
    fields = {"frames": (Feature("jpeg", (-1,)), values), "size_px": (Feature("int32", (2,)), size)}
    fields |= {"fps": (Feature("float32"), fps), "times_s": (Feature("float32", (-1,)), times)}
    make_dataset(root, per_split={"train": 8, "test": 4}, classes=2, columns_of={"frames": fields})


def test_five_steps_from_images_to_a_student_and_its_report(tmp_path, capfd):
    root, runs = tmp_path / "data", tmp_path / "runs"
    videos(root)
    teacher = tiny_config(root, data__column="tracks.lk", train__steps=1, data__on_corrupt="raise")
    write_config(tmp_path / "teacher.py", teacher)
    write_config(tmp_path / "student.py", teacher | {"task": {"name": "distill.Distill"}})
    (tmp_path / "five.py").write_text(CHAIN)
    command = [f"{tmp_path / 'five.py'}", f"--runs={runs}", f"--root={root}", f"--configs={tmp_path}"]
    assert chain.main(command) == 0
    results = json.loads((runs / "student-0/results.json").read_text())
    assert (
        set(results["origin"]["inputs"]) == {"soft.0"} and "Teacher and student" in (runs / "report.html").read_text()
    )
    capfd.readouterr()
    assert chain.main(command) == 0 and capfd.readouterr().out.count(": done") == 5
    assert chain.main([*command, "--config.optimizer.lr=0.1"]) == 2
    assert "train " in (said := capfd.readouterr().err) and "config.optimizer.lr was 0.003, now 0.1" in said
    assert len(CHAIN.splitlines()) <= 40
