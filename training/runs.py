"""What was tried, with what, and what came of it: the one place that every run reports to.

A run makes records, plain JSON, of what it was told and nothing else; trackers read them: a line in
runs.jsonl, MLflow (training/outbox.py), TensorBoard. One that fails is named once and left out; the run goes
on.
"""

from __future__ import annotations

import base64
import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from aisle.errors import StoppedError
from training.progress import console

FILE = "runs.jsonl"
Record = Mapping[str, Any]


class Tracker(Protocol):
    """Reads records, in order, of a run and of its children. What it raises is shown, once."""

    def tell(self, record: Record) -> None: ...

    def close(self) -> None: ...


class Run:
    """One run. `key` is its name among all runs; `settings` are facts about it, by name, nested or not."""

    def __init__(
        self, trackers: Trackers, kind: str, settings: Mapping[str, Any], *, name: str = "", parent: str = ""
    ) -> None:
        self.key = uuid.uuid4().hex
        self._trackers = trackers
        self._tell(begin=kind, name=name or kind, parent=parent, settings=flat(settings))

    def settings(self, facts: Mapping[str, Any]) -> None:
        """More settings, which were not known when the run began."""
        self._tell(settings=flat(facts))

    def epoch(self, epoch: int, numbers: Mapping[str, Any]) -> None:
        """What was measured in an epoch (from 0), or in any other step that a course is made of."""
        self._tell(metrics=measured(numbers), step=epoch)

    def course(self, history: Iterable[Mapping[str, float]]) -> None:
        """All epochs of a training at once; each says its number as "epoch"."""
        for epoch, numbers in enumerate(history):  # not its number: a head of two parts has two courses
            self.epoch(epoch, {name: value for name, value in numbers.items() if name != "epoch"})

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """What was measured at the end. None, not a number and words are left out."""
        self._tell(metrics=measured(figures), step=0)

    def tags(self, **facts: str) -> None:
        """Facts that runs are found by."""
        self._tell(tags=facts)

    def rename(self, name: str) -> None:
        self._tell(name=name)

    def dataset(self, name: str, fingerprint: str, source: str) -> None:
        """What it was trained on: a catalogue's name, its sha256 and where it lay."""
        self._tell(dataset={"name": name, "fingerprint": fingerprint, "source": source})
        self.tags(data_fingerprint=fingerprint)

    def file(self, name: str, content: bytes) -> None:
        """A file to keep with the run: a picture, a card."""
        self._tell(file=name, content=base64.b64encode(content).decode())

    def json(self, name: str, facts: Any) -> None:
        self.file(name, (json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n").encode())

    @contextmanager
    def child(self, kind: str, settings: Mapping[str, Any], *, name: str = "") -> Iterator[Run]:
        """A run within this one."""
        with _ended(Run(self._trackers, kind, settings, name=name, parent=self.key)) as child:
            yield child

    def end(self, status: str) -> None:
        """Close it as FINISHED, FAILED or KILLED."""
        self._tell(end=status)

    def _tell(self, **facts: Any) -> None:
        self._trackers.tell({"run": self.key, "at_ms": time.time_ns() // 1_000_000, **facts})


class Trackers:
    """Those who read the records of a run."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def tell(self, record: Record) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.tell(record)
            except Exception as error:  # whatever it is, it is no reason to end a training
                self._trackers.remove(tracker)
                _warn(type(tracker).__name__, error)

    def close(self) -> None:
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                _warn(type(tracker).__name__, error)


@contextmanager
def open_run(trackers: Iterable[Tracker], kind: str, settings: Mapping[str, Any]) -> Iterator[Run]:
    """A run that `trackers` are told of, from its beginning to its end, however it ends."""
    told = Trackers(trackers)
    try:
        with _ended(Run(told, kind, settings)) as run:
            yield run
    finally:
        told.close()


@contextmanager
def _ended(run: Run) -> Iterator[Run]:
    try:
        yield run
    except StoppedError as error:
        run.tags(reason=str(error)[:500])
        run.end("KILLED")
        raise
    except Exception as error:
        run.tags(reason=f"{type(error).__name__}: {error}"[:500])
        run.end("FAILED")
        raise
    except BaseException:
        run.end("KILLED")
        raise
    run.end("FINISHED")


class RunsFile:
    """A line a run in `home`/runs.jsonl when it ends, in one write: two processes do not mix their lines."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._open: dict[str, dict[str, Any]] = {}

    def tell(self, record: Record) -> None:
        if "begin" in record:
            self._open[record["run"]] = {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record["at_ms"] / 1_000)),
                "kind": record["begin"],
                "run": record["run"],
                "parent": record["parent"],
                "settings": {},
                "metrics": {},
                "tags": {},
            }
        line = self._open[record["run"]]
        for part in ("settings", "metrics", "tags"):
            line[part] |= record.get(part, {})
        if "end" in record:
            self._write({**line, "status": record["end"]})

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, line: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts as `outer.inner`."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def measured(figures: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among nested figures, as `outer.inner`."""
    return {
        name: float(value)
        for name, value in flat(figures).items()
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    }


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """What fails inside is named and left: how a run is told of is no reason to end it. A decorator, too."""
    try:
        yield
    except Exception as error:
        _warn(what, error)


def _warn(who: str, error: Exception) -> None:
    what = f"tracking ({who}): {error or type(error).__name__}; training is not affected"
    console.print(what, style="yellow", highlight=False, markup=False, soft_wrap=True)
