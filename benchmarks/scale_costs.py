"""From what one product costs to what a catalogue costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CATALOGUES = {"85 thousand": 85_000, "10 million": 10_000_000, "1,000 million": 1_000_000_000}
_HOUR_S = 3_600
_DAY_S = 24 * _HOUR_S


def costs(figures: Mapping[str, Any], products: int) -> dict[str, float]:
    """Of `products` with a text and a picture each: hours of one core as those that were measured, how many
    cores encode within a day, and gigabytes (10^9 bytes)."""
    encode_s, publish_s, fit_s, score_s = (
        products * figures["cpu_ms"][name] / 1e3 for name in ("encode", "publish", "fit", "score")
    )
    return {
        "encode_hours": encode_s / _HOUR_S,
        "cores_for_a_day": encode_s / _DAY_S,
        "encode_memory_gb": products * sum(figures["memory_bytes"].values()) / 1e9,
        "publish_hours": publish_s / _HOUR_S,
        "fit_hours": fit_s / _HOUR_S,
        "fit_memory_gb": products * figures["fit_bytes"] / 1e9,
        "score_hours": score_s / _HOUR_S,
        "shards_gb": products * figures["shard_bytes"] / 1e9,
        "redis_float32_gb": products * figures["redis"]["both"]["bytes"] / 1e9,
        "redis_float16_gb": products * figures["redis"]["both, float16"]["bytes"] / 1e9,
        "ledger_gb": products * figures["ledger_bytes"]["with embeddings"] / 1e9,
    }


_ROWS = {
    "encode text and picture, core hours": "encode_hours",
    "cores that encode it within a day": "cores_for_a_day",
    "memory of the process that writes the shards, GB": "encode_memory_gb",
    "publish, core hours": "publish_hours",
    "fit on all of it, core hours": "fit_hours",
    "memory that this takes, GB": "fit_memory_gb",
    "score again, core hours": "score_hours",
    "shards on disk, GB": "shards_gb",
    "Redis, float32, GB": "redis_float32_gb",
    "Redis, float16, GB": "redis_float16_gb",
    "ledger, a prediction a product, GB": "ledger_gb",
}


def cost_table(figures: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: a column a catalogue."""
    columns = [costs(figures, products) for products in CATALOGUES.values()]
    head = ["| | " + " | ".join(CATALOGUES) + " |", "|---|" + "---|" * len(columns)]
    return head + [
        f"| {label} | " + " | ".join(_told(column[name]) for column in columns) + " |"
        for label, name in _ROWS.items()
    ]


def _told(value: float) -> str:
    """Two significant digits, which is more than the rates are good for."""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"
