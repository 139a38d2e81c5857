"""Tuning runs in a process of its own, to be killed, interrupted, or started by torchrun.

`python tests/tuning_program.py WORK RESULT KIND ...`: tunes a small network of each KIND ("text" or "image")
on examples that it draws, checkpoints in WORK after every step, and writes histories and hashes of the
weights to RESULT.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from aisle.image import ImageSettings
from training.augmentation import Augmentation
from training.image_encoder import ImageTraining, Pictures, train_image_encoder
from training.lesson import TuneSettings
from training.processes import Processes, joined_processes
from training.tuning import tune
from training.tuning_state import History

SIZE = 32
IMAGE = ImageTraining(
    backbone="small_cnn",
    size=SIZE,
    epochs=3,
    batch_size=16,
    micro_batch=8,
    ema=0.9,
    clip=1.0,
    precision="fp32",
    augmentation=Augmentation(mix="either", rotation=10),
)
# 42 texts: the last step of an epoch has two of them, one micro-batch for two processes.
TEXT = TuneSettings(epochs=3, batch_size=10, micro_batch=5, ema=0.9, clip=1.0, precision="fp32")


def drawn_pictures(count: int, seed: int) -> Pictures:
    """Reddish (0) and bluish (1) noise, as decoded pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (count, SIZE, SIZE, 3), dtype=np.uint8)
    label_N = rng.integers(0, 2, count)
    pixels[np.arange(count), :, :, 2 * label_N] += 55
    return Pictures(pixels, label_N, ImageSettings(size=SIZE))


class Words:
    """Texts of ids: those of one label are low, the others high."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.label_N = rng.integers(0, 3, count)
        self.ids = [(rng.integers(1, 7, rng.integers(2, 9)) + 5 * label).tolist() for label in self.label_N]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        return json.dumps(self.ids)

    def read(self, chunks, pool):  # type: ignore[no-untyped-def]
        for rows in chunks:  # aisle.text pads so too, but its import takes seconds of each process
            tokens_B2T = torch.zeros(len(rows), 2, 8, dtype=torch.long)
            for place, row in enumerate(rows):
                tokens_B2T[place, 0, : len(self.ids[row])] = torch.tensor(self.ids[row])
                tokens_B2T[place, 1, : len(self.ids[row])] = 1
            yield tokens_B2T, torch.from_numpy(self.label_N[rows])


class Bag(nn.Module):
    """An encoder without batch norms: the mean of word vectors, through two layers with dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.words = nn.Embedding(32, 24)
        self.layers = nn.ModuleList([nn.Linear(24, 24), nn.Linear(24, 24)])

    def forward(self, tokens_B2T: torch.Tensor) -> torch.Tensor:
        ids_BT, mask_BT = tokens_B2T.unbind(1)
        weight_BT1 = mask_BT.unsqueeze(-1)
        hidden_BD = (self.words(ids_BT) * weight_BT1).sum(1) / weight_BT1.sum(1)
        for layer in self.layers:
            hidden_BD = hidden_BD + torch.dropout(torch.relu(layer(hidden_BD)), self.dropout, self.training)
        return hidden_BD


class WordLesson:
    """Words to three labels."""

    kind = "text encoder"
    shown = "texts"
    least = 1
    classes = 3

    def __init__(self, dropout: float = 0.2) -> None:
        torch.manual_seed(0)
        self.encoder: nn.Module = Bag(dropout)
        self.head: nn.Module = nn.Linear(24, 3)
        self.network: nn.Module = nn.Sequential(self.encoder, self.head)
        self.train, self.validation = Words(42, 1), Words(150, 2)

    def show(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def vary(self, inputs, target_BC, chance):  # type: ignore[no-untyped-def]
        return inputs, target_BC


def weights_of(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def run(kind: str, work: Path | None, processes: Processes | None = None) -> tuple[str, History]:
    """(hash of the weights, history)."""
    quiet = Progress(disable=True)
    if kind == "image":
        train, validation = drawn_pictures(72, 0), drawn_pictures(40, 1)
        encoder, history = train_image_encoder(
            train,
            validation,
            IMAGE,
            classes=2,
            work=work,
            processes=processes,
            save_every_s=0.0,
            progress=quiet,
        )
        return weights_of(encoder.model), history
    lesson = WordLesson()
    history = tune(lesson, TEXT, work=work, processes=processes, save_every_s=0.0, progress=quiet)
    return weights_of(lesson.network), history


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, result = Path(sys.argv[1]), Path(sys.argv[2])
    with joined_processes("cpu") as processes:
        made = {kind: run(kind, work / kind, processes) for kind in sys.argv[3:]}
        if processes.count > 1:
            result = result.with_suffix(f".{processes.rank}.json")
        result.write_text(json.dumps(made))
