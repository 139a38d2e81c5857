"""Where a run stands, on disk: one safetensors file with its facts as JSON in the header, written whole and
renamed. The newest two of a run are kept: should one be damaged, the other is taken."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aisle.errors import SettingError

KEPT = 2


class Checkpoints:
    """The checkpoints of the run that `identity` describes, in a folder of its own below `folder`; those of
    other runs there that nobody is at any more are removed when this one first writes."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:12]

    @contextmanager
    def held(self) -> Iterator[None]:
        """In this block no other process writes or removes them, as long as it asks for that too. Raises
        SettingError where another is at this very run."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder) as is_ours:
            if not is_ours:
                raise SettingError(
                    f"{self._folder}: found another process at this very run, wanted none; wait for it, or "
                    "change a setting"
                )
            yield

    def write(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after `step` steps. JSON keeps a float to its last bit."""
        if not self._folder.is_dir():
            self._remove_others()
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

    def _remove_others(self) -> None:
        for other in self._folder.parent.glob("*/"):
            if other == self._folder:
                continue
            with _locked(other) as is_ours:
                if is_ours:
                    shutil.rmtree(other)
                    _lock_of(other).unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, has the lock of `folder` in this block."""
    with _lock_of(folder).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.fstat(file.fileno()).st_nlink > 0  # else it was removed in between
        except BlockingIOError:
            is_ours = False
        yield is_ours


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
