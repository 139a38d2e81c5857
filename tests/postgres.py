"""A real PostgreSQL on a free port, in a folder that goes when it stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live_server import free_port
from programs import program

USER = "aisle"


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of an empty database. (As root, the server runs as the user that Debian's package made.)"""
    # Not pytest's tmp_path: its folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="aisle-postgres-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    arguments = ["-D", str(data), "-U", USER, "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8"]
    try:
        _run([program("initdb"), *arguments], user, folder)
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        control = [program("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
        _run([*control, "-o", options, "start"], user, folder)
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], user, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], user: str | None, folder: Path) -> None:
    # No pipes: the server would hold them open.
    subprocess.run(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, check=True)
