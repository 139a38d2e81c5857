"""In which numbers an encoder is tuned. Its weights, and the vectors that it makes later, are fp32."""

from __future__ import annotations

import torch
from torch import nn

from aisle.errors import EncoderError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wanted: str, device: torch.device, network: nn.Module) -> str:
    """One of PRECISIONS but "auto", which is bf16 where the processor computes in it, fp16 on a GPU that does
    not, and fp32 on such a CPU, where anything else is slower, as grouped convolutions are on every CPU.
    Raises EncoderError for another word."""
    if wanted not in PRECISIONS:
        raise EncoderError(f"precision: found {wanted!r}, wanted one of {', '.join(PRECISIONS)}")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities()
    computes_bf16 = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    is_grouped = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network.modules())
    return "bf16" if computes_bf16 and not is_grouped else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Forward passes inside it compute in `precision`."""
    return torch.autocast(device.type, _DTYPES.get(precision), enabled=precision != "fp32")


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients above fp16's zero; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
