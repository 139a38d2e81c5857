"""torchvision's networks as feature extractors: their heads cut off, their batch norms folded. And one of
our own, for catalogues that are too small to train those from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models import get_model

from aisle.errors import EncoderError

SMALL = "small_cnn"
_SMALL_WIDTHS = (32, 64, 128, 256)
# Name in torchvision, and width of the pooled features.
BACKBONES = {
    "mobilenet_v3_small": 576,
    "efficientnet_b0": 1280,
    "resnet50": 2048,
    "convnext_tiny": 768,
    "efficientnet_v2_s": 1280,
    SMALL: _SMALL_WIDTHS[-1],
}


def build_backbone(name: str, weights: Mapping[str, object] | None = None) -> tuple[nn.Module, int]:
    """A backbone that gives pooled features [B, D] of normalised pixels [B, 3, H, W], and D.

    `weights` is a state dict of the whole torchvision model; None leaves the network untrained.
    Raises EncoderError for a name that is not in BACKBONES.
    """
    if name not in BACKBONES:
        raise EncoderError(f"image backbone: found {name!r}, wanted one of {', '.join(BACKBONES)}")
    if name == SMALL:
        return _small_cnn(), BACKBONES[name]
    model = get_model(name, weights=None)
    if weights is not None:
        model.load_state_dict(weights)
    return model, _cut_head(model)


def _small_cnn() -> nn.Module:
    """Four convolutions, each half the size of the one before: 0.4 million weights."""
    layers: list[nn.Module] = []
    for before, after in pairwise((3, *_SMALL_WIDTHS)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _cut_head(model: nn.Module) -> int:
    """Drop the head from its first linear layer on; what stands before (a norm, a dropout) stays."""
    name = "fc" if hasattr(model, "fc") else "classifier"
    head = getattr(model, name)
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    at, linear = next((i, layer) for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    setattr(model, name, nn.Sequential(*layers[:at]))
    return linear.in_features


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution into it, in place: same function, fewer passes.

    Known are the two ways torchvision writes such a pair: neighbours in a Sequential, and attributes
    `conv1`, `bn1` (ResNet). The model must be in eval mode. Folding again changes nothing.
    """
    for module in model.modules():
        names = list(module._modules)
        if isinstance(module, nn.Sequential):
            pairs = list(pairwise(names))
        else:
            pairs = [(name, name.replace("conv", "bn")) for name in names if name.startswith("conv")]
        for conv_name, norm_name in pairs:
            conv, norm = module._modules.get(conv_name), module._modules.get(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[conv_name] = fuse_conv_bn_eval(conv, norm)
                module._modules[norm_name] = nn.Identity()
    return model
