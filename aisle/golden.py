"""Golden products: held-out products that a bundle carries with what it answered when it was made. Whoever is
to serve the bundle asks for them again, through the path that serves, and refuses it where answers moved:
other code, other libraries or another machine would answer everybody else otherwise too.

| file               | holds                                                              |
|--------------------|--------------------------------------------------------------------|
| golden.json        | titles and descriptions as they came, and who has a picture        |
| golden.safetensors | expected probabilities, and the pictures' encoded bytes            |

Shapes: N golden products, C categories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from aisle.errors import BundleError, ProductError
from aisle.prediction import Prediction
from aisle.product import Product

if TYPE_CHECKING:  # it reads bundles, which read this
    from aisle.classifier import Classifier, Item

GOLDEN_PARTS = ("golden.json", "golden.safetensors")
TOLERANCE = 1e-3  # of a probability: see DECISIONS.md for what moves it by how much
CHECKED_AT_ONCE = 4  # products: what is being served waits for no more than these

Answering = Callable[[Sequence["Item"]], Sequence[object]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Products without ids, so that nothing is read from a feature store, and the calibrated probabilities
    [N, C], float32, that each was answered with."""

    products: Sequence[Product]
    probabilities_NC: np.ndarray

    def __post_init__(self) -> None:
        if len(self.products) != len(self.probabilities_NC):
            raise BundleError(
                f"golden products: found {len(self.products)} with {len(self.probabilities_NC)} rows of "
                "probabilities, wanted a row each"
            )

    @classmethod
    def of(cls, classifier: Classifier, products: Sequence[Product]) -> Golden:
        """What `classifier` answers for `products` now."""
        found = [
            _answered(classifier, number, product, classifier.predict)
            for number, product in enumerate(products)
        ]
        shape = (len(products), len(classifier.taxonomy))
        return cls(products=products, probabilities_NC=np.array(found, dtype=np.float32).reshape(shape))

    def check(self, classifier: Classifier, answer: Answering) -> float:
        """The largest difference of a probability, when `answer` is asked for the products again. Raises
        BundleError naming the product, what was found and what was wanted, where it is above TOLERANCE.

        So the best category can change only where the two best were within twice that.
        """
        worst = 0.0
        for start in range(0, len(self.products), CHECKED_AT_ONCE):
            rows = range(start, min(start + CHECKED_AT_ONCE, len(self.products)))
            items = [_prepared(classifier, row, self.products[row]) for row in rows]
            for row, outcome in zip(rows, answer(items), strict=True):
                found_C = _probabilities(classifier, row, outcome)
                worst = max(worst, self._difference(classifier, row, found_C))
        return worst

    def _difference(self, classifier: Classifier, row: int, found_C: np.ndarray) -> float:
        wanted_C = self.probabilities_NC[row]
        difference_C = np.abs(found_C - wanted_C)
        column = int(difference_C.argmax())
        if difference_C[column] > TOLERANCE:
            raise BundleError(
                f"{classifier.version}: golden product {row} ({self.products[row].title[:40]!r}): found "
                f"probability {found_C[column]:.4f} of {classifier.taxonomy[column].code}, wanted "
                f"{wanted_C[column]:.4f} within {TOLERANCE:g}; it does not answer here as where it was made"
            )
        return float(difference_C[column])

    def save(self, folder: Path) -> None:
        facts = [
            {"title": one.title, "description": one.description, "picture": one.image is not None}
            for one in self.products
        ]
        (folder / "golden.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False))
        pictures = {
            _picture(row): np.frombuffer(one.image, dtype=np.uint8)
            for row, one in enumerate(self.products)
            if one.image is not None
        }
        save_file(
            {"probabilities": np.ascontiguousarray(self.probabilities_NC), **pictures},
            folder / "golden.safetensors",
        )

    @classmethod
    def load(cls, folder: Path) -> Golden:
        """Read what `save` wrote. Raises BundleError where the two files disagree."""
        facts = json.loads((folder / "golden.json").read_text())
        arrays = load_file(folder / "golden.safetensors")
        try:
            products = [
                Product(
                    title=fact["title"],
                    description=fact["description"],
                    image=arrays[_picture(row)].tobytes() if fact["picture"] else None,
                )
                for row, fact in enumerate(facts)
            ]
            return cls(products=products, probabilities_NC=arrays["probabilities"])
        except (KeyError, TypeError, ProductError) as error:
            raise BundleError(
                f"{folder.name}: golden.json and golden.safetensors do not fit together: {error!r}"
            ) from error


def _picture(row: int) -> str:
    return f"picture_{row}"


def _answered(classifier: Classifier, row: int, product: Product, answer: Answering) -> np.ndarray:
    [outcome] = answer([_prepared(classifier, row, product)])
    return _probabilities(classifier, row, outcome)


def _prepared(classifier: Classifier, row: int, product: Product) -> Item:
    try:
        return classifier.prepare(product, len(classifier.taxonomy))
    except ProductError as error:
        raise BundleError(
            f"{classifier.version}: golden product {row} cannot be prepared: {error}"
        ) from error


def _probabilities(classifier: Classifier, row: int, outcome: object) -> np.ndarray:
    """[C], in the taxonomy's order."""
    if not isinstance(outcome, Prediction):
        raise BundleError(f"{classifier.version}: golden product {row} cannot be answered: {outcome}")
    found_C = np.zeros(len(classifier.taxonomy), dtype=np.float32)
    for candidate in outcome.top:
        found_C[classifier.taxonomy.index(candidate.category.code)] = candidate.probability
    return found_C
