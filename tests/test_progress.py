"""Long work shows how far it is, in a terminal and in a log."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from training import progress


def shown(steps: int, *, is_terminal: bool = False) -> str:
    """What is on the screen, or in the log, after so many of ten steps."""
    written = StringIO()
    console = Console(file=written, width=120, force_terminal=is_terminal)
    with progress.progress(console) as bar:
        task = bar.add_task("encode", total=10)
        for _ in range(steps):
            bar.advance(task)
        return written.getvalue()


def test_a_log_is_told_how_far_a_step_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TOLD_EVERY_S", 0.0)
    counts = [line.split()[2] for line in shown(3).splitlines()]
    assert counts == ["1/10", "2/10", "3/10"]


def test_a_log_is_told_now_and_then_alone() -> None:
    assert shown(9) == ""


def test_a_terminal_has_its_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TOLD_EVERY_S", 0.0)
    none, three = (shown(steps, is_terminal=True).count("\n") for steps in (0, 3))
    assert none == three
