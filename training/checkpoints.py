"""Where a run stands, on disk: one safetensors file with its facts as JSON in the header, written whole and
renamed. The newest two of a run are kept: should one be damaged, the other is taken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

KEPT = 2


class Checkpoints:
    """The checkpoints of the run that `identity` describes, in a folder of its own below `folder`; those of
    other runs there are removed when this one first writes."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:12]

    def write(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after `step` steps. JSON keeps a float to its last bit."""
        if not self._folder.is_dir():
            shutil.rmtree(self._folder.parent, ignore_errors=True)
            self._folder.mkdir(parents=True)
        path = self._folder / f"step-{step:09d}.safetensors"
        part = path.with_suffix(".part")
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, part, metadata={"facts": json.dumps(facts)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        kept = self._paths()[:KEPT]
        for other in self._folder.iterdir():  # older ones, and what a killed writer left
            if other not in kept:
                other.unlink()

    def newest(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """(tensors, facts) of the newest that can be read; None where there is none."""
        for path in self._paths():
            try:
                with safe_open(path, "pt") as file:
                    facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
                    return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
            except (SafetensorError, OSError, KeyError, ValueError):
                continue
        return None

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.safetensors"), reverse=True)
