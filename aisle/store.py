"""Bundles and encoders in the BentoML model store: the only file of `aisle` that knows BentoML.

The store's own writes are not atomic (its `latest` is truncated, then rewritten), so nothing is
trusted but a folder whose own manifest verifies, and the newest version is found by creation time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import bentoml
import torch
from bentoml.exceptions import BentoMLException, NotFound

from aisle.bundle import Bundle
from aisle.classifier import Classifier
from aisle.errors import BundleError
from aisle.image import ImageEncoder
from aisle.manifest import MANIFEST
from aisle.text import TextEncoder

CLASSIFIER = "aisle-classifier"
TEXT_ENCODER = "aisle-text-encoder"
IMAGE_ENCODER = "aisle-image-encoder"
LATEST = f"{CLASSIFIER}:latest"
_RETRIES = 5
_RETRY_PAUSE_S = 0.2

T = TypeVar("T")


class Encoder(Protocol):
    """What an encoder must have to be stored."""

    revision: str

    def save(self, folder: Path) -> str: ...


def save_encoder(encoder: Encoder, name: str, scratch: Path) -> str:
    """Put an encoder into the store under its own revision; return the tag. Idempotent."""
    revision = encoder.save(scratch)
    tag = f"{name}:{revision}"
    if not _exists(tag):
        _copy_into_store(tag, scratch, {})
    return tag


def save_bundle(folder: Path, version: str, metadata: Mapping[str, Any]) -> str:
    """Register the bundle in `folder` as aisle-classifier:<version>; return the tag."""
    tag = f"{CLASSIFIER}:{version}"
    if _exists(tag):
        raise BundleError(f"{tag}: is in the store already; a version is never written twice")
    _copy_into_store(tag, folder, metadata)
    return tag


def load_bundle(tag: str = LATEST) -> Bundle:
    """Read and verify the bundle that `tag` names."""
    return _retrying(tag, lambda: Bundle.load(find(tag)))


def load_text_encoder(revision: str, device: str = "cpu") -> TextEncoder:
    """Read and verify a text encoder of the store."""
    tag = f"{TEXT_ENCODER}:{revision}"
    return _retrying(tag, lambda: TextEncoder.load(find(tag), device))


def load_image_encoder(revision: str, device: str = "cpu") -> ImageEncoder:
    """Read and verify an image encoder of the store."""
    tag = f"{IMAGE_ENCODER}:{revision}"
    return _retrying(tag, lambda: ImageEncoder.load(find(tag), device))


def load_classifier(tag: str = LATEST, device: str | None = None) -> Classifier:
    """The classifier that `tag` names with its two encoders, verified, on `device` (a GPU if there
    is one). Raises BundleError naming what is missing or damaged."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tag = resolve(tag)
    bundle = load_bundle(tag)
    return Classifier(
        bundle,
        load_text_encoder(bundle.text_encoder.revision, device),
        load_image_encoder(bundle.image_encoder.revision, device),
        version=tag,
        device=device,
    )


def find(tag: str) -> Path:
    """The folder of a tag in the store. Raises BundleError naming the tag and what is there."""
    try:
        return Path(bentoml.models.get(resolve(tag)).path)
    except (NotFound, BentoMLException, OSError) as error:
        name = tag.partition(":")[0]
        there = ", ".join(versions(name)) or "nothing"
        raise BundleError(f"{tag}: not in the model store; under {name} it holds {there}") from error


def resolve(tag: str) -> str:
    """`name:latest` as the newest finished version; any other tag as it is."""
    name, _, version = tag.partition(":")
    if version not in ("", "latest"):
        return tag
    found = versions(name)
    if not found:
        raise BundleError(f"{tag}: the model store holds no {name}; train one: python -m training fit")
    return f"{name}:{found[-1]}"


def versions(name: str) -> list[str]:
    """Finished versions of a model, oldest first."""
    try:
        models = bentoml.models.list(name)
    except NotFound:
        return []
    finished = [model for model in models if (Path(model.path) / MANIFEST).is_file()]
    finished.sort(key=lambda model: model.creation_time)
    return [str(model.tag.version) for model in finished]


def _exists(tag: str) -> bool:
    name, _, version = tag.partition(":")
    return version in versions(name)


def _copy_into_store(tag: str, folder: Path, metadata: Mapping[str, Any]) -> None:
    with bentoml.models.create(tag, metadata=dict(metadata)) as model:
        for source in sorted(p for p in folder.rglob("*") if p.is_file()):
            target = Path(model.path) / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


def _retrying(tag: str, load: Callable[[], T]) -> T:
    """A reader may meet a writer half-way; what stays wrong after a second is damage."""
    for _ in range(_RETRIES - 1):
        try:
            return load()
        except BundleError:
            time.sleep(_RETRY_PAUSE_S)
    try:
        return load()
    except BundleError as error:
        raise BundleError(f"{tag}: {error}") from error
