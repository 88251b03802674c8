"""Values and names from elsewhere, made fit for a message: of bounded size, and without what would command a terminal."""

import reprlib
import unicodedata
from typing import Any

_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_TURNS = {*"\u200e\u200f\u061c", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def short(value: Any, length: int = 80) -> str:
    """The `repr` of a value, at most about `length` characters and three levels of it: a small file may hold one that would
    print as gigabytes."""
    bounded = reprlib.Repr()
    bounded.maxlevel, bounded.maxother = 3, length
    bounded.maxlist = bounded.maxtuple = bounded.maxdict = bounded.maxset = bounded.maxfrozenset = bounded.maxdeque = 6
    bounded.maxstring = bounded.maxlong = length
    if type(value) is int and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = bounded.repr(value)
    except Exception as e:  # a foreign `__repr__`, or an integer deep inside that is too long to print
        text = f"a {type(value).__name__} that cannot be shown ({type(e).__name__})"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def clean(text: Any) -> str:
    """Text with its control characters, and those that turn the direction of writing, as escapes; blanks and line ends stay."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\n" or not _controls(c) else ascii(c)[1:-1] for c in text)


def _controls(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in _CONTROLS
