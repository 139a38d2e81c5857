"""Redis as processes: those of a development server, and one of a test's own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from aisle.child_process import dying_with_parent
from aisle.development_redis import redis_server_program

START_TIMEOUT_S = 20.0


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


class OwnRedis:
    """A server on the data in `folder`, which a test may kill, stop and slow down; no other test has it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"
        self.start()

    def start(self, port: int | None = None) -> None:
        """On `port`, else on its own."""
        port = port or self.port
        command = [
            redis_server_program(),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--save", "", "--logfile", str(self.folder / "redis.log")),
        ]
        self.process = subprocess.Popen(dying_with_parent(command), stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(port):
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()[-1_000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """Connections stay, and the kernel makes new ones; nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(64) == b"+OK\r\n"

    def _answers(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64) == b"+PONG\r\n"
        except OSError:
            return False


class SlowWire:
    """A TCP proxy: what comes back from `upstream_port` is handed on `delay_s` late."""

    def __init__(self, port: int, upstream_port: int, delay_s: float) -> None:
        self.upstream_port = upstream_port
        self.delay_s = delay_s
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, name="slow-wire", daemon=True).start()

    def close(self) -> None:
        """No more connections, and an end to those that are open."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self.upstream_port))
                self._open += [client, upstream]
                for source, target, delay_s in ((client, upstream, 0.0), (upstream, client, self.delay_s)):
                    threading.Thread(target=_hand_on, args=(source, target, delay_s), daemon=True).start()


def _hand_on(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            time.sleep(delay_s)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
