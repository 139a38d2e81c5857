"""What is in a catalogue, counted: categories, missing parts, lengths, languages, pictures, twins, words.

What a table can tell is counted over all products. What takes a look at each (cleaning, language, pictures)
is counted over a random sample, so that a catalogue of millions takes minutes.
Shapes: N products of the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from aisle.columns import language_of
from aisle.errors import ProductError, SettingError
from aisle.picture import ImageSettings, content_box, decode_with_size, image_hash
from aisle.text import TextSettings, clean_text
from training.catalog import Catalog
from training.progress import progress
from training.splits import SplitSettings, assign_splits
from training.terms import Term, telling_terms
from training.twins import Twins, find_twins, text_keys

SAMPLE = 20_000
_SIDE = 128  # pixels that borders and looks are judged at
_THREADS = 4
_AT_ONCE = 512
_PICTURE = ImageSettings(size=_SIDE, trim_white=False)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A picture: its size in pixels as uploaded, the share of its area in white borders, in [0, 1], and the
    hash of its file; or why it cannot be read."""

    width: int = 0
    height: int = 0
    border: float = 0.0
    file_hash: str = ""
    fault: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """`counts` has a row a category, the largest first, over all products: products, no_description,
    no_title, no_picture. `row_N` are the sampled rows; texts (cleaned), languages ("" without a text) and
    `looks` (None without a picture) are theirs. `terms` are the telling words of a category."""

    catalog: Catalog
    counts: pd.DataFrame
    row_N: np.ndarray
    text_N: list[str]
    language_N: list[str]
    looks: list[Look | None]
    twins: tuple[Twins, ...]
    terms: Mapping[str, list[Term]]

    @property
    def is_whole(self) -> bool:
        """Whether the sample is the catalogue."""
        return len(self.row_N) == len(self.catalog.products)

    @property
    def readable(self) -> list[Look]:
        return [look for look in self.looks if look is not None and not look.fault]

    def faults(self) -> Counter[str]:
        """How many pictures cannot be read, by reason."""
        return Counter(look.fault for look in self.looks if look is not None and look.fault)


def survey(catalog: Catalog, *, sample: int = SAMPLE, seed: int = 27) -> Survey:
    """Count what is in a catalogue; at most `sample` products are looked at one by one."""
    if sample < 1:
        raise SettingError(f"sample: found {sample}, wanted 1 or more products")
    products = catalog.products
    row_N = _drawn(len(products), sample, seed)
    chosen = products.iloc[row_N]
    settings = TextSettings()
    texts = [clean_text(t, d, settings) for t, d in zip(chosen.title, chosen.description, strict=True)]
    looks = _looks(catalog, row_N)
    return Survey(
        catalog=catalog,
        counts=_counts(products),
        row_N=row_N,
        text_N=texts,
        language_N=[language_of(text) if text else "" for text in texts],
        looks=looks,
        twins=_twins(products, chosen, looks),
        terms=_terms(chosen, texts),
    )


def _drawn(products: int, sample: int, seed: int) -> np.ndarray:
    if products <= sample:
        return np.arange(products)
    return np.sort(np.random.default_rng(seed).choice(products, sample, replace=False))


def _counts(products: pd.DataFrame) -> pd.DataFrame:
    missing = pd.DataFrame(
        {
            "category": products.category,
            "products": 1,
            "no_title": products.title.str.strip() == "",
            "no_description": products.description.str.strip() == "",
            "no_picture": products.image == "",
        }
    )
    counts = missing.groupby("category").sum().astype(int)
    return counts.sort_values("products", ascending=False, kind="stable")


def _looks(catalog: Catalog, row_N: np.ndarray) -> list[Look | None]:
    """Pictures are read in threads and forgotten: no more than a few are held at a time."""

    def look(row: int) -> Look | None:
        image = catalog.product(row).image
        return None if image is None else look_of(image)

    found: list[Look | None] = []
    with progress() as bar, ThreadPoolExecutor(_THREADS) as pool:
        task = bar.add_task("look at pictures", total=len(row_N))
        for start in range(0, len(row_N), _AT_ONCE):
            found += pool.map(look, [int(row) for row in row_N[start : start + _AT_ONCE]])
            bar.update(task, completed=len(found))
    return found


def look_of(image: bytes) -> Look:
    """Measure an encoded picture."""
    digest = image_hash(image)
    try:
        pixels_HWC, (width, height) = decode_with_size(image, _PICTURE)
    except ProductError as error:
        return Look(file_hash=digest, fault=error.reason)
    return Look(
        width=width,
        height=height,
        border=_border(pixels_HWC, width, height),
        file_hash=digest,
    )


def _border(pixels_HWC: np.ndarray, width: int, height: int) -> float:
    """Share of a picture's own area, without what squares it up, that trimming would cut off, to
    about 0.05: trimming judges cells. A picture that is white all over is one border."""
    left, top, right, bottom = content_box(Image.fromarray(pixels_HWC))
    if (left, top, right, bottom) == (0, 0, _SIDE, _SIDE) and (pixels_HWC >= 250).all():
        return 1.0
    own = _SIDE**2 * min(width, height) / max(width, height)
    return float(max(0.0, 1.0 - (right - left) * (bottom - top) / own))


def _twins(products: pd.DataFrame, chosen: pd.DataFrame, looks: list[Look | None]) -> tuple[Twins, ...]:
    splits = assign_splits(products.group, SplitSettings())
    files = pd.Series([look.file_hash if look else "" for look in looks], index=chosen.index, dtype=object)
    return (
        find_twins("the same text", products, text_keys(products), splits),
        find_twins("the same picture file", chosen, files, splits.loc[chosen.index]),
    )


def _terms(chosen: pd.DataFrame, texts: list[str]) -> dict[str, list[Term]]:
    known = (chosen.category != "").to_numpy()
    codes, label_N = np.unique(chosen.category[known].to_numpy(dtype=str), return_inverse=True)
    if len(codes) < 2:
        return {}
    found = telling_terms([texts[at] for at in np.flatnonzero(known)], label_N, len(codes))
    return dict(zip(codes.tolist(), found, strict=True))
