"""A child that ends with its parent, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_server import ROOT

from aisle.child_process import dying_with_parent

PARENT = """
import subprocess, sys, time
from aisle.child_process import dying_with_parent
child = subprocess.Popen(dying_with_parent(["sleep", "60"]))
while b"sleep" not in open(f"/proc/{child.pid}/cmdline", "rb").read()[:5]:
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(60)
"""


SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
WORKER = """
import time
from aisle.child_process import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("program", [PARENT, SERVER], ids=["a command", "one that asks for it"])
def test_it_ends_with_its_parent(program: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", program, WORKER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_its_status_is_the_commands() -> None:
    assert subprocess.run(dying_with_parent(["sh", "-c", "exit 7"]), check=False).returncode == 7


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
