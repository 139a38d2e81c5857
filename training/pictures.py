"""Labelled pictures for training: decoded on demand in threads, kept while they fit in memory.

Shapes: N pictures, K of a chunk that can be read, H = W = size, C 3 colours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from aisle.errors import CatalogError, ProductError
from aisle.image import ImageSettings, decode_image, image_hash
from aisle.picture import DECODING

CACHE_BYTES = 2 * 2**30


class Pictures(Dataset[np.ndarray | None]):
    """Pictures by position: uint8 [size, size, 3], or None where a picture cannot be read.

    `sources` are paths, encoded bytes, or decoded pixels as uint8 [N, size, size, 3]. Decoded pixels
    are kept when all of them fit into `cache_bytes`, else each is decoded again when it is asked for.
    """

    def __init__(
        self,
        sources: Sequence[Path | bytes] | np.ndarray,
        label_N: np.ndarray,
        settings: ImageSettings,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if len(sources) != len(label_N):
            raise CatalogError(f"pictures: found {len(sources)} with {len(label_N)} labels, wanted one each")
        self.sources = sources
        self.label_N = np.asarray(label_N, dtype=np.int64)
        self.settings = settings
        self._kept: list[np.ndarray | None] | None = None
        self._unreadable: set[int] = set()
        if len(sources) * settings.size**2 * 3 <= cache_bytes:
            self._kept = [None] * len(sources)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def unreadable(self) -> int:
        """How many of the pictures asked for so far could not be read."""
        return len(self._unreadable)

    def __getitem__(self, position: int) -> np.ndarray | None:
        source = self.sources[position]
        if isinstance(source, np.ndarray):
            return source
        if position in self._unreadable:
            return None
        kept = self._kept[position] if self._kept is not None else None
        if kept is not None:
            return kept
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            pixels_HWC = decode_image(data, self.settings)
        except (ProductError, OSError):
            self._unreadable.add(position)
            return None
        if self._kept is not None:
            self._kept[position] = pixels_HWC
        return pixels_HWC

    def read(
        self, chunks: Sequence[np.ndarray], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Uint8 pixels [K, C, H, W] and labels [K] of each chunk of positions, without pictures that cannot
        be read; K may be 0.

        The next chunk is decoded in `pool` while the caller works on this one.
        """
        size = self.settings.size
        waiting = self._submit(chunks[0], pool) if chunks else []
        for i, positions in enumerate(chunks):
            coming = self._submit(chunks[i + 1], pool) if i + 1 < len(chunks) else []
            decoded = [future.result() for future in waiting]
            waiting = coming
            is_read = [pixels is not None for pixels in decoded]
            pixels_KHWC = np.empty((sum(is_read), size, size, 3), dtype=np.uint8)
            for row, pixels in enumerate(pixels for pixels in decoded if pixels is not None):
                pixels_KHWC[row] = pixels
            label_K = torch.from_numpy(self.label_N[positions[is_read]])
            yield torch.from_numpy(pixels_KHWC).permute(0, 3, 1, 2), label_K

    def _submit(self, positions: np.ndarray, pool: ThreadPoolExecutor) -> list[Future[np.ndarray | None]]:
        return [pool.submit(self.__getitem__, int(at)) for at in positions]

    def fingerprint(self) -> str:
        """Hex sha256 over what the network is shown: pictures by content, wherever they lie, and labels."""
        digest = hashlib.sha256(repr((self.settings, DECODING, len(self))).encode())
        for source in self.sources:
            digest.update(_hash_of(source).encode() + b"\n")
        digest.update(self.label_N.tobytes())
        return digest.hexdigest()


def _hash_of(source: Path | bytes | np.ndarray) -> str:
    # By content: a shop takes new photos under the names of the old ones. 85,000 pictures of 27 kB take
    # 2 s, of a training run of hours.
    if isinstance(source, np.ndarray):
        return image_hash(source.tobytes())
    try:
        return image_hash(source if isinstance(source, bytes) else source.read_bytes())
    except OSError:
        return "unreadable"
