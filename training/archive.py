"""Pictures out of a zip file from somewhere else: nothing leaves the target folder, a rerun resumes."""

from __future__ import annotations

import shutil
import stat
import uuid
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from aisle.errors import CatalogError
from aisle.image import MAX_IMAGE_BYTES
from training.progress import progress

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def unpack_pictures(archive: Path, folder: Path, *, inside: tuple[str, ...]) -> int:
    """Write the pictures that lie in a folder of `archive` named one of `inside` flat into `folder`.

    Returns how many were written now. A picture is written beside its place and then moved there, and
    one that is there in full is left alone; so a killed run goes on where it stopped. Pictures above
    MAX_IMAGE_BYTES, which no decoder here would take, are left out. Raises CatalogError for a broken or
    encrypted archive, for names that point out of it, and when the disk is too small.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if _wanted(archive, member, inside)]
            if not members:
                raise CatalogError(
                    f"{archive}: found no picture in a folder {' or '.join(inside)}, wanted some"
                )
            folder.mkdir(parents=True, exist_ok=True)
            missing = [member for member in members if not _is_there(folder, member)]
            _check_space(archive, folder, sum(member.file_size for member in missing))
            _write(source, missing, folder)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise CatalogError(f"{archive}: {error or 'it ends too early'}; download it again") from error
    return len(missing)


def _wanted(archive: Path, member: zipfile.ZipInfo, inside: tuple[str, ...]) -> bool:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise CatalogError(f"{archive}: member {member.filename!r} points out of the archive, wanted none")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise CatalogError(f"{archive}: member {member.filename!r} is a link, wanted pictures")
    if member.flag_bits & 1:
        raise CatalogError(f"{archive}: member {member.filename!r} is encrypted, wanted a plain archive")
    is_picture = path.suffix.lower() in PICTURE_SUFFIXES and not member.is_dir()
    # macOS puts a shadow of every file (__MACOSX/._name) into its archives.
    is_shadow = path.name.startswith(".")
    return is_picture and not is_shadow and path.parent.name in inside and member.file_size <= MAX_IMAGE_BYTES


def _target(folder: Path, member: zipfile.ZipInfo) -> Path:
    return folder / PurePosixPath(member.filename.replace("\\", "/")).name


def _is_there(folder: Path, member: zipfile.ZipInfo) -> bool:
    target = _target(folder, member)
    return target.is_file() and target.stat().st_size == member.file_size


def _check_space(archive: Path, folder: Path, wanted_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if wanted_bytes > free_bytes:
        raise CatalogError(
            f"{archive}: its pictures need {wanted_bytes:,} bytes, {folder} has {free_bytes:,} free"
        )


def _write(source: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> None:
    if not members:
        return
    part = folder / f".unpacking-{uuid.uuid4().hex}.part"  # torchrun's processes all begin here
    try:
        with progress() as bar:
            for member in bar.track(members, description="unpack pictures"):
                # read() checks the CRC, and stops at the size that was checked above.
                part.write_bytes(source.read(member))
                part.replace(_target(folder, member))
    finally:
        part.unlink(missing_ok=True)
