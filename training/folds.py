"""Folds to compare on: every product is tested once, by models that saw none of its group.

Shapes: N products.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from aisle.errors import CatalogError

_VALIDATION_FOLDS = 7  # validation is one part of so many of what is not tested


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Sorted positions of products that train, that choose (early stopping, temperatures, weights), and that
    are only scored."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def stratified_folds(label_N: np.ndarray, group_N: np.ndarray, *, folds: int, seed: int) -> list[Fold]:
    """`folds` folds with nearly equal shares of every category, no group in two parts of a fold. Raises
    CatalogError when there are fewer groups than that."""
    groups = len(np.unique(group_N))
    if groups < folds * _VALIDATION_FOLDS:
        raise CatalogError(
            f"folds: found {groups} groups of products, wanted {folds * _VALIDATION_FOLDS} or more "
            f"for {folds} folds"
        )
    made = []
    for number, (rest, test) in enumerate(stratified_split(label_N, group_N, folds, seed)):
        inner = stratified_split(label_N[rest], group_N[rest], _VALIDATION_FOLDS, seed)[0]
        train, validation = (rest[part] for part in inner)
        made.append(Fold(name=f"fold-{number}", train=train, validation=validation, test=test))
    return made


def stratified_split(
    label_N: np.ndarray, group_N: np.ndarray, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(positions of the others, its own positions) of each fold. Raises CatalogError where no category has a
    product for each."""
    most = int(np.unique(label_N, return_counts=True)[1].max(initial=0))
    if most < folds:
        raise CatalogError(
            f"folds: found at most {most} products of a category, wanted {folds} or more of one for "
            f"{folds} folds"
        )
    with warnings.catch_warnings():  # of a category with fewer products than folds; some folds go without
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(label_N, label_N, group_N))
