"""A spool file's page of counts and its records as bytes, and back. Records go by names, so that what one
version of Aisle has left another can read.

A batch is a line of JSON (names, a row a record, with the lengths of its embeddings) and, behind it, the
embeddings one after the other, float16.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from aisle.columns import Columns
from aisle.ledger import PredictionRecord

MAGIC = b"AISLESP1"
PAGE = mmap.PAGESIZE
_COUNTS = struct.Struct("<8s5Q")

_VECTORS = ("text_embedding", "image_embedding")
_PLAIN = tuple(
    item.name for item in fields(PredictionRecord) if item.name not in (*_VECTORS, "columns", "number")
)
_COLUMNS = tuple(item.name for item in fields(Columns))
# What a record cannot be without, and what Columns are of a version that knew fewer.
_REQUIRED = tuple(item.name for item in fields(PredictionRecord) if item.default is MISSING)
_NO_COLUMNS = dict.fromkeys(_COLUMNS)
_values = attrgetter(*_PLAIN, *(f"columns.{name}" for name in _COLUMNS))


class SpoolDamagedError(ValueError):
    """What a file says of itself cannot be; `records` are given up with it, None where nobody can tell."""

    def __init__(self, message: str, *, records: int | None) -> None:
        super().__init__(message)
        self.records = records


class Counts(NamedTuple):
    """What a spool file says of itself, first of all. Places are bytes from its start, the others records."""

    done_to: int = PAGE
    end: int = PAGE
    taken: int = 0
    kept: int = 0
    done: int = 0

    def pack(self) -> bytes:
        return _COUNTS.pack(MAGIC, *self)


NEW_PAGE = Counts().pack().ljust(PAGE, b"\0")


def read_counts(page: bytes, *, size_bytes: int) -> Counts:
    """The counts of a file of `size_bytes`. It may be longer than they say, where its process died while it
    wrote an entry or cut the file, and shorter after a power cut: `end` is then where it ends. Raises
    SpoolDamagedError where no death explains them: who believed them would be killed for what it mapped, or
    look at records for ever that are not there. ValueError where the file is none of ours."""
    magic, *found = _COUNTS.unpack(page[: _COUNTS.size].ljust(_COUNTS.size, b"\0"))
    if magic != MAGIC:
        raise ValueError(f"found {magic!r} at its start, wanted {MAGIC!r}")
    counts = Counts(*found)
    counts = counts._replace(end=min(counts.end, size_bytes))
    done_to, end, taken, kept, done = counts
    in_order = done <= kept <= taken
    # A record takes more than a byte, so there are fewer that wait.
    if not (in_order and PAGE <= done_to <= end and kept - done <= end - done_to):
        left = taken - done
        raise SpoolDamagedError(
            f"found {counts} in {size_bytes:,} bytes, wanted {PAGE:,} <= done_to <= end, "
            "done <= kept <= taken, and bytes for all that are kept and not done",
            records=left if in_order and left <= size_bytes else None,
        )
    return counts


def encode(records: Sequence[PredictionRecord]) -> bytes:
    rows, vectors = [], []
    for record in records:
        lengths = []
        for vector in (record.text_embedding, record.image_embedding):
            lengths.append(None if vector is None else len(vector))
            if vector is not None:
                vectors.append(vector.astype("<f2", copy=False).tobytes())
        rows.append((*_values(record), *lengths))
    head = {"plain": _PLAIN, "columns": _COLUMNS, "rows": rows}
    return b"".join([json.dumps(head, separators=(",", ":")).encode(), b"\n", *vectors])


def decode(data: bytes) -> list[PredictionRecord]:
    """Raises ValueError where it is none of ours, or a record lacks what it cannot be without."""
    try:
        return _decode(data)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"records: found what is none of ours ({error!r})") from error


def _decode(data: bytes) -> list[PredictionRecord]:
    line, _, blob = data.partition(b"\n")
    head = json.loads(line)
    plain, columns = list(head["plain"]), list(head["columns"])
    record_places = _places(PredictionRecord, plain, 0)
    column_places = _places(Columns, columns, len(plain))
    if lacking := [name for name in _REQUIRED if name not in {"columns", *record_places}]:
        raise ValueError(f"a record: found no {', '.join(lacking)}")
    halves = np.frombuffer(blob, dtype="<f2")
    records, start = [], 0
    for row in head["rows"]:
        given: dict[str, Any] = {name: row[place] for name, place in record_places.items()}
        for name, length in zip(_VECTORS, row[-2:], strict=True):
            if length is not None:
                given[name] = halves[start : start + length]
                start += length
        told = {name: row[place] for name, place in column_places.items()}
        records.append(PredictionRecord(columns=Columns(**_NO_COLUMNS | told), **given))
    return records


def _places(kind: Any, names: Sequence[str], first: int) -> dict[str, int]:
    """Where in a row each value is that a record of today has, once a batch; `names` begin at `first`."""
    known = {item.name for item in fields(kind)}
    return {name: first + place for place, name in enumerate(names) if name in known}
