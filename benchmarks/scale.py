"""What a product costs, and so what 85 thousand, ten million and a thousand million of them would.

Measures what is measured nowhere else: how quickly vectors go into Redis, and what they take there as the
feature views store them (float32), and as they would take as float16 (Feast has no list of it, so as bytes),
by publishing made vectors to a real Redis and reading its INFO; and what a prediction takes in the ledger
(SQLite). Rates of encoding, fitting and scoring come from their own benchmarks, which are run first, or whose
last reports are taken (--kept). Writes out/bench/scale.json, and prints the tables of docs/scale.md.

    python -m benchmarks.scale
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import redis
import typer

from aisle.columns import Columns
from aisle.development_redis import ensure_development_redis
from aisle.features import ENTITY, JOIN_KEY, ViewSpec
from aisle.ledger import Ledger, PredictionRecord, ledger_url
from benchmarks.scale_costs import CATALOGUES, cost_table, costs
from training.catalog import read_catalog
from training.feature_store import apply_definitions, open_feature_store
from training.publish import WRITE_ROWS, publish_view
from training.settings import Settings
from training.shards import SHARD_ROWS, Shards, shard_path

if TYPE_CHECKING:
    from feast import FeatureStore

OUT = Path("out/bench")
OTHERS = ("encoding", "fit_speed", "scoring")
SPECS = (  # as wide as MiniLM and MobileNetV3-Small
    ViewSpec(modality="text", revision="aaaa0001", encoder="random", dim=384),
    ViewSpec(modality="image", revision="bbbb0001", encoder="random", dim=576, pooling="average"),
)
RECORDS = 500  # a transaction, as the service writes them


def main(
    products: Annotated[
        int, typer.Option(help="Made products to publish, and predictions to record.")
    ] = 10_000,
    kept: Annotated[bool, typer.Option("--kept", help="Take the other benchmarks' last reports.")] = False,
) -> None:
    if not kept:
        for name in OTHERS:
            subprocess.run(
                [sys.executable, "-m", f"benchmarks.{name}"], check=False
            )  # it may miss its target
    others = {name: json.loads((OUT / f"{name}.json").read_text()) for name in OTHERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = _redis(folder / "shop", products)
        figures: dict[str, Any] = {
            "machine": f"{len(os.sched_getaffinity(0))} cores, {_processor()}",
            "products": products,
            "cpu_ms": _cpu_ms(others, stored),
            "redis": stored,
            "shard_bytes": round(_size(folder / "shop" / "features") / products),
            "memory_bytes": {
                "catalogue": _catalogue_bytes(folder / "catalogue", products),
                "shards": _held(lambda: Shards(SPECS[0], folder / "shop" / "features"), products),
            },
            "fit_bytes": 4 * sum(spec.dim for spec in SPECS),
            "ledger_bytes": {
                "with embeddings": _ledger(folder / "with", products, dims=[spec.dim for spec in SPECS]),
                "without": _ledger(folder / "without", products, dims=[]),
            },
        }
    figures["catalogues"] = {name: costs(figures, count) for name, count in CATALOGUES.items()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "scale.json").write_text(json.dumps(figures, indent=1) + "\n")
    print("\n".join([*_measured_table(figures), "", *cost_table(figures)]))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cpu_ms(others: dict[str, Any], stored: dict[str, dict[str, float]]) -> dict[str, float]:
    """Milliseconds of a core that a product takes: other work on the machine moves these least."""
    encoding, fit, score = others["encoding"]["drawn"], others["fit_speed"], others["scoring"]
    text, image = (encoding[name]["cpu_ms"]["encode"] for name in ("text", "image"))
    return {
        "encode text": text,
        "encode picture": image,
        "encode": text + image,
        "publish": stored["text"]["cpu_ms"] + stored["image"]["cpu_ms"],
        "fit": round(1e3 * sum(fit["cpu_s"].values()) / fit["products"], 3),
        "score": score["cpu_us_a_product"] / 1e3,
    }


def _redis(home: Path, products: int) -> dict[str, dict[str, float]]:
    """Bytes a product in Redis, and milliseconds of our core to put it there, by what is published: the views
    as they are, one after the other, then in their place views of float16."""
    environment = Settings(home=home)
    ids = [f"{number:010d}" for number in range(products)]
    for spec in SPECS:
        shards = Shards(spec, environment.features)
        for start in range(0, products, SHARD_ROWS):
            part = ids[start : start + SHARD_ROWS]
            shards.write(part, ["0" * 16] * len(part), _vectors(spec, len(part), start))
        shards.close({})
    store = open_feature_store(environment)
    apply_definitions(store)
    server = redis.Redis.from_url(ensure_development_redis(home / "redis"))
    figures: dict[str, dict[str, float]] = {}
    empty = _used(server)
    for spec in SPECS:
        before, began = _used(server), time.process_time()
        publish_view(store, spec, environment.features)
        cpu_s = time.process_time() - began
        figures[spec.modality] = {
            "bytes": round((_used(server) - before) / products),
            "cpu_ms": round(1e3 * cpu_s / products, 3),
        }
    figures["both"] = {"bytes": round((_used(server) - empty) / products)}
    server.flushall()
    empty = _used(server)
    for spec in SPECS:
        _publish_halves(store, spec, ids, environment.features)
    figures["both, float16"] = {"bytes": round((_used(server) - empty) / products)}
    assert server.dbsize() == products
    return figures


def _vectors(spec: ViewSpec, rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, spec.dim), dtype=np.float32)


def _used(server: redis.Redis) -> int:
    used: int = server.info("memory")["used_memory"]  # type: ignore[index]
    return used


def _publish_halves(store: FeatureStore, spec: ViewSpec, ids: Sequence[str], features: Path) -> None:
    """As `publish_view`, into a view that differs in the type of its vectors alone."""
    from feast import FeatureView, Field, FileSource
    from feast.types import Bytes, String

    view = FeatureView(
        name=f"{spec.embedding_view}_half",
        entities=[store.get_entity(ENTITY)],
        ttl=timedelta(0),
        schema=[
            Field(name=JOIN_KEY, dtype=String),
            Field(name="embedding", dtype=Bytes),
            Field(name="source_hash", dtype=String),
        ],
        source=FileSource(
            name=f"{spec.embedding_view}_half_shards",
            path=str(shard_path(spec.folder(features), 0)),
            timestamp_field="event_timestamp",
        ),
    )
    store.apply([view], partial=True)
    for start in range(0, len(ids), WRITE_ROWS):
        part = list(ids[start : start + WRITE_ROWS])
        halves = _vectors(spec, len(part), start).astype(np.float16)
        frame = pd.DataFrame(
            {
                JOIN_KEY: part,
                "embedding": [half.tobytes() for half in halves],
                "source_hash": "0" * 16,
                "event_timestamp": pd.Timestamp.now(tz="UTC"),
            }
        )
        store.write_to_online_store(view.name, df=frame)


def _ledger(home: Path, products: int, *, dims: Sequence[int]) -> int:
    """Bytes a prediction of a new product takes in SQLite, indexes and the product's own row included."""
    ledger = Ledger.open(ledger_url(home, ""))
    ledger.create_tables()
    empty = _size(home)
    records = [_record(number, dims) for number in range(products)]
    for start in range(0, products, RECORDS):
        ledger.record_predictions(records[start : start + RECORDS])
    ledger.close()  # SQLite takes what is in its log into the file
    return round((_size(home) - empty) / products)


def _catalogue_bytes(folder: Path, products: int) -> int:
    """Memory that a product takes where a catalogue of titles and descriptions is read."""
    folder.mkdir()
    title, description = "Carnet de voyage ligné, 150 pages", "Couverture souple, papier ivoire. " * 12
    frame = pd.DataFrame({JOIN_KEY: [f"{number:010d}" for number in range(products)]})
    texts = {"title": title, "description": description}
    for name, text in texts.items():  # each its own, as in a feed
        frame[name] = [f"{text} {number}" for number in range(products)]
    frame.assign(image="", category="2522").to_parquet(folder / "products.parquet")
    return _held(lambda: read_catalog(folder), products)


def _held(make: Callable[[], object], products: int) -> int:
    """Bytes a product that Python and numpy hold for what `make` made."""
    tracemalloc.start()
    kept = make()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return round(held / products)


def _record(number: int, dims: Sequence[int]) -> PredictionRecord:
    halves = [np.random.default_rng(number).standard_normal(dim).astype(np.float16) for dim in dims]
    return PredictionRecord(
        prediction_id=uuid.uuid4().hex,
        at_s=time.time(),
        model="aisle-classifier:20261121-093000-1f2e",
        product_id=f"{number:010d}",
        title="Carnet de voyage ligné, 150 pages, couverture en cuir vieilli",
        category=f"{number % 27:04d}",
        confidence=0.9,
        accepted=True,
        text_source="stored",
        image_source="stored",
        text_encoder="aaaa0001",
        image_encoder="bbbb0001",
        columns=Columns(
            text_chars=400,
            language="fr",
            description_missing=False,
            image_width=500,
            image_height=500,
            brightness=0.5,
        ),
        latency_s=0.02,
        text_embedding=halves[0] if halves else None,
        image_embedding=halves[1] if halves else None,
    )


def _measured_table(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    stored, ledger, cpu_ms = figures["redis"], figures["ledger_bytes"], figures["cpu_ms"]
    rows = {
        "encode a text": f"{cpu_ms['encode text']:.1f} ms of a core",
        "encode a picture": f"{cpu_ms['encode picture']:.1f} ms",
        "publish both vectors": f"{cpu_ms['publish']:.2f} ms of the writer's core",
        "read and fit, a product": f"{cpu_ms['fit']:.2f} ms",
        "score again from stored vectors": f"{cpu_ms['score']:.3f} ms",
        "Redis, a product: text, both, both as float16": ", ".join(
            f"{stored[name]['bytes']:,}" for name in ("text", "both", "both, float16")
        )
        + " bytes",
        "shards, a product": f"{figures['shard_bytes']:,} bytes",
        "memory, a product: the catalogue's table, a view's ids and hashes": " and ".join(
            f"{figures['memory_bytes'][name]:,}" for name in ("catalogue", "shards")
        )
        + " bytes",
        "ledger, a prediction of a new product, with and without embeddings": " and ".join(
            f"{ledger[name]:,}" for name in ("with embeddings", "without")
        )
        + " bytes",
    }
    return ["| measured | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


if __name__ == "__main__":
    typer.run(main)
