"""Titles that no longer name their category: the honest test of fusion."""

from __future__ import annotations

import re

# A category that titles call by other words as well.
_ALSO = {"tshirts": ("t-shirt", "t-shirts", "tee", "tees", "tshirt")}


def mask_title(title: str, category: str) -> str:
    """`title` without the words of the category's name, case ignored, each with and without a final s."""
    words = set(_ALSO.get(category.lower(), ()))
    for word in category.lower().split():
        words |= {word, word.removesuffix("s"), word + "s"}
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    masked = re.sub(rf"(?<!\w)(?:{longest_first})(?!\w)", " ", title, flags=re.IGNORECASE)
    return " ".join(masked.split())
