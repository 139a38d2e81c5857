"""How near does `training encode` come to a bare loop, and what do Ray's workers bring?

The bare loop is what a script would do: clean texts and sort them, or read and decode pictures in threads,
then call the encoder, batch after batch, with the vectors left in memory; for pictures in the better of two
ways (a batch decoded while the one before is encoded, or one after the other). `training encode` does the
same, and hashes, skips, checks, writes shards and the index. Both run in turns in one process, with the
encoders as `training encode` loads them; the quickest of each one's rounds counts, because what other work
takes from the machine is neither's. Then Ray's workers, a core each, by themselves. Writes
out/bench/encoding.json and fails below 0.9.

    python -m benchmarks.encoding                    drawn products (make demo's)
    python -m benchmarks.encoding --catalog FOLDER   those of a catalogue
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from aisle.allocator import keep_freed_memory
from aisle.backbone import build_backbone
from aisle.image import ImageEncoder, ImageSettings, decode_image
from aisle.text import TextEncoder, TextSettings, clean_text
from training.catalog import Catalog, read_catalog
from training.demo import write_demo_catalog
from training.embeddings import BATCH, Engine, encode_images, encode_texts
from training.ray_engine import LOCAL, RayEngine, load_images, load_texts, ray_cluster
from training.text_encoder import MINILM, pretrained_text_encoder

OUT = Path("out/bench/encoding.json")
TARGET = 0.9
THREADS = 2  # that decode pictures, as in encode_images

Encode = Callable[..., object]


def main(
    catalog: Annotated[Path | None, typer.Option(help="Products to encode; default: drawn ones.")] = None,
    products: Annotated[int, typer.Option(help="How many are drawn, or taken.")] = 2_400,
    image_size: Annotated[int, typer.Option(help="Pixels a side.")] = 96,
    rounds: Annotated[int, typer.Option(help="Of each way.")] = 3,
) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()  # as `python -m training` does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if catalog is None:
            write_demo_catalog(folder / "catalog", products=products)
        read = _head(read_catalog(catalog or folder / "catalog"), products)
        text, image = _encoders(folder, image_size)
        rows = {
            "text": _compare(
                {"bare": partial(bare_texts, read, text)},
                partial(encode_texts, encoder=text),
                read,
                RayEngine(load=partial(load_texts, folder / "text"), dim=text.dim, workers=THREADS),
                rounds,
            ),
            "image": _compare(
                {
                    "decoded beside": partial(bare_images, read, image, beside=True),
                    "decoded before": partial(bare_images, read, image, beside=False),
                },
                partial(encode_images, encoder=image),
                read,
                RayEngine(load=partial(load_images, folder / "image"), dim=image.dim, workers=THREADS),
                rounds,
            ),
        }
    report = {
        "catalog": "drawn" if catalog is None else catalog.name,
        "products": len(read.products),
        "pictures": int((read.products.image != "").sum()),
        "image_size": image_size,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        **rows,
    }
    _keep(report)
    _show(report)
    missed = [name for name, row in rows.items() if row["of_bare"] < TARGET]
    if missed:
        sys.exit(f"missed: {' and '.join(missed)}, wanted {TARGET} of the bare loop")


def _head(catalog: Catalog, products: int) -> Catalog:
    return replace(catalog, products=catalog.products.iloc[:products])


def _encoders(folder: Path, size: int) -> tuple[TextEncoder, ImageEncoder]:
    """MiniLM and a MobileNetV3-Small (untrained: it takes the same time), packed; saved for Ray's workers."""
    torch.manual_seed(27)
    text = pretrained_text_encoder(MINILM, TextSettings())
    backbone, _ = build_backbone("mobilenet_v3_small")
    image = ImageEncoder(
        backbone, ImageSettings(size=size), backbone="mobilenet_v3_small", weights="catalogue"
    )
    text.save(folder / "text")
    image.save(folder / "image")
    text.pack()
    image.pack()
    return text, image


def bare_texts(catalog: Catalog, encoder: TextEncoder) -> int:
    """How many texts were encoded."""
    pairs = zip(catalog.products.title, catalog.products.description, strict=True)
    texts = sorted((clean_text(*pair, encoder.settings) for pair in pairs), key=len)
    vectors = [encoder.encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return len(np.concatenate(vectors))


def bare_images(catalog: Catalog, encoder: ImageEncoder, *, beside: bool) -> int:
    """How many pictures were encoded. `beside`: a batch is decoded while the one before is encoded."""
    paths = [catalog.image_root / name for name in catalog.products.image if name]
    parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    def decode(path: Path) -> np.ndarray:
        return decode_image(path.read_bytes(), encoder.settings)

    vectors = []
    with ThreadPoolExecutor(THREADS) as pool:
        if beside:
            coming = [pool.map(decode, parts[0])]
            for following in [*parts[1:], []]:
                coming.append(pool.map(decode, following))
                vectors.append(encoder.encode(np.stack(list(coming.pop(0)))))
        else:
            vectors = [encoder.encode(np.stack(list(pool.map(decode, part)))) for part in parts]
    return len(np.concatenate(vectors))


def _compare(
    bare: dict[str, Callable[[], int]], encode: Encode, catalog: Catalog, on_ray: RayEngine, rounds: int
) -> dict[str, Any]:
    """Products a second of each, and of ours over the quickest bare one. `start_s` is a run of twenty
    products: what Ray's workers take to start."""
    for run in bare.values():
        done = run()  # the first pass allocates
    seconds: dict[str, list[float]] = {name: [] for name in (*bare, "encode")}
    cpu_s: dict[str, list[float]] = {name: [] for name in seconds}
    ways: dict[str, Callable[[], object]] = {**bare, "encode": partial(_in_new_place, encode, catalog)}
    for _ in range(rounds):
        for name, way in ways.items():
            before = time.process_time()
            seconds[name].append(_timed(way))
            cpu_s[name].append(time.process_time() - before)
    best = {name: min(times) for name, times in seconds.items()}
    quickest = min(bare, key=lambda name: best[name])
    cpu_ms = {name: 1e3 * min(cpu_s[name]) / done for name in (quickest, "encode")}
    with ray_cluster(LOCAL, on_ray.workers):
        start_s, ray_s = (
            _timed(partial(_in_new_place, encode, some, on_ray)) for some in (_head(catalog, 20), catalog)
        )
    return {
        "bare_per_s": {name: round(done / best[name], 1) for name in bare},
        "encode_per_s": round(done / best["encode"], 1),
        "of_bare": round(best[quickest] / best["encode"], 3),
        "cpu_ms": {"bare": round(cpu_ms[quickest], 3), "encode": round(cpu_ms["encode"], 3)},
        "spread": {name: [round(done / time_s, 1) for time_s in times] for name, times in seconds.items()},
        "ray": {
            "workers": on_ray.workers,
            "start_s": round(start_s, 1),
            "seconds": round(ray_s, 1),
        },
    }


def _in_new_place(encode: Encode, catalog: Catalog, engine: Engine | None = None) -> None:
    with tempfile.TemporaryDirectory() as features:
        encode(catalog, features=Path(features), engine=engine)


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _keep(report: dict[str, Any]) -> None:
    """Beside the reports of other catalogues."""
    reports = json.loads(OUT.read_text()) if OUT.is_file() else {}
    reports[report["catalog"]] = report
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(reports, indent=1) + "\n")


def _show(report: dict[str, Any]) -> None:
    table = Table(
        "a second",
        "bare loop",
        "encode",
        "of the bare loop",
        "CPU ms each",
        f"Ray, {THREADS} workers: s to start, in all",
    )
    for name in ("text", "image"):
        row = report[name]
        bare = max(row["bare_per_s"].values())
        table.add_row(
            name,
            f"{bare:,.0f}",
            f"{row['encode_per_s']:,.0f}",
            f"{row['of_bare']:.3f}",
            f"{row['cpu_ms']['bare']:.2f}, {row['cpu_ms']['encode']:.2f}",
            f"{row['ray']['start_s']:.0f}, {row['ray']['seconds']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
