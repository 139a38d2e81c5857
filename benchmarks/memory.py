"""How much memory this process took at its highest."""

from pathlib import Path


def peak_memory_bytes() -> int:
    """The highest resident size of this program's memory (Linux).

    Not getrusage's `ru_maxrss`: that one is kept over exec, so a child starts with the peak of the process
    that forked it (a test's child with that of the whole test run).
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    _, size, unit = line.split()
    if unit != "kB":
        raise ValueError(f"/proc/self/status gives VmHWM in {unit!r}, wanted kB")
    return int(size) * 1024
