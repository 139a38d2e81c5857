"""`training fit`, killed at moments by lot: a rerun ends with the same classifier."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill import CLASSIFIERS, newest_model

ROOT = Path(__file__).parent.parent


def start_fit(home: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "training", "fit", str(home / "catalogue"), "--min-class", "2", "--variant", "stacked"]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(fit: subprocess.Popen[bytes]) -> None:
    _, errors = fit.communicate(timeout=200)
    assert fit.returncode == 0, errors[-2_000:].decode()


def newest(home: Path) -> dict[str, str]:
    return newest_model(home / CLASSIFIERS)


@pytest.mark.long
def test_a_killed_fit_is_run_again_to_the_same_end(own_tiny_home: Path) -> None:
    began = time.monotonic()
    finish(start_fit(own_tiny_home))
    seconds, wanted = time.monotonic() - began, newest(own_tiny_home)
    assert {"head.safetensors", "calibration"} <= set(wanted)  # two empty answers would be equal
    chance = random.Random(27)
    for share in (chance.uniform(0.5, 0.75), chance.uniform(0.75, 0.98)):
        fit = start_fit(own_tiny_home)
        time.sleep(share * seconds)
        os.killpg(fit.pid, signal.SIGKILL)
        fit.communicate()
    finish(start_fit(own_tiny_home))
    assert newest(own_tiny_home) == wanted
