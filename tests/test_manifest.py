"""The manifest itself, damaged."""

from pathlib import Path

import pytest

from aisle.errors import BundleError
from aisle.manifest import MANIFEST, holds_all_files, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.bin").write_bytes(b"12345678")
    write_manifest(tmp_path)
    return tmp_path


def test_a_whole_folder_has_its_revision(folder: Path) -> None:
    assert verify_manifest(folder) == write_manifest(folder)
    assert holds_all_files(folder)


def test_a_manifest_cut_short_anywhere_is_refused(folder: Path) -> None:
    whole = (folder / MANIFEST).read_bytes()
    for length in range(len(whole) - 1):
        (folder / MANIFEST).write_bytes(whole[:length])
        with pytest.raises(BundleError, match="wanted JSON with the sha256 of each file"):
            verify_manifest(folder)
        assert not holds_all_files(folder)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"sha256": 7}', '{"sha256": []}', "\xff"])
def test_a_manifest_of_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"manifest\.json: found .*, wanted JSON"):
        verify_manifest(folder)


def test_a_folder_without_one_of_its_files_does_not_hold_all(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    assert not holds_all_files(folder)
