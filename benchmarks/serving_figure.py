"""`make bench` as a picture: throughput and p99 over concurrency, and what happens under too much load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LINES = {  # name of a row: label, colour, style
    "aisle": ("Aisle (photo, stored text)", "tab:blue", "-"),
    "aisle, cold": ("Aisle (photo and text computed)", "tab:blue", "--"),
    "litserve": ("LitServe", "tab:orange", "-"),
    "bentoml": ("BentoML as documented", "tab:green", "-"),
    "ray": ("Ray Serve", "tab:purple", "-"),
    "fastapi": ("FastAPI", "tab:red", "-"),
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of what `python -m benchmarks.serving` measured."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    (throughput, latency), (goodput, waits) = figure.subplots(2, 2)
    for name, (label, colour, style) in LINES.items():
        rows = [row for row in report["rows"] if row["name"] == name and row.get("p99_ms")]
        clients = [row["clients"] for row in rows]
        look: dict[str, Any] = {"label": label, "color": colour, "linestyle": style, "marker": "o"}
        throughput.plot(clients, [row["throughput"] for row in rows], **look)
        latency.plot(clients, [row["p99_ms"] for row in rows], **look)
    loop = next(row["throughput"] for row in report["rows"] if row["name"] == "bare loop")
    throughput.axhline(loop, color="black", linestyle=":", label="bare loop, no server (stored text)")
    _name(throughput, "clients at once", "products a second", "Throughput")
    _name(latency, "clients at once", "p99, ms", "Latency")
    latency.set_yscale("log")
    for panel in (throughput, latency):
        panel.set_xscale("log", base=2)
        ticks = sorted({row["clients"] for row in report["rows"] if row["clients"]})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
    throughput.set_ylim(0, 1.5 * loop)  # room for the legend
    throughput.legend(fontsize="small", loc="upper left")
    _draw_overload(report["overload"], goodput, waits)
    cores, cpu = report["machine"]["cores"], report["machine"]["cpu"]
    figure.suptitle(
        f"One model, one machine ({cores} cores, {cpu}), one run; products of 60 tokens and a photo"
    )
    figure.savefig(path, dpi=110)


def _draw_overload(overload: Mapping[str, Any], goodput: Axes, waits: Axes) -> None:
    rows = overload["rows"]
    offered = [row["offered"] for row in rows]
    goodput.plot(offered, [row["throughput"] for row in rows], marker="o", label="answered")
    refused = [row["refused"] / row["seconds"] for row in rows]
    goodput.plot(offered, refused, marker="o", color="tab:gray", label="refused (429)")
    _name(
        goodput, "products offered a second, open loop", "a second", "Aisle offered more than it can answer"
    )
    goodput.legend(fontsize="small")
    waits.plot(offered, [row["p99_ms"] for row in rows], marker="o", label="answers")
    timed = [row for row in rows if row["refused_p99_ms"] is not None]
    waits.plot(
        [row["offered"] for row in timed],
        [row["refused_p99_ms"] for row in timed],
        marker="o",
        color="tab:gray",
        label="refusals",
    )
    waits.axhline(overload["deadline_ms"], color="black", linestyle=":", label="the clients' deadline")
    waits.set_yscale("log")
    _name(waits, "products offered a second, open loop", "p99, ms", "Latency of answers and refusals")
    waits.legend(fontsize="small")


def _name(panel: Axes, x: str, y: str, title: str) -> None:
    panel.set(xlabel=x, ylabel=y, title=title)
    panel.grid(alpha=0.3)
