"""What was answered and is not in the ledger yet, in a file: it outlives a database that is away, and the
process.

A file a worker, in one folder. A page of counts comes first, then entries, each a batch of records under a
checksum. Nothing is synced: a file that is written survives the death of its process, not the machine's.
The kernel's lock on a file says whether its worker lives; who finds one without adopts it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aisle.ledger import PredictionRecord
from service.spool_format import NEW_PAGE, PAGE, Counts, SpoolDamagedError, decode, encode, read_counts

SUFFIX = ".spool"
DAMAGED_SUFFIX = ".damaged"
CACHED = 10  # entries that are in memory too, and need not be read back
COPIED_BYTES = 2**20  # at once, when what waits is moved
_ENTRY = struct.Struct("<III")  # bytes, records, checksum


class SpoolFullError(OSError):
    """As much waits in the file as may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Records between two places of the file."""

    start: int
    end: int
    records: Sequence[PredictionRecord]


class Spool:
    """One worker's file; `limit_bytes` bounds what waits in it, and the file is at most twice as long. Of all
    records that it `took`, those `kept` are in the file or were given up knowingly; the rest are lost when
    the process dies. Any thread may add to it, one reads and finishes. Raises OSError as files do, and
    ValueError where the file is none of ours, or damaged; one whose counts are is not touched."""

    def __init__(self, file: int, path: Path | None, *, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self._file = file
        self._lock = threading.Lock()
        self._cached: deque[Entry] = deque(maxlen=CACHED)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its maker may have died, or found the disk full, before it was written.
            if NEW_PAGE.startswith(os.pread(file, PAGE, 0)):
                _write_all(file, NEW_PAGE, 0)
            counts = read_counts(os.pread(file, PAGE, 0), size_bytes=os.fstat(file).st_size)
            self._done_to, self._end, self.taken, self.kept, self.done = counts
            self._counts = mmap.mmap(file, PAGE)
            os.ftruncate(file, self._end)  # without what a dying process had written of an entry
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def open(cls, path: Path, *, limit_bytes: int) -> Spool:
        """Raises BlockingIOError where somebody holds it."""
        return cls(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), path, limit_bytes=limit_bytes)

    @classmethod
    def open_new(cls, folder: Path, *, limit_bytes: int) -> Spool:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}"
        return cls.open(folder / name, limit_bytes=limit_bytes)

    @classmethod
    def in_memory(cls, *, limit_bytes: int) -> Spool:
        """Where there is no folder to write to: it dies with the process."""
        return cls(os.memfd_create("aisle-spool"), None, limit_bytes=limit_bytes)

    @property
    def name(self) -> str:
        return self.path.name if self.path else "the spool in memory"

    @property
    def size_bytes(self) -> int:
        """What waits in the file."""
        return self._end - self._done_to

    @property
    def waiting(self) -> int:
        """Records in the file that are not done with."""
        return self.kept - self.done

    def took(self, records: int) -> None:
        """Records are in memory now."""
        with self._lock:
            self.taken += records
            self._write_counts()

    def gave_up(self, records: int) -> None:
        """Records that were taken will never be in the file, and that is known."""
        with self._lock:
            self.kept += records
            self.done += records
            self._write_counts()

    def append(self, records: Sequence[PredictionRecord]) -> None:
        """Keep records that were taken. Either all are in the file or, where this raises, none."""
        data = encode(records)
        written = _ENTRY.pack(len(data), len(records), zlib.crc32(data)) + data
        with self._lock:
            entry = Entry(start=self._end, end=self._end + len(written), records=records)
            waiting = entry.end - self._done_to
            if waiting > self.limit_bytes or entry.end - PAGE > 2 * self.limit_bytes:
                raise SpoolFullError(
                    f"{self.name}: found {waiting:,} bytes, wanted at most {self.limit_bytes:,}"
                )
            try:
                _write_all(self._file, written, entry.start)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, entry.start)
                raise
            self._end = entry.end
            self.kept += len(records)
            self._cached.append(entry)
            self._write_counts()

    def first(self) -> Entry | None:
        """The first entry that is not done with; of late ones no byte is read."""
        with self._lock:
            if self._done_to >= self._end:
                return None
            while self._cached and self._cached[0].start < self._done_to:
                self._cached.popleft()
            if self._cached and self._cached[0].start == self._done_to:
                return self._cached[0]
            start = self._done_to
        # Without the lock, for which answers would wait: an entry stays where it is until it is finished.
        return self._read(start)

    def finish(self, entry: Entry) -> None:
        """The first entry is done with. An empty file begins anew, and one whose first half is done with is
        cut to what waits."""
        with self._lock:
            self.done += len(entry.records)
            self._done_to = entry.end
            if self._done_to == self._end:
                self._begin_anew()
            else:
                self._write_counts()
        with suppress(OSError):  # until the counts are written nothing has moved
            self._move_to_front()

    def set_aside(self) -> int:
        """Give up what waits, because it cannot be read; a copy stays beside the file. How many they were."""
        with self._lock:
            if self.path is not None:
                with suppress(OSError):
                    shutil.copyfile(self.path, self.path.with_suffix(DAMAGED_SUFFIX))
            given_up, self.done = self.waiting, self.kept
            self._begin_anew()
            return given_up

    def close(self) -> None:
        """Let go of the file; one in which nothing waits is deleted."""
        if self.path is not None and self.waiting == 0 and self.taken == self.kept:
            self.path.unlink(missing_ok=True)
        self._counts.close()
        os.close(self._file)

    def _read(self, start: int) -> Entry:
        head = os.pread(self._file, _ENTRY.size, start)
        size, records, checksum = _ENTRY.unpack(head) if len(head) == _ENTRY.size else (0, 0, 1)
        data = os.pread(self._file, size, start + _ENTRY.size)
        if zlib.crc32(data) != checksum:
            raise ValueError(f"{self.name}: found damage in the entry at {start:,}")
        decoded = decode(data)
        if len(decoded) != records:
            raise ValueError(f"{self.name}: found {len(decoded)} records at {start:,}, wanted {records}")
        return Entry(start=start, end=start + _ENTRY.size + size, records=decoded)

    def _move_to_front(self) -> None:
        """Copy what waits over what is done with, once this is `limit_bytes` or more. The copy covers nothing
        that waits, and the counts are written last: whoever dies before leaves the old file, whoever dies
        after the new one. Answers wait for the lock, so most is copied without it."""
        start = copied = self._done_to
        gap = start - PAGE
        if gap < max(self.limit_bytes, self._end - start):
            return
        while self._end - copied > COPIED_BYTES:
            copied += self._copy(copied, copied - gap, COPIED_BYTES)
        with self._lock:
            while copied < self._end:
                copied += self._copy(copied, copied - gap, self._end - copied)
            self._done_to, self._end = PAGE, self._end - gap
            moved = [replace(entry, start=entry.start - gap, end=entry.end - gap) for entry in self._cached]
            self._cached = deque(moved, maxlen=CACHED)
            self._write_counts()
            os.ftruncate(self._file, self._end)

    def _copy(self, start: int, to: int, size: int) -> int:
        data = os.pread(self._file, size, start)
        if not data:
            raise OSError(f"{self.name}: found its end at {start:,}, wanted {size:,} bytes more")
        _write_all(self._file, data, to)
        return len(data)

    def _begin_anew(self) -> None:
        # The counts first: dying in between leaves bytes behind that nobody reads.
        self._end = self._done_to = PAGE
        self._cached.clear()
        self._write_counts()
        os.ftruncate(self._file, PAGE)

    def _write_counts(self) -> None:
        counts = Counts(self._done_to, self._end, self.taken, self.kept, self.done).pack()
        # At once: a process that packs field by field may die in between.
        self._counts[: len(counts)] = counts


def spool_files(folder: Path) -> list[Path]:
    """The oldest first, whether somebody holds them or not."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def adopt(path: Path, *, limit_bytes: int) -> Spool | None:
    """A file that nobody holds, held from now on; None where somebody does. What is no spool is left alone.
    One whose counts are damaged is renamed, so that nobody tries it again, and SpoolDamagedError raised."""
    try:
        spool = Spool.open(path, limit_bytes=limit_bytes)
    except SpoolDamagedError:
        try:
            path.rename(path.with_suffix(DAMAGED_SUFFIX))
        except FileNotFoundError:  # another worker has done it, and counts what is given up
            return None
        raise
    except (OSError, ValueError):  # held by its worker, or not a spool
        return None
    if path.exists():
        return spool
    spool.close()  # its worker has deleted it, between our opening and our locking it
    return None


def _write_all(file: int, data: bytes, at: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], at + written)
