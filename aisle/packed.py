"""Linear layers and convolutions with weights packed for oneDNN: the same fp32 sums, sooner.

PyTorch hands fp32 products of matrices to MKL, which is slow on processors that Intel did not make, and on
one thread it does so for 1x1 convolutions of fewer than 16 pictures too. oneDNN, which PyTorch carries as
well, is quicker with both, and more so with weights that lie as it wants them (TorchInductor's freezing does
the same).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ROWS = 1_024  # for which oneDNN picks a linear layer's layout; any number is right


class _Packed:
    """What packed layers have in common: they answer from packed weights on a CPU in inference mode, else as
    plain layers do. `weight` stays what it was, to be saved, moved or trained; changed in place, it is packed
    again."""

    weight: torch.Tensor
    _packed: Any = None  # the weight in oneDNN's layout
    _packed_from: Any = None  # the weight that was packed, and what it was then

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that torch gives it
        weight = self.weight
        is_packable = weight.dtype == input.dtype == torch.float32 and input.device.type == "cpu"
        if not (is_packable and torch.is_inference_mode_enabled()):
            plain: torch.Tensor = super().forward(input)  # type: ignore[misc]
            return plain
        # Changed in place, a weight has another version; its data exchanged, another address.
        state = (id(weight), weight.data_ptr(), weight._version)
        if self._packed_from != state:
            self._packed, self._packed_from = self._pack(weight.detach()), state
        return self._answer(input)

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _pack()")

    def _answer(self, rows: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _answer()")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: all but the packed weight, which cannot be copied."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_packed")}


class PackedLinear(_Packed, nn.Linear):
    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        return packed

    def _answer(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self.bias, "none", [], ""
        )
        return product


class PackedConv2d(_Packed, nn.Conv2d):
    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups
        )
        return packed

    def _answer(self, rows: torch.Tensor) -> torch.Tensor:
        sums: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            rows, self._packed, self.bias, *self.geometry, "none", [], ""
        )
        return sums

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], int]:
        """Padding, stride, dilation and groups, as oneDNN takes them."""
        assert not isinstance(self.padding, str)  # those are not packed
        return list(self.padding), list(self.stride), list(self.dilation), self.groups

    def packed_weight(self) -> torch.Tensor:
        """The weight of now, as oneDNN wants it."""
        return self._pack(self.weight.detach())


_NAMES = (  # private ones of PyTorch: a version may have them no more
    "_reorder_linear_weight",
    "_linear_pointwise",
    "_reorder_convolution_weight",
    "_convolution_pointwise",
)


def is_packed(module: nn.Module) -> bool:
    return isinstance(module, _Packed)


def pack(model: nn.Module) -> nn.Module:
    """`model` with its fp32 linear layers and convolutions packed, in place; as it was where PyTorch has no
    oneDNN."""
    if torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _NAMES):
        for layer in model.modules():
            if type(layer) is nn.Linear and layer.weight.dtype == torch.float32:
                layer.__class__ = PackedLinear
            elif type(layer) is nn.Conv2d and _is_plain(layer):
                layer.__class__ = PackedConv2d
    return model


def _is_plain(layer: nn.Conv2d) -> bool:
    zeros_around = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.weight.dtype == torch.float32 and zeros_around
