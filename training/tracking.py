"""Who is told of the runs of a shop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from training.catalog import Catalog
from training.outbox import MlflowOutbox
from training.runs import Run, RunsFile, Tracker, harmless, open_run
from training.settings import Settings
from training.shop import Shop
from training.surroundings import surroundings


@contextmanager
def tracked(
    shop: Shop, kind: str, settings: Mapping[str, Any], *, tensorboard: bool = False, is_first: bool = True
) -> Iterator[Run]:
    """A run of this shop, told to whom its settings name; to nobody in processes that only help."""
    told = trackers(shop.environment, tensorboard=tensorboard) if is_first else []
    with open_run(told, kind, settings) as run:
        with harmless("surroundings"):
            run.tags(**surroundings(shop.device))
        yield run


@harmless("data")
def tell_catalog(run: Run, catalog: Catalog) -> None:
    """What a run learns from. Reads every picture."""
    run.dataset(catalog.path.name, catalog.fingerprint(), str(catalog.path))


def trackers(environment: Settings, *, tensorboard: bool = False) -> list[Tracker]:
    """Who reads the runs of a shop: runs.jsonl, MLflow unless it is off, TensorBoard if it is asked for."""
    found: list[Tracker] = [RunsFile(environment.home)]
    if environment.tracking == "mlflow":
        found.append(MlflowOutbox(environment))
    if tensorboard:
        from training.tensorboard import TensorBoard  # here, because it takes a second to import

        found.append(TensorBoard(environment.tracking_folder / "tensorboard"))
    return found
