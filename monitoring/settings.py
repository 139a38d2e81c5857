"""Every `AISLE_*` variable of the monitor and the retrainer. Read once, at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aisle.environment import (
    DATABASE_URL,
    HOME,
    describe_environment,
    integer,
    read_environment,
    seconds,
    share,
    text,
    variable,
)
from aisle.ledger import ledger_url


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Facts about this deployment. Raises SettingError naming the variable, its value and what is wanted."""

    home: Path = field(metadata=HOME)
    database_url: str = field(metadata=DATABASE_URL, repr=False)
    host: str = field(
        metadata=variable(
            "AISLE_MONITOR_HOST", "127.0.0.1", text("an address"), "where the monitor's metrics are served"
        )
    )
    port: int = field(
        metadata=variable("AISLE_MONITOR_PORT", "9101", integer(0, 65_535), "port of the monitor's metrics")
    )
    interval_s: float = field(
        metadata=variable(
            "AISLE_MONITOR_INTERVAL_S", "5", seconds(0.05, 3_600), "time between looks at the ledger"
        )
    )
    window: int = field(
        metadata=variable("AISLE_WINDOW", "200", integer(50, 10_000), "predictions in a window")
    )
    false_alarm_rate: float = field(
        metadata=variable(
            "AISLE_FALSE_ALARM_RATE",
            "0.002",
            share(0.0005, 0.5),
            "chance of any drift alarm in a window without drift",
        )
    )
    catalog: str = field(
        metadata=variable(
            "AISLE_CATALOG", "", text("a path"), "the catalogue that retraining starts from; empty: none"
        )
    )
    retrain_min_labels: int = field(
        metadata=variable(
            "AISLE_RETRAIN_MIN_LABELS", "200", integer(1, 10_000_000), "new labels that a retraining needs"
        )
    )
    retrain_cooldown_s: float = field(
        metadata=variable(
            "AISLE_RETRAIN_COOLDOWN_S", "3600", seconds(0, 10_000_000), "least time between two retrainings"
        )
    )
    retrain_every_s: float = field(
        metadata=variable(
            "AISLE_RETRAIN_EVERY_S",
            "0",
            seconds(0, 100_000_000),
            "retrain so long after the last time, events or not; 0: only on events",
        )
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        return read_environment(cls, environ)

    @property
    def ledger_url(self) -> str:
        return ledger_url(self.home, self.database_url)

    @property
    def reports(self) -> Path:
        """A folder a report: <time>-<model version>."""
        return self.home / "reports"


def describe() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every variable, for the README and `python -m monitoring settings`."""
    return describe_environment(Settings)
