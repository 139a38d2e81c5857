"""What the figures of `make bench` come to: medians, targets, tables."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.systems import BULK_TARGET, TARGETS, Target

GOODPUT_SHARE = 0.95  # of its peak, when most is offered
REFUSAL_P99_MS = 50.0
UNSENT_SHARE = 0.01  # of what was offered: the generator itself was too slow
FIGURES = ("throughput", "p50_ms", "p99_ms", "cpu_ms")

console = Console(width=None if sys.stdout.isatty() else 120)


def merge(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all rounds to one a name and number of clients: medians, all errors, each round's throughput.
    In a closed loop a refusal is an error."""
    rows = []
    for name, clients in dict.fromkeys((row["name"], row["clients"]) for row in measured):
        own = [row for row in measured if (row["name"], row["clients"]) == (name, clients)]
        known = {figure: [row[figure] for row in own if row[figure] is not None] for figure in FIGURES}
        medians = {figure: round(statistics.median(known[figure]), 3) for figure in FIGURES if known[figure]}
        rows.append(
            {
                "name": name,
                "clients": clients,
                **medians,
                "answers": sum(row["answers"] for row in own),
                "errors": sum(sum(row["errors"].values()) + row["refused"] for row in own),
                "rounds": [round(row["throughput"], 1) for row in own],
            }
        )
    return rows


def merge_offered(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all rounds of the open loop to one a rate: medians of figures, sums of counts."""
    rows = []
    for times in dict.fromkeys(row["times"] for row in measured):
        own = [row for row in measured if row["times"] == times]
        known = {
            figure: [row[figure] for row in own if row[figure] is not None]
            for figure in ("offered", "throughput", "p50_ms", "p99_ms", "refused_p99_ms")
        }
        rows.append(
            {
                "times": times,
                **{
                    name: round(statistics.median(found), 3) if found else None
                    for name, found in known.items()
                },
                **{count: sum(row[count] for row in own) for count in ("answers", "refused", "unsent")},
                "seconds": sum(row["seconds"] for row in own),
                "errors": dict(sum((Counter(row["errors"]) for row in own), Counter[str]())),
                "rounds": [round(row["throughput"], 1) for row in own],
            }
        )
    return rows


def faults(rows: Sequence[Mapping[str, Any]], offered: Sequence[Mapping[str, Any]]) -> list[str]:
    """What went wrong and makes figures worthless. An open loop may run out of time (504), no more."""
    told = [
        f"{row['name']}, {row['clients']} clients: {row['errors']} errors" for row in rows if row["errors"]
    ]
    for row in offered:
        told += [
            f"offered {row['times']:g} times the capacity: {count} x {name}"
            for name, count in row["errors"].items()
            if name != "504"
        ]
        if row["unsent"] > UNSENT_SHARE * row["offered"] * row["seconds"]:
            told.append(f"offered {row['times']:g} times the capacity: {row['unsent']} not sent in time")
    return told


def verdicts(
    rows: Sequence[Mapping[str, Any]], offered: Sequence[Mapping[str, Any]], deadline_ms: float
) -> list[dict[str, Any]]:
    """Each target with what was measured of it; those of systems that were left out are left out."""
    told = [verdict for target in TARGETS if (verdict := _verdict(target, rows)) is not None]
    if bulk := [row["throughput"] for row in rows if row["name"] == "aisle, bulk"]:
        told.append(_told("aisle, bulk: products a second", "at least", BULK_TARGET, max(bulk)))
    if offered:
        most = offered[-1]
        peak = max(row["throughput"] for row in offered) or 1.0
        title = f"offered {most['times']:g} times the capacity"
        share = most["throughput"] / peak
        told.append(_told(f"{title}: goodput, of its peak", "at least", GOODPUT_SHARE, share))
        p99s = {"refusals": ("refused_p99_ms", REFUSAL_P99_MS), "answers": ("p99_ms", deadline_ms)}
        for name, (figure, wanted) in p99s.items():
            if most[figure] is not None:
                told.append(_told(f"{title}: p99 ms of {name}", "at most", wanted, most[figure]))
    return told


def _verdict(target: Target, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    by_key = {(row["name"], row["clients"]): row for row in rows}
    own = by_key.get((target.name, target.clients), {}).get(target.figure)
    other_row = by_key.get((target.over, target.clients)) or by_key.get((target.over, None)) or {}
    other = other_row.get(target.figure)
    if not own or not other:
        return None
    what = {"throughput": "products a second", "cpu_ms": "CPU a product"}[target.figure]
    title = f"{target.name}, {target.clients} clients: {what}, times {target.over}"
    kind = "at most" if target.figure == "cpu_ms" else "at least"
    return _told(title, kind, target.times, own / other)


def _told(title: str, kind: str, wanted: float, found: float) -> dict[str, Any]:
    met = found <= wanted if kind == "at most" else found >= wanted
    return {"target": title, "kind": kind, "wanted": wanted, "found": round(found, 3), "met": met}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],  # ours too: 1, 5 and 15 minutes
    }


def show(report: Mapping[str, Any]) -> None:
    table = Table("system", title="products a second")
    for column in ("clients", "products/s", "p50 ms", "p99 ms", "CPU ms", "errors"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        cells = [f"{row[name]:.2f}" if name in row else "" for name in FIGURES]
        table.add_row(row["name"], str(row["clients"] or ""), *cells, str(row["errors"]))
    console.print(table)
    if report["overload"]["rows"]:
        table = Table(
            title=f"offered more than it can answer, deadline {report['overload']['deadline_ms']} ms"
        )
        for column in ("times", "offered/s", "answered/s", "p99 ms", "refused/s", "p99 ms", "errors"):
            table.add_column(column, justify="right")
        for row in report["overload"]["rows"]:
            cells = [row["offered"], row["throughput"], row["p99_ms"]]
            cells += [row["refused"] / row["seconds"], row["refused_p99_ms"]]
            texts = ["" if value is None else f"{value:.1f}" for value in cells]
            table.add_row(f"{row['times']:g}", *texts, str(sum(row["errors"].values())))
        console.print(table)
    for name in ("milliseconds", "milliseconds_on_one_thread"):
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in report["limit"][name].items())
        console.print(f"bare loop, {name.replace('_', ' ')} a product: {stages}")
    for name, label in report["settings"].items():
        console.print(f"{name}: {label}")
    for verdict in report["targets"]:
        met = "met" if verdict["met"] else "NOT met"
        console.print(
            f"{verdict['target']}: {verdict['found']:.2f}, {verdict['kind']} {verdict['wanted']:g}: {met}"
        )
    console.print(f"{report['seconds']:.0f} s in all")
