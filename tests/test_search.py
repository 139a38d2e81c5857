"""A search that is stopped goes on, to the same end."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fit import two_halves_of_a_label

from aisle.errors import SettingError
from training.compare_command import read_fit_settings
from training.fit import FitSettings
from training.runs import Record, open_run
from training.search import SCORE, SEARCHED, search

TRAIN, HELD_OUT = two_halves_of_a_label(120, 0), two_halves_of_a_label(80, 1)
START = FitSettings(variant="concat", hidden_dim=64, epochs=4)


class Stopped(BaseException):
    """As Ctrl-C is: nothing between here and the test catches it."""


class Trials:
    """A tracker that keeps the settings of finished trials, and stops the search after `stop_after`."""

    def __init__(self, stop_after: int) -> None:
        self.settings: dict[str, dict[str, Any]] = {}
        self.finished: list[dict[str, Any]] = []
        self.told: list[Record] = []
        self._stop_after = stop_after

    def tell(self, record: Record) -> None:
        self.told.append(record)
        if record.get("begin") == "trial":
            self.settings[record["run"]] = record["settings"]
        if SCORE in record.get("metrics", {}):
            self.finished.append(self.settings[record["run"]])
            if len(self.finished) > self._stop_after:
                raise Stopped

    def close(self) -> None:
        """Nothing is open."""


def run(
    home: Path, trials: int, *, stop_after: int = 10_000, data: str = "a"
) -> tuple[FitSettings, float, list[dict[str, Any]]]:
    told = Trials(stop_after)
    with open_run([told], "search", {}) as whole:
        settings, score = search(
            TRAIN,
            HELD_OUT,
            np.arange(120),
            START,
            classes=4,
            trials=trials,
            home=home,
            data=data,
            run=whole,
        )
    return settings, score, told.finished


def test_a_stopped_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 5)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", 5, stop_after=2)
    rest = run(tmp_path / "stopped", 5)
    assert rest[:2] == whole[:2]
    assert rest[2] == whole[2][2:]


def test_a_finished_search_is_answered_without_a_trial(tmp_path: Path) -> None:
    first = run(tmp_path, 2)
    again = run(tmp_path, 2)
    assert again[:2] == first[:2]
    assert again[2] == []


def test_the_first_trial_is_what_one_has(tmp_path: Path) -> None:
    _, score, tried = run(tmp_path, 2)
    assert tried[0] == {name: getattr(START, name) for name in SEARCHED}
    assert score > 0


def test_other_data_is_another_search(tmp_path: Path) -> None:
    run(tmp_path, 2)
    assert len(run(tmp_path, 1, data="b")[2]) == 1


def test_no_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="trials: found 0, wanted 1 or more"):
        run(tmp_path, 0)


def test_what_search_wrote_is_read_by_fit(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(asdict(START)))
    assert read_fit_settings(tmp_path / "s.json") == START


@pytest.mark.parametrize("text", ["{}x", '{"depth": 3}', "[1]"])
def test_settings_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SettingError, match="s.json: .*; wanted what `training search` wrote"):
        read_fit_settings(tmp_path / "s.json")


def test_each_epoch_and_the_end_of_a_trial_are_told(tmp_path: Path) -> None:
    told = Trials(10_000)
    with open_run([told], "search", {}) as whole:
        _, score = search(
            TRAIN,
            HELD_OUT,
            np.arange(120),
            START,
            classes=4,
            trials=1,
            home=tmp_path,
            data="a",
            run=whole,
        )
    courses = [
        r["metrics"]["validation_macro_f1"]
        for r in told.told
        if "validation_macro_f1" in r.get("metrics", {})
    ]
    assert max(courses) == score
    assert [record["tags"] for record in told.told if "tags" in record] == [{"outcome": "finished"}]
