"""Trains a fusion head on stored vectors. Read `fit_fusion` from top to bottom.

Shapes: N products, B a batch, D and E embedding widths, C categories.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import f1_score

from aisle.calibration import pattern_index
from aisle.errors import SettingError
from aisle.fusion import FusionNet, FusionSettings, build_fusion, fusion_logits
from training.progress import progress

Watch = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Facts about one run; saved in the bundle's card.

    `modality_dropout` is the chance that one of two present modalities is taken away from a training
    product (either with equal chance), so that the head also learns to answer with one alone.
    """

    variant: str = "gated"
    hidden_dim: int = 256
    dropout: float = 0.3
    modality_dropout: float = 0.3
    epochs: int = 120
    patience: int = 15  # epochs without a better validation macro-F1
    visits: int = 600_000  # products seen, the same one each epoch: large catalogues get fewer epochs
    batch_size: int = 256  # and more where an epoch would have over 200 batches
    learning_rate: float = 2e-3
    warm_learning_rate: float = 5e-4  # of a head that is trained on
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    stack_folds: int = 3  # out-of-fold answers that a stack is fitted on; 0: the validation products
    seed: int = 27

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "epochs", "patience", "visits", "batch_size"):
            _check(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("weight_decay", "stack_folds", "seed"):
            _check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("learning_rate", "warm_learning_rate"):
            _check(self, name, 0 < getattr(self, name) < math.inf, "more than 0")
        for name in ("dropout", "modality_dropout", "label_smoothing"):
            _check(self, name, 0 <= getattr(self, name) < 1, "0 or more and less than 1")


def _check(settings: FitSettings, name: str, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise SettingError(f"fit {name}: found {getattr(settings, name)}, wanted {wanted}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Products as the head sees them: float32 text [N, D] and image [N, E], presence [N, 2], labels [N]."""

    text_ND: np.ndarray
    image_NE: np.ndarray
    present_N2: np.ndarray
    label_N: np.ndarray

    def __len__(self) -> int:
        return len(self.label_N)

    @classmethod
    def joined(cls, parts: Sequence[Vectors]) -> Vectors:
        return cls(
            text_ND=np.concatenate([part.text_ND for part in parts]),
            image_NE=np.concatenate([part.image_NE for part in parts]),
            present_N2=np.concatenate([part.present_N2 for part in parts]),
            label_N=np.concatenate([part.label_N for part in parts]),
        )

    def rows(self, index: np.ndarray) -> Vectors:
        """The products at `index` (positions or a mask)."""
        return Vectors(
            text_ND=self.text_ND[index],
            image_NE=self.image_NE[index],
            present_N2=self.present_N2[index],
            label_N=self.label_N[index],
        )

    def alone(self, modality: str) -> Vectors:
        """The products that have `modality`, with nothing else."""
        column = ("text", "image").index(modality)
        alone = self.rows(self.present_N2[:, column] > 0)
        present_N2 = np.zeros_like(alone.present_N2)
        present_N2[:, column] = 1
        return replace(alone, present_N2=present_N2)

    def without_images(self, mask_N: np.ndarray) -> Vectors:
        """The same products with the images of `mask_N` taken away."""
        present_N2 = self.present_N2.copy()
        present_N2[mask_N, 1] = 0
        return replace(self, present_N2=present_N2)

    def without_texts(self, mask_N: np.ndarray) -> Vectors:
        """The same products with the texts of `mask_N` taken away."""
        present_N2 = self.present_N2.copy()
        present_N2[mask_N, 0] = 0
        return replace(self, present_N2=present_N2)


def fit_fusion(
    train: Vectors,
    validation: Vectors | None,
    settings: FitSettings,
    *,
    classes: int,
    start: FusionNet | None = None,
    watch: Watch | None = None,
    stop_after: int | None = None,
) -> tuple[FusionNet, list[dict[str, float]]]:
    """Train a network by its own loss; return the one of the best validation macro-F1, and the history by
    epoch. With `start` that network is trained on, at `warm_learning_rate`: it keeps most of its answers.
    `watch` is told each epoch's number and score, and may stop the run by raising. Without `validation` the
    network is the one of epoch `stop_after`.

    Same seed and same vectors give the same network, so a killed run is simply run again.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    train = _seen(train)
    validation = _seen(validation) if validation is not None else None
    fusion = _new_head(train, settings, classes) if start is None else copy.deepcopy(start).train()
    text, image = torch.from_numpy(train.text_ND), torch.from_numpy(train.image_NE)
    present = torch.from_numpy(train.present_N2.astype(np.float32))
    label = torch.from_numpy(train.label_N)
    if start is None:
        fusion.standardise(text[present[:, 0] > 0], image[present[:, 1] > 0])

    loss_of = torch.nn.CrossEntropyLoss(
        weight=class_weights(label, classes), label_smoothing=settings.label_smoothing
    )
    rate = settings.learning_rate if start is None else settings.warm_learning_rate
    optimizer = torch.optim.AdamW(
        fusion.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True
    )
    epochs = min(settings.epochs, max(8, math.ceil(settings.visits / max(1, len(label)))))
    batch_size = max(settings.batch_size, len(label) // 200)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best_score, best_weights, best_epoch = -1.0, fusion.state_dict(), 0
    history = []
    with progress() as bar:
        last = min(stop_after or epochs, epochs)
        task = bar.add_task("fit fusion head", total=last)
        for epoch in range(last):
            fusion.train()
            order = torch.randperm(len(label), generator=generator)
            total_loss = 0.0
            for rows in order.split(batch_size):
                kept = _drop_modality(present[rows], settings.modality_dropout, generator)
                loss = loss_of(fusion(text[rows], image[rows], kept), label[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total_loss += loss.item() * len(rows)
            schedule.step()
            if validation is None:
                bar.advance(task)
                continue
            score = validation_macro_f1(fusion, validation)
            history.append(
                {"epoch": epoch, "train_loss": total_loss / len(label), "validation_macro_f1": score}
            )
            bar.update(task, advance=1, description=f"fit fusion head F1 {score:.3f}")
            if watch is not None:
                watch(epoch, score)
            if score > best_score:
                best_score, best_epoch = score, epoch
                best_weights = {name: value.clone() for name, value in fusion.state_dict().items()}
            if epoch - best_epoch >= settings.patience or best_score == 1.0:
                break
        if validation is not None:
            bar.update(task, total=len(history), completed=len(history))
            fusion.load_state_dict(best_weights)
    return fusion.eval(), history


def _seen(vectors: Vectors) -> Vectors:
    return vectors.rows(np.flatnonzero(vectors.present_N2.any(axis=1)))


def _new_head(train: Vectors, settings: FitSettings, classes: int) -> FusionNet:
    return build_fusion(
        FusionSettings(
            variant=settings.variant,
            text_dim=train.text_ND.shape[1],
            image_dim=train.image_NE.shape[1],
            hidden_dim=settings.hidden_dim,
            classes=classes,
            dropout=settings.dropout,
        )
    )


def present_logits(fusion: FusionNet, vectors: Vectors) -> np.ndarray:
    """Logits [N, C] of each product with the modalities that it has."""
    return own_logits(fusion_logits(fusion, vectors.text_ND, vectors.image_NE), vectors.present_N2)


def own_logits(logits_PNC: np.ndarray, present_N2: np.ndarray) -> np.ndarray:
    """Of what is said of each product in three ways, the one that is its own [N, C]."""
    chosen: np.ndarray = logits_PNC[pattern_index(present_N2).clip(min=0), np.arange(len(present_N2))]
    return chosen


def validation_macro_f1(fusion: FusionNet, vectors: Vectors) -> float:
    """Macro-F1 of products with the modalities that they have."""
    fusion.eval()
    answer_N = present_logits(fusion, vectors).argmax(axis=1)
    return float(f1_score(vectors.label_N, answer_N, average="macro", zero_division=0))


def class_weights(label_N: torch.Tensor, classes: int) -> torch.Tensor:
    """Balanced: rare classes count as much as common ones; 0 for a class without products."""
    count_C = torch.bincount(label_N, minlength=classes).float()
    return torch.where(count_C > 0, len(label_N) / (classes * count_C.clamp_min(1)), 0.0)


def _drop_modality(present_B2: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    both_B = (present_B2 > 0).all(dim=1)
    chance_B = torch.rand(len(present_B2), generator=generator)
    kept_B2 = present_B2.clone()
    kept_B2[both_B & (chance_B < rate / 2), 0] = 0
    kept_B2[both_B & (chance_B >= rate / 2) & (chance_B < rate), 1] = 0
    return kept_B2
