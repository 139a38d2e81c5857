"""The products that every system of the benchmark answers: seeded photos and texts of a usual size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from aisle.product import Product

SIDE = 500  # pixels
QUALITY = 88  # of the JPEG
WORDS = """
soft cover travel notebook lined pages pocket elastic band ivory paper durable cotton
wooden garden chair foldable steel frame waterproof cushion outdoor summer children
board game cards dice family evening strategy players console controller wireless
battery charger cable silver black blue large small set of with for home kitchen
collector edition figure model train vintage book novel author illustrated history
""".split()  # noqa: SIM905 - a list of 60 quoted words reads worse
TITLE_WORDS = 8
DESCRIPTION_WORDS = 45


def make_products(count: int, seed: int = 27) -> list[Product]:
    """Products p0000, p0001 ...: about 60 tokens of text and a photo of 500 x 500 pixels each."""
    generator = np.random.default_rng(seed)
    return [_product(f"p{number:04d}", generator) for number in range(count)]


def _product(product_id: str, generator: np.random.Generator) -> Product:
    words = generator.choice(WORDS, TITLE_WORDS + DESCRIPTION_WORDS)
    return Product(
        product_id=product_id,
        title=" ".join(words[:TITLE_WORDS]).capitalize(),
        description=f"<p>{' '.join(words[TITLE_WORDS:]).capitalize()}.</p>",
        image=draw_photo(generator),
    )


def draw_photo(generator: np.random.Generator) -> bytes:
    """A JPEG as a camera makes it: a soft background, things with edges, and the noise of a sensor."""
    corners = generator.integers(40, 220, (2, 2, 3), dtype=np.uint8)
    photo = Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(photo)
    for _ in range(12):
        x, y = generator.integers(0, SIDE - 60, 2)
        width, height = generator.integers(20, 260, 2)
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((int(x), int(y), int(x + width), int(y + height)), fill=colour)
    pixels = np.asarray(photo.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    noisy = pixels + generator.normal(0, 9, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
