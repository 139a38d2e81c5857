"""Texts and pictures to vectors: what must be encoded, in which order, and the engine of this process.

A run encodes only products whose source the view has not. The work is cut into batches that are the same
whichever engine encodes them and however often it was killed, so that the vectors are the same to the bit.

Shapes: N products, B of them a batch, D embedding width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from aisle.errors import FeatureStoreError, ProductError
from aisle.features import ViewSpec
from aisle.image import ImageSettings, decode_image, image_hash
from aisle.text import TextSettings, clean_text, text_hash
from training.catalog import Catalog, read_picture
from training.shards import Encoded, Shards

BATCH = 64


class TextModel(Protocol):
    """What encoding needs of a text encoder."""

    revision: str
    name: str
    dim: int
    settings: TextSettings

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class ImageModel(Protocol):
    """What encoding needs of an image encoder."""

    revision: str
    backbone: str
    dim: int
    settings: ImageSettings

    @property
    def device(self) -> torch.device: ...

    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Products to encode together. `sources` are cleaned texts, or paths of pictures; `stored` is the hash
    under which the view holds each product, "" where it holds none."""

    product_ids: Sequence[str]
    sources: Sequence[str]
    stored: Sequence[str]


# Batches to what came of them, in the same order.
Engine = Callable[[Sequence[Batch]], Iterator[Encoded]]


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What one run did. `wanted` products have a source; `unreadable` pictures could not be decoded."""

    view: str
    wanted: int
    unchanged: int
    encoded: int
    unreadable: Sequence[str]


def text_hashes(catalog: Catalog, settings: TextSettings) -> np.ndarray:
    """What each product's stored text vector must be of: hashes [N], "" where no text is left."""
    products = catalog.products
    texts = [
        clean_text(title, description, settings)
        for title, description in zip(products.title, products.description, strict=True)
    ]
    return np.array([text_hash(text) if text else "" for text in texts], dtype=object)


def image_hashes(catalog: Catalog) -> np.ndarray:
    """The same of pictures. Reads every file."""
    pictures = (catalog.product(row).image for row in range(len(catalog.products)))
    return np.array([image_hash(data) if data else "" for data in pictures], dtype=object)


def encode_texts(
    catalog: Catalog, encoder: TextModel, features: Path, *, engine: Engine | None = None
) -> EncodeReport:
    """Encode every product's text that the view has not yet; sorted by length, so that a batch pads
    little. `engine` is another than this process."""
    spec = ViewSpec(
        modality="text", revision=encoder.revision, encoder=encoder.name, dim=encoder.dim, pooling="mean"
    )
    texts: dict[str, str] = {}
    products = catalog.products
    for product_id, title, description in zip(
        products.product_id, products.title, products.description, strict=True
    ):
        text = clean_text(title, description, encoder.settings)
        if text:
            texts[product_id] = text
    shards = Shards(spec, features)
    hashes = {product_id: text_hash(text) for product_id, text in texts.items()}
    todo = [product_id for product_id in texts if shards.latest.get(product_id) != hashes[product_id]]
    todo.sort(key=lambda product_id: len(texts[product_id]))
    batches = _batches(todo, [texts[product_id] for product_id in todo], shards)
    shards.write_all(
        (engine or partial(text_vectors, encoder))(batches), total=len(todo), label="encode texts"
    )
    shards.close(hashes)
    return EncodeReport(
        view=spec.embedding_view,
        wanted=len(texts),
        unchanged=len(texts) - len(todo),
        encoded=len(todo),
        unreadable=(),
    )


def text_vectors(encoder: TextModel, batches: Sequence[Batch]) -> Iterator[Encoded]:
    """The engine of this process for texts."""
    for batch in batches:
        yield Encoded(
            product_ids=batch.product_ids,
            hashes=[text_hash(text) for text in batch.sources],
            vectors_BD=encoder.encode(batch.sources),
        )


def encode_images(
    catalog: Catalog, encoder: ImageModel, features: Path, *, engine: Engine | None = None
) -> EncodeReport:
    """Encode every product's picture that the view has not yet. A picture that cannot be decoded is left
    out and named. `engine` is another than this process."""
    spec = ViewSpec(
        modality="image",
        revision=encoder.revision,
        encoder=encoder.backbone,
        dim=encoder.dim,
        pooling="average",
    )
    shards = Shards(spec, features)
    pictured = catalog.products[catalog.products.image != ""]
    ids = pictured.product_id.tolist()
    # All of them, changed or not, so that a batch holds the same pictures in every run.
    batches = _batches(ids, [str(catalog.image_root / name) for name in pictured.image], shards)
    hashes: dict[str, str] = {}
    unchanged: list[str] = []
    unreadable: list[str] = []

    def noted() -> Iterator[Encoded]:
        for done in (engine or partial(image_vectors, encoder))(batches):
            hashes.update(zip(done.product_ids, done.hashes, strict=True))
            unchanged.extend(done.unchanged)
            unreadable.extend(done.unreadable)
            yield done

    shards.write_all(noted(), total=len(ids), label="encode images")
    hashes |= {product_id: shards.latest[product_id] for product_id in unchanged}
    shards.close(hashes)
    if len(hashes) + len(unreadable) != len(ids):
        raise FeatureStoreError(
            f"{spec.embedding_view}: {len(ids):,} pictures went in, {len(hashes):,} came out and "
            f"{len(unreadable):,} could not be read"
        )
    return EncodeReport(
        view=spec.embedding_view,
        wanted=len(ids),
        unchanged=len(unchanged),
        encoded=len(hashes) - len(unchanged),
        unreadable=unreadable,
    )


def image_vectors(
    encoder: ImageModel, batches: Sequence[Batch], *, threads: int | None = None
) -> Iterator[Encoded]:
    """The engine of this process for pictures: files are read and decoded in `threads`, as many as torch has
    where None is given. On a GPU that is done while the encoder works on the batch before; on a CPU both
    would want the same cores."""
    threads = threads or torch.get_num_threads()
    ahead = 0 if encoder.device.type == "cpu" else 1
    # Two portions a thread: a caller that is woken for each picture takes a tenth of the time.
    portion = -(-BATCH // (2 * threads))
    read = partial(_read, settings=encoder.settings)
    with ThreadPoolExecutor(threads) as pool:
        for pictures in _pictures(pool, read, batches, portion=portion, ahead=ahead):
            fresh = [picture for picture in pictures if picture.pixels_HWC is not None]
            pixels = [picture.pixels_HWC for picture in fresh if picture.pixels_HWC is not None]
            nothing_BD = np.empty((0, encoder.dim), dtype=np.float32)
            yield Encoded(
                product_ids=[picture.product_id for picture in fresh],
                hashes=[picture.digest for picture in fresh],
                vectors_BD=encoder.encode(np.stack(pixels)) if pixels else nothing_BD,
                unchanged=[picture.product_id for picture in pictures if picture.is_unchanged],
                unreadable=[picture.product_id for picture in pictures if not picture.digest],
            )


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """`digest` is "" where it cannot be read; `pixels_HWC` are there where it must be encoded."""

    product_id: str
    digest: str = ""
    pixels_HWC: np.ndarray | None = None

    @property
    def is_unchanged(self) -> bool:
        return bool(self.digest) and self.pixels_HWC is None


def _read(product_id: str, path: str, stored: str, *, settings: ImageSettings) -> _Picture:
    data = read_picture(Path(path))
    digest = image_hash(data)
    if digest == stored:
        return _Picture(product_id=product_id, digest=digest)
    try:
        return _Picture(product_id=product_id, digest=digest, pixels_HWC=decode_image(data, settings))
    except ProductError:
        return _Picture(product_id=product_id)


def _pictures(
    pool: ThreadPoolExecutor,
    read: Callable[[str, str, str], _Picture],
    batches: Sequence[Batch],
    *,
    portion: int,
    ahead: int,
) -> Iterator[list[_Picture]]:
    """Pictures of a batch, those of `ahead` following ones under way while the caller works on these; a
    thread reads `portion` of them in a row."""

    def read_some(products: Sequence[tuple[str, str, str]]) -> list[_Picture]:
        return [read(*product) for product in products]

    coming: deque[list[Future[list[_Picture]]]] = deque()
    for batch in batches:
        products = list(zip(batch.product_ids, batch.sources, batch.stored, strict=True))
        starts = range(0, len(products), portion)
        coming.append([pool.submit(read_some, products[start : start + portion]) for start in starts])
        if len(coming) > ahead:
            yield _gathered(coming.popleft())
    for waiting in coming:
        yield _gathered(waiting)


def _gathered(portions: Sequence[Future[list[_Picture]]]) -> list[_Picture]:
    return [picture for portion in portions for picture in portion.result()]


def _batches(ids: Sequence[str], sources: Sequence[str], shards: Shards) -> list[Batch]:
    return [
        Batch(
            product_ids=ids[start : start + BATCH],
            sources=sources[start : start + BATCH],
            stored=[shards.latest.get(product_id, "") for product_id in ids[start : start + BATCH]],
        )
        for start in range(0, len(ids), BATCH)
    ]
