"""Tuning, killed and interrupted at moments by lot: a rerun ends with the same weights."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from tuning_program import run

ROOT = Path(__file__).parent.parent
STEPS = 15  # 3 epochs of 72 pictures, 16 a step


def start(work: Path, result: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "tuning_program.py"), str(work), str(result), "image"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], work: Path, step: int) -> None:
    """Return once the run has left the checkpoint of `step`."""
    until = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < until:
        if any(int(path.stem.partition("-")[2]) >= step for path in work.glob("image/*/step-*.safetensors")):
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was never reached: {process.communicate()[1][-2_000:]}")


def test_a_broken_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the program: sums in one order
    weights, history = run("image", None)
    torch.set_num_threads(threads)
    chance = random.Random(27)
    work, result = tmp_path / "work", tmp_path / "result.json"

    process = start(work, result)
    wait_for_step(process, work, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    told = errors.splitlines()[-1]
    assert process.returncode == 1
    assert "StoppedError: tuning stopped by SIGTERM after step" in told
    assert told.endswith(f"of {STEPS}; a rerun goes on there")
    stopped_at = int(told.split("after step ")[1].split()[0])
    assert max(work.glob("image/*/*")).name == f"step-{stopped_at:09d}.safetensors"

    for first, last in ((5, 8), (10, STEPS - 2)):
        process = start(work, result)
        wait_for_step(process, work, chance.randint(first, last))
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert not result.exists()

    process = start(work, result)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2_000:]
    assert json.loads(result.read_text()) == {"image": [weights, history]}
