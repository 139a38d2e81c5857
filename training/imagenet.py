"""Image encoders with torchvision's published ImageNet weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.parse import urlparse

import torch
from torchvision.models import get_model_weights

from aisle.backbone import BACKBONES, GRADIENTS, SE_RESNEXT, SMALL, build_backbone
from aisle.errors import EncoderError
from aisle.image import ImageEncoder, ImageSettings


def imagenet_encoder(
    backbone: str = "mobilenet_v3_small", settings: ImageSettings | None = None
) -> ImageEncoder:
    """A backbone with torchvision's newest ImageNet weights, from its cache or its own download.

    Raises EncoderError that says what to set when they cannot be had.
    """
    if backbone == SE_RESNEXT:  # its excitation is ours, and untrained
        raise EncoderError(_unpublished(backbone))
    model, _ = build_backbone(backbone, imagenet_weights(backbone))
    return ImageEncoder(model, settings or ImageSettings(), backbone=backbone, weights="imagenet")


def imagenet_weights(backbone: str) -> dict[str, torch.Tensor]:
    """State dict of torchvision's newest weights, what se_resnext50 begins with being ResNeXt50's. Raises
    EncoderError that says what to set."""
    if backbone not in BACKBONES:
        raise EncoderError(f"image backbone: found {backbone!r}, wanted one of {', '.join(BACKBONES)}")
    if backbone == SMALL:
        raise EncoderError(_unpublished(backbone))
    if backbone == GRADIENTS:
        raise EncoderError(f"image encoder {GRADIENTS}: it has no weights, wanted another backbone")
    published = get_model_weights("resnext50_32x4d" if backbone == SE_RESNEXT else backbone).DEFAULT
    try:
        weights: dict[str, torch.Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        name = Path(urlparse(published.url).path).name
        raise EncoderError(
            f"image encoder {backbone}: the ImageNet weights could not be had from {published.url} "
            f"({error}). Put {name} into {Path(torch.hub.get_dir()) / 'checkpoints'} (TORCH_HOME moves that "
            "folder), or train the encoder on the catalogue, which needs no network: "
            "--image-weights catalogue (tune-image: --start random)"
        ) from error
    return weights


def _unpublished(backbone: str) -> str:
    return (
        f"image encoder {backbone}: found no published weights, it is trained on the catalogue: "
        "--image-weights catalogue (tune-image: --start random)"
    )
