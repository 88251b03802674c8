"""A finished run: its config, its scores, and where its rows lie."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtjax.data.catalog import Catalog
from mtjax.lookup import ConfigError
from mtjax.run.metrics_log import METRICS, read_metrics
from mtjax.run.saved_config import read_config

RESULTS = "results.json"
RETRIEVAL = "retrieval"  # in results.json: what `mtjax.retrieve` says of its scores, by their name


def to_json(values: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """JSON as others read it, too: NaN and infinite numbers, which it has not, are null. `indent`: None for one line."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(values), indent=indent, allow_nan=False)


def read_results(workdir: Path) -> dict[str, Any]:
    """results.json.

    Raises:
      ConfigError: the run has not finished, or the file is damaged.
    """
    path = workdir / RESULTS
    again = "run its training command again"
    if not path.is_file():
        raise ConfigError(f"{workdir}: no {RESULTS}; the run has not finished ({again})")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(results["scores"], dict) and isinstance(results.get("fingerprint", {}), dict)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise ConfigError(f"{path} is damaged; remove it and {again}, which scores the run anew")
    return results


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished workdir: its config, results.json, metrics.jsonl and where its rows lie."""

    workdir: Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]

    @classmethod
    def load(cls, workdir: Path) -> "Result":
        """Raises ConfigError when the run has not finished."""
        results = read_results(workdir)
        return cls(workdir, read_config(workdir), results, read_metrics(workdir / METRICS))

    @property
    def scores(self) -> dict[str, float]:
        """Name → value, NaN for one that is not defined."""
        return {name: float("nan") if value is None else value for name, value in self.results["scores"].items()}

    @property
    def origin(self) -> dict[str, Any]:
        """What it was made from (`mtjax.run.provenance`); {} for a run that did not note it."""
        return self.results.get("origin", {})

    @property
    def dataset(self) -> dict[str, str]:
        """`name` and `kind` ("" if its maker says none) of the dataset; the folder's name for a run that did not note it."""
        return self.results.get("dataset") or {"name": Path(self.config["data"]["root"]).name, "kind": ""}

    @property
    def labelled(self) -> int | None:
        """Training clips whose label was used; None for a run that did not note it and may have trained on others as well."""
        if "labelled" in self.results or self.config["data"].get("unlabelled"):
            return self.results.get("labelled")
        return self.results.get("clips", {}).get("train")

    def catalog(self, retrieval: str = "") -> Catalog:
        """Of the dataset that the rows of the run speak of, or the clips of a retrieval of this name.

        Raises:
          CatalogError: it is not there. ConfigError: it is another one now.
        """
        root, known = self.config["data"]["root"], self.results["fingerprint"]["catalog"]
        if retrieval:
            root, known = (self.results[RETRIEVAL][retrieval][k] for k in ("root", "fingerprint"))
        catalog = Catalog.load(root)
        if catalog.fingerprint != known:
            raise ConfigError(
                f"{self.workdir}: {catalog.root} has changed since the run ({catalog.fingerprint}, not {known}); "
                "its rows cannot be told"
            )
        return catalog
