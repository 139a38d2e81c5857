"""How quickly a catalogue is classified again from its stored vectors, and what it costs in memory.

Makes a shop of 200,000 products (vectors of the usual encoders' widths, random, every tenth without a
picture; 27 categories), scores it with `training.score`, beside two limits of the same machine in the same
run: the head alone on vectors in memory, and `Classifier.decide`, which makes an object of each answer. Then
the same with half of the products, to see what memory grows by. Writes out/bench/scoring.json.

    python -m benchmarks.scoring
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from aisle.allocator import keep_freed_memory
from aisle.backbone import build_backbone
from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.classifier import Classifier, Embedded
from aisle.features import ViewSpec
from aisle.fusion import FusionSettings, build_fusion, fusion_logits
from aisle.image import ImageEncoder, ImageSettings
from aisle.prediction import Source
from aisle.prediction_sets import SetRule
from aisle.taxonomy import Taxonomy
from aisle.text import TextSettings
from benchmarks.memory import peak_memory_bytes
from training.score import score
from training.shards import SHARD_ROWS, Shards
from training.text_encoder import MINILM, pretrained_text_encoder

CATEGORIES = 27
TARGET = 50_000  # products a second on two cores
SPECS = (
    ViewSpec(modality="text", revision="aaaa0001", encoder="random", dim=384),
    ViewSpec(modality="image", revision="bbbb0001", encoder="random", dim=576, pooling="average"),
)
OUT = Path("out/bench/scoring.json")
LIMIT_ROWS = 32_768


def main(
    products: Annotated[int, typer.Option(help="How many.")] = 200_000,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if child is not None:
        print(json.dumps(_score(child, products)))
        return
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        runs = [_measure(Path(folder) / str(n), n) for n in (products // 2, products)]
    limits = _limits()
    half, whole = runs
    report = {
        "products": products,
        "products_per_s": round(products / whole["seconds"]),
        "cpu_us_a_product": round(1e6 * whole["cpu_s"] / products, 1),
        "target_per_s": TARGET,
        "limits_per_s": limits,
        "of_head_alone": round(products / whole["seconds"] / limits["head"], 3),
        "peak_mb": {str(products // 2): half["peak_mb"], str(products): whole["peak_mb"]},
        "vectors_mb": round(products * (384 + 576) * 4 / 1e6),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    table = Table("", "products a second", title=f"{products:,} products, 2 threads")
    table.add_row("training score", f"{report['products_per_s']:,}")
    for name, rate in limits.items():
        table.add_row(f"limit: {name}", f"{rate:,}")
    Console().print(table)
    Console().print(f"{report['cpu_us_a_product']} CPU microseconds a product")
    Console().print(f"peak memory {report['peak_mb']} MB; vectors take {report['vectors_mb']:,} MB")
    if report["products_per_s"] < TARGET:
        sys.exit(f"missed: {report['products_per_s']:,} products a second, wanted {TARGET:,}")


def _measure(home: Path, products: int) -> dict[str, Any]:
    """In a process of its own: a peak of memory is a process's."""
    _write_vectors(home / "features", products)
    words = [sys.executable, "-m", "benchmarks.scoring", "--products", str(products), "--child", str(home)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _write_vectors(features: Path, products: int) -> None:
    """As `training encode` leaves them: pictures in the catalogue's order, texts in an order of their own."""
    rng = np.random.default_rng(27)
    ids = np.array([f"product-{i:09d}" for i in range(products)])
    for spec, chosen in zip(SPECS, (rng.permutation(products), np.arange(products)[::10]), strict=True):
        positions = chosen if spec.modality == "text" else np.setdiff1d(np.arange(products), chosen)
        shards = Shards(spec, features)
        for start in range(0, len(positions), SHARD_ROWS):
            part = ids[positions[start : start + SHARD_ROWS]].tolist()
            vectors = rng.standard_normal((len(part), spec.dim), dtype=np.float32)
            shards.write(part, ["0" * 16] * len(part), vectors)
        shards.close({})


def _score(home: Path, products: int) -> dict[str, Any]:
    torch.set_num_threads(2)
    keep_freed_memory()  # as `python -m training` does
    classifier = _classifier()
    idle_mb = peak_memory_bytes() / 1e6
    started, cpu = time.perf_counter(), time.process_time()
    report = score(classifier, SPECS, home / "features", home / "scores")
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    assert report.products == products
    peak_mb = peak_memory_bytes() / 1e6
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mb": round(peak_mb), "idle_mb": round(idle_mb)}


def _classifier() -> Classifier:
    """Real encoders (which scoring does not run) and a head of the usual size, with sets."""
    torch.manual_seed(27)
    text = pretrained_text_encoder(MINILM, TextSettings())
    backbone, _ = build_backbone("mobilenet_v3_small")
    image = ImageEncoder(backbone, ImageSettings(), backbone="mobilenet_v3_small", weights="catalogue")
    settings = FusionSettings(text_dim=text.dim, image_dim=image.dim, classes=CATEGORIES)
    sets = SetRule(coverage=0.95, penalty=0.01, free_ranks=2, quantile=(0.97,) * CATEGORIES)
    pattern = PatternCalibration(temperature=1.2, threshold=0.5, sets=sets)
    bundle = Bundle(
        fusion=build_fusion(settings),
        taxonomy=Taxonomy.from_codes([f"{10 * (number + 1)}" for number in range(CATEGORIES)]),
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
        text_encoder=EncoderRef(revision=text.revision, dim=text.dim),
        image_encoder=EncoderRef(revision=image.revision, dim=image.dim),
        reference={},
    )
    return Classifier(bundle, text, image, version="bench").optimise()


def _limits() -> dict[str, int]:
    """Products a second of the head alone, and of `decide`, on vectors that are in memory already."""
    classifier = _classifier()
    rng = np.random.default_rng(28)
    text, image = (rng.standard_normal((LIMIT_ROWS, spec.dim), dtype=np.float32) for spec in SPECS)
    stored = [Source.STORED] * LIMIT_ROWS
    embedded = Embedded(text_BD=text, image_BE=image, text_source=stored, image_source=stored)
    return {
        "head": _rate(lambda: _head(classifier, text, image)),
        "decide": _rate(lambda: classifier.decide(embedded, 3)),
    }


def _head(classifier: Classifier, text: np.ndarray, image: np.ndarray) -> None:
    for start in range(0, LIMIT_ROWS, 512):
        rows = slice(start, start + 512)
        fusion_logits(classifier.fusion, text[rows], image[rows])


def _rate(run: Any) -> int:
    run()
    started = time.perf_counter()
    run()
    return round(LIMIT_ROWS / (time.perf_counter() - started))


if __name__ == "__main__":
    typer.run(main)
