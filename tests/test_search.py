"""A search that is stopped goes on, to the same end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fit import two_halves_of_a_label

from aisle.errors import SettingError
from training.compare_command import read_fit_settings
from training.fit import FitSettings
from training.runs import FILE, log_run
from training.search import SEARCHED, search

TRAIN, HELD_OUT = two_halves_of_a_label(120, 0), two_halves_of_a_label(80, 1)
START = FitSettings(variant="concat", hidden_dim=64, epochs=4)


class Stopped(BaseException):
    """As Ctrl-C is: nothing between here and the test catches it."""


def run(
    home: Path, trials: int, *, stop_after: int = 10_000, data: str = "a"
) -> tuple[FitSettings, float, list[dict[str, Any]]]:
    tried: list[dict[str, Any]] = []

    def finished(found: Mapping[str, Any], score: float) -> None:
        tried.append(dict(found))
        if len(tried) > stop_after:
            raise Stopped

    settings, score = search(
        TRAIN,
        HELD_OUT,
        np.arange(120),
        START,
        classes=4,
        trials=trials,
        home=home,
        data=data,
        finished=finished,
    )
    return settings, score, tried


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


def test_runs_are_lines(tmp_path: Path) -> None:
    for number in range(2):
        log_run(tmp_path, "compare", settings={"seed": number}, metrics={"macro_f1": 0.5}, note="é")
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["settings"]["seed"] for line in lines] == [0, 1]
    assert lines[0]["metrics"] == {"macro_f1": 0.5}
