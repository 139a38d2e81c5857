"""A shop: where its work lies, and the encoders it works with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aisle import store
from aisle.device import resolve_device
from aisle.errors import FeatureStoreError
from aisle.features import ViewSpec, load_specs
from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Where one shop's work lies. `open` makes its folders, and the one of BENTOML_HOME."""

    environment: Settings

    @classmethod
    def open(cls, environment: Settings) -> Shop:
        environment.features.mkdir(parents=True, exist_ok=True)
        environment.scratch.mkdir(parents=True, exist_ok=True)
        Path(os.environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
        return cls(environment=environment)

    @property
    def device(self) -> str:
        return resolve_device(self.environment.device)


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The pair of encoders that a classifier is trained with."""

    text: TextEncoder
    image: ImageEncoder


def load_encoders(shop: Shop, text_tag: str = "", image_tag: str = "") -> Encoders:
    """Load two encoders of the model store, quicker on a CPU (aisle/packed.py); an empty tag means
    the newest."""
    text_tag = store.resolve(text_tag or f"{store.TEXT_ENCODER}:latest")
    image_tag = store.resolve(image_tag or f"{store.IMAGE_ENCODER}:latest")
    text = store.load_text_encoder(text_tag.partition(":")[2], shop.device)
    image = store.load_image_encoder(image_tag.partition(":")[2], shop.device)
    for encoder in (text, image):
        encoder.pack()
    return Encoders(text=text, image=image)


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
