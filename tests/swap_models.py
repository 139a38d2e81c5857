"""Models that answer differently, registered in a tiny shop, and what each answers offline.

`python tests/swap_models.py SCRATCH COUNT`, with AISLE_HOME and BENTOML_HOME set: prints JSON of what each
registered model answers for PRODUCTS, by its tag.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pictures import jpeg

from aisle import store
from aisle.classifier import Classifier
from aisle.fusion import build_fusion
from aisle.golden import Golden
from aisle.prediction import Prediction
from aisle.product import Product

KEPT = Product(product_id="kept", title="Jeu de console", image=jpeg("red", 45))
PRODUCTS = [
    Product(title="Train en bois", description="<p>pour enfants</p>", image=jpeg("blue", 60)),
    Product(title="Livre roman poche"),
    Product(image=jpeg("green", 50)),
    Product(product_id=KEPT.product_id),  # by the vectors that the service kept of it
]
BALLAST_BYTES = 8 * 2**20  # in the place of a real reference: what a leak would hold


def register(seed: int, scratch: Path) -> str:
    """A head with random weights under the newest model's encoders, golden products asked anew."""
    like = store.load_classifier(device="cpu")
    torch.manual_seed(seed)
    bundle = replace(
        like.bundle,
        fusion=build_fusion(like.bundle.fusion.settings),
        reference={"ballast": np.random.default_rng(seed).integers(0, 256, BALLAST_BYTES, dtype=np.uint8)},
        golden=None,
    )
    draft = Classifier(bundle, like.text_encoder, like.image_encoder)
    assert like.bundle.golden is not None
    bundle = replace(bundle, golden=Golden.of(draft, like.bundle.golden.products))
    bundle.save(scratch / str(seed))
    return store.save_bundle(scratch / str(seed), f"swap-{seed}", {})


def answers(tag: str) -> list[tuple[str, float]]:
    """(category code, confidence) of each of PRODUCTS."""
    classifier = store.load_classifier(tag, "cpu").optimise()
    items = [classifier.prepare(KEPT if product.product_id else product) for product in PRODUCTS]
    predictions = [one for one in classifier.predict(items) if isinstance(one, Prediction)]
    return [(one.category.code, one.confidence) for one in predictions]


if __name__ == "__main__":
    scratch, count = Path(sys.argv[1]), int(sys.argv[2])
    tags = [register(seed, scratch) for seed in range(count)]
    print(json.dumps({tag: answers(tag) for tag in tags}))
