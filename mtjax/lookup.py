"""From a config section to an object: the name is the import path, the constructor's keywords are the schema."""

import dataclasses
import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from mtjax.command.errors import InputError

RENAMED = {("models", "clip"): "openai_clip"}  # (room, file) in configs of earlier versions


class ConfigError(InputError):
    """A config that cannot be built; names the field and the nearest valid one. Command lines exit with 2."""


class FromWorkdir(str):
    """A string out of a workdir's config: what it names is only imported when it is our own, or allowed by `allow_code`."""


_allowed: set[str] = set()


def allow_code(modules: Iterable[str]) -> None:
    """Lets the configs of workdirs name these modules, and what lies in them, for the rest of the process."""
    _allowed.update(m for m in modules if m)


def is_allowed(module: str) -> bool:
    """Whether `allow_code` named this module, or one that it lies in."""
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in _allowed)


def from_workdir(value: Any) -> Any:
    """A value of a config with every string in it marked as `FromWorkdir`."""
    if isinstance(value, Mapping):
        return {key: from_workdir(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return tuple(from_workdir(v) for v in value)
    return FromWorkdir(value) if isinstance(value, str) else value


def resolve(room: str, name: str) -> Any:
    """`("models", "movt.MovT")` → `mtjax.models.movt.MovT`; a path outside the house (`my_lab.nets.Net`) works too, in a
    workdir's config only after `allow_code`.

    Raises:
      ConfigError: no such module or attribute, or one that a workdir may not name.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise ConfigError(f"{room}: name {name!r} needs the form 'file.Class'")
    module_name = RENAMED.get((room, module_name), module_name)
    foreign = isinstance(name, FromWorkdir) and not is_allowed(module_name)
    for path in (f"mtjax.{room}.{module_name}", module_name):
        if foreign and not path.startswith(f"mtjax.{room}."):
            continue
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as e:
            if e.name and not (path == e.name or path.startswith(f"{e.name}.")):
                raise  # the file exists, one of its own imports does not
            continue
        if not hasattr(module, attribute):
            raise ConfigError(f"{path} has no {attribute!r}{did_you_mean(attribute, vars(module))}")
        found = getattr(module, attribute)
        if foreign and callable(found) and not str(getattr(found, "__module__", "")).startswith(f"mtjax.{room}."):
            break
        return found
    if foreign:
        raise ConfigError(
            f"{room}: a workdir's config names {str(name)!r}, which is not part of mtjax/{room} and could run anything; if you "
            f"trust this workdir and that module: --allow_code={module_name}"
        )
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
    """Raises ConfigError when `keywords` do not fit the function's signature: names, types and ranges (`command.ranges.Range`)."""
    # Of __init__, not of the class: Flax's metaclass takes anything.
    signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"][skip:]
    parameters = [p for p in parameters if p.name not in fixed]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters]
    for key in keywords:
        if key not in known:
            raise ConfigError(f"config.{where}.{key}: {function.__name__} takes no {key!r}{did_you_mean(key, known)}")
    for p in parameters:
        if p.name in keywords and (wanted := _wanted(keywords[p.name], p.annotation)):
            raise ConfigError(f"config.{where}.{p.name}={keywords[p.name]!r}: {function.__name__} wants {wanted}")
    required = [p.name for p in parameters if p.default is p.empty and p.name not in keywords]
    if required:
        raise ConfigError(f"config.{where}: {function.__name__} needs {required}")


def check_fields(section: Any, where: str) -> None:
    """Raises ConfigError when a field of a dataclass is not of the type and range that its annotation says."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if wanted := _wanted(value, field.type):
            raise ConfigError(f"config.{where}.{field.name}={value!r}: {type(section).__name__} wants {wanted}")


def _wanted(value: Any, annotation: Any) -> str:
    """What a value should be by its annotation, "" when it is; annotations that no config can fill are not looked at."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        kind, *limits = inner
        limits = [limit for limit in limits if hasattr(limit, "__contains__")]
        if wanted := _wanted(value, kind):
            return wanted
        return next((f"{_name(kind)} {limit}" for limit in limits if value not in limit), "")
    if annotation is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return "" if number else "a finite float"
    if annotation in (bool, int, str):
        right = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
        return "" if right else annotation.__name__
    if origin in (typing.Union, types.UnionType):
        wanted = [_wanted(value, one) for one in inner if one is not type(None)]
        return "" if (value is None and type(None) in inner) or "" in wanted else " or ".join(wanted)
    if origin is tuple and ... not in inner:
        fits = isinstance(value, tuple | list) and len(value) == len(inner)
        return "" if fits and not any(map(_wanted, value, inner)) else f"({', '.join(map(_name, inner))})"
    if origin in (tuple, Sequence):
        fits = isinstance(value, tuple | list) and not any(_wanted(v, inner[0]) for v in value)
        return "" if fits else f"a tuple of {_name(inner[0])}"
    if origin is Mapping:
        return "" if isinstance(value, Mapping) else "a section of its own"
    return ""


def _name(annotation: Any) -> str:
    if typing.get_origin(annotation) is Annotated:
        kind, *limits = typing.get_args(annotation)
        return " ".join([_name(kind), *map(str, limits)])
    return getattr(annotation, "__name__", str(annotation))


def did_you_mean(word: str, known: Any) -> str:
    """What a message ends with: the nearest known word, or all of them."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; it takes {sorted(k for k in known if not k.startswith('_'))}"
    )
