"""The rooms may import the core; none imports another, and the core imports no server."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("training", "service", "feature_repo", "monitoring", "console")
FOREIGN_TO_CORE = ("feast", "redis", "evidently", "prometheus_client", "pydantic", "bentoml")


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room).is_dir()])
def test_a_room_imports_no_other_room(room: str) -> None:
    others = set(ROOMS) - {room}
    for path in sorted((ROOT / room).rglob("*.py")):
        assert not imports_of(path) & others, path.relative_to(ROOT)


def test_the_core_imports_no_room_and_no_server() -> None:
    for path in sorted((ROOT / "aisle").rglob("*.py")):
        allowed = {"bentoml"} if path.name == "store.py" else set()
        forbidden = (set(ROOMS) | set(FOREIGN_TO_CORE)) - allowed
        assert not imports_of(path) & forbidden, path.relative_to(ROOT)


def test_importing_the_core_imports_no_torch() -> None:
    code = "import aisle, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "program", ["service.app", "training.__main__", "monitoring.__main__", "benchmarks.encoding"]
)
def test_programs_import_the_core_before_torch(program: str) -> None:
    """What it tells OpenMP would come too late."""
    code = f"import {program}, torch, sys, os; print(*[m for m in sys.modules if m in ('aisle', 'torch')]); "
    code += "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    told = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["aisle", "torch", "5000", "None"]
