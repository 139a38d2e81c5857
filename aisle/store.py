"""Bundles and encoders in the BentoML model store: the only file of `aisle` that knows BentoML.

The store's own writes are not atomic: an entry is copied file by file, in any order, `latest` is
truncated, then rewritten, and a killed writer leaves what it had. So our manifest goes into an entry last,
nothing is trusted but a folder whose manifest verifies, the newest version is found by creation time, and
an entry that is half there harms no other.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException
from safetensors import SafetensorError

from aisle.bundle import Bundle
from aisle.classifier import Classifier
from aisle.device import resolve_device
from aisle.errors import BundleError
from aisle.image import ImageEncoder
from aisle.manifest import MANIFEST, holds_all_files, verify_manifest
from aisle.text import TextEncoder

CLASSIFIER = "aisle-classifier"
TEXT_ENCODER = "aisle-text-encoder"
IMAGE_ENCODER = "aisle-image-encoder"
LATEST = f"{CLASSIFIER}:latest"
MADE_BY = {
    CLASSIFIER: "python -m training run CATALOG",
    TEXT_ENCODER: "python -m training text-encoder",
    IMAGE_ENCODER: "python -m training image-encoder CATALOG",
}
# What files that are whole and make no sense raise where they are read: JSON, tensors, settings.
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError)
_RETRIES = 5
_RETRY_PAUSE_S = 0.2

T = TypeVar("T")


class _AbsentError(BundleError):
    """The store has no such entry at all: waiting for it is in vain."""


class Encoder(Protocol):
    """What an encoder must have to be stored."""

    revision: str

    def save(self, folder: Path) -> str: ...


def save_encoder(encoder: Encoder, name: str, scratch: Path) -> str:
    """Put an encoder into the store under its own revision; return the tag. Idempotent; what a killed run
    left of it is replaced."""
    revision = encoder.save(scratch)
    tag = f"{name}:{revision}"
    with _writing():
        if not _exists(tag):
            _copy_into_store(tag, scratch, {})
    return tag


def save_bundle(folder: Path, version: str, metadata: Mapping[str, Any]) -> str:
    """Register the bundle in `folder` as aisle-classifier:<version>; return the tag. Raises BundleError where
    that version is there already."""
    tag = f"{CLASSIFIER}:{version}"
    with _writing():
        if _exists(tag):
            raise BundleError(f"{tag}: is in the store already; a version is never written twice")
        _copy_into_store(tag, folder, metadata)
    return tag


def adopt(folder: Path) -> list[str]:
    """Copy the models of another store's folder into this one, encoders first; the tags. Raises BundleError
    where one is damaged."""
    tags = []
    for name in (TEXT_ENCODER, IMAGE_ENCODER, CLASSIFIER):
        for manifest in sorted((folder / name).glob(f"*/{MANIFEST}")):
            source, tag = manifest.parent, f"{name}:{manifest.parent.name}"
            verify_manifest(source)
            with _writing():
                if not _exists(tag):
                    _copy_into_store(tag, source, {})
            tags.append(tag)
    return tags


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


def load_classifier(tag: str = LATEST, device: str = "auto") -> Classifier:
    """The classifier that `tag` names with its two encoders, verified, on `device` (a GPU if there
    is one). Raises BundleError naming what is missing or damaged."""
    device = resolve_device(device)
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
    resolved = resolve(tag)
    folder = _folder(resolved)
    if not folder.is_dir():
        name = tag.partition(":")[0]
        there = ", ".join(versions(name)) or "nothing"
        raise _AbsentError(f"{tag}: not in the model store; under {name} it holds {there}")
    return folder


def resolve(tag: str) -> str:
    """`name:latest` as the newest finished version; any other tag as it is. Raises BundleError where there is
    no version."""
    name, _, version = tag.partition(":")
    if version not in ("", "latest"):
        return tag
    found = versions(name)
    if not found:
        hint = f"; make one: {MADE_BY[name]}" if name in MADE_BY else ""
        raise _AbsentError(f"{tag}: the model store in {_folder(name).parent} holds no {name}{hint}")
    return f"{name}:{found[-1]}"


def versions(name: str) -> list[str]:
    """Finished versions of a model, oldest first; entries that are half there are passed over."""
    # Not bentoml.models.list: one entry without its model.yaml (any entry, while it is written) fails it.
    folders = (folder for folder in _folder(name).glob("*") if folder.is_dir())
    tags = [f"{name}:{folder.name}" for folder in folders if holds_all_files(folder)]
    models = [model for model in map(_read_entry, tags) if model is not None]
    models.sort(key=lambda model: model.creation_time)
    return [str(model.tag.version) for model in models]


def _read_entry(tag: str) -> bentoml.Model | None:
    try:
        return bentoml.models.get(tag)
    except Exception:  # a broken model.yaml: BentoML, yaml and cattrs answer it with types of their own
        return None


def _folder(tag: str) -> Path:
    """Where BentoML keeps a tag, or all versions of a name."""
    return Path(BentoMLContainer.model_store_dir.get(), *tag.split(":", 1))


def _exists(tag: str) -> bool:
    """Whether the whole entry is there, its own manifest verified."""
    try:
        verify_manifest(_folder(tag))
    except BundleError:
        return False
    return _read_entry(tag) is not None


@contextmanager
def _writing() -> Iterator[None]:
    """One writer at a time: half an entry is then what a killed writer left, and may be removed."""
    with (_folder("") / "aisle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_into_store(tag: str, source: Path, metadata: Mapping[str, Any]) -> None:
    target = _folder(tag)
    if target.exists():
        shutil.rmtree(target)
    _forget_broken_latest(target.parent)
    try:
        with bentoml.models.create(tag, metadata=dict(metadata)) as model:
            # BentoML copies this folder in any order; a manifest in it could arrive before the weights.
            left = shutil.ignore_patterns(MANIFEST, "model.yaml")  # the latter is another store's
            shutil.copytree(source, model.path, dirs_exist_ok=True, ignore=left)
    except BentoMLException as error:
        raise BundleError(f"{tag}: the model store did not take it: {error}") from error
    part = target / (MANIFEST + ".part")
    part.write_bytes((source / MANIFEST).read_bytes())
    part.replace(target / MANIFEST)


def _forget_broken_latest(folder: Path) -> None:
    """BentoML reads the entry that `latest` names before it writes it anew, and fails where it cannot."""
    latest = folder / "latest"
    if latest.is_file() and _read_entry(f"{folder.name}:{latest.read_text().strip()}") is None:
        latest.unlink()


def _retrying(tag: str, load: Callable[[], T]) -> T:
    """A reader may meet a writer half-way; what stays wrong after a second is damage."""
    for attempt in range(_RETRIES):
        try:
            return load()
        except _AbsentError:
            raise
        except BundleError as error:
            if attempt == _RETRIES - 1:
                raise BundleError(f"{tag}: {error}") from error
            time.sleep(_RETRY_PAUSE_S)
        except _UNREADABLE as error:
            raise BundleError(
                f"{tag}: found {error!r}, wanted files that can be read, as this version of Aisle writes them"
            ) from error
    raise AssertionError("unreachable")
