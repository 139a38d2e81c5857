"""How deep each weight of an encoder lies: slower learning rates, and recomputing, block by block."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks that `model` is stacked of, from its input on: a transformer's layers, the stages of a
    torchvision network; none where it is built otherwise."""
    stacks = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    if stacks:
        blocks = max(stacks, key=len)
    elif isinstance(features := getattr(model, "features", None), nn.Sequential):
        blocks = list(features)
    elif hasattr(model, "layer1"):
        blocks = [getattr(model, f"layer{number}") for number in (1, 2, 3, 4)]
    else:
        blocks = list(model.children())
    return [block for block in blocks if any(True for _ in block.parameters())]


def parameter_groups(
    encoder: nn.Module, head: nn.Module, *, rate: float, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer. The head learns at `rate`, each block at `decay` times the rate of the one
    behind it (Howard & Ruder, 2018); what lies before a block learns with it. Biases and norms are not pulled
    towards 0."""
    blocks = blocks_of(encoder)
    depth_of = {id(weight): depth for depth, block in enumerate(blocks) for weight in block.parameters()}
    weights, depth = [], 0
    for weight in encoder.parameters():
        depth = depth_of.get(id(weight), depth)
        weights.append((weight, rate * decay ** (len(blocks) - depth)))
    weights += [(weight, rate) for weight in head.parameters()]
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for weight, own_rate in weights:
        if weight.requires_grad:
            is_matrix = weight.ndim > 1
            group = {"params": [], "rate": own_rate, "weight_decay": weight_decay if is_matrix else 0.0}
            groups.setdefault((own_rate, is_matrix), group)["params"].append(weight)
    return list(groups.values())


@contextmanager
def recomputed(blocks: list[nn.Module]) -> Iterator[None]:
    """In this block no activations inside `blocks` are kept for the backward pass: they are computed again
    there, half the memory for a third more time (Chen et al., 2016). A batch norm then sees each batch twice,
    so that each time it takes in as much less as makes the running statistics come out the same."""
    norms = [layer for block in blocks for layer in block.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
