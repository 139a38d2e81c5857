"""Linear layers with weights packed for oneDNN: the same fp32 sums, sooner.

PyTorch hands fp32 products of matrices to MKL, which is slow on processors that Intel did not make, and lays
the weight out anew at every call. oneDNN, which PyTorch carries too, keeps a packed copy (TorchInductor's
freezing does the same).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ROWS = 1_024  # for which oneDNN picks the layout; any number is right


class PackedLinear(nn.Linear):
    """A linear layer that answers from packed weights where it can: on a CPU, in inference mode.

    `weight` stays what it was, to be saved, moved or trained; changed in place, it is packed again.
    """

    _packed: Any = None  # the weight in oneDNN's layout
    _version = -1  # of the weight that was packed

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that nn.Linear gives it
        if not torch.is_inference_mode_enabled() or input.device.type != "cpu":
            return super().forward(input)
        if self._version != self.weight._version:
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _ROWS)
            self._packed, self._version = packed, self.weight._version
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._packed, self.bias, "none", [], ""
        )
        return product

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: all but the packed weight, which cannot be copied."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_packed", "_version")}


def pack_linears(model: nn.Module) -> nn.Module:
    """`model` with its fp32 linear layers packed, in place; as it was where PyTorch has no oneDNN."""
    names = ("_reorder_linear_weight", "_linear_pointwise")  # private: a version may have them no more
    if torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names):
        for module in model.modules():
            if type(module) is nn.Linear and module.weight.dtype == torch.float32:
                module.__class__ = PackedLinear
    return model
