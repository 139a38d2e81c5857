"""The report of a registered classifier: what it is, what it was made of, and how good it is, on one page.

Every figure is made anew: the classifier comes from the store, and answers the untouched test split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aisle.classifier import Classifier
from aisle.fusion_net import ALONE
from training.charts import Line, plot, share_range
from training.evaluation import evaluate
from training.heads import courses
from training.judge import Trial
from training.page import Block, Facts, Figure, Page, Paragraph, Section, Table
from training.reference import reference_columns
from training.report_figures import (
    by_category,
    comparison,
    confidence_blocks,
    confusion_blocks,
    slice_blocks,
)
from training.report_mistakes import mistakes
from training.slices import Slice, slices_of
from training.verdicts import Verdicts, judge


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What the report is written from: the trial of products with a vector, the answers about them, their
    slices, and the figures (training/evaluation.py)."""

    tag: str
    trial: Trial
    verdicts: Verdicts
    slices: list[Slice]
    metrics: Mapping[str, Any]

    @property
    def classifier(self) -> Classifier:
        return self.trial.classifier


def findings(tag: str, trial: Trial) -> Findings:
    """Judge the test split, product by product. Decodes its pictures, for the slices."""
    classifier = trial.classifier
    metrics = evaluate(classifier, trial.vectors)
    trial = trial.rows(np.flatnonzero(trial.vectors.present_N2.any(axis=1)))
    text_settings, image_settings = classifier.text_encoder.settings, classifier.image_encoder.settings
    columns = reference_columns(trial.row_N, trial.catalog, (), text_settings, image_settings)
    return Findings(
        tag=tag,
        trial=trial,
        verdicts=judge(classifier, trial.vectors, trial.group_N),
        slices=slices_of(columns, trial.vectors.present_N2),
        metrics=metrics,
    )


def report_page(found: Findings) -> Page:
    """The page of a classifier."""
    metrics, verdicts, names = found.metrics, found.verdicts, category_names(found.classifier)
    sections = [
        Section(anchor="purpose", title="What it is for", blocks=list(_purpose(found))),
        Section(anchor="data", title="Data and splits", blocks=list(_data(found))),
        Section(
            anchor="comparison",
            title="Compared",
            blocks=comparison(metrics, verdicts, found.trial.vectors.present_N2, found.trial.train_label_N),
        ),
        Section(anchor="categories", title="By category", blocks=by_category(metrics["per_class"], verdicts)),
        Section(
            anchor="confusions", title="What is taken for what", blocks=confusion_blocks(verdicts, names)
        ),
        Section(
            anchor="confidence",
            title="Can its confidence be believed?",
            blocks=confidence_blocks(verdicts, metrics),
        ),
        Section(anchor="slices", title="Slices", blocks=slice_blocks(verdicts, found.slices)),
        Section(
            anchor="mistakes",
            title="Worst mistakes",
            blocks=mistakes(verdicts, found.trial.catalog, found.trial.row_N, names),
        ),
        Section(anchor="card", title="Model card", blocks=list(_card(found))),
    ]
    return Page(
        title=f"Classifier {found.tag.partition(':')[2]}",
        lead=(
            f"{metrics['products']:,} test products: "
            f"macro-F1 {metrics['fused']['macro_f1']:.3f}, accuracy {metrics['fused']['accuracy']:.1%}; "
            f"{_accepted(metrics['accepted_share'])} accepted without a look."
        ),
        sections=sections,
    )


def category_names(classifier: Classifier) -> list[str]:
    """What to call each column of the taxonomy: its code, and its name where it has another."""
    return [c.code if c.code == c.name else f"{c.code} {c.name}" for c in classifier.taxonomy]


def _accepted(share: float) -> str:
    return f"{share:.1%} of answers are" if share else "no answer is"


def _purpose(found: Findings) -> Iterator[Block]:
    bundle = found.classifier.bundle
    target, delta = bundle.calibration.target_error, bundle.calibration.delta
    yield Paragraph(
        words=f"It files marketplace products (title, description, photo) under one of "
        f"{len(bundle.taxonomy)} categories. An answer is accepted when its confidence passes a threshold "
        f"that was set on held-out products so that, with a confidence of {1 - delta:.0%}, at most "
        f"{target:.1%} of accepted answers are wrong; the others are for a person to look at."
    )
    yield Paragraph(
        words="It is not for products of kinds that are not among its categories: it has no answer for "
        "“none of these”. Its figures hold for products like those of its catalogue; watch for drift "
        "(python -m monitoring watch)."
    )
    if not found.trial.same_catalog:
        yield Paragraph(
            warning=True,
            words="This catalogue is not the one that the classifier was trained on: products of this test "
            "split may have been trained on, and the figures may be too good.",
        )
    registered = bundle.metrics.get("fused")
    if found.trial.same_catalog and registered and not _same(registered, found.metrics["fused"]):
        yield Paragraph(
            warning=True,
            words="These figures are not those that the classifier was registered with: macro-F1 "
            f"{registered['macro_f1']:.4f} then, {found.metrics['fused']['macro_f1']:.4f} now.",
        )


def _same(registered: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return all(abs(registered[name] - value) < 1e-4 for name, value in now.items() if name in registered)


def _data(found: Findings) -> Iterator[Block]:
    data = found.classifier.bundle.card["data"]
    names = {
        "train": "trains the head; a share of it trains encoders that learn from the catalogue",
        "validation": "says how long to train, how to combine and how sure to be; then trains the head too, "
        "unless there are very many",
        "calibration": "accept thresholds and prediction sets",
        "test": "these figures, and nothing else",
    }
    products = data["products"]
    total = max(sum(products.values()), 1)
    rows = [(n, names.get(n, ""), f"{k:,}", f"{k / total:.1%}") for n, k in products.items()]
    yield Table(
        caption="Products by split, by hash of the group, so that variants of one product stay together",
        head=("split", "what for", "products", "share"),
        rows=rows,
        words=2,
    )
    left_out = data.get("left_out_categories", [])
    no_vector = found.metrics["left_out"]
    yield Facts(
        rows=[
            ("fingerprint of the data (sha256)", data["fingerprint"]),
            ("categories", f"{len(found.classifier.taxonomy):,}"),
            ("categories left out as too small", ", ".join(left_out) if left_out else "none"),
            ("test products without text and picture, left out", f"{no_vector:,}"),
        ]
    )


def _card(found: Findings) -> Iterator[Block]:
    card = found.classifier.bundle.card
    bundle = found.classifier.bundle
    rows = [
        ("tag", found.tag),
        ("made", str(card.get("made", "unknown"))),
        ("code revision", str(card.get("git_revision", "unknown"))),
        ("text encoder revision", bundle.text_encoder.revision),
        ("image encoder revision", bundle.image_encoder.revision),
    ]
    rows += [(f"text encoder: {name}", _shown(value)) for name, value in card["text_encoder"].items()]
    rows += [(f"image encoder: {name}", _shown(value)) for name, value in card["image_encoder"].items()]
    rows += [(f"training: {name}", _shown(value)) for name, value in card["fit"].items()]
    for name, pattern in bundle.calibration.patterns.items():
        threshold = "accepts nothing" if pattern.threshold > 1 else f"accepts from {pattern.threshold:.4f} on"
        rows.append((f"calibration: {name}", f"temperature {pattern.temperature:.3f}, {threshold}"))
    yield Facts(rows=rows)
    yield from course_blocks(card.get("history", []))


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value or "none"
    return json.dumps(value, ensure_ascii=False)


def course_blocks(history: list[dict[str, float]]) -> Iterator[Figure]:
    """How training went, where the card tells its epochs."""
    if not history or "epoch" not in history[0]:
        return
    runs = courses(history)
    parts = [f" of {name} alone" for name in ALONE] if len(runs) == len(ALONE) else [""] * len(runs)
    for part, epochs in zip(parts, runs, strict=True):
        if len(epochs) > 1:
            yield _curve(epochs, part)


def _curve(epochs: list[dict[str, float]], part: str) -> Figure:
    scores = [epoch["validation_macro_f1"] for epoch in epochs]
    best = int(np.argmax(scores))
    return Figure(
        caption=f"Validation macro-F1{part} by epoch: the best, {scores[best]:.3f}, after epoch {best + 1} "
        f"of {len(scores)}, says how long to train.",
        drawing=plot(
            f"Validation macro-F1{part} over {len(scores)} epochs, from {scores[0]:.3f} to "
            f"{scores[best]:.3f}",
            x_label="epoch",
            y_label="macro-F1",
            lines=[Line(x_K=range(1, len(scores) + 1), y_K=scores)],
            x_range=(1, len(scores)),
            y_range=share_range(min(scores), max(scores)),
            percent=False,
        ),
        table=Table(
            caption="The epochs as numbers",
            head=("epoch", *(name for name in epochs[0] if name != "epoch")),
            rows=[
                (f"{at + 1}", *(f"{value:.4f}" for name, value in epoch.items() if name != "epoch"))
                for at, epoch in enumerate(epochs)
            ],
            folded=True,
        ),
    )
