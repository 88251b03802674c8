"""What a config says and what its constructors say where it is silent."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mtjax import lookup
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.run.experiment import Train

ROOMS = {"data": "modalities", "model": "models", "task": "tasks"}
FIXED = (
    "self",
    "rngs",
)  # arguments that are no fields; nor is `data`, which tasks and evaluators are given by position


@dataclasses.dataclass(frozen=True)
class Field:
    """One value of a resolved config.

    Attributes:
      path: "data.root". value: as it will be used. default: the constructor's, `inspect.Parameter.empty` for none.
      given: whether the config says it.
    """

    path: str
    value: Any
    default: Any
    given: bool

    @property
    def differs(self) -> bool:
        return self.given and self.value != self.default


def constructors(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Callable[..., Any]]]:
    """(path of a section, its values, whose keywords they are)."""
    for section, room in ROOMS.items():
        yield section, config[section], lookup.resolve(room, config[section].get("name", ""))
    yield "optimizer", config["optimizer"], Optimizer
    for name, values in config["evals"].items():
        yield f"evals.{name}", values, lookup.resolve("evaluators", values.get("name", ""))
    yield "train", config["train"], Train
    yield "mesh", config["mesh"], sharding.make_mesh


def defaults_of(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Keyword → default, `inspect.Parameter.empty` where it has to be given."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    keyword = [p for p in parameters if p.name not in FIXED and p.kind not in kinds]
    found = {p.name: p.default for p in keyword if p.name != "data" or p.kind is p.KEYWORD_ONLY}
    if dataclasses.is_dataclass(constructor):
        made = {f.name: f.default_factory for f in dataclasses.fields(constructor)}
        found |= {k: made[k]() for k in found if made.get(k, dataclasses.MISSING) is not dataclasses.MISSING}
    return found


def fields(config: Mapping[str, Any]) -> list[Field]:
    """Every field of every constructor that the config names, in the order of the sections.

    Raises:
      ConfigError: a section names something that does not exist.
    """
    out = [Field("seed", config["seed"], inspect.Parameter.empty, True)]
    for path, values, constructor in constructors(config):
        defaults = defaults_of(constructor)
        if "name" in values and "name" not in defaults:
            out.append(Field(f"{path}.name", values["name"], inspect.Parameter.empty, True))
        for name in dict.fromkeys([*(k for k in values if k != "name" or k in defaults), *defaults]):
            default = defaults.get(name, inspect.Parameter.empty)
            out.append(Field(f"{path}.{name}", values.get(name, default), default, name in values))
    return out


def lines(config: Mapping[str, Any], *, only_different: bool = False) -> list[str]:
    """One line a field, "data.frames = 32"; what the config leaves to the constructor is marked."""
    shown = [f for f in fields(config) if f.differs or not only_different]
    return [f"{f.path} = {_text(f)}{'' if f.given else '  # default'}" for f in shown]


def _text(field: Field) -> str:
    return "(needed)" if field.value is inspect.Parameter.empty else repr(field.value)
