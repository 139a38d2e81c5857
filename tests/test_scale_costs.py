"""What a catalogue costs, by hand."""

from __future__ import annotations

import pytest

from benchmarks.scale_costs import cost_table, costs

FIGURES = {
    "cpu_ms": {"encode": 10.0, "publish": 0.4, "fit": 0.36, "score": 0.05},
    "fit_bytes": 3_840,
    "shard_bytes": 4_000,
    "memory_bytes": {"catalogue": 800, "shards": 200},
    "redis": {"both": {"bytes": 4_600}, "both, float16": {"bytes": 2_700}},
    "ledger_bytes": {"with embeddings": 4_500, "without": 700},
}


def test_ten_million_products() -> None:
    assert costs(FIGURES, 10_000_000) == {
        "encode_hours": pytest.approx(100_000 / 3_600),
        "cores_for_a_day": pytest.approx(100_000 / 86_400),
        "encode_memory_gb": pytest.approx(10),
        "publish_hours": pytest.approx(4_000 / 3_600),
        "fit_hours": pytest.approx(1),
        "fit_memory_gb": pytest.approx(38.4),
        "score_hours": pytest.approx(500 / 3_600),
        "shards_gb": pytest.approx(40),
        "redis_float32_gb": pytest.approx(46),
        "redis_float16_gb": pytest.approx(27),
        "ledger_gb": pytest.approx(45),
    }


def test_figures_are_told_in_two_digits() -> None:
    lines = cost_table(FIGURES)
    assert lines[0] == "| | 85 thousand | 10 million | 1,000 million |"
    assert "| Redis, float32, GB | 0.39 | 46 | 4,600 |" in lines
    assert "| shards on disk, GB | 0.34 | 40 | 4,000 |" in lines
