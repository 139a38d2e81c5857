"""A run tells its trackers what was measured, nothing else, and is not stopped by them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aisle.errors import StoppedError
from training.runs import FILE, Record, RunsFile, flat, harmless, measured, open_run


class Records:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Record] = []
        self.closed = 0

    def tell(self, record: Record) -> None:
        self.told.append(record)

    def close(self) -> None:
        self.closed += 1

    def of(self, name: str) -> list[Any]:
        return [record[name] for record in self.told if name in record]


class Broken(Records):
    def tell(self, record: Record) -> None:
        super().tell(record)
        raise OSError("no space left")


def lines(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / FILE).read_text().splitlines()]


def test_nothing_is_told_that_was_not_measured() -> None:
    figures = {
        "a": {"b": np.float32(0.5), "none": None, "nan": math.nan},
        "words": "x",
        "yes": True,
        "all": [1],
    }
    assert measured(figures) == {"a.b": 0.5}


def test_settings_are_flat() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": "x"}) == {"a.b": 1, "a.c.d": None, "e": "x"}


def test_a_run_is_a_line_with_what_was_last_told(tmp_path: Path) -> None:
    with open_run([RunsFile(tmp_path)], "fit", {"seed": 3}) as run:
        run.epoch(0, {"loss": 2.0})
        run.epoch(1, {"loss": 1.0})
        run.tags(why="é")
    [line] = lines(tmp_path)
    assert (line["kind"], line["status"], line["parent"]) == ("fit", "FINISHED", "")
    assert (line["settings"], line["metrics"], line["tags"]) == ({"seed": 3}, {"loss": 1.0}, {"why": "é"})


def test_a_child_names_its_parent(tmp_path: Path) -> None:
    with open_run([RunsFile(tmp_path)], "search", {}) as run, run.child("trial", {"rate": 0.1}):
        pass
    trial, search = lines(tmp_path)
    assert (trial["kind"], trial["parent"], search["run"]) == ("trial", run.key, run.key)


def test_a_run_that_was_stopped_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(StoppedError), open_run([RunsFile(tmp_path)], "tune-text", {}):
        raise StoppedError("stopped by SIGTERM after step 3")
    [line] = lines(tmp_path)
    assert (line["status"], line["tags"]) == ("KILLED", {"reason": "stopped by SIGTERM after step 3"})


def test_a_course_is_told_epoch_by_epoch() -> None:
    records = Records()
    with open_run([records], "fit", {}) as run:
        run.course([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}, {"epoch": 0, "loss": 3.0}])
    assert records.of("metrics") == [{"loss": 2.0}, {"loss": 1.0}, {"loss": 3.0}]
    assert records.of("step") == [0, 1, 2]


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such thing"), open_run([RunsFile(tmp_path)], "fit", {}):
        raise ValueError("no such thing")
    [line] = lines(tmp_path)
    assert (line["status"], line["tags"]) == ("FAILED", {"reason": "ValueError: no such thing"})


def test_ctrl_c_kills_the_run_and_its_children() -> None:
    records = Records()
    with pytest.raises(KeyboardInterrupt), open_run([records], "search", {}) as run, run.child("trial", {}):
        raise KeyboardInterrupt
    assert records.of("end") == ["KILLED", "KILLED"]
    assert records.closed == 1


def test_a_tracker_that_fails_is_named_once_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    broken, records = Broken(), Records()
    with open_run([broken, records], "fit", {}) as run:
        run.metrics({"f1": 0.5})
    assert len(broken.told) == 1
    assert records.of("metrics") == [{"f1": 0.5}]
    said = capsys.readouterr().err
    assert said.count("tracking (Broken): no space left; training is not affected") == 1


def test_a_run_without_trackers_is_a_run() -> None:
    with open_run([], "fit", {}) as run:
        run.metrics({"f1": 0.5})


def test_what_fails_in_telling_is_named_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    with harmless("pictures"):
        raise ValueError("no colour")
    assert "tracking (pictures): no colour; training is not affected" in capsys.readouterr().err
