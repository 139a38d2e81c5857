"""The feature store as the service sees it: one read a batch, which may fail and never raises.

Redis being slow or away costs the deadline a few times, then nothing: a circuit breaker answers
"nothing stored" at once until a probe succeeds. Vectors are then computed, as for an unknown product.

Shapes: D and E embedding widths of text and image.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from aisle.bundle import EncoderRef
from aisle.classifier import Embedded, Item, Stored
from aisle.development_redis import ensure_development_redis
from aisle.errors import FeatureStoreError
from aisle.features import JOIN_KEY, MODALITIES, embedding_view_of, feast_environment
from aisle.prediction import Source

if TYPE_CHECKING:
    from feast import FeatureStore

REPOSITORY = Path(__file__).parents[1] / "feature_repo"
READ_S_A_PRODUCT = 0.001  # on top of the deadline, for each product: ten times what it takes
MOST_READ_S = 0.5  # on top of the deadline, however many, or where nothing else is known of a product
BREAK_AFTER = 3  # failed reads in a row
BREAK_PAUSES_S = (0.5, 5.0)  # the first, and the longest
WRITE_BACK_BATCHES = 256  # batches that wait to be written; more are dropped, and counted
# What is counted that should not happen, and its reason in the service's metrics.
FAILURES = {
    "reads_failed": "features_read_failed",
    "reads_late": "features_read_late",
    "reads_skipped": "features_read_skipped",
    "vectors_damaged": "features_vector_damaged",
    "write_backs_dropped": "features_write_dropped",
}
_REGISTRY_ATTEMPTS = 5  # Feast rewrites its registry in place: a reader may meet half of it
_REGISTRY_PAUSE_S = 0.2

logger = logging.getLogger("aisle.service")


class Breaker:
    """Opens after `failures` in a row; lets a probe through after a pause, until one succeeds. Pauses double
    from the first of `pauses_s` to the last: a busy moment costs little, a store that is away little more."""

    def __init__(
        self,
        *,
        failures: int = BREAK_AFTER,
        pauses_s: tuple[float, float] = BREAK_PAUSES_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._first_pause_s, self._longest_pause_s = pauses_s
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    def allows(self) -> bool:
        """True when a call may be made now."""
        return not self.is_open or self._clock() >= self._probe_at

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        probes = max(0, self._failures - self._limit)
        pause_s = min(self._longest_pause_s, self._first_pause_s * 2 ** min(probes, 30))
        self._probe_at = self._clock() + pause_s


class Reading(NamedTuple):
    """What is stored for each product of a batch, in order; `available` is False where the store could not be
    read, and nothing is known of any."""

    stored: list[Stored]
    available: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """An online view: its name in Feast, and the width of its vectors."""

    name: str
    dim: int

    @property
    def features(self) -> list[str]:
        return [f"{self.name}:embedding", f"{self.name}:source_hash"]


class FeatureReader:
    """Reads stored vectors for a batch, and writes computed ones back behind it.

    `counts` goes up by: products_read, reads_failed, reads_late (used nevertheless), reads_skipped (breaker
    open), vectors_damaged, vectors_written_back, write_backs_dropped.
    `on_error` hears the reason, once, each time one of FAILURES goes up.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        text: View,
        image: View,
        deadline_s: float,
        breaker: Breaker | None = None,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self.store = store
        self.views = dict(zip(MODALITIES, (text, image), strict=True))
        self.deadline_s = deadline_s
        self.breaker = breaker or Breaker()
        self.counts: Counter[str] = Counter()
        self._on_error = on_error
        self._features = text.features + image.features
        self._one_read = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._under_way: Future[dict[str, Stored]] | None = None
        self._writer = _WriteBack(store, self._count)

    def read(self, product_ids: Sequence[str | None], *, needed: bool = False) -> Reading:
        """What is stored for each product: an empty `Stored` for None, for an unknown id, and for all when
        the store does not answer within the deadline, which is MOST_READ_S longer where the answer is
        `needed`: of some product nothing but its id was given. One batch at a time; the others wait. Never
        raises."""
        wanted = sorted({product_id for product_id in product_ids if product_id is not None})
        with self._one_read:
            held = self._guarded_fetch(wanted, needed=needed) if wanted else {}
        nothing = Stored()
        stored = [(held or {}).get(product_id or "", nothing) for product_id in product_ids]
        return Reading(stored, available=held is not None)

    def write_back(self, items: Sequence[Item], embedded: Embedded, stored: Sequence[Stored]) -> None:
        """Store the vectors that were computed for products with an id of which nothing was `stored`.
        Returns at once.

        What the catalogue published is never replaced: a request with a part of a product's text, or a
        wrong one, would change what the id alone is answered with.
        """
        modalities = (
            ("text", embedded.text_BD, embedded.text_source, [held.text_vector_D for held in stored]),
            ("image", embedded.image_BE, embedded.image_source, [held.image_vector_E for held in stored]),
        )
        for modality, vectors, sources, held in modalities:
            rows = [
                (item.product_id, vectors[row].copy(), digest)
                for row, item in enumerate(items)
                if sources[row] is Source.COMPUTED
                and item.product_id is not None
                and held[row] is None
                and (digest := item.text_hash if modality == "text" else item.image_hash)
                and np.isfinite(vectors[row]).all()
            ]
            if rows:
                self._writer.put(self.views[modality].name, rows)

    def close(self) -> None:
        """Write what waits, for at most two seconds, and end the threads."""
        self._writer.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def warm(self) -> bool:
        """Read once without the deadline (the first read opens connections). False if it failed."""
        try:
            self.fetch(["warm-up"])
        except Exception as error:
            logger.warning("the feature store does not answer; vectors will be computed: %s", error)
            return False
        return True

    def _guarded_fetch(self, product_ids: list[str], *, needed: bool) -> dict[str, Stored] | None:
        """What is stored, by id; None where the store could not be read. A store that is late again and
        again is as one that is away, though the first late answers are used where they are needed."""
        patient = needed and not self.breaker.is_open
        before = self._under_way if self._under_way is not None and not self._under_way.done() else None
        # A late read has failed once, however many batches find it still under way.
        if not self.breaker.allows() or (before is not None and not patient):
            self._count("reads_skipped", 1)
            return None
        in_time_s = self.deadline_s + min(MOST_READ_S, READ_S_A_PRODUCT * len(product_ids))
        most_s = self.deadline_s + MOST_READ_S if patient else in_time_s
        try:
            came = time.perf_counter()
            if before is not None and not wait([before], most_s).done:
                raise TimeoutError("the read before is still under way")
            began = time.perf_counter()
            self._under_way = self._pool.submit(self.fetch, product_ids)
            held = self._under_way.result(most_s - (began - came))
            late = time.perf_counter() - began > in_time_s
        except Exception as error:  # whatever Feast or redis-py raise, the products are still classified
            self._failed("reads_failed", str(error))
            return None
        if late:
            self._failed("reads_late", "")
        else:
            self.breaker.succeeded()
        self._count("products_read", len(product_ids))
        return held

    def _failed(self, kind: str, reason: str) -> None:
        was_open = self.breaker.is_open
        self.breaker.failed()
        self._count(kind, 1)
        if self.breaker.is_open and not was_open:
            reason = reason or f"no answer within {self.deadline_s:g} s"
            logger.warning("the feature store failed; vectors are computed meanwhile: %s", reason)

    def fetch(self, product_ids: list[str]) -> dict[str, Stored]:
        """One Feast call for both modalities. Raises what Feast and redis-py raise."""
        response = self.store.get_online_features(
            features=self._features, entity_rows={JOIN_KEY: product_ids}, full_feature_names=True
        ).proto
        names = response.metadata.feature_names.val
        columns = {name: result.values for name, result in zip(names, response.results, strict=True)}
        text = self._column(columns, self.views["text"])
        image = self._column(columns, self.views["image"])
        return {
            product_id: Stored(
                text_vector_D=text_row[0],
                text_hash=text_row[1],
                image_vector_E=image_row[0],
                image_hash=image_row[1],
            )
            for product_id, text_row, image_row in zip(product_ids, text, image, strict=True)
        }

    def _column(self, columns: dict[str, Any], view: View) -> list[tuple[np.ndarray | None, str | None]]:
        vectors, hashes = columns[f"{view.name}__embedding"], columns[f"{view.name}__source_hash"]
        return [self._value(vector, digest, view) for vector, digest in zip(vectors, hashes, strict=True)]

    def _value(self, vector: Any, digest: Any, view: View) -> tuple[np.ndarray | None, str | None]:
        # A missing product comes back PRESENT with an empty value: its status says nothing.
        if vector.WhichOneof("val") != "float_list_val" or digest.WhichOneof("val") != "string_val":
            return None, None
        vector_D = _floats(vector.float_list_val)
        if len(vector_D) != view.dim or not np.isfinite(vector_D).all():
            self._count("vectors_damaged", 1)
            return None, None
        return vector_D, digest.string_val

    def _count(self, name: str, by: int) -> None:
        self.counts[name] += by
        if self._on_error is not None and name in FAILURES:
            self._on_error(FAILURES[name])


def _floats(floats: Any) -> np.ndarray:
    """Float32 values of Feast's FloatList, out of its wire format: one field of packed little-endian floats
    behind its tag and length. Walking it value by value took a third of a read."""
    wire = floats.SerializeToString()
    size = 4 * len(floats.val)
    return np.frombuffer(wire, dtype="<f4", offset=len(wire) - size)


# Product id, vector, source hash.
_Row = tuple[str, np.ndarray, str]


class _WriteBack:
    """A bounded queue and a thread that empties it into the online store."""

    def __init__(self, store: FeatureStore, count: Callable[[str, int], None]) -> None:
        self._store = store
        self._count = count
        self._queue: queue.Queue[tuple[str, list[_Row]] | None] = queue.Queue(WRITE_BACK_BATCHES)
        self._last_us = 0
        self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)
        self._thread.start()

    def put(self, view: str, rows: list[_Row]) -> None:
        try:
            self._queue.put_nowait((view, rows))
        except queue.Full:
            self._count("write_backs_dropped", len(rows))

    def close(self, timeout_s: float = 2.0) -> None:
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return  # the thread is a daemon: it ends with the process
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            view, rows = work
            try:
                self._store.write_to_online_store(view, df=self._frame(rows))
            except Exception as error:  # the answer has been given long ago; only the saving is lost
                logger.debug("%d vectors were not written back: %s", len(rows), error)
                self._count("write_backs_dropped", len(rows))
            else:
                self._count("vectors_written_back", len(rows))

    def _frame(self, rows: list[_Row]) -> pd.DataFrame:
        ids, vectors, hashes = zip(*rows, strict=True)
        # Feast drops a row whose timestamp is not later than the stored one: each gets its own.
        first = max(time.time_ns() // 1_000, self._last_us + 1)
        self._last_us = first + len(rows) - 1
        when = pd.to_datetime(np.arange(first, first + len(rows)), unit="us", utc=True)
        return pd.DataFrame(
            {
                JOIN_KEY: ids,
                "embedding": list(vectors),
                "source_hash": hashes,
                "event_timestamp": when,
            }
        )


def open_reader(
    *,
    home: Path,
    redis_url: str | None,
    text_encoder: EncoderRef,
    image_encoder: EncoderRef,
    deadline_s: float,
    on_error: Callable[[str], None] | None = None,
) -> FeatureReader:
    """A warm reader of the views of two encoders; a private Redis is joined when there is no URL.

    Raises FeatureStoreError when a view is absent or of another width: the classifier must not be
    served before its features are published. A Redis that does not answer is no reason to refuse.
    """
    home = home.absolute()
    url = redis_url or ensure_development_redis(home / "redis")
    views = {
        modality: View(name=embedding_view_of(modality, encoder.revision), dim=encoder.dim)
        for modality, encoder in zip(MODALITIES, (text_encoder, image_encoder), strict=True)
    }
    store = _open_store(home, url, deadline_s=deadline_s)
    check_views(store, list(views.values()))
    reader = FeatureReader(
        store, text=views["text"], image=views["image"], deadline_s=deadline_s, on_error=on_error
    )
    reader.warm()
    return reader


def check_views(store: FeatureStore, views: Sequence[View]) -> None:
    """Raise FeatureStoreError unless the registry holds every view with its width."""
    held = {view.name: view.tags.get("dim") for view in store.list_batch_feature_views()}
    for view in views:
        if view.name not in held:
            there = ", ".join(sorted(held)) or "no view"
            raise FeatureStoreError(
                f"{view.name}: not in the feature registry, which holds {there}; "
                "run `python -m training publish` with this encoder first"
            )
        if held[view.name] != str(view.dim):
            raise FeatureStoreError(
                f"{view.name}: found width {held[view.name]} in the feature registry, the classifier's "
                f"encoder gives {view.dim}"
            )


def _open_store(home: Path, redis_url: str, *, deadline_s: float) -> FeatureStore:
    import prometheus_client  # noqa: F401  # before feast, which sets PROMETHEUS_MULTIPROC_DIR
    from feast import FeatureStore

    registry = home / "feast" / "registry.db"
    if not registry.is_file():
        raise FeatureStoreError(
            f"{registry}: not found, wanted the feature registry; run `python -m training publish`, or set "
            "AISLE_HOME to the shop that was published"
        )
    # The reader's own deadline, which is never longer, is what an answer waits for.
    timeout_s = deadline_s + MOST_READ_S
    # Feast fills feature_store.yaml from variables alone.
    os.environ.update(feast_environment(home, redis_url, timeout_s=timeout_s))
    for attempt in range(_REGISTRY_ATTEMPTS):
        store = FeatureStore(repo_path=str(REPOSITORY))
        try:
            if store.list_batch_feature_views():
                break
        except Exception:
            if attempt == _REGISTRY_ATTEMPTS - 1:
                raise
        time.sleep(_REGISTRY_PAUSE_S)
    return store
