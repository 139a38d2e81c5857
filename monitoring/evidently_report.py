"""Evidently's report of a window: HTML for people, JSON for programs. Imports Evidently (5 s, 280 MB), so
it belongs into a process of its own.

The decision is the watch's: its verdicts stand on top, and Evidently's pages are made with the same tests.
Embeddings are in the verdicts only, because Evidently draws them with a t-SNE that takes minutes.
"""

from __future__ import annotations

import html
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monitoring.category_test import category_test
from monitoring.number_test import number_test
from monitoring.reports import load_window
from monitoring.streams import KINDS, NOT_THERE, Kind, Streams, known_rows

TESTS = {Kind.NUMBER: number_test, Kind.CATEGORY: category_test}
TITLES = {Kind.NUMBER: "Kolmogorov-Smirnov", Kind.CATEGORY: "Chi-square of homogeneity"}
_COLUMN_LISTS = (
    "numerical_columns",
    "categorical_columns",
    "text_columns",
    "datetime_columns",
    "unknown_columns",
    "list_columns",
)


def write_report(file: Path) -> Path:
    """Write report.html and report.json beside the window.npz; return the page's path."""
    facts, reference, window = load_window(file)
    columns = [
        name for name in facts["levels"] if name in reference and _there(window[name])
    ]  # those that were tested
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Evidently's libraries, in pages of text
        snapshot = _run(facts, columns, reference, window)
        page = snapshot.get_html_str(as_iframe=False)
        (file.parent / "report.json").write_text(snapshot.json())
    target = file.parent / "report.html"
    target.write_text(page.replace("<body>", f"<body>{_summary(facts)}", 1))
    return target


def _run(facts: Mapping[str, Any], columns: Sequence[str], reference: Streams, window: Streams) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = {kind: [c for c in columns if KINDS[c] is kind] for kind in TESTS}
    # A list that is not given is guessed from the data.
    lists: dict[str, list[str]] = {name: [] for name in _COLUMN_LISTS}
    lists |= {"numerical_columns": names[Kind.NUMBER], "categorical_columns": names[Kind.CATEGORY]}
    definition = DataDefinition(**lists)
    tables = [
        Dataset.from_pandas(_frame(columns, streams, facts["names"]), data_definition=definition)
        for streams in (window, reference)
    ]
    methods = {name: register_test(name, facts["levels"][name]) for name in columns}
    preset = DataDriftPreset(
        columns=list(columns),
        per_column_method=methods,
        per_column_threshold=dict.fromkeys(columns, 1.0),
        drift_share=1 / max(1, len(columns)),  # one stream is enough
    )
    return Report([preset]).run(tables[0], tables[1])


def register_test(stream: str, level: float) -> str:
    """Make the stream's test known to Evidently; return its name. Its score is statistic / threshold, so
    that 1 is the limit on every page (a p-value of 0.0002 is shown as 0.00)."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kind = KINDS[stream]
    stat_test = StatTest(
        name=f"aisle_{stream}",
        display_name=f"{TITLES[kind]}, statistic / threshold",
        allowed_feature_types=[ColumnType.Numerical if kind is Kind.NUMBER else ColumnType.Categorical],
        default_threshold=1.0,
    )
    register_stattest(stat_test, default_impl=_as_ratio(TESTS[kind], level))
    return stat_test.name


def _as_ratio(
    test: Callable[[np.ndarray, np.ndarray, float], tuple[float, float, float]], level: float
) -> Callable[[pd.Series, pd.Series, Any, float], tuple[float, bool]]:
    def run(reference: pd.Series, current: pd.Series, _: Any, __: float) -> tuple[float, bool]:
        statistic, threshold, p_value = test(reference.to_numpy(), current.to_numpy(), level)
        return statistic / threshold, p_value <= level

    return run


def _frame(columns: Sequence[str], streams: Streams, names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One column a stream; None or NaN where it is not there."""
    frame = {}
    for name in columns:
        values = streams[name]
        if KINDS[name] is Kind.CATEGORY:
            values = np.array([None if v == NOT_THERE else names[name][v] for v in values], dtype=object)
        frame[name] = values
    return pd.DataFrame(frame)


def _there(values: np.ndarray) -> bool:
    return len(known_rows(values)) > 0


def _summary(facts: Mapping[str, Any]) -> str:
    """What the watch decided, above Evidently's pages."""
    rows = "".join(_row(verdict) for verdict in facts["verdicts"])
    drifted = [verdict["stream"] for verdict in facts["verdicts"] if verdict["alarm"]]
    said = f"Drift in {', '.join(drifted)}." if drifted else "No drift."
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(facts["made_s"]))
    first, last = facts["window"]
    heads = "".join(
        f"<th style='text-align:left;padding:4px 24px 4px 0'>{name}</th>"
        for name in ("stream", "rows", "statistic", "threshold", "ratio", "p-value", "")
    )
    return (
        "<section style='font-family:sans-serif;margin:24px auto;max-width:1100px;padding:0 24px'>"
        f"<h1 style='font-size:24px'>{html.escape(said)}</h1>"
        f"<p>{html.escape(facts['model'])}, predictions {first} to {last}, {when}. A stream drifts where its "
        "ratio, statistic over threshold, reaches 1. Below are Evidently's pages of the streams that are not "
        "embeddings, with the same tests: the current data are the window, the reference is the bundle's.</p>"
        f"<table style='border-collapse:collapse;font-size:14px'><tr>{heads}</tr>{rows}</table></section>"
    )


def _row(verdict: Mapping[str, Any]) -> str:
    numbers = [f"{verdict[name]:.4g}" for name in ("statistic", "threshold", "ratio", "p_value")]
    cells = [verdict["stream"], f"{verdict['rows']:,}", *numbers, "drift" if verdict["alarm"] else ""]
    style = "background:#fde2e1" if verdict["alarm"] else ""
    return (
        f"<tr style='{style}'>"
        + "".join(f"<td style='padding:4px 24px 4px 0'>{c}</td>" for c in cells)
        + "</tr>"
    )
