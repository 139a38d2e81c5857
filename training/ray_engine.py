"""Batches encoded by the workers of a Ray cluster, and given back in order.

A worker runs the engine of a process (training/embeddings.py) on a portion of the batches. Vectors come back
to this process, which writes the shards as it writes its own: one writer, the same shards, the same resume.
Ray starts a worker that was killed anew, and gives its portion out again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from aisle.allocator import keep_freed_memory
from aisle.errors import AisleError, EncoderError
from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from training.embeddings import Batch, Engine, image_vectors, text_vectors
from training.shards import Encoded

LOCAL = "local"  # a cluster of this machine, for this run
PORTION = 4  # batches that a worker is given at a time: what a killed one has to do again
STRETCH = 16_384  # batches that Ray holds at a time: a million products

_STRINGS = pa.list_(pa.string())
_WORK = pa.schema([("product_ids", _STRINGS), ("sources", _STRINGS), ("stored", _STRINGS)])
_DONE = pa.schema(
    [
        ("product_ids", _STRINGS),
        ("hashes", _STRINGS),
        ("vectors", pa.binary()),
        ("unchanged", _STRINGS),
        ("unreadable", _STRINGS),
        ("error", pa.string()),
    ]
)


@contextmanager
def ray_cluster(address: str, workers: int) -> Iterator[None]:
    """Join the Ray cluster at `address`, or start one on this machine. Raises EncoderError where there is
    none."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's workers take what all others leave, by default: beside anything busy they would stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    # One more than the workers take: Ray Data does not start the last one on a cluster without a free core.
    cores = workers + 1 if address == LOCAL else None
    try:
        ray.init(
            address,
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        raise EncoderError(f"Ray: found no cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """An engine (training/embeddings.py) on the cluster that is joined. `load` makes each worker's own;
    `dim` is the width of its vectors."""

    load: Callable[[], Engine]
    dim: int
    workers: int

    def __call__(self, batches: Sequence[Batch]) -> Iterator[Encoded]:
        for start in range(0, len(batches), STRETCH):
            yield from self._encode(batches[start : start + STRETCH])

    def _encode(self, batches: Sequence[Batch]) -> Iterator[Encoded]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours counts products
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        portions = [_work(batches[start : start + PORTION]) for start in range(0, len(batches), PORTION)]
        done = ray.data.from_arrow(portions).map_batches(
            _Worker,
            fn_constructor_args=(self.load,),
            batch_size=None,  # a portion
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_cpus=1,
        )
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from self._read(table)

    def _read(self, table: pa.Table) -> Iterator[Encoded]:
        for row in table.to_pylist():
            if (error := row.pop("error")) is not None:
                raise EncoderError(f"a worker of Ray: {error}")
            vectors_BD = np.frombuffer(row.pop("vectors"), dtype=np.float32).reshape(-1, self.dim)
            yield Encoded(**row, vectors_BD=vectors_BD)


class _Worker:
    """What runs in Ray: an engine, portions in and out. An error of ours is a row."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self.engine = load()

    def __call__(self, table: pa.Table) -> pa.Table:
        batches = [Batch(**row) for row in table.to_pylist()]
        try:
            rows = [_row(done) for done in self.engine(batches)]
        except AisleError as error:  # Ray would hand on its words alone, among its own
            rows = [{"error": str(error)}]
        return _table(rows, _DONE)


def _work(batches: Sequence[Batch]) -> pa.Table:
    return _table([vars(batch) for batch in batches], _WORK)


def _row(done: Encoded) -> dict[str, Any]:
    row = {name: getattr(done, name) for name in ("product_ids", "hashes", "unchanged", "unreadable")}
    return {**row, "vectors": np.ascontiguousarray(done.vectors_BD, dtype=np.float32).tobytes()}


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def load_texts(folder: Path) -> Engine:
    """A worker's engine for texts: the encoder in `folder`, verified, on one core."""
    _settle()
    encoder = TextEncoder.load(folder)
    encoder.pack()
    return partial(text_vectors, encoder)


def load_images(folder: Path) -> Engine:
    """The same for pictures."""
    _settle()
    encoder = ImageEncoder.load(folder)
    encoder.pack()
    return partial(image_vectors, encoder, threads=1)


def _settle() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
