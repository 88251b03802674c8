"""CLIP's byte-pair tokens: texts → ids, without PyTorch or a hub (equal to `transformers`' CLIPTokenizer)."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mtjax.command.errors import InputError
from mtjax.data.foreign_files import Unreadable, reading

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77
GZIP, MAX_BYTES = b"\x1f\x8b", 16 << 20  # the published file has 3 MB when it is unpacked
MERGES = 49_152 - 256 - 2  # the file has more, which CLIP never used
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def load(source: str | Path) -> Tokenizer:
    """From OpenAI's `bpe_simple_vocab_16e6.txt.gz`, as it is or unpacked, or a Hugging Face folder with `tokenizer.json`.

    Raises:
      InputError: neither, or one that cannot be read; says what to pass.
    """
    path = Path(source)
    if (path / "tokenizer.json").is_file():
        with reading(path / "tokenizer.json", "a tokenizer"):
            return _with_start_and_end(Tokenizer.from_file(str(path / "tokenizer.json")))
    if not path.is_file():
        raise InputError(
            f"{path}: pass bpe_simple_vocab_16e6.txt.gz (OpenAI's CLIP repository) or a Hugging Face folder with tokenizer.json"
        )
    with reading(path, "CLIP's list of merges"):
        packed = path.read_bytes()[:2] == GZIP
        with gzip.open(path) if packed else open(path, "rb") as file:
            lines = file.read(MAX_BYTES).decode().split("\n")[1 : MERGES + 1]
        merges = [tuple(line.split()) for line in lines]
        if len(merges) < MERGES or any(len(merge) != 2 for merge in merges):
            raise Unreadable(f"{len(merges)} merges, CLIP has {MERGES} pairs; is the file whole?")
        letters = _byte_letters()
        words = [*letters, *(f"{c}</w>" for c in letters), *("".join(merge) for merge in merges), START, END]
        return _tokenizer({word: i for i, word in enumerate(words)}, merges)


def _with_start_and_end(tokenizer: Tokenizer) -> Tokenizer:
    """Raises Unreadable when it lacks one of these two words."""
    if missing := [word for word in (START, END) if tokenizer.token_to_id(word) is None]:
        raise Unreadable(f"no {' and no '.join(missing)}, as CLIP's has")
    return tokenizer


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(word, vocabulary[word]) for word in (START, END)]
    )
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def _byte_letters() -> list[str]:
    """A printable character for each byte, in the order of CLIP's vocabulary: printable bytes first, then the others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def encode(tokenizer: Tokenizer, texts: Sequence[str], context: int = CONTEXT) -> np.ndarray:
    """int32 [texts, context]: start, words, end, then zeros as OpenAI pads; longer texts lose words, never their end."""
    end = tokenizer.token_to_id(END)
    ids = np.zeros((len(texts), context), np.int32)
    for row, found in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        kept = found.ids[:context]
        kept[-1] = end
        row[: len(kept)] = kept
    return ids
