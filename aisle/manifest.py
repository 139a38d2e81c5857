"""A folder that can be trusted: sha256 of every file, written last.

A reader that finds the manifest finds the folder complete; one that verifies it finds it unharmed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from aisle.errors import BundleError

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_files(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    # BentoML writes model.yaml into the folders of its store; it is BentoML's, not ours.
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in paths
        if path.name != "model.yaml"
    }


def write_manifest(folder: Path) -> str:
    """Hash every file below `folder` into manifest.json; return the revision (8 hex)."""
    files = _hash_files(folder)
    text = json.dumps({"sha256": files}, indent=1, sort_keys=True)
    temporary = folder / (MANIFEST + ".part")
    temporary.write_text(text)
    temporary.replace(folder / MANIFEST)
    return revision_of(files)


def verify_manifest(folder: Path) -> str:
    """Re-hash `folder` and return its revision (8 hex).

    Raises BundleError naming the file that is missing, changed or not in the manifest.
    """
    wanted = _read_manifest(folder)
    found = _hash_files(folder)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise BundleError(f"{folder.name}/{name}: missing, but the manifest names it")
        if name not in wanted:
            raise BundleError(f"{folder.name}/{name}: found, but the manifest does not name it")
        if wanted[name] != found[name]:
            raise BundleError(
                f"{folder.name}/{name}: found sha256 {found[name][:12]}, "
                f"the manifest wants {wanted[name][:12]}"
            )
    return revision_of(wanted)


def holds_all_files(folder: Path) -> bool:
    """Whether there is a manifest and every file that it names. A glance: nothing is hashed."""
    try:
        return all((folder / name).is_file() for name in _read_manifest(folder))
    except BundleError:
        return False


def _read_manifest(folder: Path) -> dict[str, str]:
    """Hex sha256 by file name. Raises BundleError where it is missing, cut short or something else."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["sha256"]
        return {str(name): str(digest) for name, digest in files.items()}
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder.name}: no {MANIFEST}; the folder was not finished, write it again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{folder.name}/{MANIFEST}: found {error!r}, wanted JSON with the sha256 of each file; "
            "the folder was not finished, write it again"
        ) from error


def revision_of(files: dict[str, str]) -> str:
    """First 8 hex of the sha256 over the sorted (name, sha256) pairs: the content's name."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:8]
