"""The private Redis: shared, persisted, and gone with its last user, even a killed one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis

USER = """
import sys, time
from pathlib import Path
from aisle.development_redis import ensure_development_redis
print(ensure_development_redis(Path(sys.argv[1])), flush=True)
time.sleep(120)
"""


class User:
    """A process that uses the server of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True
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


def test_folders_have_servers_of_their_own(tmp_path: Path) -> None:
    # One folder's name begins with the other's: a server must not be taken for its neighbour's.
    short, long = User(tmp_path / "a"), User(tmp_path / "ab")
    assert short.url != long.url
    for user in (short, long):
        user.end()
    assert eventually(lambda: not answers(short.url) and not answers(long.url))
