"""Parts of a split by what its products look like: language, length, description, picture.

Shapes: N products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aisle.columns import LANGUAGES, NONE

LEAST = 10  # products; rarer languages are put together
_SIDES = (100, 300, 600)  # pixels of the shorter side


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Products that are alike in one way: `kind` is the way, `name` which of it, `mask_N` who."""

    kind: str
    name: str
    mask_N: np.ndarray


def slices_of(columns: Mapping[str, np.ndarray], present_N2: np.ndarray) -> list[Slice]:
    """Slices of products with the cheap columns of aisle/columns.py (as arrays) and the presence of their
    vectors [N, 2]. Empty ones are left out; those of one kind cover all products and share none."""
    found = [
        *_of("parts", _parts(present_N2)),
        *_of("language", _languages(columns["language"])),
        *_of("text length", _lengths(columns["text_chars"])),
        *_of("description", _descriptions(columns["description_missing"])),
        *_of("picture", _pictures(columns["image_width"], columns["image_height"])),
    ]
    return [part for part in found if part.mask_N.any()]


def _of(kind: str, masks: Iterator[tuple[str, np.ndarray]]) -> list[Slice]:
    return [Slice(kind=kind, name=name, mask_N=mask_N) for name, mask_N in masks]


def _parts(present_N2: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    text_N, image_N = present_N2[:, 0] > 0, present_N2[:, 1] > 0
    yield "text and picture", text_N & image_N
    yield "text alone", text_N & ~image_N
    yield "picture alone", ~text_N & image_N


def _languages(language_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    rare = []
    for place, name in enumerate(LANGUAGES):
        mask_N = language_N == place
        if mask_N.sum() >= LEAST:
            yield name, mask_N
        else:
            rare.append(place)
    yield f"others (fewer than {LEAST} products each)", np.isin(language_N, rare)
    yield "no text", language_N == NONE


def _lengths(chars_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Quarters of the products with text, fewer where many are equally long."""
    known = chars_N[np.isfinite(chars_N)]
    edges = np.unique(np.quantile(known, (0.25, 0.5, 0.75)).round()) if len(known) else np.empty(0)
    place_N = np.searchsorted(edges, chars_N, side="left")
    for place in range(len(edges) + 1):
        mask_N = np.isfinite(chars_N) & (place_N == place)
        if mask_N.any():
            yield f"{chars_N[mask_N].min():,.0f} to {chars_N[mask_N].max():,.0f} characters", mask_N
    yield "no text", ~np.isfinite(chars_N)


def _descriptions(missing_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "with a description", missing_N == 0
    yield "no description", missing_N == 1
    yield "no text", missing_N == NONE


def _pictures(width_N: np.ndarray, height_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    side_N = np.minimum(width_N, height_N)
    known_N = np.isfinite(side_N)
    edges = (0, *_SIDES, np.inf)
    for low, high in pairwise(edges):
        name = f"{low} pixels and more" if high == np.inf else f"{low} to {high - 1} pixels"
        yield f"shorter side {name}", known_N & (side_N >= low) & (side_N < high)
    yield "no picture that can be read", ~known_N
