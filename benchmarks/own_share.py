"""Is the fusion head fooled by encoders that were trained on the same products?

On a shop that `make demo` or `make train` filled (AISLE_HOME) and its catalogue: trains the same head
on the shop's vectors twice, with the pictures and texts that their encoders were trained on (naive) and
without them (as `training fit` does), and compares both on the untouched test split, over five seeds.
Writes out/bench/own_share.json.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from aisle.bundle import Bundle, EncoderRef
from aisle.classifier import Classifier
from aisle.fusion import fusion_logits
from aisle.taxonomy import Taxonomy
from training import pipeline
from training.catalog import read_catalog
from training.evaluation import evaluate
from training.fit import FitSettings
from training.labelled import Labelled, read_labelled
from training.labels import no_labels
from training.settings import Settings
from training.shop import Encoders, Shop, load_encoders
from training.splits import SplitSettings

SEEDS = range(5)
COLUMNS = ("macro_f1", "log_loss", "ece", "misled_share")


def main(catalog_path: Annotated[Path, typer.Argument(help="The catalogue that filled AISLE_HOME.")]) -> None:
    shop = Shop.open(Settings.from_environment())
    catalog = read_catalog(catalog_path)
    pair = load_encoders(shop)
    taxonomy = pipeline.known_categories(catalog, min_class=10)
    labelled = read_labelled(
        shop, catalog, pair, taxonomy, SplitSettings(), no_labels(pair.text.dim, pair.image.dim)
    )
    nobody = np.zeros_like(labelled.own_N)
    naive = replace(labelled, own_N=nobody, own_text_N=nobody)
    rows = {
        "naive": [_figures(naive, pair, taxonomy, seed) for seed in SEEDS],
        "own share": [_figures(labelled, pair, taxonomy, seed) for seed in SEEDS],
    }
    means = {
        name: {column: round(float(np.mean([row[column] for row in figures])), 4) for column in COLUMNS}
        for name, figures in rows.items()
    }
    target = Path("out/bench/own_share.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"seeds": len(SEEDS), "means": means, "runs": rows}, indent=1) + "\n")
    table = Table("head trained", "macro-F1", "log-loss", "ECE", "wrong with the photo, right without")
    for name, mean in means.items():
        table.add_row(name, *(f"{mean[column]:.4f}" for column in COLUMNS))
    Console().print(table)


def _figures(labelled: Labelled, pair: Encoders, taxonomy: Taxonomy, seed: int) -> dict[str, float]:
    """Test figures of one head. `misled_share`: products that text alone got right and fusion got wrong."""
    whole = labelled.fit(FitSettings(seed=seed), len(taxonomy))
    bundle = Bundle(
        fusion=whole.fusion,
        taxonomy=taxonomy,
        calibration=labelled.calibrate(whole, target_error=0.05),
        text_encoder=EncoderRef(revision=pair.text.revision, dim=pair.text.dim),
        image_encoder=EncoderRef(revision=pair.image.revision, dim=pair.image.dim),
        reference={},
    )
    test = labelled.split("test")
    classifier = Classifier(bundle, pair.text, pair.image)
    figures = evaluate(classifier, test)
    both = test.rows(np.flatnonzero(test.present_N2.all(axis=1)))
    fused_NC, text_NC, _ = fusion_logits(whole.fusion, both.text_ND, both.image_NE)
    misled = (text_NC.argmax(1) == both.label_N) & (fused_NC.argmax(1) != both.label_N)
    return {
        "macro_f1": figures["fused"]["macro_f1"],
        "log_loss": figures["fused"]["log_loss"],
        "ece": figures["ece"],
        "misled_share": float(misled.mean()),
    }


if __name__ == "__main__":
    typer.run(main)
