"""Where models run."""

from __future__ import annotations

import torch

from aisle.errors import SettingError


def resolve_device(wanted: str) -> str:
    """The torch device for "auto" (a GPU if there is one), "cpu" or "cuda". Raises SettingError where a GPU
    is wanted and there is none."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingError("AISLE_DEVICE: found 'cuda', wanted 'auto' or 'cpu': torch sees no GPU here")
    return wanted
