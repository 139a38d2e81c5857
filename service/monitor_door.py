"""GET /v1/monitor: how it goes, on one page. Figures that were measured; null for what is not known yet."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from aisle.ledger import DRIFT_STATE, Deployment, Event, Ledger, PredictionFilter, PredictionRecord
from aisle.wilson import wilson
from service.errors import RequestError
from service.ledger_reader import LedgerReader
from service.ledger_wire import time_text
from service.telemetry import Telemetry

NEWEST = 1_000  # predictions, and labels, that are "of late"


@dataclass(frozen=True, kw_only=True)
class Late:
    """What the ledger says of the model in service."""

    deployment: Deployment | None
    newest: Sequence[PredictionRecord]
    correct: int
    labels: int
    drift: Event | None


async def read_monitor(model: str, reader: LedgerReader, telemetry: Telemetry) -> dict[str, Any]:
    """Never raises for want of the ledger: what it would say is then not known."""
    try:
        late = await reader.ask(lambda ledger: _late(ledger, model))
        ledger = "reachable"
    except RequestError as error:
        late, ledger = None, error.reason
    counts = await asyncio.to_thread(telemetry.totals)  # it reads a file a worker and kind of metric
    since = _since(late, model)
    figures = {
        "model": {"version": model, "since": since},
        "uptime_s": round(time.time() - _service_began(), 1),
        "since_start": counts,
        "latency": _latency(late),
        "accepted_share": _accepted_share(late),
        "accuracy": _accuracy(late),
        "drift": _drift(late, model),
        "ledger": ledger,
    }
    unknown = [name for name, value in figures.items() if value is None]
    if since is None:
        unknown.append("model.since")
    return {**figures, "not_known_yet": unknown}


def _late(ledger: Ledger, model: str) -> Late:
    labelled = ledger.labelled_predictions(after=max(0, ledger.newest_label() - NEWEST), model=model)
    return Late(
        deployment=ledger.champion(),
        newest=ledger.page_predictions(PredictionFilter(model=model), limit=NEWEST),
        correct=sum(one.correct for one in labelled),
        labels=len(labelled),
        drift=ledger.last_event(DRIFT_STATE),
    )


def _since(late: Late | None, model: str) -> str | None:
    if late is None or late.deployment is None or late.deployment.model != model:
        return None
    return time_text(late.deployment.at_s)


def _latency(late: Late | None) -> dict[str, Any] | None:
    """Of the newest answers, from when their requests were read."""
    known = sorted(one.latency_s for one in late.newest if one.latency_s is not None) if late else []
    if not known:
        return None
    p99 = known[math.ceil(0.99 * len(known)) - 1]
    return {"p50_s": statistics.median_low(known), "p99_s": p99, "answers": len(known)}


def _accepted_share(late: Late | None) -> float | None:
    return statistics.fmean(one.accepted for one in late.newest) if late and late.newest else None


def _accuracy(late: Late | None) -> dict[str, Any] | None:
    """With its 95 % interval (Wilson, 1927)."""
    if late is None or not late.labels:
        return None
    low, high = wilson(late.correct, late.labels)
    return {"value": late.correct / late.labels, "low": low, "high": high, "labels": late.labels}


def _drift(late: Late | None, model: str) -> Mapping[str, Any] | None:
    """What the monitor said last, of this model."""
    if late is None or late.drift is None or late.drift.detail.get("model") != model:
        return None
    return {**late.drift.detail, "at": time_text(late.drift.at_s)}


def _service_began() -> float:
    """When the process began that supervises the workers."""
    return psutil.Process(os.getppid()).create_time()
