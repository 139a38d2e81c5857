"""Servers as processes: started, awaited, and stopped with all that they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run one system. `{port}` and `{other_port}` in `command` and `environ` are replaced;
    `label` says what it sets. `may_pause` is False for what does not bear to be stopped for a while."""

    system: str
    label: str
    command: Sequence[str]
    ready_path: str
    path: str
    environ: Mapping[str, str] = field(default_factory=dict)
    may_pause: bool = True


def aisle_service(workers: int = 1, *, label: str = "") -> Setting:
    """Our own service."""
    return Setting(
        system="aisle",
        label=label,
        command=["-m", "service", "serve", "--port", "{port}", "--workers", str(workers)],
        ready_path="/readyz",
        path="/v1/classify",
        environ={"AISLE_GRPC_PORT": "{other_port}"},
    )


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: its ports, and the process at the root of its tree."""

    setting: Setting
    port: int
    other_port: int
    pid: int


@contextmanager
def running(
    setting: Setting, environ: Mapping[str, str], log: Path, port: int | None = None
) -> Iterator[Server]:
    """The server of `setting`, ready to answer on `port` (or a free one); at the end its whole process
    group is gone.

    Raises RuntimeError naming the log when it ends, or is not ready after START_TIMEOUT_S.
    """
    port = port or free_port()
    ports = {"port": port, "other_port": free_port()}
    command = [part.format(**ports) for part in setting.command]
    own = {name: value.format(**ports) for name, value in setting.environ.items()}
    with process(command, {**environ, **own}, log) as started:
        _wait_ready(started, f"http://{HOST}:{port}{setting.ready_path}", setting, log)
        yield Server(setting=setting, pid=started.pid, **ports)


@contextmanager
def process(
    command: Sequence[str], environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`python *command`, its output added to `log`; at the end its whole process group is gone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, *command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        stop(started)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then end what is left of its group."""
    try:
        process.terminate()
        _signal_group(process.pid, signal.SIGCONT)  # what is paused hears nothing
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def work_alone(server: Server | None, servers: Sequence[Server]) -> None:
    """Let `server` run and pause the others: LitServe takes a tenth of a core even when it has no work."""
    for other in servers:
        _signal_group(other.pid, signal.SIGCONT if other is server else signal.SIGSTOP)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], url: str, setting: Setting, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{setting.system} ended with {process.returncode}; its log is {log}")
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{setting.system} was not ready after {START_TIMEOUT_S:g} s; its log is {log}")
