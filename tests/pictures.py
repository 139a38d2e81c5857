"""Small real picture files."""

from __future__ import annotations

import io

from PIL import Image


def jpeg(colour: str, side: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "JPEG")
    return file.getvalue()
