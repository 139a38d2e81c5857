"""Trains a head of any variant. Heads that combine probabilities are made of two that were trained alone.

Shapes: N products, C categories.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from aisle.calibration import fit_temperature
from aisle.fusion import FusionNet, FusionSettings, build_fusion
from aisle.fusion_net import ALONE, LATE
from aisle.late_fusion import Alone, Late, Stacked, Weighted
from training.combiners import Said, fit_stack, search_weights
from training.fit import FitSettings, Vectors, Watch, fit_fusion, present_logits
from training.regression import fit_linear

History = list[dict[str, float]]


def fit_head(
    train: Vectors,
    validation: Vectors,
    settings: FitSettings,
    *,
    classes: int,
    group_N: np.ndarray,
    start: FusionNet | None = None,
    watch: Watch | None = None,
) -> tuple[FusionNet, History]:
    """A head of `settings.variant` and its history by epoch; see `fit_fusion`. A head of two parts has the
    epochs of both in its history, the text's first; a linear one, which has none, needs no validation.
    Training products are variants of one another where `group_N` is equal: a stack's out-of-fold answers
    keep them together.
    """
    if settings.variant == "linear":
        return fit_linear(train, classes=classes, group_N=group_N)[0], []
    if settings.variant in ALONE:
        return fit_alone(settings.variant, train, validation, settings, classes, start, watch)
    if settings.variant not in LATE:
        return fit_fusion(train, validation, settings, classes=classes, start=start, watch=watch)
    parts, history = [], []
    for modality in ALONE:
        begin = part(start, modality) if isinstance(start, Late) else None
        # A pruner compares runs epoch by epoch, and two runs in one have no common count: the last counts.
        watched = watch if modality == ALONE[-1] else None
        alone, epochs = fit_alone(modality, train, validation, settings, classes, begin, watched)
        parts.append(alone)
        history += epochs
    stack_on = (
        out_of_fold(train, validation, settings, classes, group_N) if settings.variant == "stacked" else None
    )
    return combine(settings.variant, parts[0], parts[1], validation, stack_on), history


def courses(history: History) -> list[History]:
    """A history's epochs, those of each part that was trained alone for themselves."""
    found: list[History] = []
    for epoch in history:
        if not epoch["epoch"]:
            found.append([])
        found[-1].append(epoch)
    return found


def fit_alone(
    modality: str,
    train: Vectors,
    validation: Vectors,
    settings: FitSettings,
    classes: int,
    start: FusionNet | None = None,
    watch: Watch | None = None,
) -> tuple[FusionNet, History]:
    """A head that reads one modality. One without products to learn from takes all categories for alike."""
    own = replace(settings, variant=modality)
    train, validation = train.alone(modality), validation.alone(modality)
    if len(train) and len(validation):
        return fit_fusion(train, validation, own, classes=classes, start=start, watch=watch)
    torch.manual_seed(settings.seed)
    shape = FusionSettings(
        variant=modality,
        text_dim=train.text_ND.shape[1],
        image_dim=train.image_NE.shape[1],
        hidden_dim=settings.hidden_dim,
        classes=classes,
        dropout=settings.dropout,
    )
    alone = build_fusion(shape).eval()
    assert isinstance(alone, Alone)
    for weight in alone.head[-1].parameters():
        torch.nn.init.zeros_(weight)
    return alone, []


def out_of_fold(
    train: Vectors, validation: Vectors, settings: FitSettings, classes: int, group_N: np.ndarray
) -> Said | None:
    """What both parts say of training products that have both modalities, each product by parts that never
    saw its group; None with `stack_folds` 0 or too few groups. Wolpert, "Stacked Generalization" (1992)."""
    said = []
    for learn, ask in grouped_folds(group_N, settings.stack_folds):
        parts = [fit_alone(name, train.rows(learn), validation, settings, classes)[0] for name in ALONE]
        said.append(both_say(combine("product", parts[0], parts[1], validation), train.rows(ask)))
    return Said.joined(said) if said else None


def grouped_folds(group_N: np.ndarray, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions to learn from, positions to ask about) of each fold; none with fewer groups than folds."""
    if folds >= 2 and len(np.unique(group_N)) >= folds:
        yield from GroupKFold(folds, shuffle=True, random_state=27).split(group_N, groups=group_N)


def combine(
    variant: str, text: FusionNet, image: FusionNet, held_out: Vectors, stack_on: Said | None = None
) -> Late:
    """A late head of two that were trained alone. Temperatures and weights are fitted on `held_out`, which
    neither part was trained on; a stack on `stack_on`, where there is such, else on `held_out` too."""
    late = build_fusion(replace(text.settings, variant=variant)).eval()
    assert isinstance(late, Late)
    for column, (modality, alone) in enumerate(zip(ALONE, (text, image), strict=True)):
        assert isinstance(alone, Alone)
        _move(modality, alone, alone.head, late, f"{modality}_head")
        seen = held_out.alone(modality)
        late.temperature_2[column] = fit_temperature(present_logits(alone, seen), seen.label_N)
    said = both_say(late, held_out)
    if len(said) and isinstance(late, Weighted):
        late.weight_2.copy_(torch.tensor(search_weights(said)))
    elif isinstance(late, Stacked):
        fit_stack(late, stack_on if stack_on is not None else said)
    return late


def exchange(late: Late, text: FusionNet, image: FusionNet) -> Late:
    """A late head with other parts: it combines them as it did its own."""
    made = copy.deepcopy(late)
    for modality, alone in zip(ALONE, (text, image), strict=True):
        assert isinstance(alone, Alone)
        _move(modality, alone, alone.head, made, f"{modality}_head")
    return made


def part(late: Late, modality: str) -> FusionNet:
    """The head of one modality out of a late one, as it was before they were combined."""
    alone = build_fusion(replace(late.settings, variant=modality))
    _move(modality, late, getattr(late, f"{modality}_head"), alone, "head")
    return alone


def _move(modality: str, source: FusionNet, head: torch.nn.Module, target: FusionNet, name: str) -> None:
    setattr(target, name, copy.deepcopy(head))
    projection = f"{modality}_projection"
    setattr(target, projection, copy.deepcopy(getattr(source, projection)))
    for buffer in (f"{modality}_mean", f"{modality}_scale"):
        getattr(target, buffer).copy_(getattr(source, buffer))


def both_say(late: FusionNet, vectors: Vectors) -> Said:
    """What each part of a late head says of the products that have both modalities."""
    both = vectors.rows(np.flatnonzero(vectors.present_N2.all(axis=1)))
    said = [log_softmax(present_logits(late, both.alone(modality)), axis=1) for modality in ALONE]
    return Said(log_text_NC=said[0], log_image_NC=said[1], label_N=both.label_N)
