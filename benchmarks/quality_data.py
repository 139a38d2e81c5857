"""Products and vectors of the quality benchmark. Vectors are stored, and every head is compared on the same
ones.

Shapes: N products, D and E embedding widths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from aisle.errors import ProductError
from aisle.image import ImageEncoder
from aisle.picture import ImageSettings, decode_image
from aisle.taxonomy import Taxonomy
from aisle.text import TextSettings, clean_text
from benchmarks.masked_titles import mask_title
from training.catalog import Catalog
from training.image_encoder import Pictures, gradient_encoder
from training.text_encoder import MINILM, pretrained_text_encoder

TARGETS = ("easy", "masked")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelf:
    """The products of the categories that have enough of them, in the catalogue's order."""

    catalog: Catalog
    taxonomy: Taxonomy
    position_N: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray

    @classmethod
    def of(cls, catalog: Catalog, min_class: int) -> Shelf:
        counts = catalog.products.category.value_counts()
        codes = sorted(str(code) for code, count in counts.items() if code and count >= min_class)
        position_N = np.flatnonzero(catalog.products.category.isin(codes).to_numpy())
        products = catalog.products.iloc[position_N]
        taxonomy = Taxonomy.from_codes(codes, catalog.names)
        return cls(
            catalog=catalog,
            taxonomy=taxonomy,
            position_N=position_N,
            label_N=np.array([taxonomy.index(code) for code in products.category], dtype=np.int64),
            group_N=products.group.to_numpy(),
        )

    def texts(self, target: str, settings: TextSettings) -> list[str]:
        """Cleaned texts as `target` has them."""
        products = self.catalog.products.iloc[self.position_N]
        texts = []
        for row in products.itertuples(index=False):
            title, description = str(row.title), str(row.description)
            if target == "masked":
                name = self.catalog.names.get(str(row.category), str(row.category))
                title, description = mask_title(title, name), mask_title(description, name)
            texts.append(clean_text(title, description, settings))
        return texts

    def pictures(self, settings: ImageSettings) -> Pictures:
        images = self.catalog.products.image.to_numpy()[self.position_N]
        has = images != ""
        paths = [self.catalog.image_root / name for name in images[has]]
        return Pictures(paths, self.label_N[has], settings)


def text_vectors(texts: list[str], settings: TextSettings, cache: Path) -> np.ndarray:
    """Float32 [N, D] of the pretrained encoder; zeros where there is no text."""

    def make() -> np.ndarray:
        encoder = pretrained_text_encoder(MINILM, settings)
        vectors_ND = encoder.encode(texts)
        vectors_ND[[not text for text in texts]] = 0
        return vectors_ND

    [vectors_ND] = _cached(cache, {"texts": texts, "settings": asdict(settings)}, lambda: [make()])
    return vectors_ND


def image_vectors(shelf: Shelf, settings: ImageSettings, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [N, E], which products have a picture that can be read [N]) by the encoder that needs no
    training."""
    encoder = gradient_encoder(settings)

    def make() -> list[np.ndarray]:
        return _encode_all(shelf, encoder)

    facts = {"encoder": encoder.backbone, "pictures": shelf.pictures(settings).fingerprint()}
    vectors_NE, has_N = _cached(cache, facts, make)
    return vectors_NE, has_N.astype(bool)


def _encode_all(shelf: Shelf, encoder: ImageEncoder) -> list[np.ndarray]:
    vectors_NE = np.zeros((len(shelf.label_N), encoder.dim), dtype=np.float32)
    has_N = np.zeros(len(shelf.label_N), dtype=np.uint8)
    for row, position in enumerate(shelf.position_N):
        data = shelf.catalog.product(int(position)).image
        try:
            pixels_HWC = decode_image(data, encoder.settings) if data else None
        except ProductError:
            pixels_HWC = None
        if pixels_HWC is not None:
            vectors_NE[row], has_N[row] = encoder.encode(pixels_HWC[None])[0], 1
    return [vectors_NE, has_N]


def _cached(path: Path, facts: object, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """The arrays in `path` if they were made from `facts`; else made now and kept there."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        with safe_open(path, "np") as file:
            if (file.metadata() or {}).get("made_from") == key:
                return [file.get_tensor(name) for name in sorted(file.keys())]
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({str(i): array for i, array in enumerate(arrays)}, part, metadata={"made_from": key})
    part.replace(path)
    return arrays
