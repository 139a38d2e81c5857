"""A head that learns from every product it may see, and what is honestly known of it.

How long to train is chosen with the validation products held back; then the head is trained again with
them. What is said of a product for calibration comes from a head that had not seen it: the one of before, or
a fold's.

Shapes: N products, P = 3 presence patterns, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aisle.calibration import Answers
from aisle.fusion import FusionNet, fusion_logits
from aisle.fusion_net import ALONE
from aisle.late_fusion import Late
from training.fit import FitSettings, Vectors, fit_fusion
from training.heads import History, courses, exchange, fit_head, part
from training.regression import fit_linear

REFIT_BELOW = 20_000  # training products; of more, a head learns next to nothing from the validation products


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """A head, its history by epoch, and answers about products by heads like it that had not seen them.
    `position_N` is where these stand in the training products, followed by the validation products;
    variants of one product share `group_N`."""

    fusion: FusionNet
    history: History
    honest: Answers
    position_N: np.ndarray
    group_N: np.ndarray


def fit_whole(
    train: Vectors,
    validation: Vectors,
    settings: FitSettings,
    *,
    classes: int,
    train_group_N: np.ndarray,
    validation_group_N: np.ndarray,
    start: FusionNet | None = None,
) -> Whole:
    """A head of `settings.variant` of both splits; `start` as in `fit_head`, for heads that are trained by
    epochs."""
    if settings.variant == "linear":
        return fit_whole_linear(
            Vectors.joined([train, validation]), np.concatenate([train_group_N, validation_group_N]), classes
        )
    first, history = fit_head(
        train, validation, settings, classes=classes, group_N=train_group_N, start=start
    )
    fusion = first
    if len(train) < REFIT_BELOW:
        fusion = refit(first, history, Vectors.joined([train, validation]), settings, classes, start)
    honest = Answers(
        logits_PNC=fusion_logits(first, validation.text_ND, validation.image_NE),
        present_N2=validation.present_N2,
        label_N=validation.label_N,
    )
    return Whole(
        fusion=fusion,
        history=history,
        honest=honest,
        position_N=np.arange(len(validation)) + len(train),
        group_N=validation_group_N,
    )


def fit_whole_linear(vectors: Vectors, group_N: np.ndarray, classes: int, *, ask_all: bool = False) -> Whole:
    """A linear head of `vectors`; see `fit_linear`."""
    head, asked, penalties = fit_linear(vectors, classes=classes, group_N=group_N, ask_all=ask_all)
    rows = vectors.rows(asked.position_A)
    return Whole(
        fusion=head,
        history=[
            {
                f"{pattern} {i}": value
                for pattern, values in penalties.items()
                for i, value in enumerate(values)
            }
        ],
        honest=Answers(logits_PNC=asked.logits_PAC, present_N2=rows.present_N2, label_N=rows.label_N),
        position_N=asked.position_A,
        group_N=group_N[asked.position_A],
    )


def refit(
    first: FusionNet,
    history: History,
    vectors: Vectors,
    settings: FitSettings,
    classes: int,
    start: FusionNet | None = None,
) -> FusionNet:
    """`first` trained again with all `vectors`, as long as was best for it. What a late head combines its
    parts by stays: it was fitted on what they said of products that they had not seen."""
    epochs = _best_epochs(history)
    if not isinstance(first, Late):
        alone = vectors.alone(settings.variant) if settings.variant in ALONE else vectors
        return _again(alone, settings, classes, epochs[0], start) if epochs else first
    parts = [part(first, modality) for modality in ALONE]
    for at, modality in enumerate(ALONE):
        seen = vectors.alone(modality)
        if len(seen) and epochs:  # a part without products was not trained, and has no history
            own = replace(settings, variant=modality)
            begin = part(start, modality) if isinstance(start, Late) else None
            parts[at] = _again(seen, own, classes, epochs.pop(0), begin)
    return exchange(first, *parts)


def _again(
    vectors: Vectors, settings: FitSettings, classes: int, epochs: int, start: FusionNet | None
) -> FusionNet:
    return fit_fusion(vectors, None, settings, classes=classes, start=start, stop_after=epochs)[0]


def _best_epochs(history: History) -> list[int]:
    """How many epochs were best for each run of the history."""
    return [1 + int(np.argmax([epoch["validation_macro_f1"] for epoch in run])) for run in courses(history)]
