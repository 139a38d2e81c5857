"""What was tried, one JSON line a run: the one place that a comparison or a search reports to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.registration import git_revision

FILE = "runs.jsonl"


def log_run(
    home: Path, kind: str, *, settings: Mapping[str, Any], metrics: Mapping[str, float], note: str = ""
) -> None:
    """Append a run to `home`/runs.jsonl, in one write, so that two processes do not mix their lines."""
    record = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kind": kind,
        "git_revision": git_revision(),
        "settings": dict(settings),
        "metrics": dict(metrics),
        "note": note,
    }
    home.mkdir(parents=True, exist_ok=True)
    with (home / FILE).open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
