"""Figures of a classifier's trustworthiness, as matplotlib figures; `png` makes a file of one.

Nothing is drawn that was not measured: each takes what training/confidence.py found.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from training.confidence import Bin, RiskCoverage

_BLUE, _GREY, _RED = "#1f77b4", "#7f7f7f", "#d62728"


def draw_reliability(bins: Sequence[Bin], *, ece: float) -> Figure:
    """Accuracy over confidence with 95 % intervals, and below it how many products each bin holds."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    confidence = [one.confidence for one in bins]
    accuracy = [one.accuracy for one in bins]
    # Where all are right, rounding may put the bound below the accuracy.
    bounds = [
        [max(0.0, one.accuracy - one.low) for one in bins],
        [max(0.0, one.high - one.accuracy) for one in bins],
    ]
    above.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="as often right as said")
    above.errorbar(
        confidence, accuracy, yerr=bounds, color=_BLUE, marker="o", capsize=3, label="measured, 95 % interval"
    )
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=f"Reliability: ECE {ece:.3f}")
    above.legend(loc="upper left", fontsize="small", frameon=False)
    below.bar(
        [one.start for one in bins],
        [one.products for one in bins],
        width=[0.94 * (one.stop - one.start) for one in bins],
        align="edge",
        color=_BLUE,
    )
    below.set(xlabel="confidence", ylabel="products", yscale="log")
    below.set_ylim(bottom=0.5)  # one product is to be seen
    above.grid(alpha=0.3)
    return figure


def draw_risk_coverage(
    curves: Mapping[str, RiskCoverage], *, target_error: float, accepted: tuple[float, float] | None
) -> Figure:
    """Error over the share of products that are answered without a person, a line a name. `accepted` is
    (share, error) of the products that the threshold accepts; None where it accepts none."""
    figure = Figure(figsize=(5.8, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        label = f"{name} (AURC {curve.aurc:.4f}, at best {curve.aurc_best:.4f})"
        axes.plot([100 * share for share in curve.coverage], [100 * risk for risk in curve.risk], label=label)
    axes.axhline(100 * target_error, color=_RED, linestyle=":", label=f"target, {target_error:.1%}")
    if accepted is not None:
        share, error = accepted
        label = f"accepted: {share:.1%}, {error:.1%} wrong"
        axes.plot([100 * share], [100 * error], "o", color=_RED, label=label)
    axes.set(
        xlabel="products answered, the surest first, %",
        ylabel="of these wrong, %",
        xlim=(0, 100),
        title="Risk and coverage",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    return figure


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
