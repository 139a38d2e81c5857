"""The timeline of `make loop`: accuracy and drift over time, with what happened when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ANSWERS_A_POINT = 100
STREAMS_SHOWN = 5  # those that rose most

Series = Sequence[tuple[float, float]]


def draw_timeline(
    path: Path,
    *,
    answers: Sequence[tuple[float, bool]],
    ratios: Mapping[str, Series],
    marks: Sequence[tuple[float, str]],
) -> None:
    """Write a PNG. `answers` are (time, whether right), `ratios` (time, statistic over its threshold) by
    stream, `marks` (time, what happened); times are seconds since 1970."""
    began = marks[0][0]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    ordered = sorted(answers)
    times = np.array([at_s for at_s, _ in ordered]) - began
    right = np.array([correct for _, correct in ordered], dtype=float)
    edges = range(ANSWERS_A_POINT, len(ordered) + 1, ANSWERS_A_POINT)
    above.plot(
        [times[edge - 1] for edge in edges],
        [right[edge - ANSWERS_A_POINT : edge].mean() for edge in edges],
        marker=".",
        color="tab:blue",
    )
    above.set(ylabel=f"accuracy, {ANSWERS_A_POINT} answers a point", ylim=(0, 1.02))
    for stream in sorted(ratios, key=lambda name: -max(value for _, value in ratios[name]))[:STREAMS_SHOWN]:
        series = np.array(ratios[stream])
        below.plot(series[:, 0] - began, series[:, 1], label=stream)
    below.axhline(1.0, color="black", linewidth=1, linestyle=":")
    below.set(xlabel="seconds", ylabel="drift: statistic / threshold", yscale="log")
    if ratios:
        below.legend(loc="lower right", fontsize="small")
    for panel in (above, below):
        panel.grid(alpha=0.3)
        for at_s, _ in marks[1:]:
            panel.axvline(at_s - began, color="tab:red", linewidth=1, linestyle="--")
    for at_s, what in marks[1:]:
        above.text(at_s - began, 0.03, f" {what}", rotation=90, fontsize="small", color="tab:red")
    figure.suptitle("The loop closes: shift, alarm, labels, retraining, promotion")
    figure.savefig(path, dpi=110)
