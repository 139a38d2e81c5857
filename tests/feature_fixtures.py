"""A shop with a real private Redis and real Feast views; encoders are honest small stand-ins."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aisle.features import ViewSpec
from aisle.picture import ImageSettings
from aisle.text import TextSettings
from training.catalog import Catalog, read_catalog
from training.embeddings import encode_images, encode_texts
from training.feature_store import apply_definitions, open_feature_store
from training.settings import Settings

TEXT_REVISION, IMAGE_REVISION = "aaaa0001", "bbbb0001"
TEXT_DIM, IMAGE_DIM = 8, 6


class HashTextEncoder:
    """Each text gets a vector of its own, from its sha256. `calls` holds the batches it was given."""

    name = "hash-text"
    revision = TEXT_REVISION
    dim = TEXT_DIM
    settings = TextSettings()

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.array([text_vector(text) for text in texts], dtype=np.float32).reshape(-1, self.dim)


class ColourImageEncoder:
    """Mean and corner colour of a picture, in [0, 1]."""

    backbone = "colour"
    revision = IMAGE_REVISION
    dim = IMAGE_DIM
    settings = ImageSettings(size=16)

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.pictures = 0

    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        self.pictures += len(pixels_BHWC)
        mean = pixels_BHWC.mean(axis=(1, 2)) / 255
        return np.concatenate([mean, pixels_BHWC[:, 0, 0] / 255], axis=1).astype(np.float32)


def text_vector(text: str) -> np.ndarray:
    digest = hashlib.sha256(text.encode()).digest()[:TEXT_DIM]
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / 255


def write_catalog(folder: Path, *, products: int, title: str = "train") -> Path:
    """Products p0, p1, ... with titles of growing length; those with an odd number have a picture."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "description", "image", "category"])
        for i in range(products):
            picture = f"images/{i}.png" if i % 2 else ""
            if picture:
                Image.new("RGB", (20, 20), (i % 256, 80, 160)).save(folder / picture)
            rows.writerow([f"p{i}", f"{title} {i}", "wood " * (i % 7), picture, str(i % 3)])
    return folder


class FeatureShop:
    """`products` products, encoded and applied, not yet published."""

    def __init__(self, home: Path, *, products: int) -> None:
        self.environment = Settings(home=home, redis_url="")
        self.catalog: Catalog = read_catalog(write_catalog(home / "catalog", products=products))
        self.features = self.environment.features
        encode_texts(self.catalog, HashTextEncoder(), self.features)
        encode_images(self.catalog, ColourImageEncoder(), self.features)
        self.store: Any = open_feature_store(self.environment)
        apply_definitions(self.store)

    @property
    def text(self) -> ViewSpec:
        return ViewSpec(modality="text", revision=TEXT_REVISION, encoder="hash-text", dim=TEXT_DIM)

    @property
    def image(self) -> ViewSpec:
        return ViewSpec(
            modality="image", revision=IMAGE_REVISION, encoder="colour", dim=IMAGE_DIM, pooling="average"
        )
