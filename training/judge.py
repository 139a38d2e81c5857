"""A registered classifier, judged again: its figures, and its answers product by product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aisle import store
from aisle.classifier import Classifier
from aisle.errors import CatalogError
from training.catalog import Catalog, ColumnMap, read_catalog
from training.evaluation import answer_frame, evaluate, read_by
from training.fit import Vectors
from training.labelled import read_embeddings, read_labelled
from training.labels import FRESH, no_labels, read_ledger_labels
from training.progress import console
from training.shop import Encoders, Shop
from training.splits import SplitSettings, assign_splits


def catalog_of(tag: str) -> Catalog:
    """The catalogue that a classifier was trained on, from where it was read then. Raises CatalogError where
    it is gone."""
    data = store.load_bundle(tag).card["data"]
    if "catalog" not in data:
        raise CatalogError(f"{tag}: its card names no catalogue, wanted one: give it as CATALOG")
    columns = ColumnMap(**data["columns"]) if data["columns"] else None
    return read_catalog(Path(data["catalog"]), columns=columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A registered classifier and the test split that it is judged on. `row_N` are rows of the catalogue,
    `group_N` what variants of one product share, `train_label_N` the labels of the training split;
    `same_catalog` says whether the catalogue is the one that it was trained on."""

    classifier: Classifier
    catalog: Catalog
    vectors: Vectors
    row_N: np.ndarray
    group_N: np.ndarray
    train_label_N: np.ndarray
    same_catalog: bool

    def rows(self, index: np.ndarray) -> Trial:
        """The trial of the test products at `index`."""
        return replace(
            self,
            vectors=self.vectors.rows(index),
            row_N=self.row_N[index],
            group_N=self.group_N[index],
        )


def read_trial(shop: Shop, tag: str, catalog: Catalog) -> Trial:
    """A classifier of the store, with the vectors of the test split of `catalog`."""
    classifier = store.load_classifier(tag, "cpu")
    data = classifier.bundle.card["data"]
    same = catalog.fingerprint() == data["fingerprint"]
    if not same:
        console.print("[yellow]this catalogue is not the one the classifier was trained on[/yellow]")
    pair = Encoders(text=classifier.text_encoder, image=classifier.image_encoder)
    splits = SplitSettings(**data["splits"])
    labels = no_labels(pair.text.dim, pair.image.dim)
    labelled = read_labelled(shop, catalog, pair, classifier.taxonomy, splits, labels)
    is_test = labelled.split_N == "test"
    return Trial(
        classifier=classifier,
        catalog=catalog,
        vectors=read_by(classifier, labelled.split("test")),
        row_N=labelled.row_N[is_test],
        group_N=labelled.group_N[is_test],
        train_label_N=labelled.split("train").label_N,
        same_catalog=same,
    )


def evaluate_tag(shop: Shop, tag: str, catalog: Catalog) -> dict[str, Any]:
    """The figures of a registered classifier, from the store, on the test split of `catalog`."""
    trial = read_trial(shop, tag, catalog)
    return evaluate(trial.classifier, trial.vectors)


def answers_of(shop: Shop, tag: str, catalog: Catalog, *, labels_until: int) -> pd.DataFrame:
    """A registered classifier's answers, one row a product: set ("frozen": the catalogue's test split;
    "fresh": labelled products that no training sees), product_id, label, answer, confidence, correct.
    Products of categories that it does not know are among them."""
    classifier = store.load_classifier(tag, shop.device)
    pair = Encoders(text=classifier.text_encoder, image=classifier.image_encoder)
    splits = SplitSettings(**classifier.bundle.card["data"]["splits"])
    labels = read_ledger_labels(shop, catalog, pair, labels_until)
    is_test = (assign_splits(catalog.products.group, splits) == "test").to_numpy()
    products = catalog.products[is_test & (catalog.products.category != "").to_numpy()]
    frozen = read_embeddings(shop, replace(catalog, products=products), pair)
    fresh = labels.answers.rows(labels.answers.split_N == FRESH)
    answers = (fresh.text_ND, fresh.image_NE, fresh.present_N2)
    frames = [
        answer_frame(classifier, "frozen", products.product_id.tolist(), products.category.tolist(), *frozen),
        answer_frame(classifier, "fresh", fresh.key_N.tolist(), fresh.category_N.tolist(), *answers),
    ]
    return pd.concat(frames, ignore_index=True)
