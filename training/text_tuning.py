"""Text encoders tuned on the catalogue.

Shapes: B texts at once, T tokens, C categories.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from aisle.errors import CatalogError
from aisle.text import TextEncoder, mean_pooled
from training.lesson import TuneSettings
from training.processes import Processes
from training.texts import Texts
from training.tuning import tune
from training.tuning_state import History, Told


@dataclass(frozen=True, kw_only=True)
class TextTraining(TuneSettings):
    """Facts about one run: a tenth of the steps that training from scratch would need, and small ones."""

    epochs: int = 8
    patience: int = 3
    learning_rate: float = 1e-4
    layer_decay: float = 0.9
    warmup: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.1
    clip: float = 1.0
    ema: float = 0.99


class TextNetwork(nn.Module):
    """A transformer, the mean over its tokens, and a linear head."""

    def __init__(self, model: Any, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, tokens_B2T: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        logits_BC: torch.Tensor = self.head(mean_pooled(self.model, tokens_B2T))
        return logits_BC


class TextLesson:
    """Texts to categories."""

    kind = "text encoder"
    shown = "texts"
    least = 1

    def __init__(self, model: Any, head: nn.Module, train: Texts, validation: Texts, classes: int) -> None:
        self.encoder = model
        self.head = head
        self.network = TextNetwork(model, head)
        self.train = train
        self.validation = validation
        self.classes = classes

    def show(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def vary(
        self, inputs: torch.Tensor, target_BC: torch.Tensor, chance: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs, target_BC


def tune_text_encoder(
    encoder: TextEncoder,
    train: Texts,
    validation: Texts,
    settings: TextTraining,
    *,
    classes: int,
    work: Path | None = None,
    processes: Processes | None = None,
    save_every_s: float = 120.0,
    told: Told | None = None,
    progress: Progress | None = None,
) -> tuple[TextEncoder, History]:
    """Tune the weights of `encoder`, which are changed in place, to tell `classes` apart by `tune`; return it
    with the weights of the best epoch, and the history. Its vectors are what they were: means over tokens."""
    for name, texts in (("training", train), ("validation", validation)):
        if not len(texts):
            raise CatalogError(f"{name} texts: found none, wanted some")
    model = encoder.model
    if getattr(model, "pooler", None) is not None:
        model.pooler.requires_grad_(False)  # mean pooling goes by it
    begins_with = weights_hash(model)
    torch.manual_seed(settings.seed)
    head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(encoder.dim, classes))
    history = tune(
        TextLesson(model, head, train, validation, classes),
        settings,
        begins_with=begins_with,
        work=work,
        processes=processes,
        save_every_s=save_every_s,
        told=told,
        progress=progress,
    )
    tuned = TextEncoder(model, encoder.tokenizer, encoder.settings, name=encoder.name, weights="catalogue")
    return tuned, history


def weights_hash(model: nn.Module) -> str:
    """Hex sha256 over names and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
