"""A whole shop of toy size, made as a real one is: catalogue, encoders, features, classifier.

`python tests/tiny_shop.py TEXT_ENCODER IMAGE_ENCODER CATALOGUE`, with AISLE_HOME and BENTOML_HOME set: a
process of its own, because BentoML reads BENTOML_HOME when it is imported.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from pictures import jpeg

from aisle import store
from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from training import pipeline
from training.catalog import read_catalog
from training.fit import FitSettings
from training.settings import Settings
from training.shop import Shop, load_encoders

KINDS = {
    "10": ("livre roman poche", "red"),
    "40": ("jeu console manette", "green"),
    "50": ("train bois", "blue"),
}
PRODUCTS = 120


def write_catalogue(folder: Path) -> None:
    """PRODUCTS products of three kinds, ids "0", "1", ...; every fifth has no picture."""
    chance = random.Random(27)
    (folder / "images").mkdir(parents=True)
    with (folder / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "description", "image", "category"])
        for i in range(PRODUCTS):
            code, (words, colour) = chance.choice(list(KINDS.items()))
            picture = "" if i % 5 == 0 else f"images/{i}.jpg"
            if picture:
                (folder / picture).write_bytes(jpeg(colour, 40 + i % 7))
            rows.writerow([i, f"{words} {i}", f"<p>{words}</p>", picture, code])


def make_shop(text_encoder: Path, image_encoder: Path, catalogue: Path) -> str:
    """Encode, publish, fit and register; return the classifier's tag."""
    shop = Shop.open(Settings.from_environment())
    scratch = shop.environment.scratch
    store.save_encoder(TextEncoder.load(text_encoder), store.TEXT_ENCODER, scratch / "text")
    store.save_encoder(ImageEncoder.load(image_encoder), store.IMAGE_ENCODER, scratch / "image")
    pair = load_encoders(shop)
    catalog = read_catalog(catalogue)
    pipeline.encode(shop, catalog, pair)
    pipeline.publish(shop, pair)
    _, tag = pipeline.fit(shop, catalog, pair, FitSettings(epochs=5), min_class=2)
    return tag


if __name__ == "__main__":
    text, image, catalogue = map(Path, sys.argv[1:])
    write_catalogue(catalogue)
    print(make_shop(text, image, catalogue))
