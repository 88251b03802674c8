"""From FILE:FUNCTION to the function that lists the steps of a chain, and from its keywords to flags."""

import argparse
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from mtjax.lookup import ConfigError

DEFAULT = "chain"


def function_of(name: str) -> Callable[..., list]:
    """The function that FILE:FUNCTION, or FILE alone for `chain`, names.

    Raises:
      ConfigError: no such file or function, an error in it, or a function without the keyword `runs`.
    """
    file, _, function = name.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such file; chains are in configs/chains/")
    spec = importlib.util.spec_from_file_location(f"chain_of_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # whatever the file does
        raise ConfigError(f"{file}: {type(e).__name__}: {e}") from e
    chains = {
        k: f for k, f in vars(module).items() if inspect.isfunction(f) and "runs" in inspect.signature(f).parameters
    }
    if (function or DEFAULT) not in chains:
        raise ConfigError(f"{name}: chains of this file are {[f'{file}:{k}' for k in chains if not k.startswith('_')]}")
    return chains[function or DEFAULT]


def settings_of(function: Callable[..., list]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def add_settings(parser: argparse.ArgumentParser, function: Callable[..., list]) -> None:
    """A flag for each keyword of the function: text, a number, or a list with commas, as it is annotated."""
    hints = get_type_hints(function)
    group = parser.add_argument_group(f"settings of {function.__name__}", inspect.getdoc(function))
    for name, parameter in settings_of(function).items():
        required = parameter.default is parameter.empty
        shown = _text(parameter.default)
        group.add_argument(
            f"--{name}",
            type=_reader(hints.get(name, str)),
            required=required,
            default=None if required else parameter.default,
            help="" if required else f"default: {shown}" if shown else "default: none",
        )


def _reader(hint: Any) -> Callable[[str], Any]:
    if hint == tuple[int, ...]:
        return _numbers
    if hint == tuple[str, ...]:
        return _words
    if hint in (int, float, str):
        return hint
    raise ConfigError(f"a setting of a chain is a str, int, float or tuple of str or int, not {hint}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
