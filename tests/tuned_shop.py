"""Tunes both encoders of a shop of toy size, and runs it with them; prints JSON.

`python tests/tuned_shop.py`, with AISLE_HOME and BENTOML_HOME set. One process for all commands: their
imports take longer than what they do.
"""

from __future__ import annotations

import contextlib
import io
import json

from training.catalog import read_catalog
from training.commands import app
from training.labelled import read_labelled
from training.labels import no_labels
from training.pipeline import known_categories
from training.settings import Settings
from training.shop import Shop, load_encoders
from training.splits import SplitSettings


def command(*words: str) -> str:
    """The last word that `python -m training` prints: a tag."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        app(list(words), standalone_mode=False)
    return said.getvalue().split()[-1]


if __name__ == "__main__":
    shop = Shop.open(Settings.from_environment())
    folder = shop.environment.home / "catalogue"
    text = command(
        "tune-text", str(folder), "--text-encoder", "aisle-text-encoder:latest", "--set", "epochs=1"
    )
    image = command(
        "tune-image",
        str(folder),
        *("--start", "random", "--backbone", "small_cnn", "--image-size", "32", "--set", "epochs=1"),
    )
    encoders = ("--text-encoder", text, "--image-weights", image)
    classifier = command("run", str(folder), *encoders, "--min-class", "2")

    catalog = read_catalog(folder)
    pair = load_encoders(shop, text, image)
    nothing = no_labels(pair.text.dim, pair.image.dim)
    taxonomy = known_categories(catalog, min_class=2)
    labelled = read_labelled(shop, catalog, pair, taxonomy, SplitSettings(), nothing)
    tags = {"text": text, "image": image, "classifier": classifier}
    print(json.dumps({**tags, "present": labelled.unlearned().present_N2.tolist()}))
