"""Short fingerprints of texts and pictures, alike where texts and pictures are.

Shapes: N texts, S shingles of one text, M = 100 numbers of a signature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.fft import dctn

from aisle.image import ImageSettings, decode_image

SHINGLE_BYTES = 5
SIGNATURE = 100
_HASHED = ImageSettings(size=32, trim_white=False)  # where a border ends, a JPEG's noise decides
_LOW = 8  # frequencies a side that are kept
_BLANK = 4.0  # grey levels of standard deviation; a picture with less shows nothing
_PRIME = np.uint64(2**31 - 1)
_MULTIPLY, _ADD = np.random.default_rng(27).integers(1, 2**31 - 1, size=(2, SIGNATURE), dtype=np.uint64)


def picture_hash(data: bytes) -> int | None:
    """64 bits of a picture's coarse shape: which low frequencies of its brightness are above their median
    (pHash; Zauner, 2010). Two pictures differ in few bits when one is the other compressed again or made
    smaller. None of a picture that shows nothing. Raises ProductError as
    `decode_image` does.
    """
    grey = decode_image(data, _HASHED).astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if grey.std() < _BLANK:
        return None
    low = dctn(grey, norm="ortho")[:_LOW, :_LOW].ravel()
    above = low > np.median(low[1:])  # the first is the mean brightness, which says nothing of the shape
    return int.from_bytes(np.packbits(above).tobytes())


def shingles(text: str) -> np.ndarray:
    """The distinct sequences of SHINGLE_BYTES bytes of a text, case folded, as sorted uint64 [S]."""
    data = np.frombuffer(" ".join(text.casefold().split()).encode(), dtype=np.uint8).astype(np.uint64)
    last = len(data) - SHINGLE_BYTES + 1
    if last < 1:
        return np.zeros(0, dtype=np.uint64)
    numbers = np.zeros(last, dtype=np.uint64)
    for place in range(SHINGLE_BYTES):
        numbers = (numbers << np.uint64(8)) | data[place : place + last]
    return np.unique(numbers)


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' shingles, in [0, 1]."""
    one, other = shingles(first), shingles(second)
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(len(one) + len(other) - both, 1)


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint32 [N, M] (Broder, 1997): the share of equal numbers of two rows estimates
    their texts' similarity with a standard deviation of at most 0.05."""
    found = np.zeros((len(texts), SIGNATURE), dtype=np.uint32)
    for row, text in enumerate(texts):
        numbers_S = shingles(text) % _PRIME
        if len(numbers_S):
            found[row] = ((numbers_S[:, None] * _MULTIPLY + _ADD) % _PRIME).min(axis=0)
    return found
