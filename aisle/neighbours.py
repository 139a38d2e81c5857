"""Training products to show beside an answer: those nearest to it, by their vectors.

Stored in the bundle, read when the first explanation is asked for: who asks for none pays for none. Vectors
are centred on their mean and of length 1, so that similarity is a cosine in [-1, 1].
Shapes: M stored products, B asked for, D and E embedding widths, K nearest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FILE = "neighbours.safetensors"
MOST = 10_000  # products: 19 MB at the usual widths
NEAREST = 5
_LEAST_LENGTH = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """`text_MD` and `image_ME` are float16, of length 1, or zero where the product has no such part;
    `label_M` are places in the taxonomy."""

    product_ids: tuple[str, ...]
    label_M: np.ndarray
    text_MD: np.ndarray
    image_ME: np.ndarray
    text_mean_D: np.ndarray
    image_mean_E: np.ndarray

    @classmethod
    def of(
        cls,
        product_ids: Sequence[str],
        label_M: np.ndarray,
        text_MD: np.ndarray,
        image_ME: np.ndarray,
        present_M2: np.ndarray,
    ) -> Neighbours:
        """From vectors as encoders give them."""
        means = [
            vectors[present_M2[:, column] > 0].mean(axis=0) if present_M2[:, column].any() else 0 * vectors[0]
            for column, vectors in enumerate((text_MD, image_ME))
        ]
        return cls(
            product_ids=tuple(product_ids),
            label_M=label_M.astype(np.int32),
            text_MD=_directions(text_MD, means[0], present_M2[:, 0]).astype(np.float16),
            image_ME=_directions(image_ME, means[1], present_M2[:, 1]).astype(np.float16),
            text_mean_D=means[0].astype(np.float32),
            image_mean_E=means[1].astype(np.float32),
        )

    def nearest(
        self, text_BD: np.ndarray, image_BE: np.ndarray, present_B2: np.ndarray, k: int = NEAREST
    ) -> tuple[np.ndarray, np.ndarray]:
        """(places [B, K], similarities [B, K]), nearest first: the mean cosine over the parts that the asked
        product has; a stored product without such a part has 0 there."""
        asked_BV = np.concatenate(
            [
                _directions(text_BD, self.text_mean_D, present_B2[:, 0]),
                _directions(image_BE, self.image_mean_E, present_B2[:, 1]),
            ],
            axis=1,
        )
        parts_B1 = np.maximum(present_B2.sum(axis=1, keepdims=True), 1)
        similarity_BM = (asked_BV @ self._vectors_MV.T) / parts_B1
        k = min(k, len(self.product_ids))
        place_BK = np.argpartition(-similarity_BM, k - 1, axis=1)[:, :k]
        found_BK = np.take_along_axis(similarity_BM, place_BK, axis=1)
        order_BK = np.argsort(-found_BK, axis=1, kind="stable")
        return np.take_along_axis(place_BK, order_BK, axis=1), np.take_along_axis(found_BK, order_BK, axis=1)

    def save(self, folder: Path) -> None:
        encoded = [one.encode() for one in self.product_ids]
        arrays = {
            "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "id_bytes": np.array([len(one) for one in encoded], dtype=np.int32),
            "label": self.label_M,
            "text": self.text_MD,
            "image": self.image_ME,
            "text_mean": self.text_mean_D,
            "image_mean": self.image_mean_E,
        }
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Neighbours:
        arrays = load_file(folder / FILE)
        ends = np.cumsum(arrays["id_bytes"])
        data = arrays["ids"].tobytes()
        starts = ends - arrays["id_bytes"]
        return cls(
            product_ids=tuple(data[a:b].decode() for a, b in zip(starts, ends, strict=True)),
            label_M=arrays["label"],
            text_MD=arrays["text"],
            image_ME=arrays["image"],
            text_mean_D=arrays["text_mean"],
            image_mean_E=arrays["image_mean"],
        )

    @functools.cached_property
    def _vectors_MV(self) -> np.ndarray:  # noqa: N802 - the shape
        return np.concatenate([self.text_MD, self.image_ME], axis=1).astype(np.float32)


def _directions(vectors: np.ndarray, mean: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Centred, of length 1; zero where absent, and where a vector is the mean itself."""
    centred = (vectors - mean) * (present[:, None] > 0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    directions: np.ndarray = np.where(length > _LEAST_LENGTH, centred / np.maximum(length, _LEAST_LENGTH), 0)
    return directions.astype(np.float32)
