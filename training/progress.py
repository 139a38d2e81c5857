"""One look for every long step: a bar, a count, a rate and the time left."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

TOLD_EVERY_S = 30.0  # in a log

console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


class _RateColumn(ProgressColumn):
    """Steps a second since the task began, smoothed by rich."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "-/s", style="progress.data.speed")


class _Progress(Progress):
    """Where output is no terminal rich shows how a step ended, and nothing until then: here a log gets the
    same line every TOLD_EVERY_S."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        super().__init__(*columns, console=console)
        self._next_s = time.monotonic() + TOLD_EVERY_S

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if self.finished or self.console.is_terminal or now < self._next_s:
            return
        self._next_s = now + TOLD_EVERY_S
        self.console.print(self.get_renderable())


def progress(console: Console = console) -> Progress:
    """A progress display on standard error, to be used as a with-block."""
    return _Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
