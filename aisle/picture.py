"""Product pictures: decoded safely, and the one way that training and serving share.

Shapes: H = W = size pixels, C 3 colours.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from aisle.errors import EncoderError
from aisle.picture_header import (
    Header,
    broken,
    check_pixels,
    read_header,
    truncated,
)

# Raised when decoding changes its pixels, so that vectors of old and new pixels never mix.
DECODING = 1
_WHITE_FROM = 250  # a colour counts as white border when its mean over a cell is at least this

# The classes themselves, not Image.open: no guessing of formats, no shared registry.
_READERS: Mapping[str, type[ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How a picture becomes the encoder's input; saved with the encoder.

    `size` is the side of the square in pixels; `trim_white` cuts white borders off first.
    """

    size: int = 224
    trim_white: bool = True

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise EncoderError(f"image size: found {self.size}, wanted 16 to 1024 pixels")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ImageSettings:
        return cls(size=int(facts["size"]), trim_white=bool(facts["trim_white"]))


def image_hash(data: bytes) -> str:
    """16 hex of the sha256 of the encoded bytes: what a stored vector is compared by."""
    return hashlib.sha256(data).hexdigest()[:16]


def decode_image(data: bytes, settings: ImageSettings) -> np.ndarray:
    """Uint8 [size, size, 3] RGB of an encoded picture. Thread-safe; Pillow decodes without the GIL.

    The aspect is kept and the rest of the square is white: a product's proportions tell trousers from
    shorts, catalogue pictures are white around the product anyway, and squashing would lose both.
    Of an animation the first frame counts; transparency is laid over white; EXIF rotation is applied.

    Raises ProductError with reason image_format, image_too_large_bytes, image_too_many_pixels (these
    before any pixel is decoded), image_truncated or image_broken.
    """
    return decode_with_size(data, settings)[0]


def decode_with_size(data: bytes, settings: ImageSettings) -> tuple[np.ndarray, tuple[int, int]]:
    """`decode_image`, and the (width, height) in pixels that the picture was uploaded with. Raises
    ProductError."""
    header = read_header(data)
    try:
        return _decode(header, settings)
    except MemoryError:
        raise
    except Exception as error:  # Pillow answers damage with a dozen types, and all mean the same here
        if "truncated" in str(error).lower():
            raise truncated(header.format, len(data)) from error
        raise broken(header.format, str(error) or type(error).__name__) from error


def _decode(header: Header, settings: ImageSettings) -> tuple[np.ndarray, tuple[int, int]]:
    with _READERS[header.format](io.BytesIO(header.data)) as picture:
        width, height = picture.size
        check_pixels(width, height)
        _reduce_in_decoder(picture, settings.size)
        picture.load()
        rgb = _to_rgb(picture, settings.size)
    box = content_box(rgb) if settings.trim_white else (0, 0, *rgb.size)
    return _fit_into_square(rgb, box, header.orientation, settings.size), (width, height)


def _reduce_in_decoder(picture: ImageFile, size: int) -> None:
    """Let a JPEG decode at 1/2, 1/4 or 1/8 while its longer side stays at least `size`."""
    longer = max(picture.size)
    if longer >= 2 * size:
        width, height = (max(1, side * size // longer) for side in picture.size)
        picture.draft(None, (width, height))


def _to_rgb(picture: Image.Image, size: int) -> Image.Image:
    """RGB over white, box-averaged to at least `size` on the longer side."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        picture = picture.convert("RGBA")
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    factor = max(picture.size) // (2 * size)
    if factor >= 2:
        picture = picture.reduce(factor)
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def content_box(rgb: Image.Image) -> tuple[int, int, int, int]:
    """The box without white borders; the whole picture where all is white."""
    # Means over cells, about 64 on the shorter side: quick, and deaf to a JPEG's noise.
    cell = max(1, min(rgb.size) // 64)
    cells = np.asarray(rgb.reduce(cell))
    dark = (cells < _WHITE_FROM).reshape(len(cells), -1)  # [H, W * C]: numpy is quickest over 2 axes
    rows = np.flatnonzero(dark.any(axis=1))
    columns = np.flatnonzero(dark.any(axis=0).reshape(-1, 3).any(axis=1))
    if not len(rows):
        return (0, 0, *rgb.size)
    left, top = int(columns[0]) * cell, int(rows[0]) * cell
    right, bottom = (int(columns[-1]) + 1) * cell, (int(rows[-1]) + 1) * cell
    return (left, top, min(right, rgb.width), min(bottom, rgb.height))


def _fit_into_square(
    rgb: Image.Image, box: tuple[int, int, int, int], orientation: int, size: int
) -> np.ndarray:
    width, height = box[2] - box[0], box[3] - box[1]
    scale = size / max(width, height)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = rgb.resize(target, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    left, top = (size - picture.width) // 2, (size - picture.height) // 2
    pixels_HWC = np.full((size, size, 3), 255, dtype=np.uint8)
    pixels_HWC[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return pixels_HWC
