"""The steps from a catalogue to a registered classifier, in the order in which they run.

Each step finds what an earlier one left in the shop, and keeps what is still right.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aisle import store
from aisle.bundle import Bundle
from aisle.calibration import Calibration
from aisle.errors import CatalogError, FeatureStoreError
from aisle.features import ServiceSpec, ViewSpec, load_specs
from aisle.fusion import FusionNet
from aisle.image import ImageEncoder
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder, TextSettings
from training.catalog import Catalog
from training.embeddings import encode_images, encode_texts
from training.evaluation import evaluate
from training.feature_store import apply_definitions, open_feature_store
from training.fit import FitSettings, Vectors, fit_fusion
from training.image_encoder import (
    ImageTraining,
    Pictures,
    imagenet_encoder,
    train_image_encoder,
    untrained_image_encoder,
)
from training.progress import console
from training.publish import publish_view
from training.registration import calibrate_fusion, make_bundle, model_card, register
from training.settings import TrainingEnvironment
from training.splits import SPLITS, SplitSettings, assign_splits, in_encoder_share
from training.text_encoder import pretrained_text_encoder
from training.vectors import read_vectors

MIN_PICTURES = 20
DELTA = 0.05  # the accept threshold keeps its target with probability 1 - DELTA


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Where one shop's work lies. `open` makes its folders, and the one of BENTOML_HOME."""

    environment: TrainingEnvironment

    @classmethod
    def open(cls, environment: TrainingEnvironment) -> Shop:
        environment.features.mkdir(parents=True, exist_ok=True)
        environment.scratch.mkdir(parents=True, exist_ok=True)
        Path(os.environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
        return cls(environment=environment)


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The pair of encoders that a classifier is trained with."""

    text: TextEncoder
    image: ImageEncoder


def make_text_encoder(shop: Shop, source: str, *, max_tokens: int, prefix: str) -> str:
    """Load a pretrained text encoder and put it into the model store; return its tag."""
    settings = TextSettings(max_tokens=max_tokens, prefix=prefix)
    encoder = pretrained_text_encoder(source, settings)
    return store.save_encoder(encoder, store.TEXT_ENCODER, shop.environment.scratch / "text-encoder")


def make_image_encoder(shop: Shop, catalog: Catalog, training: ImageTraining, *, weights: str) -> str:
    """Take ImageNet's weights, or train on the catalogue, and store the encoder; return its tag."""
    scratch = shop.environment.scratch
    if weights == "imagenet":
        encoder = imagenet_encoder(training.backbone, training.image)
    else:
        encoder = _train_on_catalogue(catalog, training, scratch / "image-training")
    return store.save_encoder(encoder, store.IMAGE_ENCODER, scratch / "image-encoder")


def _train_on_catalogue(catalog: Catalog, training: ImageTraining, work: Path) -> ImageEncoder:
    """Train on the encoder's own share of the training split; the fusion head will not see those
    products with pictures."""
    settings = SplitSettings()
    products = catalog.products
    if (products.image == "").all():
        console.print(
            "no product has a picture: the image encoder stays untrained, the classifier will be one of texts"
        )
        return untrained_image_encoder(training)
    # A category with fewer pictures than this teaches nothing, and class weights would make it loud.
    taxonomy = known_categories(catalog, min_class=MIN_PICTURES)
    splits = assign_splits(products.group, settings).to_numpy()
    usable = (products.image != "").to_numpy() & products.category.isin(taxonomy.codes).to_numpy()
    own = usable & (splits == "train") & in_encoder_share(products.group, settings)
    validation = usable & (splits == "validation")
    encoder, _ = train_image_encoder(
        _pictures(catalog, own, taxonomy, training),
        _pictures(catalog, validation, taxonomy, training),
        training,
        classes=len(taxonomy),
        work=work,
        device=best_device(),
    )
    return encoder


def _pictures(catalog: Catalog, mask: np.ndarray, taxonomy: Taxonomy, training: ImageTraining) -> Pictures:
    chosen = catalog.products[mask]
    paths = [catalog.image_root / name for name in chosen.image]
    labels = np.array([taxonomy.index(code) for code in chosen.category], dtype=np.int64)
    return Pictures(paths, labels, training.image)


def known_categories(catalog: Catalog, *, min_class: int) -> Taxonomy:
    """The categories with at least `min_class` products. Raises CatalogError when fewer than two have."""
    counts = catalog.products.category[catalog.products.category != ""].value_counts()
    codes = [str(code) for code, count in counts.items() if count >= min_class]
    if len(codes) < 2:
        raise CatalogError(
            f"categories: found {len(codes)} with {min_class} products or more, wanted 2 or more"
        )
    return Taxonomy.from_codes(codes, catalog.names)


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def encoders(text_tag: str = "", image_tag: str = "") -> Encoders:
    """Load two encoders of the model store; an empty tag means the newest."""
    device = best_device()
    text_tag = store.resolve(text_tag or f"{store.TEXT_ENCODER}:latest")
    image_tag = store.resolve(image_tag or f"{store.IMAGE_ENCODER}:latest")
    return Encoders(
        text=store.load_text_encoder(text_tag.partition(":")[2], device),
        image=store.load_image_encoder(image_tag.partition(":")[2], device),
    )


def encode(shop: Shop, catalog: Catalog, pair: Encoders) -> None:
    """Turn the catalogue's texts and pictures into vectors on disk."""
    features = shop.environment.features
    for report in (
        encode_texts(catalog, pair.text, features),
        encode_images(catalog, pair.image, features),
    ):
        console.print(
            f"{report.view}: {report.wanted:,} products, {report.encoded:,} encoded, "
            f"{report.unchanged:,} unchanged, {len(report.unreadable):,} unreadable"
            + (f" ({', '.join(report.unreadable[:3])} ...)" if report.unreadable else "")
        )


def publish(shop: Shop, pair: Encoders) -> None:
    """Apply the feature views and fill the online store with these encoders' vectors."""
    feature_store = open_feature_store(shop.environment)
    apply_definitions(feature_store)
    for spec in view_specs(shop, pair):
        report = publish_view(feature_store, spec, shop.environment.features)
        console.print(
            f"{report.view}: {report.products:,} products online, {report.written:,} of them written now, "
            f"{report.compared:,} read back and equal to the byte"
        )


def view_specs(shop: Shop, pair: Encoders) -> tuple[ViewSpec, ViewSpec]:
    """The (text, image) views of a pair of encoders. Raises FeatureStoreError when one is not encoded."""
    found = {(spec.modality, spec.revision): spec for spec in load_specs(shop.environment.features)}
    wanted = (("text", pair.text.revision), ("image", pair.image.revision))
    for modality, revision in wanted:
        if (modality, revision) not in found:
            raise FeatureStoreError(
                f"{modality} encoder {revision}: no vectors in {shop.environment.features}; "
                "run `python -m training encode`"
            )
    return found[wanted[0]], found[wanted[1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """The labelled products of a catalogue with their vectors; `split_N` holds split names, `group_N` what
    variants of one product share."""

    vectors: Vectors
    split_N: np.ndarray
    group_N: np.ndarray
    own_N: np.ndarray  # bool: trained the catalogue image encoder

    def split(self, name: str) -> Vectors:
        return self.vectors.rows(self.split_N == name)

    def train(self) -> Vectors:
        """The training split, without the pictures that the image encoder was trained on: it knows
        them too well, and a head that saw their vectors would trust pictures more than it may."""
        return self.vectors.without_images(self.own_N).rows(self.split_N == "train")

    def calibrate(self, fusion: FusionNet, *, target_error: float) -> Calibration:
        """Calibrate a head on the validation split (temperatures) and the calibration split (thresholds)."""
        return calibrate_fusion(
            fusion,
            validation=self.split("validation"),
            held_out=self.split("calibration"),
            group_N=self.group_N[self.split_N == "calibration"],
            target_error=target_error,
            delta=DELTA,
        )


def read_labelled(
    shop: Shop, catalog: Catalog, pair: Encoders, taxonomy: Taxonomy, splits: SplitSettings
) -> Labelled:
    """Read the vectors of all products whose category `taxonomy` has, through Feast."""
    products = catalog.products[catalog.products.category.isin(taxonomy.codes)]
    ids = products.product_id.tolist()
    feature_store = open_feature_store(shop.environment)
    text_spec, image_spec = view_specs(shop, pair)
    text_ND, has_text = read_vectors(feature_store, text_spec, shop.environment.features, ids)
    image_NE, has_image = read_vectors(feature_store, image_spec, shop.environment.features, ids)
    # A shop may hold vectors of a text or picture that this catalogue no longer has.
    has_text &= ((products.title.str.strip() != "") | (products.description.str.strip() != "")).to_numpy()
    has_image &= (products.image != "").to_numpy()
    text_ND[~has_text], image_NE[~has_image] = 0, 0
    own_N = np.zeros(len(products), dtype=bool)
    if pair.image.weights == "catalogue":
        own_N = in_encoder_share(products.group, splits)
    return Labelled(
        vectors=Vectors(
            text_ND=text_ND,
            image_NE=image_NE,
            present_N2=np.stack([has_text, has_image], axis=1).astype(np.float32),
            label_N=np.array([taxonomy.index(code) for code in products.category], dtype=np.int64),
        ),
        split_N=assign_splits(products.group, splits).to_numpy(),
        group_N=products.group.to_numpy(),
        own_N=own_N,
    )


def fit(
    shop: Shop,
    catalog: Catalog,
    pair: Encoders,
    settings: FitSettings,
    *,
    target_error: float = 0.05,
    min_class: int = 10,
) -> tuple[Bundle, str]:
    """Train, calibrate, evaluate and register a classifier; return its bundle and tag."""
    splits = SplitSettings()
    taxonomy = known_categories(catalog, min_class=min_class)
    left_out = sorted(set(catalog.products.category) - set(taxonomy.codes) - {""})
    if left_out:
        console.print(
            f"left out {len(left_out)} categories with fewer than {min_class} products: "
            + ", ".join(left_out[:8])
            + (" ..." if len(left_out) > 8 else "")
        )
    labelled = read_labelled(shop, catalog, pair, taxonomy, splits)
    for name in SPLITS:
        if not (labelled.split_N == name).any():
            raise CatalogError(f"split {name}: found no product, wanted some; the catalogue is too small")
    fusion, history = fit_fusion(
        labelled.train(), labelled.split("validation"), settings, classes=len(taxonomy)
    )
    bundle = make_bundle(
        fusion,
        taxonomy=taxonomy,
        calibration=labelled.calibrate(fusion, target_error=target_error),
        text_encoder=pair.text,
        image_encoder=pair.image,
        test=labelled.split("test"),
        reference=labelled.vectors.rows(np.isin(labelled.split_N, ("calibration", "test"))),
        card=model_card(
            settings=settings,
            data={
                "fingerprint": catalog.fingerprint(),
                "products": {name: int((labelled.split_N == name).sum()) for name in SPLITS},
                "left_out_categories": left_out,
                "splits": asdict(splits),
            },
            text_encoder=pair.text,
            image_encoder=pair.image,
            history=history,
        ),
    )
    tag = register(bundle, shop.environment.scratch)
    ServiceSpec(
        version=tag.partition(":")[2],
        text_revision=pair.text.revision,
        image_revision=pair.image.revision,
    ).write(shop.environment.features)
    apply_definitions(open_feature_store(shop.environment))
    return bundle, tag


def evaluate_tag(shop: Shop, tag: str, catalog: Catalog) -> dict[str, Any]:
    """The figures of a registered classifier, from the store, on the test split of `catalog`."""
    classifier = store.load_classifier(tag, "cpu")
    data = classifier.bundle.card["data"]
    if catalog.fingerprint() != data["fingerprint"]:
        console.print("[yellow]this catalogue is not the one the classifier was trained on[/yellow]")
    pair = Encoders(text=classifier.text_encoder, image=classifier.image_encoder)
    splits = SplitSettings(**data["splits"])
    labelled = read_labelled(shop, catalog, pair, classifier.taxonomy, splits)
    return evaluate(classifier, labelled.split("test"))
