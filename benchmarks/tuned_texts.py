"""What does tuning the text encoder bring, and what does it cost?

Macro-F1 of a head on texts alone, on the untouched test split of a catalogue: with MiniLM as it is published,
and tuned on the encoders' own share of the training products, which the head then does not see. With --masked
the words of a category's name are taken out of its titles. Writes out/bench/tuned_texts.json.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder, TextSettings, clean_text
from benchmarks.masked_titles import mask_title
from training.catalog import Catalog, read_catalog
from training.catalogue_encoders import MIN_EXAMPLES, text_encoder_of
from training.fit import FitSettings, Vectors, fit_fusion, present_logits
from training.pipeline import known_categories
from training.processes import Processes
from training.splits import SplitSettings, assign_splits, in_encoder_share
from training.text_encoder import MINILM, pretrained_text_encoder
from training.text_tuning import TextTraining

SEEDS = range(3)


def main(
    catalog_path: Annotated[Path, typer.Argument(help="A catalogue.")],
    masked: Annotated[bool, typer.Option(help="Titles without the words of their category's name.")] = False,
) -> None:
    catalog = read_catalog(catalog_path)
    taxonomy = known_categories(catalog, min_class=MIN_EXAMPLES)
    products = catalog.products[catalog.products.category.isin(taxonomy.codes)]
    if masked:
        products = products.assign(
            title=_masked(products.title.tolist(), products.category.tolist(), catalog)
        )
    catalog = replace(catalog, products=products)
    encoder = pretrained_text_encoder(MINILM, TextSettings())
    own_N = in_encoder_share(products.group, SplitSettings())
    rows = {"frozen": _scores(catalog, taxonomy, encoder, np.zeros_like(own_N))}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        tuned, _ = text_encoder_of(
            catalog, taxonomy, encoder, TextTraining(), Path(work), Processes(device="cpu")
        )
    seconds = round(time.monotonic() - begun, 1)
    rows["tuned"] = _scores(catalog, taxonomy, tuned, own_N)
    rows["tuned, head on all products"] = _scores(catalog, taxonomy, tuned, np.zeros_like(own_N))
    record = {"catalogue": catalog_path.name, "masked": masked, "tuning_s": seconds, "macro_f1": rows}
    target = Path("out/bench/tuned_texts.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")
    table = Table("text encoder", "macro-F1", "by seed of the head")
    for name, scores in rows.items():
        table.add_row(name, f"{np.mean(scores):.3f}", ", ".join(f"{score:.3f}" for score in scores))
    Console().print(table, f"tuned in {seconds:,} s on {int(own_N.sum()):,} products")


def _masked(titles: list[str], codes: list[str], catalog: Catalog) -> list[str]:
    pairs = zip(titles, codes, strict=True)
    return [mask_title(str(title), catalog.names.get(code, code)) for title, code in pairs]


def _scores(catalog: Catalog, taxonomy: Taxonomy, encoder: TextEncoder, own_N: np.ndarray) -> list[float]:
    """Test macro-F1 by seed of a head that does not see `own_N`."""
    products = catalog.products
    texts = [
        clean_text(str(row.title), str(row.description), encoder.settings)
        for row in products.itertuples(index=False)
    ]
    text_ND = encoder.encode(texts)
    has_N = np.array([bool(text) for text in texts])
    vectors = Vectors(
        text_ND=text_ND,
        image_NE=np.zeros((len(texts), 1), dtype=np.float32),
        present_N2=np.stack([has_N, np.zeros_like(has_N)], axis=1).astype(np.float32),
        label_N=np.array([taxonomy.index(code) for code in products.category], dtype=np.int64),
    )
    split_N = assign_splits(products.group, SplitSettings()).to_numpy()
    train, validation = vectors.rows((split_N == "train") & ~own_N), vectors.rows(split_N == "validation")
    test = vectors.rows((split_N == "test") & has_N)
    scores = []
    for seed in SEEDS:
        settings = FitSettings(variant="text", seed=seed)
        head, _ = fit_fusion(train, validation, settings, classes=len(taxonomy))
        answer_N = present_logits(head, test).argmax(axis=1)
        scores.append(float(f1_score(test.label_N, answer_N, average="macro", zero_division=0)))
    return scores


if __name__ == "__main__":
    typer.run(main)
