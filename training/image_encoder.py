"""Image encoders trained on the catalogue, from scratch or from published weights.

Shapes: B pictures a batch, H = W = size, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress
from torch import nn

from aisle.backbone import BACKBONES, GRADIENTS, build_backbone
from aisle.errors import CatalogError, EncoderError
from aisle.image import ImageEncoder, ImageSettings, normalise
from training.augmentation import Augmentation, augment, mix
from training.imagenet import imagenet_encoder, imagenet_weights
from training.lesson import TuneSettings
from training.pictures import Pictures
from training.processes import Processes
from training.tuning import tune
from training.tuning_state import History, Told

__all__ = [
    "BACKBONES",
    "PUBLISHED_START",
    "ImageTraining",
    "Pictures",
    "gradient_encoder",
    "imagenet_encoder",
    "train_image_encoder",
    "untrained_image_encoder",
]


# What published weights are tuned with: they know much already, the first layers most.
PUBLISHED_START = ("learning_rate=0.0003", "layer_decay=0.75", "warmup=0.1", "ema=0.99")


@dataclass(frozen=True, kw_only=True)
class ImageTraining(TuneSettings):
    """Facts about one run. `start` is "random" or "imagenet" (torchvision's published weights); the defaults
    are for a random one."""

    backbone: str = "mobilenet_v3_small"
    size: int = 224
    trim_white: bool = True
    start: str = "random"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("random", "imagenet"):
            raise EncoderError(f"image training start: found {self.start!r}, wanted random or imagenet")
        if self.batch_size < 2:
            raise EncoderError(f"image training batch_size: found {self.batch_size}, wanted 2 or more")

    @property
    def image(self) -> ImageSettings:
        """How the pictures are to be decoded."""
        return ImageSettings(size=self.size, trim_white=self.trim_white)


class PictureLesson:
    """Pictures to categories."""

    kind = "image encoder"
    shown = "pictures"
    least = 2  # a batch norm needs two

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        train: Pictures,
        validation: Pictures,
        augmentation: Augmentation,
        classes: int,
    ) -> None:
        self.encoder = backbone
        self.head = head
        self.network = nn.Sequential(backbone, head).to(memory_format=torch.channels_last)
        self.train = train
        self.validation = validation
        self.classes = classes
        self._augmentation = augmentation

    def show(self, inputs: torch.Tensor) -> torch.Tensor:
        return normalise(inputs)

    def vary(
        self, inputs: torch.Tensor, target_BC: torch.Tensor, chance: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        changed = augment(inputs, chance, self._augmentation)
        mixed, target_BC = mix(changed, target_BC, chance, self._augmentation)
        return normalise(mixed), target_BC


def train_image_encoder(
    train: Pictures,
    validation: Pictures,
    settings: ImageTraining,
    *,
    classes: int,
    work: Path | None = None,
    device: str = "cpu",
    processes: Processes | None = None,
    save_every_s: float = 120.0,
    told: Told | None = None,
    progress: Progress | None = None,
) -> tuple[ImageEncoder, History]:
    """Train a backbone to tell `classes` apart by `tune`; return the encoder of the best epoch, and the
    history. Pictures that cannot be read are left out. `processes` have a device of their own; `told` as in
    `tune`. Raises CatalogError where no picture is left, EncoderError for settings that don't fit.
    """
    _check(train, validation, settings)
    torch.manual_seed(settings.seed)
    published = imagenet_weights(settings.backbone) if settings.start == "imagenet" else None
    backbone, dim = build_backbone(settings.backbone, published)
    if published is None:
        _quicken_batch_norms(backbone)
    head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(dim, classes))
    history = tune(
        PictureLesson(backbone, head, train, validation, settings.augmentation, classes),
        settings,
        work=work,
        processes=processes or Processes(device=device),
        save_every_s=save_every_s,
        told=told,
        progress=progress,
    )
    best, _ = build_backbone(settings.backbone)  # on the CPU, wherever it was trained
    best.load_state_dict(backbone.state_dict())
    encoder = ImageEncoder(best, settings.image, backbone=settings.backbone, weights="catalogue")
    return encoder, history


def gradient_encoder(settings: ImageSettings) -> ImageEncoder:
    """The encoder that needs no training (aisle/gradients.py)."""
    model, _ = build_backbone(GRADIENTS)
    return ImageEncoder(model, settings, backbone=GRADIENTS, weights="none")


def untrained_image_encoder(settings: ImageTraining) -> ImageEncoder:
    """A seeded random backbone, for a catalogue without any picture: a classifier is served with a pair of
    encoders, and this one knows all that such a catalogue tells of pictures."""
    torch.manual_seed(settings.seed)
    backbone, _ = build_backbone(settings.backbone)
    return ImageEncoder(backbone, settings.image, backbone=settings.backbone, weights="catalogue")


def _check(train: Pictures, validation: Pictures, settings: ImageTraining) -> None:
    if settings.backbone == GRADIENTS:
        raise EncoderError(f"image training: found backbone {GRADIENTS}, which has nothing to train")
    for name, pictures in (("training", train), ("validation", validation)):
        if len(pictures) < 2:
            raise CatalogError(f"{name} pictures: found {len(pictures)}, wanted 2 or more")
        if pictures.settings != settings.image:
            raise EncoderError(f"{name} pictures: decoded by {pictures.settings}, wanted {settings.image}")


def _quicken_batch_norms(model: nn.Module) -> None:
    # MobileNet and EfficientNet ship momentum 0.01, right for ImageNet's 10^5 steps; from scratch on a
    # catalogue's 10^3 steps the running statistics would lag behind the weights.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
