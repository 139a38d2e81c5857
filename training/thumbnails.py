"""Small pictures for pages: decoded the safe way, written anew, as data URIs of bounded size."""

from __future__ import annotations

import base64
import io

from PIL import Image

from aisle.errors import ProductError
from aisle.picture import ImageSettings, decode_image

SIDE = 144  # pixels
_QUALITY = 70
_SETTINGS = ImageSettings(size=SIDE, trim_white=False)


def thumbnail(data: bytes | None) -> str:
    """A JPEG of SIDE pixels as a data URI; "" without a picture or with one that nobody can read.

    Nothing of the file but its pixels reaches the page. At most about 30 kB, photos 5 kB.
    """
    if data is None:
        return ""
    try:
        pixels_HWC = decode_image(data, _SETTINGS)
    except ProductError:
        return ""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
