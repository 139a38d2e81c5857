"""The process that tells MLflow about runs: `python -m training.tracking_writer OUTBOX ARTIFACTS`.

Started by training/outbox.py, with standard input open for as long as the training lives. It reads OUTBOX
while the training writes it, then what earlier writers had to leave. A file is gone when all of it is told.
Whatever is told twice, because a writer was stopped in between, is in MLflow once: runs are found by their
key, and equal metrics of one moment are one.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.mlflow_runs import MlflowRuns
from training.outbox import without_secrets

_PAUSE_S = 0.5  # between looks at a file that still grows; what came meanwhile is one request


def main() -> None:
    own, artifacts = Path(sys.argv[1]), sys.argv[2]
    os.nice(10)  # the training goes first
    try:
        refused = _tell(own, _while_written(own), artifacts)
        for path in sorted(own.parent.glob("*.jsonl")):
            refused += _tell_left_over(path, artifacts)
    except Exception as error:  # whatever MLflow, its database or the network raise means the same here
        first = str(error).strip().partition("\n")[0]
        sys.exit(
            without_secrets(f"{type(error).__name__}: {first[:300]}; it is kept, for the next run to tell")
        )
    if refused:
        sys.exit(without_secrets(f"refused {len(refused)} records, the first with: {refused[0][:300]}"))


def _tell(path: Path, records: Iterator[Mapping[str, Any] | None], artifacts: str) -> list[str]:
    """Tell MLflow what `path` holds, and remove it. Returns why records were refused."""
    runs = MlflowRuns(artifacts)
    for record in records:
        if record is None:
            runs.flush()
        else:
            runs.tell(record)
    runs.close()
    if not runs.refused:
        path.with_suffix(".log").unlink(missing_ok=True)
    path.unlink()
    return runs.refused


def _tell_left_over(path: Path, artifacts: str) -> list[str]:
    """The same of a file that no training and no writer holds any more."""
    with suppress(FileNotFoundError, BlockingIOError), path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:  # else another writer was here first
            return _tell(path, map(json.loads, filter(_is_whole, file)), artifacts)
    return []


def _while_written(path: Path) -> Iterator[Mapping[str, Any] | None]:
    """Records, until the training is gone and the file at its end; None where the next is not there yet."""
    with path.open() as file:
        written = True
        while True:
            begins = file.tell()
            line = file.readline()
            if _is_whole(line):
                yield json.loads(line)
            elif written:
                file.seek(begins)
                yield None
                ended, _, _ = select.select([sys.stdin], [], [], _PAUSE_S)
                written = not ended
            else:
                return


def _is_whole(line: str) -> bool:
    """A training that is killed may leave half a line."""
    return line.endswith("\n")


if __name__ == "__main__":
    main()
