"""The private Redis: shared, persisted, and gone with its last user, even a killed one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis
from redis_processes import process_ids

from aisle.development_redis import ensure_development_redis, redis_server_program
from aisle.errors import FeatureStoreError

USER = """
import sys, time
from pathlib import Path
from aisle.development_redis import ensure_development_redis
print(ensure_development_redis(Path(sys.argv[1])), flush=True)
time.sleep(120)
"""


class User:
    """A process that uses the server of `folder`."""

    def __init__(self, folder: Path, inherited: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True, pass_fds=inherited
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def answers(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def eventually(check: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return False


def test_users_share_one_server_that_outlives_the_first(tmp_path: Path) -> None:
    first, second = User(tmp_path), User(tmp_path)
    assert first.url == second.url
    first.end(signal.SIGKILL)
    time.sleep(0.3)
    assert answers(second.url)
    second.end()
    assert eventually(lambda: not answers(second.url))


def test_the_server_ends_with_a_killed_user_and_keeps_its_data(tmp_path: Path) -> None:
    user = User(tmp_path)
    with redis.Redis.from_url(user.url) as client:
        client.set("kept", "1")
    user.end(signal.SIGKILL)
    assert eventually(lambda: not answers(user.url))
    again = User(tmp_path)
    with redis.Redis.from_url(again.url) as client:
        assert client.get("kept") == b"1"
    again.end()
    assert eventually(lambda: not answers(again.url))


def test_a_killed_supervisor_leaves_no_server_and_the_next_user_starts_both_again(tmp_path: Path) -> None:
    user = User(tmp_path)
    with redis.Redis.from_url(user.url) as client:
        client.set("kept", "1")
    supervisor, server = process_ids(tmp_path)
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: not answers(user.url))
    assert eventually(lambda: not Path(f"/proc/{server}").exists())
    again = User(tmp_path)
    with redis.Redis.from_url(again.url) as client:
        assert client.get("kept") == b"1"
    for one in (user, again):
        one.end()
    assert eventually(lambda: not answers(again.url))


def test_a_killed_server_is_started_again_on_its_port_with_its_data(tmp_path: Path) -> None:
    user = User(tmp_path)
    with redis.Redis.from_url(user.url) as client:
        client.set("kept", "1")
    _, server = process_ids(tmp_path)
    os.kill(server, signal.SIGKILL)
    # 0: the old one is dying, and may still have its socket.
    assert eventually(lambda: process_ids(tmp_path)[1] not in (0, server) and answers(user.url))
    with redis.Redis.from_url(user.url) as client:
        assert client.get("kept") == b"1"
    user.end()
    assert eventually(lambda: not answers(user.url))


def test_a_socket_of_the_first_user_is_not_held_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.set_inheritable(True)
        first = User(tmp_path, inherited=[listening.fileno()])
        second = User(tmp_path)
    first.end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert answers(second.url)
    second.end()


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FeatureStoreError, match="cannot write to .*file/redis .*AISLE_REDIS_URL"):
        ensure_development_redis(tmp_path / "file" / "redis")


TAKES_PORTS = """#!/bin/sh
# redis-server, but the first two times another program has its port.
echo started >> "$FOLDER/starts"
[ "$(wc -l < "$FOLDER/starts")" -le "$FAILURES" ] && exit 1
exec {program} "$@"
"""


def fake_program(folder: Path) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "redis-server"
    program.write_text(TAKES_PORTS.format(program=redis_server_program()))
    program.chmod(0o755)


def test_a_server_whose_port_is_taken_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("FAILURES", "2")
    user = User(tmp_path / "redis")
    assert (tmp_path / "starts").read_text().split() == ["started"] * 3
    assert answers(user.url)
    user.end()
    assert eventually(lambda: not answers(user.url))


def test_a_server_that_never_starts_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("FAILURES", "99")
    done = subprocess.run(
        [sys.executable, "-c", USER, str(tmp_path / "redis")], capture_output=True, text=True, timeout=15
    )
    assert done.returncode == 1
    assert "development Redis: ended at its start: " in done.stderr
    assert "redis-server ended at its start 5 times, the last time with status 1" in done.stderr
    assert not (tmp_path / "redis" / "port").exists()


def test_folders_have_servers_of_their_own(tmp_path: Path) -> None:
    # One folder's name begins with the other's: a server must not be taken for its neighbour's.
    short, long = User(tmp_path / "a"), User(tmp_path / "ab")
    assert short.url != long.url
    for user in (short, long):
        user.end()
    assert eventually(lambda: not answers(short.url) and not answers(long.url))
