"""The one door from `mtjax` into `preprocessing`: procedural data on first use, and what a raw video gives for prediction."""

import importlib
from collections.abc import Mapping
from typing import Any

from mtjax.command.errors import Missing
from mtjax.lookup import ConfigError, is_allowed


def _room(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(f"preprocessing.{module}")
    except ImportError as e:
        raise Missing(f"preprocessing.{module} cannot be imported ({e}): pip install 'mtjax[{extra}]'") from None


def generate(arguments: Mapping[str, Any], root: str) -> None:
    """Makes a procedural dataset: `arguments` are a `name` ("mannequin") and the keywords of its `generate`."""
    keywords = {k: v for k, v in arguments.items() if k != "name"}
    _room(arguments["name"], "video").generate(root, **keywords)


def extract_video(
    kind: str, path: str, parameters: Mapping[str, Any], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """The record that `preprocessing.extract KIND` would write for one video, and the frames that it shows, uint8 [t h w 3].

    Args:
      kind: a file in `preprocessing/extractors/`, or an import path.
      parameters: of the column.json to extract like; {} for none. flags: of the command, which go before.

    Raises:
      ConfigError: a kind from outside, which a workdir named and nobody allowed.
    """
    kinds = _room("extraction.kinds", "video")
    if kind not in kinds.found() and not is_allowed(kind):
        raise ConfigError(
            f"the training column was extracted by {kind!r}, which is not part of preprocessing/extractors and could run anything; "
            f"if you trust this workdir and that module: --allow_code={kind}"
        )
    return kinds.extract_video(kind, path, parameters, flags)
