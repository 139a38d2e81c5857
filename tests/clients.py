"""Clients that ask what a test tells them to, again and again, until the test has seen enough."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Clients(Generic[T]):
    """A thread for each of `asks`, until the block is left. What they return is in `seen`, what they raise in
    `failures`."""

    def __init__(self, asks: Sequence[Callable[[], T]]) -> None:
        self.seen: list[T] = []
        self.failures: list[str] = []
        self._left = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for ask in asks]

    def __enter__(self) -> Clients[T]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ask: Callable[[], T]) -> None:
        while not self._left.is_set():
            try:
                self.seen.append(ask())
            except Exception as error:
                self.failures.append("; ".join([repr(error), *getattr(error, "__notes__", [])]))
