"""Opens the shop's Feast store for training: applies definitions, never takes anything away."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.development_redis import ensure_development_redis
from aisle.features import feast_environment
from training.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore  # takes three seconds to import: commands that need no store go without

REPOSITORY = Path(__file__).parent.parent / "feature_repo"
_TIMEOUT_S = 5.0  # writing in bulk may wait longer than a request's read


def open_feature_store(environment: Settings) -> FeatureStore:
    """The store of a shop; a private Redis is started (or joined) when no AISLE_REDIS_URL is set."""
    from feast import FeatureStore

    url = environment.redis_url or ensure_development_redis(environment.home / "redis")
    os.environ.update(feast_environment(environment.home, url, timeout_s=_TIMEOUT_S))
    (environment.home / "feast").mkdir(parents=True, exist_ok=True)
    return FeatureStore(repo_path=str(REPOSITORY))


def apply_definitions(store: FeatureStore) -> list[str]:
    """Apply feature_repo/definitions.py as it is now; return the names applied.

    Nothing is deleted: taking a view away erases other projects' rows too (Feast matches Redis keys by
    suffix), and an old classifier may still be serving from it.
    """
    from feast import Entity, FeatureService, FeatureView

    found = runpy.run_path(str(REPOSITORY / "definitions.py")).values()
    kinds = (Entity, FeatureView, FeatureService)
    objects = {id(thing): thing for thing in found if isinstance(thing, kinds)}
    store.apply(list(objects.values()), partial=True)
    return sorted(thing.name for thing in objects.values())
