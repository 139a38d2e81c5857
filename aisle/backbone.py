"""Networks that turn pixels into pooled features: torchvision's with their heads cut off, ResNeXt50 with
squeeze-and-excitation, and two of our own, for catalogues that are too small to train those from scratch: a
small one, and one that has nothing to train. Their batch norms fold into the convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import SqueezeExcitation

from aisle.errors import EncoderError
from aisle.gradients import DIM, OrientedGradients

SMALL = "small_cnn"
SE_RESNEXT = "se_resnext50"
VGG = "vgg16"
GRADIENTS = "gradients"  # has no weights: nothing of it is trained
_SMALL_WIDTHS = (32, 64, 128, 256)
_SQUEEZE = 16  # channels of a block by those of its squeezed copy (Hu et al., 2018)
_OPEN = 4.0  # where excitation begins: sigmoid(4) = 0.98, so that ResNeXt50's weights mean what they did
# Name in torchvision, and width of the pooled features.
BACKBONES = {
    "mobilenet_v3_small": 576,
    "mobilenet_v3_large": 960,
    "mobilenet_v2": 1280,
    "efficientnet_b0": 1280,
    "efficientnet_b1": 1280,
    "efficientnet_b2": 1408,
    "efficientnet_b3": 1536,
    "efficientnet_b4": 1792,
    "efficientnet_b5": 2048,
    "efficientnet_b6": 2304,
    "efficientnet_b7": 2560,
    "efficientnet_v2_s": 1280,
    "efficientnet_v2_m": 1280,
    "efficientnet_v2_l": 1280,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
    "resnext50_32x4d": 2048,
    "resnext101_32x8d": 2048,
    "resnext101_64x4d": 2048,
    "wide_resnet50_2": 2048,
    "wide_resnet101_2": 2048,
    SE_RESNEXT: 2048,
    "convnext_tiny": 768,
    "convnext_small": 768,
    "convnext_base": 1024,
    "convnext_large": 1536,
    "swin_t": 768,
    "swin_s": 768,
    "swin_b": 1024,
    VGG: 512,
    SMALL: _SMALL_WIDTHS[-1],
    GRADIENTS: DIM,
}


def build_backbone(name: str, weights: Mapping[str, torch.Tensor] | None = None) -> tuple[nn.Module, int]:
    """A backbone that gives pooled features [B, D] of normalised pixels [B, 3, H, W], and D.

    `weights` is a state dict of the whole torchvision model (of ResNeXt50 for se_resnext50); None leaves
    the network untrained. Raises EncoderError for a name that is not in BACKBONES.
    """
    if name not in BACKBONES:
        raise EncoderError(f"image backbone: found {name!r}, wanted one of {', '.join(BACKBONES)}")
    if name == SMALL:
        return _small_cnn(), BACKBONES[name]
    if name == VGG:
        return _vgg(weights), BACKBONES[name]
    if name == GRADIENTS:
        return OrientedGradients(), BACKBONES[name]
    model = _se_resnext() if name == SE_RESNEXT else get_model(name, weights=None)
    if weights is not None:
        excitation = {key: value for key, value in model.state_dict().items() if ".excitation." in key}
        model.load_state_dict({**weights, **excitation})
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


def _vgg(weights: Mapping[str, torch.Tensor] | None) -> nn.Module:
    """VGG16's convolutions under an average: its three linear layers hold nine tenths of its weights and
    want 224 pixels a side."""
    features = make_layers(cfgs["D"])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias.data.zero_()  # type: ignore[union-attr]
    model = nn.Sequential(
        OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    )
    if weights is not None:
        model.load_state_dict({key: weights[key] for key in weights if key.startswith("features.")})
    return model


class _ExcitedBottleneck(Bottleneck):
    """A block of ResNeXt whose channels are weighed before they are added (Hu et al., 2018)."""

    def __init__(self, inplanes: int, planes: int, *args: object, **options: object) -> None:
        super().__init__(inplanes, planes, *args, **options)
        channels = planes * self.expansion
        self.excitation = SqueezeExcitation(channels, channels // _SQUEEZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        features = self.relu(self.bn1(self.conv1(x)))
        features = self.relu(self.bn2(self.conv2(features)))
        added: torch.Tensor = self.excitation(self.bn3(self.conv3(features))) + shortcut
        return torch.relu_(added)


def _se_resnext() -> ResNet:
    model = ResNet(_ExcitedBottleneck, [3, 4, 6, 3], groups=32, width_per_group=4)
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, _OPEN)
    return model


def _cut_head(model: nn.Module) -> int:
    """Drop the head from its first linear layer on; what stands before (a norm, a dropout) stays."""
    name = next(name for name in ("fc", "classifier", "head") if hasattr(model, name))
    head = getattr(model, name)
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    at, linear = next((i, layer) for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    setattr(model, name, nn.Sequential(*layers[:at]))
    return int(linear.in_features)


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
