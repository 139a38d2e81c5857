"""Tables as feeds write them: delimited text or Parquet, read as text, missing values as ""."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aisle.errors import CatalogError
from training.rows import Finding

TEXT_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
_DELIMITERS = (",", ";", "\t", "|")
_MAX_FIELD_CHARS = 10_000_000  # a field above it is an unclosed quotation mark


def read_table(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = ()
) -> tuple[pd.DataFrame, Finding]:
    """The columns `wanted`, and those of `optional` that are there, all str, indexed by row number (the
    first row under the header is 1); and the rows that have not as many fields as the header.

    Raises CatalogError naming the file, the columns that are missing and those that were found.
    """
    if not path.is_file():
        raise CatalogError(f"{path}: not found, wanted a file; look for it in {path.parent}")
    if path.suffix.lower() not in SUFFIXES:
        raise CatalogError(
            f"{path}: found a file of type {path.suffix or '(none)'}, wanted {', '.join(SUFFIXES)}"
        )
    read = _read_text if path.suffix.lower() in TEXT_SUFFIXES else _read_parquet
    return read(path, wanted, optional)


def _choose(path: Path, found: Sequence[str], wanted: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CatalogError(
            f"{path}: no column {', '.join(map(repr, missing))}; found {', '.join(map(repr, found))}. "
            "Map its names to ours with --columns, for example title=name (or image= where there is none)"
        )
    twice = sorted({name for name in wanted if list(found).count(name) > 1})
    if twice:
        raise CatalogError(f"{path}: found the column {twice[0]!r} more than once, wanted it once")
    return list(dict.fromkeys([*wanted, *(name for name in optional if name in found)]))


def _read_text(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> tuple[pd.DataFrame, Finding]:
    lines = _lines(path)
    header = next(lines, None)
    if header is None:
        raise CatalogError(f"{path}: found an empty file, wanted a header line")
    names = _choose(path, header, wanted, optional)
    places = [header.index(name) for name in names]
    rows, numbers, malformed = [], [], Finding()
    for number, fields in enumerate(lines, start=1):
        if len(fields) == len(header):
            rows.append([fields[place] for place in places])
            numbers.append(number)
        else:
            malformed.add(
                f"row {number} ({fields[0][:40]}): {path.name}: found {len(fields)} fields, "
                f"wanted {len(header)} as in the header"
            )
    return pd.DataFrame(rows, columns=names, index=numbers, dtype=object), malformed


def _lines(path: Path) -> Iterator[list[str]]:
    """The rows of a delimited file; blank lines are skipped."""
    limit = csv.field_size_limit(_MAX_FIELD_CHARS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
            yield from (fields for fields in csv.reader(file, delimiter=delimiter) if fields)
    except csv.Error as error:
        raise CatalogError(f"{path}: {error}; look for a quotation mark that is not closed") from error
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"{path}: found the byte 0x{error.object[error.start]:02x}, wanted UTF-8; "
            f"convert it first: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> tuple[pd.DataFrame, Finding]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=_choose(path, file.schema_arrow.names, wanted, optional))
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{path}: not a Parquet file: {error}") from error
    columns = {name: _texts(path, name, table.column(name)) for name in table.column_names}
    numbers = range(1, len(table) + 1)
    return pd.DataFrame(columns, index=numbers, dtype=object), Finding()


def _texts(path: Path, name: str, column: pa.ChunkedArray) -> list[str]:
    """Values as text: 10 and 10.0 (a code in a column with gaps) are "10", null is ""."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_floating(kind) and pc.all(pc.equal(column, pc.floor(column))).as_py() is not False:
        column = column.cast(pa.int64())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_primitive(kind) or pa.types.is_null(kind)):
        raise CatalogError(f"{path}: column {name!r} holds {kind}, wanted text or numbers")
    texts: list[str] = pc.fill_null(column.cast(pa.string()), "").to_pylist()
    return texts
