"""`make kill`: `training encode`, killed (SIGKILL) at ten moments by lot.

On the catalogue and the encoders that `make demo` left. It is run once in peace, for its time and for what it
makes; then again in an empty place, killed at moments of its work, and run to its end: the shards must be
equal to the byte. Where a run ends before its moment has come, its work is compared and taken away, so that
the next one has work to do. Writes out/bench/kill.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console

from aisle.child_process import dying_with_parent
from training.settings import Settings
from training.shards import INDEX

OUT = Path("out/bench/kill.json")
LIMIT_S = 900.0


def main(
    kills: Annotated[int, typer.Option(help="How often it is killed.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 27,
) -> None:
    demo = Settings.from_environment().home
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(demo / "bentoml", home / "bentoml")
        report = _measure(home, demo / "catalog", kills, random.Random(seed))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    Console().print(
        f"killed {kills} times, between {report['begun_s']} and {report['seconds']} s after the start; "
        f"{report['equal']} of {report['ended']} runs that ended left what one without kills leaves"
    )
    if report["equal"] < report["ended"]:
        sys.exit("a rerun after kills made something else")


def shard_hashes(features: Path) -> dict[str, str]:
    """A hash of all that each shard and index below `features` holds but the time: ids, source hashes and the
    vectors' bytes. {} where no index leads to any."""
    found = {}
    for index in sorted(features.glob(f"*/{INDEX}")):
        view = index.parent.name
        for path in sorted(index.parent.glob("shard-*.parquet")):
            table = pq.read_table(path)
            vectors = table["embedding"].combine_chunks().flatten().to_numpy()
            names = [table[name].to_pylist() for name in ("product_id", "source_hash")]
            digest = hashlib.sha256(vectors.tobytes() + json.dumps(names).encode())
            found[f"{view}/{path.name}"] = digest.hexdigest()
        listed = pq.read_table(index, columns=["product_id", "shard", "row", "source_hash"]).to_pylist()
        found[f"{view}/{INDEX}"] = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return found


def _measure(home: Path, catalogue: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    words = [sys.executable, "-m", "training", "encode", str(catalogue)]
    features = home / "features"
    begun_s = _timed([*words[:-1], "--help"], home)  # until then a run only imports
    seconds = _timed(words, home)
    wanted = shard_hashes(features)
    equal: list[bool] = []
    killed_after_s: list[float] = []
    shutil.rmtree(features)
    while len(killed_after_s) < kills:
        moment_s = chance.uniform(begun_s, seconds)
        if _killed(words, home, moment_s):
            killed_after_s.append(round(moment_s, 1))
        else:
            equal.append(shard_hashes(features) == wanted)
            shutil.rmtree(features)
    _timed(words, home)
    equal.append(shard_hashes(features) == wanted)
    return {
        "begun_s": round(begun_s, 1),
        "seconds": round(seconds, 1),
        "killed_after_s": killed_after_s,
        "files": len(wanted),
        "ended": len(equal),
        "equal": sum(equal),
    }


def _start(words: list[str], home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        dying_with_parent(words),
        env={**os.environ, "AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _timed(words: list[str], home: Path) -> float:
    began = time.monotonic()
    running = _start(words, home)
    _, errors = running.communicate(timeout=LIMIT_S)
    if running.returncode:
        sys.exit(f"{' '.join(words[2:])}: status {running.returncode}: {errors[-2_000:].decode()}")
    return time.monotonic() - began


def _killed(words: list[str], home: Path, moment_s: float) -> bool:
    """Run it and kill it; False where it ended before."""
    running = _start(words, home)
    try:
        _, errors = running.communicate(timeout=moment_s)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        return running.returncode == -signal.SIGKILL
    if running.returncode:
        sys.exit(f"a run after a kill: status {running.returncode}: {errors[-2_000:].decode()}")
    return False


if __name__ == "__main__":
    typer.run(main)
