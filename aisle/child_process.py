"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# In the child's own interpreter, not in a `preexec_fn`: between fork and exec Python runs what libraries have
# registered for a fork, and gRPC's dies of SIGSEGV there where its threads are about.
_PROGRAM = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
if os.getppid() == int(sys.argv[1]):  # else it has ended already
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, which the kernel kills when this process has ended (on Linux); it keeps its process id."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), *command]


def end_with_parent() -> None:
    """Have the kernel tell this process to end (SIGTERM) when its parent's main thread has, from now on (on
    Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
