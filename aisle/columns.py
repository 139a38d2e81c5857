"""Cheap columns: what a product looks like from outside. The drift reference in a bundle and the ledger's
predictions carry the same ones, made here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # aisle.classifier imports torch
    from aisle.classifier import Item

# What py3langid may answer: the languages of European marketplaces. Among all of its 97, short titles
# of brands and numbers are spread over languages that nobody there writes.
LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt")
NUMBERS = ("text_chars", "image_width", "image_height", "brightness")
NONE = 255  # of the columns that are not numbers: the request gave no such part
_LANGUAGE_CHARS = 500  # more text makes the guess slower and no better


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """None where the request gave no such part. `text_chars` and `language` are of the cleaned text;
    image sizes are pixels as uploaded; `brightness` is the mean over the decoded square, in [0, 1]."""

    text_chars: int | None
    language: str | None
    description_missing: bool | None
    image_width: int | None
    image_height: int | None
    brightness: float | None


def measure_columns(item: Item) -> Columns:
    """About 0.1 ms, most of it the language."""
    width, height = item.image_size or (None, None)
    return Columns(
        text_chars=len(item.text) if item.text else None,
        language=language_of(item.text) if item.text else None,
        description_missing=item.description_missing if item.text else None,
        image_width=width,
        image_height=height,
        brightness=brightness_of(item.pixels_HWC) if item.pixels_HWC is not None else None,
    )


def language_of(text: str) -> str:
    """The likeliest of LANGUAGES, by py3langid (Lui and Baldwin, 2012)."""
    language, _ = _identifier().classify(text[:_LANGUAGE_CHARS])
    return str(language)


def brightness_of(pixels_HWC: np.ndarray) -> float:
    """Mean of all channels, in [0, 1], of uint8 pixels: of every fourth line, summed as whole numbers, which
    takes a ninth of the time of numpy's mean over every second pixel."""
    lines = pixels_HWC[1::4]
    return float(lines.sum(dtype=np.uint32)) / (255.0 * lines.size)


@functools.cache
def _identifier():  # type: ignore[no-untyped-def]  # py3langid has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads 4 MB: 0.6 s

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def column_arrays(columns: Sequence[Columns]) -> dict[str, np.ndarray]:
    """Columns as arrays [N], for the drift reference and for a window alike. Numbers are float32 with NaN
    for none; `language` is the uint8 place in LANGUAGES and `description_missing` uint8, NONE for none."""
    languages = [LANGUAGES.index(c.language) if c.language in LANGUAGES else NONE for c in columns]
    missing = [NONE if c.description_missing is None else int(c.description_missing) for c in columns]
    return {
        **{name: np.array([getattr(c, name) for c in columns], dtype=np.float32) for name in NUMBERS},
        "language": np.array(languages, dtype=np.uint8),
        "description_missing": np.array(missing, dtype=np.uint8),
    }
