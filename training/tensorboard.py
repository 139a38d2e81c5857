"""Records of runs (training/runs.py) as TensorBoard's event files, a folder a run."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from training.runs import Record


class TensorBoard:
    """Curves, settings and pictures below `folder`/<time>-<kind>; a child's below its parent's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def tell(self, record: Record) -> None:
        key = record["run"]
        if "begin" in record:
            self._writers[key] = SummaryWriter(str(self._folder_of(record)))
        writer = self._writers[key]
        seconds = record["at_ms"] / 1_000
        for name, value in record.get("metrics", {}).items():
            writer.add_scalar(name, value, record["step"], walltime=seconds)
        for title in ("settings", "tags"):
            if record.get(title):
                rows = "".join(f"| {name} | {value} |\n" for name, value in record[title].items())
                writer.add_text(title, f"| | |\n|---|---|\n{rows}", walltime=seconds)
        if record.get("file", "").endswith(".png"):
            with Image.open(io.BytesIO(base64.b64decode(record["content"]))) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(record["file"], pixels, walltime=seconds, dataformats="HWC")
        if "end" in record:
            self._writers.pop(key).close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _folder_of(self, record: Record) -> Path:
        parent = self._writers.get(record["parent"])
        if parent is not None:
            return Path(parent.log_dir) / f"{record['name']}-{record['run'][:4]}"
        at = time.strftime("%Y%m%d-%H%M%S", time.gmtime(record["at_ms"] / 1_000))
        return self._folder / f"{at}-{record['name']}-{record['run'][:4]}"
