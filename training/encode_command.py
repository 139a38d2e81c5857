"""The command that makes vectors: encode, in this process or on Ray."""

from __future__ import annotations

import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aisle import store
from aisle.errors import SettingError
from training import pipeline
from training.catalog import Catalog, ColumnMap, read_catalog
from training.settings import Settings
from training.shop import Encoders, Shop, load_encoders

app = typer.Typer()


class EngineName(StrEnum):
    LOCAL = "local"
    RAY = "ray"


@app.command()
def encode(
    catalog: Annotated[Path, typer.Argument(help="A catalogue, as for the other commands.")],
    text: Annotated[str, typer.Option(help="Text encoder tag; default the newest.")] = "",
    image: Annotated[str, typer.Option(help="Image encoder tag; default the newest.")] = "",
    columns: Annotated[
        str | None, typer.Option("--columns", help="Column map, as for the other commands.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="local: this process; ray: workers of a Ray cluster.")
    ] = EngineName.LOCAL,
    workers: Annotated[
        int, typer.Option(min=0, help="Ray's workers, a core each; 0: as many as this machine has cores.")
    ] = 0,
    ray_address: Annotated[
        str, typer.Option(help="A running cluster (auto, host:port); local: one of this machine's own.")
    ] = "local",
) -> None:
    """Turn texts and pictures into vectors: sharded Parquet. Resumes; skips what has not changed."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    pair = load_encoders(shop, text, image)
    if engine is EngineName.LOCAL:
        pipeline.encode(shop, read, pair)
    else:
        encode_on_ray(shop, read, pair, workers or len(os.sched_getaffinity(0)), ray_address)


def encode_on_ray(shop: Shop, catalog: Catalog, pair: Encoders, workers: int, address: str) -> None:
    """`pipeline.encode` on Ray. Its workers read encoders and pictures below the paths that this process has
    them at."""
    from training.ray_engine import RayEngine, load_images, load_texts, ray_cluster

    if shop.device != "cpu":
        raise SettingError(
            f"AISLE_DEVICE: found {shop.device}, wanted cpu: with --engine ray each worker computes on a core"
        )
    text, image = (
        store.find(f"{name}:{encoder.revision}")
        for name, encoder in ((store.TEXT_ENCODER, pair.text), (store.IMAGE_ENCODER, pair.image))
    )
    engines = (
        RayEngine(load=partial(load_texts, text), dim=pair.text.dim, workers=workers),
        RayEngine(load=partial(load_images, image), dim=pair.image.dim, workers=workers),
    )
    with ray_cluster(address, workers):
        pipeline.encode(shop, catalog, pair, engines=engines)
