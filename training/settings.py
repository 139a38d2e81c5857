"""Every `AISLE_*` variable of training. Read once, when a command starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aisle.environment import (
    DATABASE_URL,
    DEVICE,
    HOME,
    REDIS_URL,
    describe_environment,
    one_of,
    read_environment,
    variable,
)
from aisle.ledger import ledger_url


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Facts about where training runs. Facts about a run are the commands' options."""

    home: Path = field(metadata=HOME)
    redis_url: str = field(default="", metadata=REDIS_URL, repr=False)
    database_url: str = field(default="", metadata=DATABASE_URL, repr=False)
    device: str = field(default="auto", metadata=DEVICE)
    tracking: str = field(
        default="mlflow",
        metadata=variable(
            "AISLE_TRACKING",
            "mlflow",
            one_of("mlflow", "off"),
            "mlflow: training runs are told to MLflow (MLFLOW_TRACKING_URI, or SQLite in AISLE_HOME); off",
        ),
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        return read_environment(cls, environ)

    @property
    def features(self) -> Path:
        """Offline embeddings: a folder a feature view."""
        return self.home / "features"

    @property
    def reports(self) -> Path:
        """Pages about classifiers and catalogues."""
        return self.home / "reports"

    @property
    def tracking_folder(self) -> Path:
        """MLflow's database and files, TensorBoard's, and what MLflow is still to be told."""
        return self.home / "tracking"

    @property
    def ledger_url(self) -> str:
        return ledger_url(self.home, self.database_url)

    @property
    def scratch(self) -> Path:
        """Unfinished work that a rerun resumes."""
        return self.home / "scratch"


def describe() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every variable, for the README."""
    return describe_environment(Settings)
