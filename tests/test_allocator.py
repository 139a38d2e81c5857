"""Freed memory stays with the process: asked for again, it costs no page faults."""

import subprocess
import sys

SCRIPT = """
import resource, sys, threading
import torch
from aisle.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work(rounds):
    for _ in range(rounds):
        tensors = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB each: glibc's own limit is 32
        del tensors

def measure():
    work(10)  # until blocks have settled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(5)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def test_freed_memory_is_kept_for_the_next_batch() -> None:
    assert page_faults("kept") < page_faults("given back") / 10
