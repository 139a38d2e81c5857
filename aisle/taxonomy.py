"""The codes a product can be filed under, in the order of the model's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisle.errors import BundleError


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """A product type: the code systems use, and the name people read."""

    code: str
    name: str


class Taxonomy:
    """An ordered set of categories: index i is column i of every logits and probabilities array."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self._index = {category.code: i for i, category in enumerate(self.categories)}
        if len(self.categories) < 2:
            raise BundleError(f"taxonomy: found {len(self.categories)} categories, wanted 2 or more")
        if len(self._index) != len(self.categories):
            codes = [category.code for category in self.categories]
            twice = sorted({code for code in codes if codes.count(code) > 1})
            raise BundleError(f"taxonomy: found the codes {twice} more than once, wanted each once")

    @classmethod
    def from_codes(cls, codes: Sequence[str], names: Mapping[str, str] | None = None) -> Taxonomy:
        """The sorted distinct `codes`; a code without a name is its own name."""
        names = names or {}
        return cls([Category(code=c, name=names.get(c, c)) for c in sorted(set(codes))])

    def __len__(self) -> int:
        return len(self.categories)

    def __iter__(self) -> Iterator[Category]:
        return iter(self.categories)

    def __getitem__(self, index: int) -> Category:
        return self.categories[index]

    def __contains__(self, code: object) -> bool:
        return code in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self.categories == other.categories

    def __hash__(self) -> int:
        return hash(self.categories)

    def index(self, code: str) -> int:
        """Column of `code`. Raises KeyError naming the code."""
        return self._index[code]

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(category.code for category in self.categories)

    def to_json(self) -> list[dict[str, str]]:
        return [{"code": category.code, "name": category.name} for category in self.categories]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> Taxonomy:
        return cls([Category(code=str(row["code"]), name=str(row["name"])) for row in rows])
