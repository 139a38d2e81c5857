"""How long does a head take on 100,000 stored embeddings, and where does the time go?

`python -m benchmarks.fit_speed`: writes shards of separable random vectors of 27 categories (384 and 576
wide), reads them through Feast's point-in-time join, trains a head. Writes out/bench/fit_speed.json.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from aisle.features import ViewSpec
from training.feature_store import apply_definitions, open_feature_store
from training.fit import FitSettings, Vectors, present_logits
from training.heads import fit_head
from training.settings import Settings
from training.shards import Encoded, Shards
from training.vectors import read_vectors

CLASSES = 27
SPECS = (
    ViewSpec(modality="text", revision="aaaa0001", encoder="random", dim=384),
    ViewSpec(modality="image", revision="bbbb0001", encoder="random", dim=576),
)
TARGET = Path("out/bench/fit_speed.json")


def main(
    products: Annotated[int, typer.Option(help="Stored products.")] = 100_000,
    variant: Annotated[str, typer.Option(help="Fusion variant.")] = "gated",
) -> None:
    home = TARGET.parent.absolute() / "fit_speed"
    shutil.rmtree(home, ignore_errors=True)
    environment = Settings(home=home, redis_url="redis://127.0.0.1:1")  # nothing is published
    rng = np.random.default_rng(27)
    label_N = rng.integers(0, CLASSES, products)
    ids = [f"p{i}" for i in range(products)]
    for spec in SPECS:
        _write(spec, environment.features, ids, label_N, rng)
    store = open_feature_store(environment)
    apply_definitions(store)

    began, read_cpu = time.perf_counter(), time.process_time()
    read = [read_vectors(store, spec, environment.features, ids)[0] for spec in SPECS]
    read_s, read_cpu_s = time.perf_counter() - began, time.process_time() - read_cpu
    vectors = Vectors(
        text_ND=read[0],
        image_NE=read[1],
        present_N2=np.ones((products, 2), dtype=np.float32),
        label_N=label_N,
    )
    held_out = np.arange(products) % 10 == 0
    train, validation = vectors.rows(~held_out), vectors.rows(held_out)
    profile = cProfile.Profile()
    began, fit_cpu = time.perf_counter(), time.process_time()
    profile.enable()
    fusion, history = fit_head(
        train, validation, FitSettings(variant=variant), classes=CLASSES, group_N=np.arange(len(train))
    )
    profile.disable()
    fit_s, fit_cpu_s = time.perf_counter() - began, time.process_time() - fit_cpu
    right = float((present_logits(fusion, validation).argmax(axis=1) == validation.label_N).mean())
    report: dict[str, Any] = {
        "products": products,
        "variant": variant,
        "threads": torch.get_num_threads(),
        "read_s": round(read_s, 2),
        "fit_s": round(fit_s, 2),
        "cpu_s": {"read": round(read_cpu_s, 2), "fit": round(fit_cpu_s, 2)},
        "epochs": len(history),
        "validation_accuracy": right,
        "profile": _longest(profile),
    }
    TARGET.write_text(json.dumps(report, indent=1) + "\n")
    shutil.rmtree(home)
    Console().print_json(data=report)


def _write(
    spec: ViewSpec, features: Path, ids: list[str], label_N: np.ndarray, rng: np.random.Generator
) -> None:
    centre_CD = rng.normal(size=(CLASSES, spec.dim)).astype(np.float32)

    def batches() -> Iterator[Encoded]:
        for start in range(0, len(ids), 2_048):
            rows = slice(start, start + 2_048)
            noise = rng.normal(size=(len(ids[rows]), spec.dim)).astype(np.float32)
            yield Encoded(
                product_ids=ids[rows],
                hashes=["0" * 16] * len(noise),
                vectors_BD=centre_CD[label_N[rows]] * 0.15 + noise,
            )

    shards = Shards(spec, features)
    shards.write_all(batches(), total=len(ids), label=f"write {spec.modality} vectors")
    shards.close({})


def _longest(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds spent in the eight functions that took the most themselves."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rows = sorted(stats.items(), key=lambda row: -row[1][2])[:8]
    return {f"{Path(where[0]).name}:{where[2]}": round(times[2], 2) for where, times in rows}


if __name__ == "__main__":
    typer.run(main)
