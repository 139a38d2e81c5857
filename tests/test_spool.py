"""The spool keeps records in order, whole or not at all, whatever happens to its process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_ledger import NOTHING, RECORD, another

from service.spool import CACHED, Spool, SpoolFullError, adopt, spool_files
from service.spool_format import NEW_PAGE, PAGE, Counts, SpoolDamagedError, decode, encode

LIMIT = 2**20


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open_new(tmp_path, limit_bytes=LIMIT)


def keep(spool: Spool, *ids: str) -> None:
    spool.took(len(ids))
    spool.append([another(one) for one in ids])


def drain(spool: Spool) -> list[str]:
    found = []
    while (entry := spool.first()) is not None:
        found += [record.prediction_id for record in entry.records]
        spool.finish(entry)
    return found


def opened_again(spool: Spool) -> Spool:
    """As who adopts it finds it."""
    assert spool.path is not None
    let_go(spool)
    return Spool.open(spool.path, limit_bytes=LIMIT)


def adopted(folder: Path, *, limit_bytes: int = LIMIT) -> list[Spool]:
    found = [adopt(path, limit_bytes=limit_bytes) for path in spool_files(folder)]
    return [spool for spool in found if spool is not None]


def let_go(spool: Spool) -> None:
    """As the kernel does when a process is killed."""
    spool._counts.close()
    os.close(spool._file)


def test_a_record_comes_back_as_it_was() -> None:
    vector = np.array([0.5, -2.0, 3.0], dtype=np.float16)
    records = [
        RECORD,
        replace(RECORD, product_id=None, columns=NOTHING, text_embedding=None, image_embedding=vector),
        replace(RECORD, title="Été \ud800 \n", role="shadow", latency_s=0.25, image_embedding=vector[:0]),
    ]
    for given, found in zip(records, decode(encode(records)), strict=True):
        for name in ("text_embedding", "image_embedding"):
            one, other = getattr(given, name), getattr(found, name)
            assert (None if one is None else one.tolist()) == (None if other is None else other.tolist())
        bare = {"text_embedding": None, "image_embedding": None}
        assert repr(replace(found, **bare)) == repr(replace(given, **bare))


def test_what_another_version_wrote_is_read_by_its_names() -> None:
    data = encode([RECORD])
    older = data.replace(b'"title"', b'"gone!"').replace(b'"language"', b'"tongue!!"')
    [found] = decode(older)
    assert (found.title, found.columns.language, found.columns.text_chars) == (None, None, 31)
    with pytest.raises(ValueError, match="found no category"):
        decode(data.replace(b'"category"', b'"gone"'))


@pytest.mark.parametrize(
    "head",
    [b"{}", b"[]", b"7", b'{"plain": [], "columns": [], "rows": [7]}', b"[" * 100_000, b"no JSON", b"\xff"],
)
def test_what_is_none_of_ours_is_told(head: bytes) -> None:
    with pytest.raises(ValueError, match="none of ours|found no prediction_id|Expecting value|can't decode"):
        decode(head + b"\n")


def test_entries_come_in_the_order_they_were_kept(spool: Spool) -> None:
    for number in range(3 * CACHED):
        keep(spool, f"a{number}", f"b{number}")
    assert spool.waiting == 6 * CACHED
    assert drain(spool) == [f"{letter}{number}" for number in range(3 * CACHED) for letter in "ab"]
    assert (spool.waiting, spool.size_bytes) == (0, 0)
    keep(spool, "again")
    assert drain(spool) == ["again"]


def test_what_is_kept_while_another_entry_is_written_is_not_missed(spool: Spool) -> None:
    keep(spool, "a")
    first = spool.first()
    assert first is not None
    keep(spool, "b")
    spool.finish(first)
    assert drain(spool) == ["b"]


def test_who_adopts_it_goes_on_where_it_ended(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "a")
    keep(spool, "b")
    entry = spool.first()
    assert entry is not None
    spool.finish(entry)
    spool.took(7)
    again = opened_again(spool)
    assert (again.taken - again.kept, again.waiting) == (7, 1)
    assert drain(again) == ["b"]


def test_half_an_entry_is_no_entry(spool: Spool) -> None:
    keep(spool, "a")
    os.pwrite(spool._file, b"\x01" * 50, spool._end)  # what a dying process had written of the next
    again = opened_again(spool)
    keep(again, "b")
    assert drain(again) == ["a", "b"]


def test_damage_is_told_and_the_rest_can_be_given_up(spool: Spool) -> None:
    keep(spool, "a")
    keep(spool, "b")
    end = spool._end
    os.pwrite(spool._file, b"\xff", end - 1)
    again = opened_again(spool)
    entry = again.first()
    assert entry is not None
    again.finish(entry)
    with pytest.raises(ValueError, match="found damage in the entry at"):
        again.first()
    assert again.set_aside() == 1
    keep(again, "c")
    assert drain(again) == ["c"]


def test_a_full_spool_takes_nothing_and_stays_whole(tmp_path: Path) -> None:
    spool = Spool.open_new(tmp_path, limit_bytes=6_000)
    keep(spool, "a")
    with pytest.raises(SpoolFullError, match="wanted at most 6,000"):
        spool.append([another(f"b{i}") for i in range(50)])
    keep(spool, "c")
    assert drain(spool) == ["a", "c"]


def test_a_backlog_that_drains_slowly_leaves_room_for_what_comes(tmp_path: Path) -> None:
    spool = Spool.open_new(tmp_path, limit_bytes=10_000)
    found = []
    keep(spool, "a", "b", "c")
    for number in range(100):
        keep(spool, str(number))
        entry = spool.first()
        assert entry is not None
        found += [record.prediction_id for record in entry.records]
        spool.finish(entry)
        assert os.fstat(spool._file).st_size < 25_000  # a page, and twice the bound
    assert [*found, *drain(opened_again(spool))] == ["a", "b", "c", *map(str, range(100))]


KILLED_WHILE_MOVING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np
from test_ledger import another
from service.spool import Spool

def dying(call, die_at, step=iter(range(1_000_000))):
    def step_and_die():
        if next(step) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def called(*given):
        step_and_die()
        returned = call(*given)
        step_and_die()
        return returned
    return called

def move(spool, die_at):
    vector = np.zeros(310_000, dtype=np.float16)
    def keep(number):
        spool.took(1)
        spool.append([another(f"p{number}", text_embedding=vector)])
    for number in range(11):
        keep(number)
        if number >= 5:
            spool.finish(spool.first())
    os.pwrite, os.ftruncate = dying(os.pwrite, die_at), dying(os.ftruncate, die_at)
    spool.finish(spool.first())  # 7 of 11 are done with, 4.3 MB
    os._exit(0)

died, die_at = True, 0
while died:
    child = os.fork()
    if child == 0:
        move(Spool.open_new(Path(sys.argv[1]), limit_bytes=2**22), die_at)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    die_at += 1
"""


def test_who_dies_while_what_waits_is_moved_leaves_all_of_it(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", KILLED_WHILE_MOVING, str(tmp_path), tests], check=True)
    sizes = []
    for orphan in adopted(tmp_path, limit_bytes=2**22):
        sizes.append(os.fstat(orphan._file).st_size)
        assert drain(orphan) == ["p7", "p8", "p9", "p10"]
        orphan.close()
    # Before and after each of three copies and of the cut, and once without a death.
    moved = [size < 3_000_000 for size in sizes]
    assert moved == [False] * 6 + [True] * 3


def test_a_full_disk_takes_nothing_and_the_spool_stays_whole() -> None:
    # /dev/full answers every write as a full disk does, but cannot be mapped: the page is a file's.
    spool = Spool.in_memory(limit_bytes=LIMIT)
    keep(spool, "a")
    file, spool._file = spool._file, os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="No space left on device"):
        spool.append([another("b")])
    os.close(spool._file)
    spool._file = file
    keep(spool, "c")
    assert drain(spool) == ["a", "c"]


def test_only_what_nobody_holds_is_adopted(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "a")
    (tmp_path / "1.spool").write_bytes(b"no spool" * 1_000)
    (tmp_path / "2.spool").write_bytes(b"short")
    (tmp_path / "note.txt").write_text("neither")
    assert adopted(tmp_path) == []
    let_go(spool)
    [orphan] = adopted(tmp_path)
    assert orphan.path == spool.path
    assert drain(orphan) == ["a"]
    orphan.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.spool", "2.spool", "note.txt"]
    assert (tmp_path / "2.spool").read_bytes() == b"short"


def test_a_spool_in_which_nothing_waits_is_deleted(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "a")
    drain(spool)
    spool.close()
    assert list(tmp_path.iterdir()) == []


# Counts that no death leaves, in a file of a page, and how many records are given up with it.
DAMAGED_COUNTS = {
    "an end that no file has": (Counts(end=2**63, taken=5, kept=5, done=3), 2),
    "an end before the page's": (Counts(end=0, taken=5, kept=3), 5),
    "an end behind the file's": (Counts(end=3 * 2**30, taken=5, kept=5, done=3), 2),
    "more bytes done with than written": (Counts(done_to=5 * PAGE, taken=5, kept=5, done=3), 2),
    "more records done with than kept": (Counts(taken=5, kept=5, done=9), None),
    "more records kept than taken": (Counts(taken=1, kept=5, done=3), None),
    "records that wait and have no bytes": (Counts(taken=5, kept=5, done=3), 2),
    "more records than bytes": (Counts(taken=2**60, kept=2**60), None),
}
damaged_counts = pytest.mark.parametrize(
    ("counts", "records"), DAMAGED_COUNTS.values(), ids=DAMAGED_COUNTS.keys()
)


def leave_damaged(folder: Path, counts: Counts) -> Path:
    """A page with these counts, in the oldest file there is."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{1:020d}-1.spool"
    path.write_bytes(counts.pack().ljust(PAGE, b"\0"))
    return path


@damaged_counts
def test_a_file_whose_counts_no_death_explains_is_set_aside_as_it_was(
    tmp_path: Path, counts: Counts, records: int | None
) -> None:
    path = leave_damaged(tmp_path, counts)
    before = path.read_bytes()
    with pytest.raises(SpoolDamagedError, match=r"found Counts\(.*\) in 4,096 bytes, wanted 4,096") as told:
        adopt(path, limit_bytes=LIMIT)
    assert told.value.records == records
    assert list(tmp_path.iterdir()) == [path.with_suffix(".damaged")]
    assert path.with_suffix(".damaged").read_bytes() == before


def test_of_a_file_that_lost_its_last_bytes_the_others_are_read(spool: Spool) -> None:
    """As a power cut leaves it."""
    keep(spool, "a")
    keep(spool, "b")
    assert spool.path is not None
    let_go(spool)
    size = spool.path.stat().st_size - 1
    os.truncate(spool.path, size)
    [orphan] = adopted(spool.path.parent)
    first = orphan.first()
    assert first is not None
    assert [record.prediction_id for record in first.records] == ["a"]
    orphan.finish(first)
    with pytest.raises(ValueError, match="found damage in the entry"):
        orphan.first()
    assert orphan.set_aside() == 1
    assert spool.path.with_suffix(".damaged").stat().st_size == size


def test_a_file_that_lost_a_whole_entry_is_set_aside_when_the_others_are_read(spool: Spool) -> None:
    keep(spool, "a")
    end = spool._end
    keep(spool, "b")
    assert spool.path is not None
    let_go(spool)
    os.truncate(spool.path, end)
    [orphan] = adopted(spool.path.parent)
    assert drain(orphan) == ["a"]
    orphan.close()
    with pytest.raises(SpoolDamagedError) as told:
        adopt(spool.path, limit_bytes=LIMIT)
    assert told.value.records == 1


@pytest.mark.parametrize("written", [0, 20, PAGE - 1, PAGE])
def test_who_dies_before_its_first_page_is_written_leaves_nothing(tmp_path: Path, written: int) -> None:
    (tmp_path / "1.spool").write_bytes(NEW_PAGE[:written])
    [orphan] = adopted(tmp_path)
    keep(orphan, "a")
    assert drain(orphan) == ["a"]
    orphan.close()
    assert list(tmp_path.iterdir()) == []


def test_who_dies_before_an_empty_file_is_cut_leaves_it_to_be_cut(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "a")
    end = spool._end
    drain(spool)
    os.truncate(spool._file, end)
    let_go(spool)
    [orphan] = adopted(tmp_path)
    assert (orphan.waiting, os.fstat(orphan._file).st_size) == (0, PAGE)
