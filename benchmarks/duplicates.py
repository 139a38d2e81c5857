"""Do near-duplicates among very many products take time in proportion, and are they all found?

Makes products (random texts of 12 to 25 words, random picture hashes) of which 1 % are another with a word
exchanged or up to 4 bits turned, and looks for them; then half as many, to see how the time grows. Writes
out/bench/duplicates.json.

    python -m benchmarks.duplicates
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from training.fingerprints import similarity
from training.near_duplicates import PICTURE_BITS, TEXT_SIMILARITY, picture_clusters, text_clusters

OUT = Path("out/bench/duplicates.json")


def main(products: Annotated[int, typer.Option(help="How many.")] = 100_000) -> None:
    rows = [
        {"kind": kind, "products": count, **measure(count)}
        for kind, measure in (("picture", _pictures), ("text", _texts))
        for count in (products // 2, products)
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table("kind", "products", "planted", "found", "found, not planted", "CPU seconds")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console().print(table)


def _pictures(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(27)
    hashes = rng.integers(0, 2**64, size=count, dtype=np.uint64)
    source, copy = _planted(rng, count)
    for one, other in zip(source, copy, strict=True):
        turned = int(hashes[one])
        for bit in rng.choice(64, size=rng.integers(0, PICTURE_BITS + 1), replace=False):
            turned ^= 1 << int(bit)
        hashes[other] = turned
    return _timed(lambda: picture_clusters(hashes), source, copy)


def _texts(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(27)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size=rng.integers(3, 10))) for _ in range(5_000)])
    texts = [" ".join(rng.choice(words, size=rng.integers(12, 26))) for _ in range(count)]
    source, copy = _planted(rng, count)
    for one, other in zip(source, copy, strict=True):
        changed = texts[one].split()
        changed[rng.integers(len(changed))] = str(rng.choice(words))
        texts[other] = " ".join(changed)
    near = [similarity(texts[a], texts[b]) >= TEXT_SIMILARITY for a, b in zip(source, copy, strict=True)]
    return _timed(lambda: text_clusters(texts), source[near], copy[near])


def _planted(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of originals, in the first half, and of what becomes nearly the same, in the second."""
    copies = count // 100
    return rng.choice(count // 2, size=copies, replace=False), count // 2 + np.arange(copies)


def _timed(look: Callable[[], np.ndarray], source: np.ndarray, copy: np.ndarray) -> dict[str, Any]:
    started = time.process_time()
    cluster_N = look()
    seconds = time.process_time() - started
    together = len(cluster_N) - len(np.unique(cluster_N))
    found = int((cluster_N[source] == cluster_N[copy]).sum())
    return {
        "planted": len(source),
        "found": found,
        "others": together - found,
        "cpu_seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    typer.run(main)
