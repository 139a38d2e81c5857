"""The steps from a catalogue to a registered classifier, in the order in which they run.

Each step finds what an earlier one left in the shop, and keeps what is still right.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from aisle import store
from aisle.backbone import GRADIENTS
from aisle.bundle import Bundle
from aisle.errors import CatalogError, SettingError
from aisle.features import ServiceSpec
from aisle.fusion import FusionNet
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder, TextSettings
from training.catalog import Catalog
from training.catalogue_encoders import MIN_EXAMPLES, image_encoder_of, text_encoder_of
from training.embeddings import Engine, encode_images, encode_texts
from training.feature_store import apply_definitions, open_feature_store
from training.fit import FitSettings
from training.golden import golden_products
from training.image_encoder import (
    ImageTraining,
    gradient_encoder,
    imagenet_encoder,
    untrained_image_encoder,
)
from training.labelled import read_labelled
from training.labels import FRESH, Labels, no_labels
from training.processes import Processes
from training.progress import console
from training.publish import publish_view
from training.reference import reference_columns
from training.registration import make_bundle, model_card, register
from training.shop import Encoders, Shop, view_specs
from training.splits import SPLITS, SplitSettings
from training.text_encoder import pretrained_text_encoder
from training.text_tuning import TextTraining
from training.tuning_state import Told


def make_text_encoder(shop: Shop, source: str, *, max_tokens: int, prefix: str) -> str:
    """Load a pretrained text encoder and put it into the model store; return its tag. A tag of the store is
    an encoder already."""
    if source.startswith(f"{store.TEXT_ENCODER}:"):
        return _stored(source)
    settings = TextSettings(max_tokens=max_tokens, prefix=prefix)
    encoder = pretrained_text_encoder(source, settings)
    return _save_encoder(shop, encoder, store.TEXT_ENCODER)


def tune_text_encoder(
    shop: Shop,
    catalog: Catalog,
    start: TextEncoder,
    training: TextTraining,
    processes: Processes,
    *,
    save_every_s: float,
    told: Told | None = None,
) -> str:
    """Tune a text encoder on the catalogue and store it; return its tag, "" in processes that only help.
    `told` hears of each epoch when it ends."""
    work = shop.environment.scratch / "text-tuning"
    taxonomy = known_categories(catalog, min_class=MIN_EXAMPLES)
    encoder, _ = text_encoder_of(
        catalog, taxonomy, start, training, work, processes, save_every_s=save_every_s, told=told
    )
    return _save_encoder(shop, encoder, store.TEXT_ENCODER) if processes.is_first else ""


def make_image_encoder(
    shop: Shop,
    catalog: Catalog,
    training: ImageTraining,
    *,
    weights: str,
    processes: Processes | None = None,
    save_every_s: float = 120.0,
    told: Told | None = None,
) -> str:
    """Take ImageNet's weights, or train on the catalogue, and store the encoder; return its tag, "" in
    processes that only help. A tag of the store is an encoder already, and the `gradients` backbone has no
    weights. `told` hears of each epoch of a training when it ends."""
    processes = processes or Processes(device=shop.device)
    if weights.startswith(f"{store.IMAGE_ENCODER}:"):
        return _stored(weights)
    if training.backbone == GRADIENTS:
        encoder = gradient_encoder(training.image)
    elif weights == "imagenet":
        encoder = imagenet_encoder(training.backbone, training.image)
    elif (catalog.products.image == "").all():
        console.print(
            "no product has a picture: the image encoder stays untrained, the classifier will be one of texts"
        )
        encoder = untrained_image_encoder(training)
    else:
        taxonomy = known_categories(catalog, min_class=MIN_EXAMPLES)
        work = shop.environment.scratch / "image-training"
        encoder, _ = image_encoder_of(
            catalog, taxonomy, training, work, processes, save_every_s=save_every_s, told=told
        )
    return _save_encoder(shop, encoder, store.IMAGE_ENCODER) if processes.is_first else ""


def _stored(tag: str) -> str:
    """`tag`, "latest" replaced by what that is. Raises BundleError where the store has it not."""
    tag = store.resolve(tag)
    store.find(tag)
    return tag


def _save_encoder(shop: Shop, encoder: store.Encoder, name: str) -> str:
    # A new folder: the revision is a hash of all that lies in it.
    with tempfile.TemporaryDirectory(dir=shop.environment.scratch) as folder:
        return store.save_encoder(encoder, name, Path(folder) / "encoder")


def _head_of(
    tag: str, taxonomy: Taxonomy, pair: Encoders, settings: FitSettings, modalities: tuple[str, ...]
) -> FusionNet | None:
    """The head of a registered classifier; None where it was made for other categories, encoders or
    modalities, or where it would make no difference."""
    if settings.variant == "linear":
        return None  # its best weights are the same wherever the search for them begins
    bundle = store.load_bundle(tag)
    found = (bundle.taxonomy.codes, bundle.text_encoder.revision, bundle.image_encoder.revision)
    wanted = (taxonomy.codes, pair.text.revision, pair.image.revision)
    shape = bundle.fusion.settings
    if found != wanted or (shape.variant, shape.modalities) != (settings.variant, modalities):
        console.print(f"{tag} is of other categories, encoders, modalities or variant: training starts anew")
        return None
    return bundle.fusion


def known_categories(catalog: Catalog, *, min_class: int, labels: Labels | None = None) -> Taxonomy:
    """The categories with at least `min_class` products, labelled ones that training may see included.
    Raises CatalogError when fewer than two have."""
    counts = Counter(code for code in catalog.products.category if code)
    if labels is not None:
        counts.update(labels.answers.category_N[labels.answers.split_N != FRESH])
    codes = sorted(code for code, count in counts.items() if count >= min_class)
    if len(codes) < 2:
        raise CatalogError(
            f"categories: found {len(codes)} with {min_class} products or more, wanted 2 or more"
        )
    return Taxonomy.from_codes(codes, catalog.names)


def encode(
    shop: Shop,
    catalog: Catalog,
    pair: Encoders,
    *,
    engines: tuple[Engine | None, Engine | None] = (None, None),
) -> None:
    """Turn the catalogue's texts and pictures into vectors on disk. `engines`, for texts and for pictures,
    are others than this process."""
    features = shop.environment.features
    for report in (
        encode_texts(catalog, pair.text, features, engine=engines[0]),
        encode_images(catalog, pair.image, features, engine=engines[1]),
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


def fit(
    shop: Shop,
    catalog: Catalog,
    pair: Encoders,
    settings: FitSettings,
    *,
    target_error: float = 0.05,
    min_class: int = 10,
    labels: Labels | None = None,
    start_from: str = "",
) -> tuple[Bundle, str]:
    """Train, calibrate, evaluate and register a classifier; return its bundle and tag. `start_from` is the
    tag of one whose head is trained on, where it fits."""
    if not 0 < target_error < 1:
        raise SettingError(f"target error: found {target_error:g}, wanted a share above 0 and below 1")
    splits = SplitSettings()
    labels = labels or no_labels(pair.text.dim, pair.image.dim)
    fingerprint = catalog.fingerprint()
    catalog = labels.corrected(catalog)
    taxonomy = known_categories(catalog, min_class=min_class, labels=labels)
    left_out = sorted(set(catalog.products.category) - set(taxonomy.codes) - {""})
    if left_out:
        console.print(
            f"left out {len(left_out)} categories with fewer than {min_class} products: "
            + ", ".join(left_out[:8])
            + (" ..." if len(left_out) > 8 else "")
        )
    labelled = read_labelled(shop, catalog, pair, taxonomy, splits, labels)
    for name in SPLITS:
        if not (labelled.split_N == name).any():
            raise CatalogError(f"split {name}: found no product, wanted some; the catalogue is too small")
    modalities = labelled.modalities()
    if not modalities:
        raise CatalogError("split train: found no product with a vector that a head may see, wanted some")
    labelled = labelled.of_modalities(modalities)
    start = _head_of(start_from, taxonomy, pair, settings, modalities) if start_from else None
    whole = labelled.fit(settings, len(taxonomy), start)
    reference = labelled.reference_rows(settings.seed)
    bundle = make_bundle(
        whole.fusion,
        taxonomy=taxonomy,
        calibration=labelled.calibrate(whole, target_error=target_error),
        text_encoder=pair.text,
        image_encoder=pair.image,
        test=labelled.split("test"),
        reference=labelled.vectors.rows(reference),
        neighbours=labelled.neighbours(catalog, labels, settings.seed),
        columns=reference_columns(
            labelled.row_N[reference],
            catalog,
            labels.answers.columns,
            pair.text.settings,
            pair.image.settings,
        ),
        golden=golden_products(
            labelled.golden_rows(settings.seed), catalog, pair.text.settings, pair.image.settings
        ),
        card=model_card(
            settings=settings,
            data={
                "fingerprint": fingerprint,
                "catalog": str(catalog.path),
                "columns": asdict(catalog.columns) if catalog.columns else None,
                "products": {name: int((labelled.split_N == name).sum()) for name in SPLITS},
                "left_out_categories": left_out,
                "splits": asdict(splits),
                "labels": labels.to_json(),
                "started_from": start_from if start is not None else "",
            },
            text_encoder=pair.text,
            image_encoder=pair.image,
            history=whole.history,
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
