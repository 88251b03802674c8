"""Weight files from elsewhere: damaged ones, pointers and pages are one line; authors' own files are read without running them."""

import argparse
import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from conftest import run_main, tiny_config, write_config

from mtjax import convert
from mtjax.convert import names, torch_files, weight_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 605157884\n"


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def array(start: int, end: int) -> dict:
    return {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}


def saved(value: object, **options: bool) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


BROKEN = {
    "pointer": ("a.safetensors", POINTER, "git-lfs pointer.*git lfs pull"),
    "page": ("a.safetensors", b"<!DOCTYPE html>\n<html>", "web page"),
    "empty": ("a.safetensors", b"", "is empty"),
    "header of 2^62": ("a.safetensors", struct.pack("<Q", 1 << 62) + b"{}", "as safetensors"),
    "header of 99 MB": ("a.safetensors", struct.pack("<Q", 99_000_000) + b"{" * 99_000_000, "as safetensors"),
    "out of range": ("a.safetensors", safetensors({"a": array(0, 80)}, bytes(8)), "as safetensors"),
    "overlapping": ("a.safetensors", safetensors({"a": array(0, 8), "b": array(4, 12)}, bytes(12)), "as safetensors"),
    "cut": ("a.safetensors", safetensors({"a": array(0, 8)}, bytes(5)), "as safetensors"),
    "no array": ("a.safetensors", safetensors({}), "is this a checkpoint of clip"),
    "pointer of PyTorch": ("a.pth", POINTER, "git-lfs pointer"),
    "empty of PyTorch": ("a.pth", b"", "is empty"),
    "a list": ("a.pth", saved([torch.zeros(2)]), r"found a list\); .*state_dict"),
    "a tensor": ("a.pth", saved(torch.zeros(2)), r"found a ndarray\); .*state_dict"),
    "an old list": ("a.pth", saved([1], _use_new_zipfile_serialization=False), "found a list"),
    "cut of PyTorch": ("a.pth", saved({"a": torch.zeros(200)})[:-300], "cannot be read as a PyTorch file"),
    "a module": ("a.pth", saved(torch.nn.Linear(2, 2)), r"it holds .*Linear\); .*state_dict"),
    "an old module": ("a.pth", saved(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False), "holds .*Linear"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_of_convert(tmp_path, case):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    done = run_main("mtjax.convert", "clip", tmp_path / name, tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path / name) in done.stderr and "\x1b" not in done.stderr
    with pytest.raises(names.ConversionError, match=message):
        convert.convert("clip", tmp_path / name)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"vision_config": {"num_', "[1]", "null", "", '{"vision_config": 3}']
)
def test_a_broken_config_is_one_line_of_convert(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(safetensors({"visual": array(0, 8)}, bytes(8)))
    done = run_main("mtjax.convert", "clip", tmp_path, tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr, done.stderr


@pytest.mark.parametrize("content", ['{"weight_map": [1]}', '{"weight_map": {"a": 3}}', "{}", "{"])
def test_a_broken_index_names_itself(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(names.ConversionError, match=r"model\.safetensors\.index\.json"):
        weight_files.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"name": 3, "keywords": {}}', *(f'{{"name": "openai_clip.CLIP", "keywords": {keywords}}}'
     for keywords in ('{"layers": -1}', '{"layer": 1}', '{"heads": "2"}'))],
)  # fmt: skip
def test_a_broken_config_of_a_converted_folder_names_itself(tmp_path, content):
    (tmp_path / convert.WEIGHTS).write_bytes(safetensors({"a": array(0, 8)}, bytes(8)))
    (tmp_path / convert.CONFIG).write_text(content)
    with pytest.raises(names.ConversionError, match=str(tmp_path / convert.CONFIG)):
        convert.convert("clip", tmp_path)


@pytest.mark.parametrize("content", [POINTER, b"", safetensors({"a": array(0, 80)}, bytes(8))])
def test_broken_weights_are_one_line_of_a_training_that_begins_with_them(dataset, tmp_path, content):
    start = tmp_path / "start"
    start.mkdir()
    (start / convert.WEIGHTS).write_bytes(content)
    config = write_config(tmp_path / "c.py", tiny_config(dataset, train__init=str(start)))
    done = run_main("mtjax.train", f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert str(start / convert.WEIGHTS) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("old", [False, True])
def test_what_a_checkpoint_holds_beside_weights_is_left_out(tmp_path, old):
    kept = {"module.a.weight": torch.arange(6.0).reshape(2, 3).half().T, "count": torch.tensor(3)}
    other = {"best": np.float64(71.2), "curve": np.zeros(3), "epoch": 3}
    path = tmp_path / "best.pth"
    path.write_bytes(saved({"model": kept} | other, _use_new_zipfile_serialization=not old))
    arrays = weight_files.read(path)[1]
    assert arrays.keys() == {"a.weight", "count"} and arrays["a.weight"].dtype == np.float32
    np.testing.assert_array_equal(arrays["a.weight"], [[0, 3], [1, 4], [2, 5]])
    assert arrays["count"] == 3


def test_options_of_the_command_line_do_not_matter(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "c.pth")
    np.testing.assert_array_equal(weight_files.read(tmp_path / "c.pth")[1]["a"], [1, 1])


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2).half()
        self.register_buffer("steps", torch.tensor([4, 5]))

    def forward(self, x):
        return x


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(Block(), Block())
        self.scale = torch.nn.Parameter(torch.ones(3, 2).bfloat16().T)

    def forward(self, x):
        return self.layers(x)


def test_a_torchscript_archive_is_read_as_its_state_dict(tmp_path):
    module = Outer()
    torch.jit.trace(module, torch.zeros(3), check_trace=False).save(str(tmp_path / "script.pt"))
    arrays = weight_files.read(tmp_path / "script.pt")[1]
    assert arrays.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(arrays[name], value.float().numpy())


def rewritten(content: bytes, change) -> bytes:
    """A zip archive, each file of it changed by `change(name, bytes)`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def test_a_tensor_never_reaches_beyond_its_storage(tmp_path):
    def shorter(name: str, content: bytes) -> bytes:
        return content[:-4] if name.endswith("data/0") else content

    (tmp_path / "a.pth").write_bytes(rewritten(saved({"a": torch.arange(4.0)}), shorter))
    with pytest.raises(names.ConversionError, match="beyond what is stored"):
        weight_files.read(tmp_path / "a.pth")


def test_nothing_that_a_file_names_is_called(tmp_path):
    class Call:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    path = tmp_path / "evil.pth"
    path.write_bytes(saved({"model": {"a": torch.ones(2)}, "more": Call()}))
    loaded, skipped = torch_files.load(path)
    assert isinstance(loaded["more"], torch_files.Placeholder) and skipped == ["io.open"]
    assert not (tmp_path / "was-run").exists()
