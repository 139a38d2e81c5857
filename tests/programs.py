"""Programs that no Python package brings: PostgreSQL, Prometheus and its tools, a C compiler."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Debian keeps PostgreSQL's server programs off the PATH.
_ELSEWHERE = sorted(str(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin"))


def program(name: str) -> str:
    """Its path. Where it is missing the test is skipped with the reason; in CI it fails."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_ELSEWHERE]))
    if found is None:
        reason = f"{name} is not installed; .ci/run says which packages have it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
