"""A comparison as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

_COLOURS = {"one modality": "#8c8c8c", "feature": "#1f6feb", "probability": "#2da44e"}


def comparison_table(rows: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """One line a contender, best validation log-loss first."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("contender", no_wrap=True)
    for column in (
        "validation\nlog-loss",
        "\nF1",
        "test macro-F1\n(95 %)",
        "weighted\nF1",
        "\nlog-loss",
        "\nECE",
        "fit\ns",
        "\nMB",
        "\nms",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        test = row["test"]
        macro = test["macro_f1"]
        table.add_row(
            name,
            f"{row['validation_log_loss']:.3f}",
            f"{row['validation_macro_f1']:.3f}",
            f"{macro['value']:.3f} ({macro['low']:.3f}-{macro['high']:.3f})",
            f"{test['weighted_f1']['value']:.3f}",
            f"{test['log_loss']['value']:.3f}",
            f"{row['ece']:.3f}",
            f"{row['fit_s']:.1f}",
            f"{row['size_bytes'] / 1e6:.2f}",
            f"{row['latency_ms']:.3f}",
        )
    return table


def draw_comparison(rows: Mapping[str, Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Macro-F1 on the test products with its interval; lighter dots are single folds."""
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    order = sorted(rows, key=lambda name: rows[name]["test"]["macro_f1"]["value"])
    for place, name in enumerate(order):
        macro, colour = rows[name]["test"]["macro_f1"], _COLOURS[rows[name]["level"]]
        axes.plot([macro["low"], macro["high"]], [place, place], color=colour, linewidth=2)
        folds = rows[name]["fold_macro_f1"]
        axes.plot(folds, [place] * len(folds), "o", color=colour, alpha=0.25, markersize=4)
        axes.plot(macro["value"], place, "o", color=colour)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel("macro-F1, 95 % interval")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    for level, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, label=level)
    axes.legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
