"""The training room's environment, read once when a command starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingEnvironment:
    """Facts about where training runs. Facts about a run are the commands' options."""

    home: Path  # AISLE_HOME: features, development Redis, Feast registry of one shop
    redis_url: str | None  # AISLE_REDIS_URL: None starts a private development Redis below home

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> TrainingEnvironment:
        return cls(
            home=Path(environ.get("AISLE_HOME", ".aisle")).resolve(),
            redis_url=environ.get("AISLE_REDIS_URL") or None,
        )

    @property
    def features(self) -> Path:
        """Offline embeddings: a folder a feature view."""
        return self.home / "features"

    @property
    def scratch(self) -> Path:
        """Unfinished work that a rerun resumes."""
        return self.home / "scratch"
