"""From a config section to an object: the name is the import path, the constructor's keywords are the schema."""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from mtjax.command.errors import InputError

RENAMED = {("models", "clip"): "openai_clip"}  # (room, file) in configs of earlier versions


class ConfigError(InputError):
    """A config that cannot be built; names the field and the nearest valid one. Command lines exit with 2."""


def resolve(room: str, name: str) -> Any:
    """`("models", "movt.MovT")` → `mtjax.models.movt.MovT`; a path outside the house (`my_lab.nets.Net`) works too.

    Raises:
      ConfigError: no such module or attribute.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise ConfigError(f"{room}: name {name!r} needs the form 'file.Class'")
    module_name = RENAMED.get((room, module_name), module_name)
    for path in (f"mtjax.{room}.{module_name}", module_name):
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as e:
            if e.name and not (path == e.name or path.startswith(f"{e.name}.")):
                raise  # the file exists, one of its own imports does not
            continue
        if hasattr(module, attribute):
            return getattr(module, attribute)
        raise ConfigError(f"{path} has no {attribute!r}{_did_you_mean(attribute, vars(module))}")
    raise ConfigError(f"{room}: no module {module_name!r} under mtjax/{room} and none importable by that path")


def build(room: str, section: Mapping[str, Any], *args: Any, where: str = "", **fixed: Any) -> Any:
    """Calls the constructor that `section["name"]` names with the section's other entries.

    Args:
      room: folder of `mtjax` that names are looked up in.
      where: the section's path in the config, for messages.
      args, fixed: passed in addition, not part of the schema.

    Raises:
      ConfigError: unknown or missing keys.
    """
    where = where or room
    if "name" not in section:
        raise ConfigError(f"config.{where} needs a 'name'")
    constructor = resolve(room, section["name"])
    keywords = {k: v for k, v in section.items() if k != "name"}
    check_keywords(constructor, keywords, where, skip=len(args), fixed=fixed)
    return constructor(*args, **keywords, **fixed)


def check_keywords(function: Any, keywords: Mapping[str, Any], where: str, *, skip: int = 0, fixed: Any = ()) -> None:
    """Raises ConfigError when `keywords` do not fit the function's signature: names, and types where they are plain."""
    # Of __init__, not of the class: Flax's metaclass takes anything.
    signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"][skip:]
    parameters = [p for p in parameters if p.name not in fixed]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters]
    for key in keywords:
        if key not in known:
            raise ConfigError(f"config.{where}.{key}: {function.__name__} takes no {key!r}{_did_you_mean(key, known)}")
    for p in parameters:
        value = keywords.get(p.name)
        if value is None or p.annotation not in (bool, int, float, str):
            continue
        fits = (int, float) if p.annotation is float else p.annotation
        if not isinstance(value, fits) or (isinstance(value, bool) and p.annotation is not bool):
            raise ConfigError(f"config.{where}.{p.name}={value!r}: {function.__name__} wants {p.annotation.__name__}")
    required = [p.name for p in parameters if p.default is p.empty and p.name not in keywords]
    if required:
        raise ConfigError(f"config.{where}: {function.__name__} needs {required}")


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; it takes {sorted(k for k in known if not k.startswith('_'))}"
    )
