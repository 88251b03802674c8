"""A finished run: its config, its scores, and where its rows lie."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mtjax.data.catalog import Catalog
from mtjax.lookup import ConfigError
from mtjax.run.metrics_log import METRICS, read_metrics
from mtjax.run.plain_config import read_config

RETRIEVAL = "retrieval"  # in results.json: what `mtjax.retrieve` says of its scores, by their name


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
        if not (workdir / "results.json").is_file():
            raise ConfigError(f"{workdir}: no results.json; the run has not finished (run its training command again)")
        config = read_config(workdir)
        return cls(workdir, config, json.loads((workdir / "results.json").read_text()), read_metrics(workdir / METRICS))

    @property
    def scores(self) -> dict[str, float]:
        return self.results["scores"]

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
