"""Labelled texts for tuning, as token ids.

Shapes: B texts at once, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from aisle.errors import CatalogError
from aisle.text import TextEncoder, pad_tokens


class Texts:
    """Cleaned texts by position, in `encoder`'s tokens."""

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], label_N: np.ndarray) -> None:
        if len(texts) != len(label_N):
            raise CatalogError(f"texts: found {len(texts)} with {len(label_N)} labels, wanted one each")
        self.label_N = np.asarray(label_N, dtype=np.int64)
        self._ids = encoder.tokenize(texts)
        self._pad_id = encoder.pad_id

    def __len__(self) -> int:
        return len(self._ids)

    def read(
        self, chunks: Sequence[np.ndarray], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Tokens [B, 2, T] as `pad_tokens` gives them, and labels [B], of each chunk of positions."""
        for positions in chunks:
            ids = [self._ids[position] for position in positions]
            yield pad_tokens(ids, self._pad_id), torch.from_numpy(self.label_N[positions])

    def fingerprint(self) -> str:
        """Hex sha256 over what the network is shown."""
        digest = hashlib.sha256(self.label_N.tobytes())
        for ids in self._ids:
            digest.update(json.dumps(ids).encode())
        return digest.hexdigest()
