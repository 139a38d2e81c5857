"""`make kill`: `training encode`, `fit` and `tune-image`, each killed (SIGKILL) at ten moments by lot.

On the catalogue and the encoders that `make demo` left. Each command is run once in peace, for its time and
for what it makes; then again, killed at moments of its work, and run to its end: vectors, head and weights
must be equal to the byte. Where a run ends before its moment has come, its work is compared and taken away,
so that the next one has work to do. Writes out/bench/kill.json.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console

from aisle import store
from aisle.child_process import dying_with_parent
from aisle.manifest import holds_all_files, sha256_of_file
from training.settings import Settings
from training.shards import INDEX

OUT = Path("out/bench/kill.json")
LIMIT_S = 900.0
TUNE = (
    *("--backbone", "small_cnn", "--start", "random", "--image-size", "64"),
    *("--set", "epochs=6", "--set", "patience=6", "--checkpoint-seconds", "1"),
)

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `training` on a catalogue, and the `folders` of a home that it works in. `made` gives
    hashes of what it made there, by name."""

    name: str
    options: Sequence[str] = ()
    folders: Sequence[str]
    made: Callable[[Path], dict[str, str]]

    def clear(self, home: Path) -> None:
        """Take away what a finished run would not make again."""
        for folder in self.folders:
            shutil.rmtree(home / folder, ignore_errors=True)


def main(
    kills: Annotated[int, typer.Option(help="How often each command is killed.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 27,
    only: Annotated[str, typer.Option(help="One of encode, fit, tune-image; default all.")] = "",
) -> None:
    demo = Settings.from_environment().home
    chance = random.Random(seed)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        for name in ("bentoml", "features", "feast"):
            shutil.copytree(demo / name, home / name)
        for command in COMMANDS:
            if only in ("", command.name):
                found = report[command.name] = _measure(command, home, demo / "catalog", kills, chance)
                console.print(
                    f"{command.name}: killed {kills} times, between {found['begun_s']} and "
                    f"{found['seconds']} s after the start; {found['equal']} of {found['ended']} runs that "
                    "ended left what one without kills leaves"
                )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    if not report:
        sys.exit(f"--only: found {only!r}, wanted one of {', '.join(command.name for command in COMMANDS)}")
    if wrong := [name for name, found in report.items() if found["equal"] < found["ended"]]:
        sys.exit(f"a rerun after kills made something else: {', '.join(wrong)}")


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


def newest_model(models: Path) -> dict[str, str]:
    """A hash of the weights, and of the calibration where there is one, of the newest finished model in a
    folder of BentoML's store. {} where there is none."""
    folders = [path for path in models.glob("*/") if holds_all_files(path)]
    if not folders:
        return {}
    folder = max(folders, key=lambda path: path.stat().st_mtime)
    found = {path.name: sha256_of_file(path) for path in folder.glob("*.safetensors")}
    if (bundle := folder / "bundle.json").is_file():
        found["calibration"] = json.dumps(json.loads(bundle.read_text())["calibration"])
    return found


CLASSIFIERS, IMAGE_ENCODERS = (f"bentoml/models/{name}" for name in (store.CLASSIFIER, store.IMAGE_ENCODER))
COMMANDS = (
    Command(name="encode", folders=("features",), made=lambda home: shard_hashes(home / "features")),
    Command(name="fit", folders=(CLASSIFIERS,), made=lambda home: newest_model(home / CLASSIFIERS)),
    Command(
        name="tune-image",
        options=TUNE,
        folders=(IMAGE_ENCODERS, "scratch"),  # its checkpoints answer for a run that has ended
        made=lambda home: newest_model(home / IMAGE_ENCODERS),
    ),
)


def _measure(
    command: Command, home: Path, catalogue: Path, kills: int, chance: random.Random
) -> dict[str, Any]:
    words = [sys.executable, "-m", "training", command.name, str(catalogue), *command.options]
    begun_s = _timed([*words[:4], "--help"], home)  # until then a run only imports
    command.clear(home)
    seconds = _timed(words, home)
    if not (wanted := command.made(home)):
        sys.exit(f"{command.name}: found nothing in {', '.join(command.folders)}, wanted what it makes")
    equal: list[bool] = []
    killed_after_s: list[float] = []
    command.clear(home)
    while len(killed_after_s) < kills:
        moment_s = chance.uniform(begun_s, seconds)
        if _killed(words, home, moment_s):
            killed_after_s.append(round(moment_s, 1))
        else:
            equal.append(command.made(home) == wanted)
            command.clear(home)
    _timed(words, home)
    equal.append(command.made(home) == wanted)
    return {
        "begun_s": round(begun_s, 1),
        "seconds": round(seconds, 1),
        "killed_after_s": killed_after_s,
        "hashes": len(wanted),
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
