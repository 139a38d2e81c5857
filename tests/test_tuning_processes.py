"""Two processes under torchrun walk the path of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tuning_program import run

from training.tuning_state import History

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def alone() -> dict[str, History]:
    """The history of one process, by kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    histories = {kind: run(kind, None)[1] for kind in ("text", "image")}
    torch.set_num_threads(threads)
    return histories


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes made, by kind, the first one's first."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [str(ROOT / "tests" / "tuning_program.py"), str(folder / "work"), str(folder / "result")]
    done = subprocess.run(
        [sys.executable, *torchrun, *program, "text", "image"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return [json.loads((folder / f"result.{rank}.json").read_text()) for rank in (0, 1)]


def curve(history: History, name: str = "train_loss") -> list[float]:
    return [epoch[name] for epoch in history]


def test_two_processes_have_the_same_weights(both: list[dict]) -> None:
    assert both[0] == both[1]


def test_two_processes_have_the_loss_curve_of_one(both: list[dict], alone: dict[str, History]) -> None:
    np.testing.assert_allclose(curve(both[0]["text"][1]), curve(alone["text"]), rtol=1e-5)
    assert curve(alone["text"])[-1] < curve(alone["text"])[0]


def test_they_answer_the_validation_examples_as_one(both: list[dict], alone: dict[str, History]) -> None:
    found, wanted = (curve(history, "validation_macro_f1") for history in (both[0]["text"][1], alone["text"]))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_with_batch_norms_the_curve_is_the_same_within_a_percent(
    both: list[dict], alone: dict[str, History]
) -> None:
    np.testing.assert_allclose(curve(both[0]["image"][1]), curve(alone["image"]), rtol=0.01)
