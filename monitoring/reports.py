"""Evidently's reports, each written by a process of its own: Evidently takes 280 MB and seeds numpy's
generator, and a report is slow. `window.npz` holds what a report needs, and stays beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aisle.taxonomy import Taxonomy
from monitoring.drift import Verdict
from monitoring.streams import KINDS, Kind, Streams, value_names

ROOT = Path(__file__).parent.parent
WINDOW_FILE = "window.npz"
TIMEOUT_S = 300


def save_window(
    reports: Path,
    model: str,
    reference: Streams,
    window: Streams,
    verdicts: Sequence[Verdict],
    *,
    levels: Mapping[str, float],
    taxonomy: Taxonomy,
    numbers: tuple[int, int],
) -> Path:
    """Write window.npz into a new folder <time>-<model version>: the cheap streams, not the embeddings."""
    made = time.time()
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(made))
    folder = _new_folder(reports / f"{name}-{model.rpartition(':')[2]}")
    cheap = [name for name in reference if KINDS[name] is not Kind.EMBEDDING]
    facts = {
        "model": model,
        "made_s": made,
        "window": numbers,
        "levels": dict(levels),
        "names": {n: list(value_names(n, taxonomy)) for n in cheap if KINDS[n] is Kind.CATEGORY},
        "verdicts": [{"stream": v.stream, **v.to_json(), "alarm": v.alarm, "rows": v.rows} for v in verdicts],
    }
    arrays: dict[str, Any] = {f"reference_{name}": reference[name] for name in cheap}
    arrays |= {f"window_{name}": window[name] for name in cheap}
    np.savez(folder / WINDOW_FILE, facts=json.dumps(facts), **arrays)
    return folder / WINDOW_FILE


def load_window(file: Path) -> tuple[Mapping[str, Any], Streams, Streams]:
    """(facts, reference, window)."""
    with np.load(file) as held:
        facts = json.loads(str(held["facts"]))
        parts = [
            {name.removeprefix(prefix): held[name] for name in held.files if name.startswith(prefix)}
            for prefix in ("reference_", "window_")
        ]
    return facts, parts[0], parts[1]


class Reports:
    """Processes that write reports. One that fails leaves its output in report.log."""

    def __init__(self) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], float]] = []

    def start(self, file: Path) -> None:
        log = file.with_name("report.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "monitoring", "report", str(file.absolute())],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running.append((process, time.monotonic() + TIMEOUT_S))

    def failures(self) -> int:
        """How many have failed since the last call; one that takes too long is killed, and has failed."""
        failed = 0
        for process, until in list(self._running):
            if process.poll() is None and time.monotonic() < until:
                continue
            process.kill()
            failed += process.wait() != 0
            self._running.remove((process, until))
        return failed

    def finish(self) -> int:
        """Wait for all of them; how many failed."""
        for process, until in self._running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        return self.failures()

    def close(self) -> None:
        """Stop what runs."""
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            process.wait()
        self._running.clear()


def _new_folder(wanted: Path) -> Path:
    folder, again = wanted, 2
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            folder, again = wanted.with_name(f"{wanted.name}-{again}"), again + 1
        else:
            return folder
