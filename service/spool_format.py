"""Records as bytes, and back. By names, so that what one version of Aisle has left another can read.

A batch is a line of JSON (names, a row a record, with the lengths of its embeddings) and, behind it, the
embeddings one after the other, float16.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any

import numpy as np

from aisle.columns import Columns
from aisle.ledger import PredictionRecord

_VECTORS = ("text_embedding", "image_embedding")
_PLAIN = tuple(
    item.name for item in fields(PredictionRecord) if item.name not in (*_VECTORS, "columns", "number")
)
_COLUMNS = tuple(item.name for item in fields(Columns))
_values = attrgetter(*_PLAIN, *(f"columns.{name}" for name in _COLUMNS))


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
    plain, columns = tuple(head["plain"]), tuple(head["columns"])
    halves = np.frombuffer(blob, dtype="<f2")
    records, start = [], 0
    for row in head["rows"]:
        given = dict(zip(plain, row, strict=False))
        given["columns"] = Columns(**_known(Columns, dict(zip(columns, row[len(plain) :], strict=False))))
        for name, length in zip(_VECTORS, row[-2:], strict=True):
            if length is not None:
                given[name] = halves[start : start + length]
                start += length
        records.append(PredictionRecord(**_known(PredictionRecord, given)))
    return records


def _known(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Of `given`, what a record of today has; what it lacks without a default is None in Columns only."""
    known = {item.name: given[item.name] for item in fields(kind) if item.name in given}
    lacking = [item.name for item in fields(kind) if item.name not in known and item.default is MISSING]
    if lacking and kind is not Columns:
        raise ValueError(f"a record: found no {', '.join(lacking)}")
    return {**dict.fromkeys(lacking), **known}
