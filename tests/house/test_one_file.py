"""A modality, an extractor, a task, a model, a report section, a converter: each is added as one file, and no other is edited."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_of, make_tracks_dataset, train_here
from safetensors.numpy import save_file

from mtjax import convert
from mtjax.convert import __main__ as convert_command
from mtjax.data.columns import Column
from mtjax.report import __main__ as report

MODALITY = '''
"""How far each point has come, in all."""
import dataclasses
import numpy as np
from mtjax.modalities.one_column import OneColumn

@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance(OneColumn):
    """Attributes: gain: of the distances."""
    column: str = "tracks"
    field: str = "tracks"
    gain: float = 1.0

    def element_spec(self):
        return {"features": ((2,), np.dtype(np.float32)), "observed": ((), np.dtype(bool))}

    def decode(self, values, seeds):
        features = np.zeros((len(values), 2), np.float32)
        for i, value in enumerate(values):
            if value is not None:
                track = value[0][self.field].mean(1)
                features[i] = self.gain * (track[-1] - track[0])[:2]
        return {"features": features, "observed": np.array([v is not None for v in values], bool)}
'''
MODEL = '''
"""One hidden layer."""
import jax.numpy as jnp
from flax import nnx

class Small(nnx.Module):
    def __init__(self, *, width: int = 8, rngs: nnx.Rngs):
        self.width, self.hidden = width, nnx.Linear(2, width, rngs=rngs)

    def __call__(self, batch, *, train, rngs=None):
        return jnp.tanh(self.hidden(batch["features"]))
'''
TASK = '''
"""Classification that begins with a head of zeros, and says so."""
import jax.numpy as jnp
from mtjax.tasks.classify import Classify

class FromZero(Classify):
    def settle(self, model):
        model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])

    def loss(self, model, batch, *, rngs):
        loss, scalars = super().loss(model, batch, rngs=rngs)
        return loss, scalars | {"zero": jnp.float32(0.0)}
'''
EXTRACTOR = '''
"""How bright each frame is."""
import dataclasses
from typing import ClassVar
import numpy as np
from mtjax import records

@dataclasses.dataclass(frozen=True)
class Brightness:
    gain: float = 1.0
    name: str = "brightness"
    weights: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    num_frames: ClassVar[int] = 4
    fps: ClassVar[float] = 0.0
    short_side: ClassVar[int] = 0
    batch_size: ClassVar[int] = 1
    window: ClassVar[int] = 1

    schema: ClassVar = {"brightness": records.Feature("float32", (4,))}

    @property
    def parameters(self):
        return {"gain": self.gain}

    def extract(self, clip_ids, clips):
        return [{"brightness": self.gain * clip.frames.mean((1, 2, 3), dtype=np.float32)} for clip in clips]

HELP = "brightness of frames"
AFTER = "{column} is in {root}"

def add_flags(parser):
    parser.add_argument("--gain", type=float, default=1.0)
    parser.add_argument("--name", default="brightness")

def from_flags(args):
    return Brightness(args.gain, args.name)

def flags_of(parameters):
    return {"gain": parameters["gain"]}
'''
SECTION = '''
"""How many runs there are."""
from mtjax.report.page import Section

ORDER = 5

def add_flags(parser):
    parser.add_argument("--greeting", default="hello")

def make(context):
    return [Section("Counted", (f"{context.args.greeting}: {len(context.runs)} run(s)",))]
'''
CONVERTER = '''
"""Weights of one hidden layer as PyTorch stores them."""
import re
from mtjax.convert import names

CONSTRUCTOR = "{package}.model.Small"
IGNORED = re.compile("steps")

def settings(config, arrays):
    return {{"width": len(arrays["fc.weight"])}}

def table(keywords):
    return names.linear("hidden", "fc")
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> str:
    """The name of a package outside of the house that can be imported, and holds nothing but these files."""
    name = "one_files_lab"  # no other test imports this name: a module stays imported in its worker
    folder = tmp_path_factory.mktemp("outside") / name
    folder.mkdir()
    files = {
        "modality": MODALITY, "model": MODEL, "task": TASK, "extractor": EXTRACTOR, "section": SECTION,
        "converter": CONVERTER.format(package=name),
    }  # fmt: skip
    for module, text in files.items():
        (folder / f"{module}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        yield name
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def workdir(package, one_device, tmp_path_factory) -> Path:
    """A run whose modality, model and task are from outside."""
    folder = tmp_path_factory.mktemp("run")
    root = make_tracks_dataset(folder / "data")
    parts = {
        "data": {"name": f"{package}.modality.Distance", "train": "train", "gain": 2.0},
        "model": {"name": f"{package}.model.Small"},
        "task": {"name": f"{package}.task.FromZero"},
    }
    scores = train_here(config_of(root, **parts, train={"steps": 30, "log_every": 1}), folder / "w")
    assert scores["test/top1"] > 60  # four directions
    return folder / "w"


def test_modality_model_and_task_train(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/zero" in line]
    assert losses[0] == pytest.approx(np.log(4), abs=1e-5)  # of a head of zeros
    assert losses[-1] < losses[0]


def test_a_section_is_on_the_page(package, workdir, capsys):
    assert report.main([str(workdir), f"--section={package}.section", "--greeting=welcome"]) == 0
    page = (workdir / "report.html").read_text()
    assert "<h2>Counted</h2>" in page and "welcome: 1 run(s)" in page
    assert report.main([str(workdir), "--section=one_files_lab.model"]) == 2
    assert "a section needs ORDER, add_flags, make" in capsys.readouterr().err
    assert report.main([str(workdir), "--section=one_files_lab.nothing"]) == 2
    assert "there is no such module" in capsys.readouterr().err


def test_weights_are_converted_there_and_back(package, tmp_path, capsys):
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2)
    arrays = {"fc.weight": kernel, "fc.bias": np.ones(3, np.float32), "steps": np.ones(1, np.int32)}
    save_file(arrays, tmp_path / "theirs.safetensors")
    kind = f"{package}.converter"
    assert convert_command.main([kind, str(tmp_path / "theirs.safetensors"), str(tmp_path / "ours")]) == 0
    module = convert.load(kind, tmp_path / "ours")
    np.testing.assert_array_equal(module.hidden.kernel[...], kernel.T)
    with pytest.raises(SystemExit):
        convert_command.main(["--help"])
    assert "clip, r2plus1d, r3d, s3dg, xclip" in " ".join(capsys.readouterr().out.split())
    for wrong, message in (
        ("one_files_lab.model", "is no kind of conversion"),
        ("slowfast", "kinds are clip, r2plus1d"),
    ):
        with pytest.raises(convert.ConversionError, match=message):
            convert.room_of(wrong)


def test_a_column_is_extracted_and_a_video_as_the_column(package, tmp_path, capsys):
    pytest.importorskip("av")
    cv2 = pytest.importorskip("cv2")
    from preprocessing import catalog, extract
    from preprocessing.extraction import kinds

    for i in range(3):
        path = tmp_path / "videos" / "a" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (32, 24))
        for t in range(6):
            writer.write(np.full((24, 32, 3), 20 * i + 10 * t, np.uint8))
        writer.release()
    root, kind = tmp_path / "data", f"{package}.extractor"
    assert catalog.main(["folder", str(tmp_path / "videos"), str(root)]) == 0
    assert extract.main([kind, str(root), "--gain=2"]) == 0
    assert f"brightness is in {root}" in capsys.readouterr().out
    column = Column(root, "brightness")
    assert column.spec.producer == f"preprocessing.extract {kind}"
    [stored] = column.read(column.rows(["a/2"]))
    record, frames = kinds.extract_video(kind, path, column.spec.parameters, {})
    np.testing.assert_array_equal(record["brightness"], stored["brightness"])
    assert frames.shape == (4, 24, 32, 3)
    assert extract.main(["one_files_lab.model", str(root)]) == 2
    assert "is no kind of column: it needs HELP" in capsys.readouterr().err
    assert extract.main(["one_files_lab.nothing", str(root)]) == 2
