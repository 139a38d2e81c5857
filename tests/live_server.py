"""A real server: `python -m service serve` in its own process, on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class LiveServer:
    """Serves the shop in `home` with the code in `root`, run by `python`. Its log is `home`/server.log.
    `trust` is how a client speaks TLS with it, where it does."""

    def __init__(
        self,
        home: Path,
        *,
        workers: int = 1,
        root: Path = ROOT,
        python: str = sys.executable,
        trust: ssl.SSLContext | None = None,
        **settings: str,
    ) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.log = home / "server.log"
        environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("AISLE_", "PROMETHEUS_"))
            },
            "AISLE_HOME": str(home),
            "BENTOML_HOME": str(home / "bentoml"),
            "AISLE_GRPC_PORT": str(self.grpc_port),
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    python,
                    "-m",
                    "service",
                    "serve",
                    "--port",
                    str(self.port),
                    "--workers",
                    str(workers),
                ],
                cwd=root,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = f"{'https' if trust else 'http'}://127.0.0.1:{self.port}"
        self.trust = trust or True
        self.client = httpx.Client(base_url=self.url, timeout=60, verify=self.trust)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                ready = httpx.get(f"{self.url}/readyz", timeout=START_TIMEOUT_S, verify=self.trust)
                if ready.status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(f"the server is not ready; its log ends: {self.log.read_text()[-3_000:]}")

    def classify(self, products: list[dict[str, Any]], **envelope: Any) -> httpx.Response:
        """Each call makes its own connection, so that any worker may get it."""
        return httpx.post(f"{self.url}/v1/classify", json={"products": products, **envelope}, timeout=60)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its line without the value."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def workers(self) -> dict[int, psutil.Process]:
        """The processes that answer, by pid: those that listen on the port, but for their supervisor."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any("_bentoml_impl.worker.service" in word for word in process.cmdline()):
                    found[process.pid] = process
        return found

    def resident_bytes(self) -> int:
        """Of all workers together."""
        return sum(process.memory_info().rss for process in self.workers().values())

    def connections(self) -> dict[int, int]:
        """How many clients' connections each worker holds, by its pid."""
        counts: Counter[int] = Counter()
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for one in process.net_connections(kind="tcp"):
                if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port:
                    counts[process.pid] += 1
        return dict(counts)

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.client.close()
