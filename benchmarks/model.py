"""The one model that every system of the benchmark answers with, and the stored vectors of its texts.

The text encoder is the published MiniLM. The image encoder is a MobileNetV3-Small with seeded random
weights: how fast it is does not depend on them, what its answers mean does, and here nobody asks. The
head is fitted to file each product under a category of its own choosing, so that answers differ.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from aisle import store
from aisle.backbone import build_backbone
from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.features import ServiceSpec, load_specs
from aisle.fusion import FusionNet
from aisle.image import ImageEncoder, ImageSettings, decode_image
from aisle.product import Product
from aisle.taxonomy import Taxonomy
from aisle.text import TextSettings, clean_text
from training import pipeline
from training.catalog import Catalog, read_catalog
from training.embeddings import encode_images, encode_texts
from training.feature_store import apply_definitions, open_feature_store
from training.fit import FitSettings, Vectors, fit_fusion
from training.publish import publish_view
from training.shop import Encoders, Shop, load_encoders

BACKBONE = "mobilenet_v3_small"
SIDE = 224  # pixels
CATEGORIES = 27
VERSION = "bench"
COPIES = 8  # noisy ones of each product's vectors, to fit the head on
NOISE = 0.05


def make_model(shop: Shop, products: Sequence[Product]) -> str:
    """Register encoders and classifier, publish the products' text vectors; return the classifier's tag."""
    text_tag = pipeline.make_text_encoder(shop, "minilm", max_tokens=TextSettings().max_tokens, prefix="")
    image_tag = store.save_encoder(
        _image_encoder(), store.IMAGE_ENCODER, shop.environment.scratch / "image-encoder"
    )
    encoders = load_encoders(shop, text_tag, image_tag)
    tag = _register(shop, encoders, products)
    _publish(shop, encoders, products)
    return tag


def _image_encoder() -> ImageEncoder:
    torch.manual_seed(27)
    model, _ = build_backbone(BACKBONE)
    return ImageEncoder(model, ImageSettings(size=SIDE), backbone=BACKBONE, weights="catalogue")


def _register(shop: Shop, encoders: Encoders, products: Sequence[Product]) -> str:
    text, image = encoders.text, encoders.image
    taxonomy = Taxonomy.from_codes([f"{10 * (number + 1)}" for number in range(CATEGORIES)])
    pattern = PatternCalibration(temperature=1.0, threshold=0.5)
    bundle = Bundle(
        fusion=_fit(encoders, products),
        taxonomy=taxonomy,
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
        text_encoder=EncoderRef(revision=text.revision, dim=text.dim),
        image_encoder=EncoderRef(revision=image.revision, dim=image.dim),
        reference={},
    )
    folder = shop.environment.scratch / "bundle"
    bundle.save(folder)
    return store.save_bundle(folder, VERSION, {})


def _fit(encoders: Encoders, products: Sequence[Product]) -> FusionNet:
    """A head that tells the products apart: each one's vectors, a little noise, its number mod 27."""
    text, image = encoders.text, encoders.image
    texts, pixels = zip(*(_parts(product, encoders) for product in products), strict=True)
    text_ND, image_NE = text.encode(texts), image.encode(np.stack(pixels))
    generator = np.random.default_rng(27)
    vectors = Vectors(
        text_ND=_noisy(text_ND, generator),
        image_NE=_noisy(image_NE, generator),
        present_N2=np.ones((COPIES * len(products), 2), dtype=np.float32),
        label_N=np.tile(np.arange(len(products)) % CATEGORIES, COPIES),
    )
    fusion, _ = fit_fusion(vectors, vectors, FitSettings(epochs=12), classes=CATEGORIES)
    return fusion


def _parts(product: Product, encoders: Encoders) -> tuple[str, np.ndarray]:
    text = clean_text(product.title, product.description, encoders.text.settings)
    assert product.image is not None  # the benchmark's own products have one
    return text, decode_image(product.image, encoders.image.settings)


def _noisy(vectors_ND: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows_ND = np.tile(vectors_ND, (COPIES, 1))
    noise_ND = generator.normal(0, NOISE, rows_ND.shape) * vectors_ND.std(axis=0)
    return (rows_ND + noise_ND).astype(np.float32)


def _publish(shop: Shop, encoders: Encoders, products: Sequence[Product]) -> None:
    """Encode and publish the products without their photos, which every request then must compute; and again
    with them under other ids (`stored_id`), to be asked for by id alone."""
    environment = shop.environment
    catalog = _write_catalog(environment.scratch / "catalog", products)
    encode_texts(catalog, encoders.text, environment.features)
    encode_images(catalog, encoders.image, environment.features)
    revisions = {"text_revision": encoders.text.revision, "image_revision": encoders.image.revision}
    ServiceSpec(version=VERSION, **revisions).write(environment.features)
    feature_store = open_feature_store(environment)
    apply_definitions(feature_store)
    for spec in load_specs(environment.features):
        publish_view(feature_store, spec, environment.features)


def stored_id(product: Product) -> str:
    """The id under which both vectors of the product are stored."""
    return f"stored-{product.product_id}"


def _write_catalog(folder: Path, products: Sequence[Product]) -> Catalog:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "description", "image", "category"])
        for product in products:
            rows.writerow([product.product_id, product.title, product.description, "", ""])
            name = f"{product.product_id}.jpg"
            (folder / name).write_bytes(product.image or b"")
            rows.writerow([stored_id(product), product.title, product.description, name, ""])
    return read_catalog(folder)
