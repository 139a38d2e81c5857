"""The bare loop: the model in one process, batch after batch, with no server around it. The limit.

`python -m benchmarks.limit PRODUCTS --seconds 4`; BENTOML_HOME names the model store. Prints JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from aisle.allocator import keep_freed_memory
from aisle.classifier import Classifier, Item, Stored
from aisle.prediction import Prediction
from aisle.product import Product
from aisle.store import load_classifier

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("products", type=Path, help="folder of files, one product each")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    keep_freed_memory()
    products = [read_product(path) for path in sorted(given.products.iterdir())]
    print(json.dumps(measure(load_classifier().optimise(), products, given.seconds)))


def read_product(path: Path) -> Product:
    data = json.loads(path.read_text())
    return Product(**{**data, "image": base64.b64decode(data["image"])})


def measure(classifier: Classifier, products: Sequence[Product], seconds: float) -> dict[str, Any]:
    """Products a second and milliseconds of CPU a product, with stored and with computed texts;
    milliseconds a product by stage; and the answers (category and confidence) that all servers must give."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        items = list(pool.map(classifier.prepare, products))
        text_ND = classifier.text_encoder.encode([item.text or "" for item in items])
        stored = [
            Stored(text_vector_D=vector, text_hash=item.text_hash)
            for vector, item in zip(text_ND, items, strict=True)
        ]
        starts = range(0, len(products) - BATCH + 1, BATCH)

        def stored_texts(start: int) -> None:
            batch = slice(start, start + BATCH)
            classifier.predict(list(pool.map(classifier.prepare, products[batch])), stored[batch])

        def computed_texts(start: int) -> None:
            classifier.predict(list(pool.map(classifier.prepare, products[start : start + BATCH])))

        answers = classifier.predict(items)
        figures = {
            "threads": torch.get_num_threads(),
            "stored_texts": _rate(stored_texts, starts, seconds),
            "computed_texts": _rate(computed_texts, starts, seconds),
            "milliseconds": _stages(classifier, products, items, seconds / 4),
            "answers": [(a.category.code, a.confidence) for a in answers if isinstance(a, Prediction)],
        }
        torch.set_num_threads(1)
        figures["milliseconds_on_one_thread"] = _stages(classifier, products, items, seconds / 4)
        return figures


def _stages(
    classifier: Classifier, products: Sequence[Product], items: Sequence[Item], seconds: float
) -> dict[str, float]:
    """Milliseconds a product of each stage alone; decoding on one thread, the model on its own."""
    batch = items[:BATCH]
    images = [Item(pixels_HWC=item.pixels_HWC) for item in batch]
    texts = [Item(text=item.text) for item in batch]
    embedded = classifier.embed(batch)
    stages: dict[str, Callable[[int], Any]] = {
        "decode": lambda _: [classifier.prepare(product) for product in products[:BATCH]],
        "image": lambda _: classifier.embed(images),
        "text": lambda _: classifier.embed(texts),
        "decide": lambda _: classifier.decide(embedded),
    }
    return {name: 1000 / _products_a_second(stage, range(1), seconds) for name, stage in stages.items()}


def _rate(step: Callable[[int], Any], starts: Sequence[int], seconds: float) -> dict[str, float]:
    before = time.process_time()
    began = time.perf_counter()
    throughput = _products_a_second(step, starts, seconds)
    busy = (time.process_time() - before) / (time.perf_counter() - began)  # cores
    return {"throughput": throughput, "cpu_ms": 1000 * busy / throughput}


def _products_a_second(step: Callable[[int], Any], starts: Sequence[int], seconds: float) -> float:
    step(starts[0])  # the first pass allocates
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        step(starts[done % len(starts)])
        done += 1
    return BATCH * done / elapsed


if __name__ == "__main__":
    main()
