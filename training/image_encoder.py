"""Image encoders trained on the catalogue. Read `train_image_encoder` from top to bottom.

Shapes: B pictures a batch, C 3 colours, H = W = size.
"""

from __future__ import annotations

import copy
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.metrics import f1_score
from torch import nn

from aisle.backbone import BACKBONES, build_backbone
from aisle.errors import CatalogError, EncoderError
from aisle.image import ImageEncoder, ImageSettings, normalise
from training.augmentation import augment
from training.imagenet import imagenet_encoder, imagenet_weights
from training.pictures import Pictures
from training.progress import progress as default_progress

__all__ = [
    "BACKBONES",
    "ImageTraining",
    "Pictures",
    "imagenet_encoder",
    "train_image_encoder",
    "untrained_image_encoder",
]

CHECKPOINT = "image_encoder.safetensors"
History = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class ImageTraining:
    """Facts about one run.

    `start` is "random" or "imagenet" (fine-tune torchvision's published weights). The learning rate
    rises over the first `warmup` share of all steps and then falls to 0 as a cosine. `patience` is
    the number of epochs without a better validation macro-F1 after which training stops.
    """

    backbone: str = "mobilenet_v3_small"
    size: int = 224
    trim_white: bool = True
    start: str = "random"
    epochs: int = 30
    patience: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.15
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.2
    seed: int = 27

    def __post_init__(self) -> None:
        if self.start not in ("random", "imagenet"):
            raise EncoderError(f"image training start: found {self.start!r}, wanted random or imagenet")
        if self.batch_size < 2:
            raise EncoderError(f"image training batch_size: found {self.batch_size}, wanted 2 or more")

    @property
    def image(self) -> ImageSettings:
        """How the pictures are to be decoded."""
        return ImageSettings(size=self.size, trim_white=self.trim_white)


def train_image_encoder(
    train: Pictures,
    validation: Pictures,
    settings: ImageTraining,
    *,
    classes: int,
    work: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[ImageEncoder, History]:
    """Train a backbone to tell `classes` apart; return the encoder of the best epoch, and the history.

    Same seed, pictures and machine give the same encoder. With a `work` folder each epoch leaves a
    checkpoint there: a killed run goes on after its last finished epoch to the very same weights, and
    a finished one is answered from it; other settings or pictures start anew. Pictures that cannot be
    read are left out. Raises CatalogError when none is left, EncoderError for settings that don't fit.
    """
    _check(train, validation, settings)
    run = _Run(train, settings, classes=classes, device=device)
    checkpoint = work / CHECKPOINT if work else None
    identity = _identity(train, validation, settings, classes)
    if checkpoint and checkpoint.is_file():
        run.resume(checkpoint, identity)
    threads = ThreadPoolExecutor(os.cpu_count() or 1)
    with nullcontext(progress) if progress else default_progress() as bar, threads as pool:
        task = bar.add_task("train image encoder", total=settings.epochs * len(train))
        while not run.finished:
            bar.update(task, completed=len(run.history) * len(train))
            loss = run.train_epoch(pool, lambda pictures: bar.advance(task, pictures))
            score = run.validate(validation, pool)
            run.note(loss, score)
            bar.update(task, description=f"train image encoder F1 {score:.3f}")
            if checkpoint:
                run.write(checkpoint, identity)
        bar.update(task, total=len(run.history) * len(train), completed=len(run.history) * len(train))
    return run.best_encoder(), run.history


def untrained_image_encoder(settings: ImageTraining) -> ImageEncoder:
    """A seeded random backbone, for a catalogue without any picture: a classifier is served with a pair of
    encoders, and this one knows all that such a catalogue tells of pictures."""
    torch.manual_seed(settings.seed)
    backbone, _ = build_backbone(settings.backbone)
    return ImageEncoder(backbone, settings.image, backbone=settings.backbone, weights="catalogue")


def _check(train: Pictures, validation: Pictures, settings: ImageTraining) -> None:
    for name, pictures in (("training", train), ("validation", validation)):
        if len(pictures) < 2:
            raise CatalogError(f"{name} pictures: found {len(pictures)}, wanted 2 or more")
        if pictures.settings != settings.image:
            raise EncoderError(f"{name} pictures: decoded by {pictures.settings}, wanted {settings.image}")


def _identity(train: Pictures, validation: Pictures, settings: ImageTraining, classes: int) -> str:
    facts = [asdict(settings), classes, train.fingerprint(), validation.fingerprint()]
    return json.dumps(facts, sort_keys=True)


class _Run:
    """What changes while an encoder is trained: network, optimizer, best weights, history."""

    def __init__(self, train: Pictures, settings: ImageTraining, *, classes: int, device: str) -> None:
        torch.manual_seed(settings.seed)
        start = imagenet_weights(settings.backbone) if settings.start == "imagenet" else None
        backbone, dim = build_backbone(settings.backbone, start)
        if start is None:
            _quicken_batch_norms(backbone)
        self.train = train
        self.settings = settings
        self.device = torch.device(device)
        network = nn.Sequential(backbone, nn.Dropout(settings.dropout), nn.Linear(dim, classes))
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.loss_of = nn.CrossEntropyLoss(
            weight=_class_weights(train.label_N, classes).to(self.device),
            label_smoothing=settings.label_smoothing,
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.history: History = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def finished(self) -> bool:
        scores = [epoch["validation_macro_f1"] for epoch in self.history]
        if len(scores) >= self.settings.epochs:
            return True
        return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience

    def train_epoch(self, pool: ThreadPoolExecutor, advance: Any) -> float:
        """One pass in an order of its own; mean loss. All chance comes from (seed, epoch)."""
        epoch = len(self.history)
        chance = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        torch.manual_seed(self.settings.seed * 1_000_003 + epoch)  # dropout
        order = torch.randperm(len(self.train), generator=chance).numpy()
        steps = math.ceil(len(order) / self.settings.batch_size)
        self.network.train()
        losses, seen = 0.0, 0
        for step, (pixels, label_K) in enumerate(self.train.batches(order, self.settings.batch_size, pool)):
            advance(len(label_K))
            if len(label_K) < 2:  # a batch norm needs two
                continue
            self._set_learning_rate((epoch * steps + step) / (self.settings.epochs * steps))
            losses += self._step(pixels, label_K, chance) * len(label_K)
            seen += len(label_K)
        if not seen:
            raise CatalogError("training pictures: found none that can be read")
        return losses / seen

    def _step(self, pixels: torch.Tensor, label_K: torch.Tensor, chance: torch.Generator) -> float:
        augmented = augment(pixels.to(self.device).float(), chance)
        with self._autocast():
            loss = self.loss_of(self.network(normalise(augmented)), label_K.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def _set_learning_rate(self, share: float) -> None:
        warmup = self.settings.warmup
        if share < warmup:
            factor = 0.05 + 0.95 * share / warmup
        else:
            factor = 0.5 + 0.5 * math.cos(math.pi * (share - warmup) / (1 - warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    @torch.inference_mode()
    def validate(self, validation: Pictures, pool: ThreadPoolExecutor) -> float:
        """Macro-F1 over the validation pictures that can be read."""
        self.network.eval()
        answers, labels = [], []
        for pixels, label_K in validation.batches(np.arange(len(validation)), 64, pool):
            with self._autocast():
                answers.append(self.network(normalise(pixels.to(self.device))).argmax(1).cpu().numpy())
            labels.append(label_K.numpy())
        if not labels:
            raise CatalogError("validation pictures: found none that can be read")
        return float(
            f1_score(np.concatenate(labels), np.concatenate(answers), average="macro", zero_division=0)
        )

    def note(self, loss: float, score: float) -> None:
        """Close an epoch; keep its weights when it is the best."""
        if score > max((epoch["validation_macro_f1"] for epoch in self.history), default=-1.0):
            self.best = copy.deepcopy(self.network.state_dict())
        self.history.append({"epoch": len(self.history), "train_loss": loss, "validation_macro_f1": score})

    def write(self, path: Path, identity: str) -> None:
        """Replace the checkpoint by this state, in one file and one rename."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": t for name, t in state.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            part,
            metadata={"identity": identity, "history": json.dumps(self.history)},
        )
        part.replace(path)

    def resume(self, path: Path, identity: str) -> None:
        """Take over a checkpoint of the same run; one of another run, or a damaged one, is left alone."""
        try:
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("identity") != identity:
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            return
        self.history = json.loads(facts["history"])
        self.best = _below("best.", tensors)
        self.network.load_state_dict(_below("network.", tensors))
        parameters = list(self.network.parameters())
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = _laid_out_as(parameters[int(number)], tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def best_encoder(self) -> ImageEncoder:
        """The backbone of the best epoch, without the classifier it was trained with."""
        self.network.load_state_dict(self.best)
        return ImageEncoder(
            self.network[0], self.settings.image, backbone=self.settings.backbone, weights="catalogue"
        )


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    # The fused optimizer walks memory, not indices: moments must be channels_last where weights are.
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _quicken_batch_norms(model: nn.Module) -> None:
    # MobileNet and EfficientNet ship momentum 0.01, right for ImageNet's 10^5 steps; from scratch on a
    # catalogue's 10^3 steps the running statistics would lag behind the weights.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def _class_weights(label_N: np.ndarray, classes: int) -> torch.Tensor:
    """Balanced: rare classes count as much as common ones; 0 for a class without products."""
    count_C = np.bincount(label_N, minlength=classes)
    weight_C = np.where(count_C > 0, len(label_N) / (classes * np.maximum(count_C, 1)), 0.0)
    return torch.from_numpy(weight_C).float()
