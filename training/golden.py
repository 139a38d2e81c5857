"""Golden products of a bundle: a few held-out products with their raw texts and pictures."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from aisle.classifier import prepare_product
from aisle.errors import ProductError
from aisle.picture import ImageSettings, decode_image
from aisle.product import Product
from aisle.text import TextSettings
from training.catalog import Catalog

GOLDEN_PRODUCTS = 32
MAX_PICTURE_BYTES = 64 * 2**10  # a longer file is drawn anew: a bundle is no place for photos of megabytes
_MAX_SIDE = 1_024
_QUALITY = 85


def golden_products(
    row_N: np.ndarray, catalog: Catalog, text_settings: TextSettings, image_settings: ImageSettings
) -> list[Product]:
    """The products in these rows of the catalogue, without their ids. A picture that cannot be read is left
    out, as in encoding."""
    found = []
    for row in row_N:
        product = replace(catalog.product(int(row)), product_id=None)
        if product.image is not None:
            product = replace(product, image=_bounded(product.image, image_settings))
        try:
            prepare_product(product, text_settings, image_settings)
        except ProductError:  # it has an id and nothing else that can be read
            continue
        found.append(product)
    return found


def _bounded(picture: bytes, settings: ImageSettings) -> bytes | None:
    """The file itself where it is short; else a JPEG of twice the encoder's side; None where it is broken."""
    side = min(_MAX_SIDE, 2 * settings.size)
    try:
        if len(picture) <= MAX_PICTURE_BYTES:
            decode_image(picture, settings)
            return picture
        pixels_HWC = decode_image(picture, ImageSettings(size=side, trim_white=False))
    except ProductError:
        return None
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
