from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.balance import _SLOT, Balance
from service.guard import EdgeGuard, HeldBytes

BATCH_S = 0.03


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """Answers all that its clients asked in one batch, and is asked again at once."""

    balance: Balance
    clients: int = 0


class Market:
    """Clients that ask again as soon as they are answered; a moved one goes to the worker with the fewest."""

    def __init__(self, folder: Path, clients: list[int]) -> None:
        self.clock = Clock()
        self.workers = [Worker(Balance(folder / "load", len(clients), self.clock)) for _ in clients]
        for worker, count in zip(self.workers, clients, strict=True):
            worker.balance.join()
            worker.clients = count
            for _ in range(count):
                worker.balance.enter()

    def run(self, seconds: float) -> int:
        """Moves in that time. Workers answer in turns."""
        moves = 0
        for _ in range(int(seconds / BATCH_S)):
            for worker in self.workers:
                self.clock.now += BATCH_S / len(self.workers)
                moves += self.answer(worker)
        return moves

    def answer(self, worker: Worker) -> int:
        moves = 0
        for _ in range(worker.clients):
            move = worker.balance.should_move()
            worker.balance.leave()
            moves += move
            if move:
                worker.clients -= 1
                least = min(self.workers, key=lambda one: one.clients)
                least.clients += 1
                least.balance.enter()
        for _ in range(worker.clients):
            worker.balance.enter()
        return moves

    @property
    def clients(self) -> list[int]:
        return [worker.clients for worker in self.workers]


@pytest.mark.parametrize("clients", [[16, 0], [0, 16], [64, 0], [2, 0], [64, 0, 0, 0], [200, 1, 99]])
def test_clients_of_one_worker_are_spread(tmp_path: Path, clients: list[int]) -> None:
    market = Market(tmp_path, clients)
    market.run(5)
    assert max(market.clients) <= 1.25 * min(market.clients) + 2.5
    assert market.run(10) <= 2


@pytest.mark.parametrize("clients", [[1, 0], [8, 8], [32, 32], [9, 7], [1, 1, 1], [16]])
def test_what_is_even_stays(tmp_path: Path, clients: list[int]) -> None:
    market = Market(tmp_path, clients)
    assert market.run(10) == 0
    assert market.clients == clients


def test_no_connection_is_ended_for_a_worker_that_was_killed(tmp_path: Path) -> None:
    killed = f"""
import os
from pathlib import Path
from service.balance import _SLOT, Balance
Balance(Path({str(tmp_path / "load")!r}), 2).join()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    clock = Clock()
    alone = Balance(tmp_path / "load", 2, clock)
    alone.join()
    for _ in range(16):
        alone.enter()
    clock.now += 5
    assert not alone.should_move()


def test_a_worker_that_closed_gets_none_and_leaves_its_place(tmp_path: Path) -> None:
    market = Market(tmp_path, [16, 0])
    market.workers[1].balance.close()
    assert market.run(2) == 0
    market.workers[1].balance = Balance(tmp_path / "load", 2, market.clock)
    market.workers[1].balance.join()
    assert market.run(2) > 0
    assert (tmp_path / "load").stat().st_size == 2 * 2 * 32


def test_an_answer_says_that_its_connection_ends(tmp_path: Path) -> None:
    market = Market(tmp_path, [16, 0])
    market.clock.now += 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"")(scope, receive, send)

    guard = EdgeGuard(
        app,
        methods={"/": ("GET",)},
        max_body_bytes=10,
        body_timeout_s=1,
        held=HeldBytes(10),
        on_refusal=lambda _: None,
        balance=market.workers[0].balance,
        admission=lambda path, headers: None,
    )
    assert TestClient(guard).get("/").headers["connection"] == "close"


def test_a_slot_of_the_dead_is_free_whoever_has_its_process_id_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, say, after the machine was started again."""

    def not_ours(pid: int, number: int) -> None:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "kill", not_ours)
    left = [_SLOT.pack(pid, 9.0, 9.0, 0.0) for pid in (1, 1, 1, 1)]
    (tmp_path / "load").write_bytes(b"".join(left))
    balance = Balance(tmp_path / "load", workers=2)
    balance.join()
    assert balance._own == 0
    assert balance._loads_of_others(0.0) == []
