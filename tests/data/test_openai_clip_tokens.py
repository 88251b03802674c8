"""CLIP's tokens against `transformers`' on real descriptions and on awkward text."""

import csv
import gzip
import json
from pathlib import Path

import pytest
import transformers
from conftest import REPO
from tokenizers import Tokenizer, models

from mtjax.command.errors import InputError
from mtjax.data import openai_clip_tokens

SHARED = REPO.parent / "shared" / "data"
VOCABULARY = SHARED / "clip" / "bpe_simple_vocab_16e6.txt.gz"
needs_vocabulary = pytest.mark.skipif(not VOCABULARY.is_file(), reason="CLIP's vocabulary (../shared) is not here")
AWKWARD = [
    "", " ", "a photo of a cat", "A  Photo\tof\na CAT!", "it's they'll I'd we've", "naïve café — 3.14 × 10⁻³",
    "手を振る人", "🏃‍♀️ running, running; RUNNING", "x" * 300, "word " * 200, "<b>&amp;</b> http://a.b/c?d=e", "Ångström ﬁ Ⅷ",
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """`transformers`' tokenizer over the same vocabulary."""
    folder = tmp_path_factory.mktemp("clip")
    with gzip.open(VOCABULARY, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : openai_clip_tokens.MERGES + 1]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    words = openai_clip_tokens.load(VOCABULARY).get_vocab()
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def texts() -> list[str]:
    rows = []
    for path in sorted(SHARED.glob("motion_descriptions/**/*.csv"))[:4]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows += [" ".join(row) for row in csv.reader(file)]
    return rows[:500] + AWKWARD


@needs_vocabulary
def test_ids_are_those_of_transformers(reference):
    tokenizer = openai_clip_tokens.load(VOCABULARY)
    assert len(texts()) > len(AWKWARD)
    expected = reference(texts(), truncation=True, max_length=77)["input_ids"]
    for text, row, want in zip(texts(), openai_clip_tokens.encode(tokenizer, texts()), expected, strict=True):
        assert row[: len(want)].tolist() == want and not row[len(want) :].any(), text


@needs_vocabulary
def test_known_ids_and_truncation():
    tokenizer = openai_clip_tokens.load(VOCABULARY)
    assert tokenizer.get_vocab_size() == 49_408
    row = openai_clip_tokens.encode(tokenizer, ["a photo of a cat"])[0]
    assert row[:8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    long = openai_clip_tokens.encode(tokenizer, ["cat " * 100], context=8)[0]
    assert long.tolist() == [49406] + [2368] * 6 + [49407] and long.argmax() == 7
    assert openai_clip_tokens.encode(tokenizer, []).shape == (0, 77)


def test_a_wrong_file_says_what_to_pass(tmp_path):
    with pytest.raises(ValueError, match="bpe_simple_vocab_16e6"):
        openai_clip_tokens.load(tmp_path / "nothing.gz")
    short = Path(tmp_path / "short.gz")
    with gzip.open(short, "wt") as file:
        file.write("#version\na b\n")
    with pytest.raises(ValueError, match=r"\d+ merges, CLIP has 48894 pairs; is the file whole"):
        openai_clip_tokens.load(short)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "is empty"),
        (gzip.compress(b"#version\n" + b"a b\n" * 9)[:-6], "cannot be read as CLIP's list of merges"),
        (b"#version\n" + b"zz qq\n" * 60_000, "cannot be read as CLIP's list of merges"),
        (b"\xff\xfe\x00", "cannot be read as CLIP's list of merges"),
    ],
)  # fmt: skip
def test_a_list_of_merges_that_is_none_is_one_line(tmp_path, content, message):
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}.*{message}") as caught:
        openai_clip_tokens.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", "[" * 100_000, '{"model": {"type": "BPE"}}', "version https://git-lfs"]
)
def test_a_broken_tokenizer_json_is_one_line(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)) as caught:
        openai_clip_tokens.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"no <\|startoftext\|>"):
        openai_clip_tokens.load(tmp_path)


@needs_vocabulary
def test_the_list_of_merges_may_be_unpacked(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt"
    path.write_bytes(gzip.decompress(VOCABULARY.read_bytes()))
    assert openai_clip_tokens.load(path).get_vocab() == openai_clip_tokens.load(VOCABULARY).get_vocab()
