"""What the benchmark's figures come to, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.serving_figure import draw
from benchmarks.serving_report import faults, merge, merge_offered, verdicts
from benchmarks.systems import CLIENTS, TRAFFIC


def row(name: str, clients: int | None, throughput: float, **other: Any) -> dict[str, Any]:
    figures = {"throughput": throughput, "p50_ms": 5.0, "p99_ms": 9.0, "cpu_ms": 4.0, "answers": 100}
    return {"name": name, "clients": clients, **figures, "errors": {}, "refused": 0, **other}


def test_rounds_are_merged_to_medians_and_every_error_counts() -> None:
    rounds = [
        row("aisle", 32, 400, errors={"503": 2}),
        row("aisle", 32, 500, refused=1),
        row("aisle", 32, 410, p99_ms=None),
        row("ray", 32, 80),
    ]
    aisle, ray = merge(rounds)
    assert (aisle["throughput"], aisle["p99_ms"], aisle["answers"], aisle["errors"]) == (410, 9.0, 300, 3)
    assert aisle["rounds"] == [400, 500, 410]
    assert ray["errors"] == 0


def offered(times: float, throughput: float, **other: Any) -> dict[str, Any]:
    return {"times": times, "offered": times * 100, "seconds": 8.0, **row("", None, throughput, **other)}


def test_targets_are_judged_by_what_was_measured() -> None:
    rows = merge(
        [
            row("aisle", 32, 400, cpu_ms=5.2),
            row("fastapi", 32, 50),
            row("litserve", 32, 101),
            row("bare loop", None, 600),
            row("aisle, bulk", 1, 5_000),
            row("aisle, bulk", 4, 7_000),
        ]
    )
    most = [offered(1, 100), offered(3, 94, refused=80, refused_p99_ms=20.0, p99_ms=990.0)]
    found = {v["target"]: (v["found"], v["met"]) for v in verdicts(rows, most, deadline_ms=1_000)}
    assert found == {
        "aisle, 32 clients: products a second, times fastapi": (8.0, True),
        "aisle, 32 clients: products a second, times litserve": (pytest.approx(3.96, abs=0.001), False),
        "aisle, 32 clients: CPU a product, times bare loop": (1.3, False),
        "aisle, bulk: products a second": (7_000, True),
        "offered 3 times the capacity: goodput, of its peak": (0.94, False),
        "offered 3 times the capacity: p99 ms of refusals": (20.0, True),
        "offered 3 times the capacity: p99 ms of answers": (990.0, True),
    }


def test_rounds_of_the_open_loop_are_merged_and_only_running_out_of_time_is_forgiven() -> None:
    none = {"refused": 0, "refused_p99_ms": None, "unsent": 0, "errors": {}}
    rounds = [
        offered(1, 90, **none),
        offered(3, 80, **{**none, "refused": 70, "refused_p99_ms": 9.0, "errors": {"504": 2}}),
        offered(1, 100, **none),
        offered(3, 90, **{**none, "refused": 80, "unsent": 2, "errors": {"OSError": 1, "504": 1}}),
    ]
    once, thrice = merge_offered(rounds)
    assert (once["throughput"], once["refused_p99_ms"], once["seconds"]) == (95, None, 16)
    assert (thrice["throughput"], thrice["refused"], thrice["refused_p99_ms"]) == (85, 150, 9.0)
    assert thrice["errors"] == {"504": 3, "OSError": 1}
    assert faults(merge([row("aisle", 32, 400)]), [once]) == []
    assert faults(merge([row("aisle", 32, 400, refused=2)]), [thrice]) == [
        "aisle, 32 clients: 2 errors",
        "offered 3 times the capacity: 1 x OSError",
    ]
    assert faults([], [{**once, "unsent": 17}]) == ["offered 1 times the capacity: 17 not sent in time"]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    names = [traffic.name for own in TRAFFIC.values() for traffic in own if traffic.clients == CLIENTS]
    rows = merge([row(name, clients, 100.0) for name in names for clients in CLIENTS])
    report = {
        "rows": [*rows, *merge([row("bare loop", None, 600.0)])],
        "overload": {"deadline_ms": 1_000, "rows": [offered(1, 100, refused_p99_ms=None), offered(3, 94)]},
        "machine": {"cores": 2, "cpu": "a processor"},
    }
    report["overload"]["rows"][1]["refused_p99_ms"] = 4.0
    draw(report, tmp_path / "serving.png")
    with Image.open(tmp_path / "serving.png") as picture:
        assert picture.width > 1_000
