"""The report's figures: each as a drawing and as a table that says the same.

Shapes: N products, C categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from training.charts import Dot, Line, bar, matrix, plot, share_range
from training.confidence import Bin, RiskCoverage, reliability, risk_coverage
from training.page import Block, Figure, Paragraph, Table
from training.share import Share, share_of
from training.slices import Slice
from training.verdicts import Verdicts

MATRIX_CATEGORIES = 60  # more would not be readable
_CONFUSIONS = 20
_COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def interval(share: Share | Bin) -> str:
    """A share's 95 % interval in words."""
    return f"{share.low:.1%} to {share.high:.1%}"


def comparison(
    metrics: Mapping[str, Any], verdicts: Verdicts, present_N2: np.ndarray, train_label_N: np.ndarray
) -> list[Block]:
    """The classifier beside what each modality says alone, and beside the largest category for all."""
    answers = (("text", verdicts.text_answer_N, 0), ("image", verdicts.image_answer_N, 1))
    rows = [_largest_category(verdicts, train_label_N)]
    for name, answer_N, column in answers:
        if metrics[name] is not None:
            has_N = present_N2[:, column] > 0
            correct_N = (answer_N == verdicts.label_N)[has_N]
            share = share_of(correct_N, verdicts.group_N[has_N])
            rows.append(_scored(f"{name} alone", metrics[name], share))
    rows.append(_scored("fused", metrics["fused"], share_of(verdicts.correct_N, verdicts.group_N)))
    return [
        Table(
            caption="On the test split. Text alone is scored on the products that have text, image alone on "
            "those with a picture; fused on all, which is the harder set.",
            head=("", "products", "macro-F1", "weighted-F1", "accuracy", "95% interval", "log-loss"),
            rows=rows,
        )
    ]


def _scored(name: str, scores: Mapping[str, float], share: Share) -> Sequence[str]:
    return (
        name,
        f"{share.products:,}",
        f"{scores['macro_f1']:.3f}",
        f"{scores['weighted_f1']:.3f}",
        f"{scores['accuracy']:.1%}",
        interval(share),
        f"{scores['log_loss']:.3f}",
    )


def _largest_category(verdicts: Verdicts, train_label_N: np.ndarray) -> Sequence[str]:
    """What is reached without looking: every product into the largest category of the training split."""
    answer_N = np.full(len(verdicts), np.bincount(train_label_N, minlength=1).argmax())
    share = share_of(answer_N == verdicts.label_N, verdicts.group_N)
    macro, weighted = (
        float(f1_score(verdicts.label_N, answer_N, average=average, zero_division=0))
        for average in ("macro", "weighted")
    )
    return (
        "the largest category for all",
        f"{share.products:,}",
        f"{macro:.3f}",
        f"{weighted:.3f}",
        f"{share.value:.1%}",
        interval(share),
        "–",
    )


def by_category(per_class: Sequence[Mapping[str, Any]], verdicts: Verdicts) -> list[Block]:
    """F1 bars, the worst first."""
    rows: list[Sequence[str]] = []
    for row in sorted(per_class, key=lambda row: (row["f1"], row["code"])):
        name = row["code"] if row["code"] == row["name"] else f"{row['code']} {row['name']}"
        drawn = bar(row["f1"]) if row["products"] else bar(0.0)
        scores = [f"{row[key]:.3f}" for key in ("f1", "precision", "recall")]
        rows.append((name, drawn, *(scores if row["products"] else "–––"), f"{row['products']:,}"))
    return [
        Table(
            caption="The worst first; – where the test split has no product of a category",
            head=("category", "F1", "", "precision", "recall", "products"),
            rows=rows,
            words=2,
        )
    ]


def confusion_blocks(verdicts: Verdicts, names: Sequence[str]) -> list[Block]:
    """The confusion matrix, and its largest entries off the diagonal as a table."""
    count_CC = verdicts.confusion(len(names))
    wrong_CC = count_CC * ~np.eye(len(names), dtype=bool)
    label_N = count_CC.sum(axis=1)
    pairs = [divmod(int(at), len(names)) for at in np.argsort(-wrong_CC, axis=None, kind="stable")]
    rows = [
        (names[i], names[j], f"{wrong_CC[i, j]:,}", f"{wrong_CC[i, j] / label_N[i]:.1%}")
        for i, j in pairs[:_CONFUSIONS]
        if wrong_CC[i, j]
    ]
    table = Table(
        caption="The most frequent confusions",
        head=("true", "answered", "products", "share of the true ones"),
        rows=rows,
        words=2,
    )
    shown = _most_confused(wrong_CC)
    says = f"Confusion matrix of {len(shown)} categories; the table below names its largest entries"
    caption = (
        "Rows are the true categories, columns the answers; figures are products, shades shares of a row."
    )
    if len(shown) < len(names):
        caption += f" Of {len(names)} categories, the {len(shown)} with the most wrong answers."
    chosen_CC = count_CC[np.ix_(shown, shown)]
    figure = Figure(
        caption=caption, drawing=matrix(says, chosen_CC, [names[i] for i in shown]), table=None, wide=True
    )
    return [figure, table] if rows else [figure, Paragraph(words="No test product was answered wrongly.")]


def _most_confused(wrong_CC: np.ndarray) -> np.ndarray:
    errors_C = wrong_CC.sum(axis=0) + wrong_CC.sum(axis=1)
    return np.sort(np.argsort(-errors_C, kind="stable")[:MATRIX_CATEGORIES])


def confidence_blocks(verdicts: Verdicts, metrics: Mapping[str, Any]) -> list[Block]:
    """Reliability and risk-coverage."""
    bins = reliability(verdicts.confidence_N, verdicts.correct_N, verdicts.group_N)
    return [_reliability(bins, metrics["ece"]), _risk(verdicts, metrics)]


def _reliability(bins: Sequence[Bin], ece: float) -> Figure:
    rows = [
        (
            f"{b.start:.0%} to {b.stop:.0%}",
            f"{b.products:,}",
            f"{b.confidence:.1%}",
            f"{b.accuracy:.1%}",
            interval(b),
        )
        for b in bins
    ]
    dots = [Dot(x=b.confidence, y=b.accuracy, low=b.low, high=b.high) for b in bins]
    return Figure(
        caption=f"Reliability: of answers with a confidence of 80%, 80% should be right. Expected "
        f"calibration error {ece:.3f}; the lines are 95% intervals.",
        drawing=plot(
            f"Reliability diagram with {len(bins)} bins; expected calibration error {ece:.3f}",
            x_label="mean confidence",
            y_label="right",
            lines=[Line(x_K=(0, 1), y_K=(0, 1), style="guide")],
            dots=dots,
        ),
        table=Table(
            caption="Reliability as numbers",
            head=("confidence", "products", "mean", "right", "95% interval"),
            rows=rows,
            folded=True,
        ),
    )


def _risk(verdicts: Verdicts, metrics: Mapping[str, Any]) -> Figure:
    curve, target = risk_coverage(verdicts.confidence_N, verdicts.correct_N), metrics["target_error"]
    shown = curve.thinned()
    accepted = metrics["accepted_share"]
    dots = [Dot(x=accepted, y=metrics["accepted_error"], style="bad")] if accepted else []
    served = (
        f"As served (the dot) {accepted:.1%} are accepted, {metrics['accepted_error']:.1%} of them wrong"
        if accepted
        else "As served nothing is accepted"
    )
    apart = (
        " The dot may lie off the line: products with text, picture or both have thresholds of their own."
        if accepted
        else ""
    )
    return Figure(
        caption=f"Risk and coverage: the error among the surest products, over how many are kept. {served}; "
        f"the target, dashed, is {target:.1%}. Area under the curve (AURC) {curve.aurc:.4f}; "
        f"{curve.aurc_best:.4f} if the wrong answers were the least sure ones.{apart}",
        drawing=plot(
            f"Risk-coverage curve; error {curve.risk_at(1.0):.1%} when all are kept. {served}",
            x_label="products kept",
            y_label="wrong",
            lines=[
                Line(x_K=shown.coverage, y_K=shown.risk),
                Line(x_K=(0, 1), y_K=(target, target), style="guide"),
            ],
            dots=dots,
            y_range=share_range(0.0, max(*curve.risk, target)),
        ),
        table=_risk_table(curve),
    )


def _risk_table(curve: RiskCoverage) -> Table:
    rows = [(f"{coverage:.0%}", f"{curve.risk_at(coverage):.2%}") for coverage in _COVERAGES]
    return Table(
        caption="Risk and coverage as numbers", head=("products kept", "wrong"), rows=rows, folded=True
    )


def slice_blocks(verdicts: Verdicts, slices: Sequence[Slice]) -> list[Block]:
    """How good the classifier is on each part of the split."""
    kinds = list(dict.fromkeys(part.kind for part in slices))
    whole = share_of(verdicts.correct_N, verdicts.group_N)
    words = Paragraph(
        words=f"Overall {whole.value:.1%} are right. Each interval is for its slice alone: of twenty slices "
        "that are no different from the rest, one is expected to look different by chance."
    )
    return [words, *(_slice_table(verdicts, kind, slices) for kind in kinds)]


def _slice_table(verdicts: Verdicts, kind: str, slices: Sequence[Slice]) -> Table:
    return Table(
        caption=f"By {kind}",
        head=("", "right", "", "95% interval", "products", "accepted", "of\u00a0these wrong"),
        rows=list(_slice_rows(verdicts, [part for part in slices if part.kind == kind])),
        words=2,
    )


def _slice_rows(verdicts: Verdicts, slices: Sequence[Slice]) -> Iterator[Sequence[str]]:
    for part in slices:
        inside = verdicts.rows(part.mask_N)
        right = share_of(inside.correct_N, inside.group_N)
        accepted = inside.rows(inside.accepted_N)
        yield (
            part.name,
            bar(right.value, low=right.low, high=right.high),
            f"{right.value:.1%}",
            interval(right),
            f"{len(inside):,}",
            f"{len(accepted) / len(inside):.1%}",
            f"{(~accepted.correct_N).mean():.1%}" if len(accepted) else "–",
        )
