"""How large a batch may be: measured at start, kept beside the shop's other files.

Rungs of 1, 2, 4 ... products that need everything (text and picture, nothing stored) are answered and timed;
the largest one that meets the target is the most that a batch holds, so that nobody waits much longer than
that for the batch before theirs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from service.engine import Engine

if TYPE_CHECKING:
    from aisle.classifier import Item

_TRIES = 2  # the better one counts: the first meets a size for the first time
_ENGINE = "packed layers, recorded passes"  # changed when it gets quicker: kept seconds are too long then
_HOPELESS = 1.2  # times the target: the next rung would take at least as much longer, on any device

logger = logging.getLogger("aisle.service")


def largest_batch(engine: Engine, item: Item, *, most: int, target_s: float, cache: Path) -> int:
    """The largest rung of at most `most` products that is answered within `target_s` seconds; 1 where none
    is. `item` takes every path of the model. Measured rungs are kept in `cache`, a folder. The one that ends
    the climb is measured again at each start, and the better seconds are kept: those of a busy machine would
    keep batches small for good."""
    file = cache / f"batch-seconds-{_key(engine)}.json"
    seconds = _read(file)
    size, best, measured = 1, 1, False
    while size <= most:
        is_measured = size not in seconds or _HOPELESS * seconds[size] > target_s
        tried = [engine.answer([item] * size).seconds for _ in range(_TRIES if is_measured else 0)]
        if not all("decide" in stages for stages in tried):  # it failed, and each product was tried alone
            logger.warning("batches of %d products fail: smaller ones are taken", size)
            break
        if tried:
            took_s = min(sum(stages.values()) for stages in tried)
            measured = measured or took_s < seconds.get(size, math.inf)
            seconds[size] = min(took_s, seconds.get(size, math.inf))
        if seconds[size] > target_s:
            break
        best = size
        if _HOPELESS * seconds[size] > target_s:
            break
        size = min(2 * size, most) if size < most else most + 1
    if measured:
        _write(file, seconds)
    logger.info("batches of at most %d products: they take %.3f s", best, seconds.get(best, math.nan))
    return best


def _key(engine: Engine) -> str:
    """What the seconds depend on: encoders, device, threads, machine and torch."""
    import torch

    bundle = engine.classifier.bundle
    facts = (
        _ENGINE,
        bundle.text_encoder.revision,
        bundle.image_encoder.revision,
        engine.classifier.device,
        torch.get_num_threads(),
        platform.machine(),
        os.cpu_count(),
        torch.__version__,
    )
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[int, float]:
    try:
        return {int(size): float(seconds) for size, seconds in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # not measured yet, or damaged: it is measured again


def _write(file: Path, seconds: dict[int, float]) -> None:
    """Whole or not at all: workers start together."""
    beside = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({size: round(value, 6) for size, value in seconds.items()}))
        beside.replace(file)
    except OSError as error:
        logger.warning("batch sizes are measured again at the next start: %s", error)
