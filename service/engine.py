"""A batch of items to outcomes: one feature read, the encoders for what is not stored, one decision."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aisle.errors import ProductError
from aisle.prediction import Prediction, Role, Source
from service.errors import RequestError, features_unavailable

if TYPE_CHECKING:  # these import torch, which the process that only supervises workers does without
    import numpy as np

    from aisle.classifier import Classifier, Embedded, Item, Stored
    from service.features import FeatureReader, Reading

Outcome = Prediction | ProductError | RequestError

FOR_NOTHING = 0.03  # of the pictures encoded before it is known what is stored: the most expected to be so
_WEIGHT = 0.02  # of one picture in that: a new model's first 170 or so with an id are read first

logger = logging.getLogger("aisle.service")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a batch came to. `seconds` by stage: features, embed, decide, of which the first two may be at one
    time; `started` by perf_counter.
    `embedded` is None where the batch failed and each item was tried alone."""

    classifier: Classifier
    outcomes: Sequence[Outcome]
    started: float
    seconds: dict[str, float]
    embedded: Embedded | None
    role: Role = Role.CHAMPION


class Engine:
    """A classifier with the feature store beside it. A batch's pictures are encoded while its features are
    read on a GPU, and with `early_images` on a CPU (whose cores the read then shares with the encoder),
    unless many of late were stored ones. Threads may answer batches at once. Encoding is one batch's at
    a time on a CPU, whose cores it takes all; on a GPU one batch is prepared and fetched while the other is
    computed. `beside` is an engine that takes turns with this one. `role` is what this engine answers as, and
    changes with its place."""

    def __init__(
        self,
        classifier: Classifier,
        features: FeatureReader,
        *,
        write_back: bool,
        early_images: bool = False,
        beside: Engine | None = None,
    ) -> None:
        self.classifier = classifier
        self.features = features
        self.write_back = write_back
        self.role = Role.CHAMPION
        self._stored_share = 1.0  # of the pictures lately given with an id; none is known, so all may be
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="early-read")
        on_cpu = classifier.device == "cpu"
        self._may_encode_early = early_images or not on_cpu
        self._computing: AbstractContextManager[Any] = threading.Lock() if on_cpu else nullcontext()
        if beside is not None:
            self._computing = beside._computing

    def answer(self, items: Sequence[Item]) -> Batch:
        """One outcome an item, in order. Never raises because of an item: where the batch fails, each
        item is tried alone, and only the one that fails again is answered with an error."""
        started = time.perf_counter()
        embedded: Embedded | None = None
        try:
            outcomes, seconds, embedded = self._answer(items, early=self._encodes_early(items))
        except Exception:
            logger.exception("a batch of %d products failed; each is tried alone", len(items))
            outcomes, seconds = [self._answer_alone(item) for item in items], {}
        return Batch(
            classifier=self.classifier,
            outcomes=outcomes,
            started=started,
            seconds=seconds,
            embedded=embedded,
            role=self.role,
        )

    def shadow(self, items: Sequence[Item], known: Sequence[Stored], *, complete: bool) -> Batch:
        """What this engine would have answered, where `known` holds vectors that another engine used already;
        all of them if `complete`. What is neither known nor stored is computed. Nothing is written back.
        Raises what the model raises."""
        started = time.perf_counter()
        reading = None if complete else self._read(items)
        if reading is not None:
            known = [_merged(*pair) for pair in zip(known, reading.stored, strict=True)]
        with self._computing:
            turn = time.perf_counter()
            embedded = self.classifier.embed(items, known)
            encoded = time.perf_counter()
            outcomes = self.classifier.decide(embedded, [item.top_k for item in items])
        decided = time.perf_counter()
        return Batch(
            classifier=self.classifier,
            outcomes=outcomes,
            started=started,
            seconds={"embed": encoded - turn, "decide": decided - encoded},
            embedded=embedded,
            role=Role.SHADOW,
        )

    def _answer(
        self, items: Sequence[Item], *, early: bool
    ) -> tuple[list[Outcome], dict[str, float], Embedded]:
        images: dict[int, np.ndarray] = {}
        early_s = 0.0
        began = time.perf_counter()
        if early:
            pending = self._reader.submit(self._timed_read, items, began)
            with self._computing:
                turn = time.perf_counter()
                images = self.classifier.encode_images(items)
                early_s = time.perf_counter() - turn
            reading, read_s = pending.result()
        else:
            reading, read_s = self._timed_read(items, began)
        with self._computing:
            turn = time.perf_counter()
            embedded = self.classifier.embed(items, reading.stored if reading else None, images)
            encoded = time.perf_counter()
            answers = self.classifier.decide(embedded, [item.top_k for item in items])
            explain = [item.explain for item in items]
            outcomes: list[Outcome] = list(self.classifier.explained(embedded, answers, explain))
        if reading is not None and not reading.available:
            outcomes = [_not_its_fault(*pair) for pair in zip(items, outcomes, strict=True)]
        decide_s = time.perf_counter() - encoded
        if reading is not None and reading.available:
            self._learn_share(items, embedded)
            if self.write_back:
                self.features.write_back(items, embedded, reading.stored)
        seconds = {"features": read_s, "embed": early_s + encoded - turn, "decide": decide_s}
        return outcomes, seconds, embedded

    def _encodes_early(self, items: Sequence[Item]) -> bool:
        """Whether to encode all pictures while it is read which of them are stored: those are encoded for
        nothing, so only where that is expected of few."""
        if not self._may_encode_early:
            return False
        pictures = [item.product_id for item in items if item.pixels_HWC is not None]
        with_id = sum(map(bool, pictures))
        reads = any(item.product_id for item in items)
        return reads and bool(pictures) and self._stored_share * with_id <= FOR_NOTHING * len(pictures)

    def _learn_share(self, items: Sequence[Item], embedded: Embedded) -> None:
        for item, source in zip(items, embedded.image_source, strict=True):
            if item.product_id and item.pixels_HWC is not None:
                self._stored_share += _WEIGHT * ((source is Source.STORED) - self._stored_share)

    def _answer_alone(self, item: Item) -> Outcome:
        try:
            # A picture that is stored is answered though it cannot be encoded.
            return self._answer([item], early=False)[0][0]
        except Exception as error:
            found, wanted = f"a failure of the model ({type(error).__name__})", "an answer"
            return RequestError(500, "model_failed", field="product", found=found, wanted=wanted)

    def _timed_read(self, items: Sequence[Item], began: float) -> tuple[Reading | None, float]:
        reading = self._read(items)
        return reading, time.perf_counter() - began

    def _read(self, items: Sequence[Item]) -> Reading | None:
        ids = [item.product_id for item in items]
        needed = any(item.product_id and item.text is None and item.pixels_HWC is None for item in items)
        return self.features.read(ids, needed=needed) if any(ids) else None


def _merged(known: Stored, held: Stored) -> Stored:
    """`known`, and of `held` what that lacks."""
    if known.text_vector_D is None:
        known = replace(known, text_vector_D=held.text_vector_D, text_hash=held.text_hash)
    if known.image_vector_E is None:
        known = replace(known, image_vector_E=held.image_vector_E, image_hash=held.image_hash)
    return known


def _not_its_fault(item: Item, outcome: Outcome) -> Outcome:
    """While the store cannot be read, an id of which nothing is known may still be a known one."""
    unknown = isinstance(outcome, ProductError) and outcome.reason == "nothing_known"
    if unknown and item.product_id is not None:
        return features_unavailable()
    return outcome
