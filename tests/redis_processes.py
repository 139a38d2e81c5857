"""Finds the processes of a development Redis."""

from __future__ import annotations

from pathlib import Path


def process_ids(folder: Path) -> tuple[int, int]:
    """Of the supervisor and of the server of a folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"aisle.development_redis" in words and str(folder).encode() in words:
            found["supervisor"] = int(entry.name)
        elif b"redis-server" in words[0] and cwd_of(entry) == folder:
            found["server"] = int(entry.name)
    return found["supervisor"], found.get("server", 0)


def cwd_of(entry: Path) -> Path | None:
    try:
        return (entry / "cwd").readlink()
    except OSError:
        return None
