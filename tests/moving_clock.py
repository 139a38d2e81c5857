"""Moves the time of day of a server that runs."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from programs import program

SOURCE = Path(__file__).with_suffix(".c")


class MovingClock:
    """`environ` is what a process needs to have its clock moved."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "moving_clock.so", folder / "moved"
        compiler = program("gcc")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
        self.move(0)
        self.environ = {"LD_PRELOAD": str(library), "MOVING_CLOCK": str(self._file)}

    def move(self, seconds: int) -> None:
        """So far from the true time, from now on."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("<q", seconds))
