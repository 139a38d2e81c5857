"""Labelled products with their vectors: what a head is trained and judged on.

Shapes: N products, D and E embedding widths of text and image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aisle.calibration import Calibration
from aisle.errors import FeatureStoreError
from aisle.features import MODALITIES
from aisle.fusion import FusionNet
from aisle.neighbours import MOST, Neighbours
from aisle.taxonomy import Taxonomy
from training.catalog import Catalog
from training.embeddings import image_hashes, text_hashes
from training.feature_store import open_feature_store
from training.fit import FitSettings, Vectors
from training.golden import GOLDEN_PRODUCTS
from training.labels import FRESH, Labels
from training.reference import REFERENCE_PRODUCTS
from training.registration import calibrate_fusion
from training.shop import Encoders, Shop, view_specs
from training.splits import SplitSettings, assign_splits, in_encoder_share
from training.vectors import read_vectors
from training.whole import Whole, fit_whole

DELTA = 0.05  # the accept threshold keeps its target with probability 1 - DELTA


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled products with their vectors. `split_N` holds split names, `group_N` what variants of one
    product share. `row_N` is the row in the catalogue, or -1 - the row among the labelled answers."""

    vectors: Vectors
    split_N: np.ndarray
    group_N: np.ndarray
    own_N: np.ndarray  # bool: trained the catalogue image encoder
    own_text_N: np.ndarray  # bool: tuned the text encoder
    row_N: np.ndarray

    def split(self, name: str) -> Vectors:
        return self.vectors.rows(self.split_N == name)

    def unlearned(self) -> Vectors:
        """All products without the pictures and texts that their encoders were trained on: they know them
        too well, and a head that saw these vectors would trust them more than it may."""
        return self.vectors.without_images(self.own_N).without_texts(self.own_text_N)

    def train(self) -> Vectors:
        """The training split, without what the encoders were trained on."""
        return self.unlearned().rows(self.split_N == "train")

    def fit(self, settings: FitSettings, classes: int, start: FusionNet | None = None) -> Whole:
        """A head of the training and validation splits. It knows what modalities it has learned from."""
        whole = fit_whole(
            self.train(),
            self.split("validation"),
            settings,
            classes=classes,
            train_group_N=self.group_N[self.split_N == "train"],
            validation_group_N=self.group_N[self.split_N == "validation"],
            start=start,
        )
        whole.fusion.settings = replace(whole.fusion.settings, modalities=self.modalities())
        return whole

    def modalities(self) -> tuple[str, ...]:
        """What a head can learn from: those that some product of the training split has."""
        seen_2 = np.asarray(self.train().present_N2.any(axis=0))
        return tuple(name for name, seen in zip(MODALITIES, seen_2, strict=True) if seen)

    def of_modalities(self, names: tuple[str, ...]) -> Labelled:
        """The same products without what is of no modality of these."""
        kept_2 = np.isin(MODALITIES, names).astype(np.float32)
        return replace(self, vectors=replace(self.vectors, present_N2=self.vectors.present_N2 * kept_2))

    def calibrate(self, whole: Whole, *, target_error: float) -> Calibration:
        """Calibrate a head on what is honestly known of it (scalings) and on the calibration split
        (thresholds and prediction sets)."""
        return calibrate_fusion(
            whole.fusion,
            tuned_on=whole.honest,
            tuned_group_N=whole.group_N,
            held_out=self.split("calibration"),
            group_N=self.group_N[self.split_N == "calibration"],
            target_error=target_error,
            delta=DELTA,
        )

    def reference_rows(self, seed: int) -> np.ndarray:
        """Positions of the products of the drift reference: held out, with a vector, at most
        REFERENCE_PRODUCTS of them, drawn at random because catalogues come sorted."""
        held_out = np.isin(self.split_N, ("calibration", "test")) & self.vectors.present_N2.any(axis=1)
        positions = np.flatnonzero(held_out)
        if len(positions) > REFERENCE_PRODUCTS:
            rng = np.random.default_rng(seed)
            positions = np.sort(rng.choice(positions, REFERENCE_PRODUCTS, replace=False))
        return positions

    def golden_rows(self, seed: int) -> np.ndarray:
        """Rows of the catalogue of at most GOLDEN_PRODUCTS products of the test split with a vector, drawn at
        random."""
        in_catalogue = (self.split_N == "test") & (self.row_N >= 0) & self.vectors.present_N2.any(axis=1)
        rows = self.row_N[in_catalogue]
        chosen = np.random.default_rng(seed).permutation(len(rows))[:GOLDEN_PRODUCTS]
        return np.sort(rows[chosen])

    def neighbours(self, catalog: Catalog, labels: Labels, seed: int) -> Neighbours:
        """Training products to explain answers by, at most MOST of them, drawn at random. `catalog` and
        `labels` are those that the products were read from."""
        positions = np.flatnonzero((self.split_N == "train") & self.vectors.present_N2.any(axis=1))
        if len(positions) > MOST:
            positions = np.sort(np.random.default_rng(seed).choice(positions, MOST, replace=False))
        ids, keys = catalog.products.product_id.to_numpy(), labels.answers.key_N
        rows = self.row_N[positions]
        vectors = self.vectors.rows(positions)
        return Neighbours.of(
            [str(ids[row] if row >= 0 else keys[-1 - row]) for row in rows],
            vectors.label_N,
            vectors.text_ND,
            vectors.image_NE,
            vectors.present_N2,
        )


def read_labelled(
    shop: Shop, catalog: Catalog, pair: Encoders, taxonomy: Taxonomy, splits: SplitSettings, labels: Labels
) -> Labelled:
    """Read the vectors of all products whose category `taxonomy` has, through Feast, and those of labelled
    answers beside them."""
    wanted = catalog.products.category.isin(taxonomy.codes).to_numpy()
    products = catalog.products[wanted]
    text_ND, image_NE, present_N2 = read_embeddings(shop, replace(catalog, products=products), pair)
    share_N = in_encoder_share(products.group, splits)
    own_N, own_text_N = (share_N & (encoder.weights == "catalogue") for encoder in (pair.image, pair.text))
    known = np.isin(labels.answers.category_N, taxonomy.codes) & (labels.answers.split_N != FRESH)
    answers = labels.answers.rows(known)
    codes = [*products.category, *answers.category_N]
    return Labelled(
        vectors=Vectors(
            text_ND=np.concatenate([text_ND, answers.text_ND]),
            image_NE=np.concatenate([image_NE, answers.image_NE]),
            present_N2=np.concatenate([present_N2, answers.present_N2]),
            label_N=np.array([taxonomy.index(code) for code in codes], dtype=np.int64),
        ),
        split_N=np.concatenate([assign_splits(products.group, splits).to_numpy(), answers.split_N]),
        group_N=np.concatenate([products.group.to_numpy(), answers.key_N]),
        own_N=np.concatenate([own_N, np.zeros(len(answers), dtype=bool)]),
        own_text_N=np.concatenate([own_text_N, np.zeros(len(answers), dtype=bool)]),
        row_N=np.concatenate([np.flatnonzero(wanted), -1 - np.flatnonzero(known)]),
    )


def read_embeddings(
    shop: Shop, catalog: Catalog, pair: Encoders
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(text [N, D], image [N, E], present [N, 2]), float32, of every product of the catalogue. Raises
    FeatureStoreError when stored vectors are of other texts or pictures than the catalogue's."""
    ids = catalog.products.product_id.tolist()
    feature_store = open_feature_store(shop.environment)
    read = [
        read_vectors(feature_store, spec, shop.environment.features, ids) for spec in view_specs(shop, pair)
    ]
    present = []
    for modality, wanted_N, (vectors_ND, found_N) in zip(
        MODALITIES, (text_hashes(catalog, pair.text.settings), image_hashes(catalog)), read, strict=True
    ):
        there_N = wanted_N != ""
        # Of a picture that nobody can read there is no vector, and that is no fault.
        stale_N = there_N & (found_N != wanted_N) & ((found_N != None) | (modality == "text"))  # noqa: E711
        if stale_N.any():
            raise FeatureStoreError(
                f"{modality} vectors: {int(stale_N.sum()):,} of {int(there_N.sum()):,} products are not "
                f"encoded as they are now, for example {ids[int(np.flatnonzero(stale_N)[0])]}; run "
                "`python -m training encode` and `publish` with this catalogue"
            )
        has_N = there_N & (found_N == wanted_N)
        vectors_ND[~has_N] = 0  # a shop may hold vectors of a part that this catalogue no longer has
        present.append(has_N)
    return read[0][0], read[1][0], np.stack(present, axis=1).astype(np.float32)
