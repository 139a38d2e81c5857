"""Slices: each kind covers every product once."""

from __future__ import annotations

import numpy as np

from aisle.columns import Columns, column_arrays
from training.slices import Slice, slices_of

NOTHING = Columns(
    text_chars=None,
    language=None,
    description_missing=None,
    image_width=None,
    image_height=None,
    brightness=None,
)


def columns_of(
    chars: int, language: str = "fr", *, missing: bool = True, size: tuple[int, int] | None = None
):  # type: ignore[no-untyped-def]
    width, height = size or (None, None)
    return Columns(
        text_chars=chars,
        language=language,
        description_missing=missing,
        image_width=width,
        image_height=height,
        brightness=None,
    )


PRODUCTS = [
    *(columns_of(10 + i, "fr", size=(80, 400)) for i in range(20)),
    *(columns_of(100 + i, "en", missing=False, size=(700, 600)) for i in range(12)),
    *(columns_of(500, "de") for _ in range(2)),
    NOTHING,
]
PRESENT = np.array([(1, 1)] * 32 + [(1, 0)] * 2 + [(0, 1)])
SLICES = slices_of(column_arrays(PRODUCTS), PRESENT)


def counts(kind: str) -> dict[str, int]:
    return {part.name: int(part.mask_N.sum()) for part in SLICES if part.kind == kind}


def test_every_kind_covers_every_product_once() -> None:
    kinds: dict[str, list[Slice]] = {}
    for part in SLICES:
        kinds.setdefault(part.kind, []).append(part)
    assert list(kinds) == ["parts", "language", "text length", "description", "picture"]
    for parts in kinds.values():
        assert np.sum([part.mask_N for part in parts], axis=0).tolist() == [1] * len(PRODUCTS)


def test_rare_languages_are_one_slice() -> None:
    assert counts("language") == {
        "en": 12,
        "fr": 20,
        "others (fewer than 10 products each)": 2,
        "no text": 1,
    }


def test_pictures_by_their_shorter_side() -> None:
    assert counts("picture") == {
        "shorter side 0 to 99 pixels": 20,
        "shorter side 600 pixels and more": 12,
        "no picture that can be read": 3,
    }


def test_descriptions() -> None:
    assert counts("description") == {"with a description": 12, "no description": 22, "no text": 1}


def test_parts() -> None:
    assert counts("parts") == {"text and picture": 32, "text alone": 2, "picture alone": 1}


def test_texts_of_one_length_are_one_slice() -> None:
    found = slices_of(column_arrays([columns_of(40)] * 30), np.ones((30, 2)))
    assert [part.name for part in found if part.kind == "text length"] == ["40 to 40 characters"]
