"""`make demo`: the main job from nothing, on a catalogue that Aisle draws. Writes out/demo.json.

Catalogue, image encoder, embeddings, feature store, fusion head, model store, service, and 50 held-out
products classified over HTTP. Nothing is skipped; what an earlier run finished is found and kept.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from aisle.classifier import Classifier
from aisle.prediction import Prediction
from aisle.product import Product
from aisle.store import load_classifier
from benchmarks.servers import HOST, aisle_service, is_free, running
from training import pipeline
from training.catalog import Catalog, read_catalog
from training.classifier_run import tell_classifier
from training.demo import write_demo_catalog
from training.fit import FitSettings
from training.image_encoder import ImageTraining
from training.settings import Settings
from training.shop import Shop, load_encoders
from training.splits import SplitSettings, assign_splits
from training.tracking import tracked

SHOWN = 10
CLASSIFIED = 50
NEW_EVERY = 5  # every fifth product is sent as a new listing: without the id its vectors are stored under
TOLERANCE = 1e-4

# A table of eight columns needs room where no terminal says how much there is.
console = Console(width=None if sys.stdout.isatty() else 160)


def main(
    exit_: Annotated[bool, typer.Option("--exit", help="Stop at the end instead of serving on.")] = False,
    port: Annotated[int, typer.Option(help="Port of the service; another is taken when it is busy.")] = 3000,
) -> None:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the service is stopped
    # BentoML shows deprecations, and its own use of pathspec is one.
    warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
    environment = Settings.from_environment()
    shop = Shop.open(environment)
    folder = environment.home / "catalog"
    write_demo_catalog(folder)
    catalog = read_catalog(folder)
    console.print(catalog.report)

    with tracked(shop, "demo", {}) as run:
        text_tag = pipeline.make_text_encoder(shop, "minilm", max_tokens=128, prefix="")
        image_tag = pipeline.make_image_encoder(shop, catalog, ImageTraining(size=96), weights="catalogue")
        encoders = load_encoders(shop, text_tag, image_tag)
        pipeline.encode(shop, catalog, encoders)
        pipeline.publish(shop, encoders)
        bundle, tag = pipeline.fit(shop, catalog, encoders, FitSettings())
        tell_classifier(run, bundle, tag)

    environ = {**os.environ, "AISLE_MODEL": tag}
    log = Path("out/demo-service.log")
    log.unlink(missing_ok=True)
    with running(aisle_service(), environ, log, port if is_free(port) else None) as server:
        url = f"http://{HOST}:{server.port}"
        rows = _held_out(catalog)
        products = [_as_sent(catalog.product(row), i) for i, row in enumerate(rows)]
        truth = [catalog.products.category.iloc[row] for row in rows]
        results = _classify(url, products)
        offline = load_classifier(tag).optimise()
        figures = {
            "seconds": round(time.monotonic() - started, 1),
            "macro_f1": {
                name: round(bundle.metrics[name]["macro_f1"], 4) for name in ("text", "image", "fused")
            },
            "served_accuracy": float(
                np.mean([r["category"]["code"] == code for r, code in zip(results, truth, strict=True)])
            ),
            "served_equals_offline": _equals_offline(results, offline, products),
            "stored_share": float(
                np.mean([source == "stored" for r in results for source in r["vectors"].values()])
            ),
            "model": tag,
        }
        target = Path("out/demo.json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(figures, indent=1) + "\n")
        _show(products, truth, results)
        console.print(figures)
        if not exit_:
            console.print(f"\nserved by {tag}")
            for path in ("/v1/classify", "/v1/classify/upload", "/openapi.json", "/metrics", "/readyz"):
                console.print(f"  {url}{path}")
            console.print("serving until Ctrl-C")
            with suppress(KeyboardInterrupt):
                signal.pause()
            console.print("stopping")


def _held_out(catalog: Catalog) -> list[int]:
    """Positions of the first products of the untouched test split."""
    splits = assign_splits(catalog.products.group, SplitSettings())
    return [int(i) for i in np.flatnonzero((splits == "test").to_numpy())[:CLASSIFIED]]


def _as_sent(product: Product, position: int) -> Product:
    if position % NEW_EVERY:
        return product
    return Product(title=product.title, description=product.description, image=product.image)


def _classify(url: str, products: Sequence[Product]) -> list[dict[str, Any]]:
    body = {"products": [_as_json(product) for product in products]}
    response = httpx.post(f"{url}/v1/classify", json=body, timeout=60)
    response.raise_for_status()
    results: list[dict[str, Any]] = response.json()["results"]
    return results


def _as_json(product: Product) -> dict[str, str]:
    given: dict[str, str] = {"title": product.title, "description": product.description}
    if product.product_id is not None:
        given["product_id"] = product.product_id
    if product.image is not None:
        given["image"] = base64.b64encode(product.image).decode()
    return given


def _equals_offline(
    results: Sequence[dict[str, Any]], classifier: Classifier, products: Sequence[Product]
) -> bool:
    """Same category and probabilities within TOLERANCE, computed here from text and pixels alone."""
    answers = classifier.predict([classifier.prepare(product) for product in products])
    for served, offline in zip(results, answers, strict=True):
        if not isinstance(offline, Prediction) or served["category"]["code"] != offline.category.code:
            return False
        for there, here in zip(served["top"], offline.top, strict=True):
            if abs(there["probability"] - here.probability) > TOLERANCE:
                return False
    return True


def _show(products: Sequence[Product], truth: Sequence[str], results: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"{SHOWN} of {len(products)} held-out products, answered over HTTP")
    columns = ("title", "true", "answer", "confidence", "accepted", "text says", "photo says", "vectors")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=column == "title", max_width=34)
    for product, code, result in list(zip(products, truth, results, strict=True))[:SHOWN]:
        sources = result["vectors"]
        table.add_row(
            product.title,
            code,
            result["category"]["code"],
            f"{result['confidence']:.2f}",
            "yes" if result["accepted"] else "review",
            (result["text_only"] or {}).get("code", "-"),
            (result["image_only"] or {}).get("code", "-"),
            f"{sources['text']} / {sources['image']}",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
