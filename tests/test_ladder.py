from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tiny_service import Pantry, tiny_classifier

from aisle.classifier import Classifier, Item
from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from service.engine import Batch, Engine
from service.ladder import largest_batch


class Timed(Engine):
    """Says that a batch took `fixed_s` and `each_s` a product."""

    def __init__(self, classifier: Classifier, *, fixed_s: float, each_s: float) -> None:
        super().__init__(classifier, cast(Any, Pantry()), write_back=False)
        self.fixed_s, self.each_s = fixed_s, each_s
        self.sizes: list[int] = []

    def answer(self, items: Sequence[Item]) -> Batch:
        self.sizes.append(len(items))
        seconds = {"embed": self.fixed_s + self.each_s * len(items), "decide": 0.0}
        return Batch(classifier=self.classifier, outcomes=[], started=0, seconds=seconds, embedded=None)


@pytest.fixture
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "most", "wanted"),
    [
        (0.0, 0.015, 256, 32),
        (0.004, 0.0001, 256, 256),
        (0.0, 0.001, 100, 100),
        (0.0, 0.3, 256, 1),
        (2.0, 0.0, 256, 1),
        (0.0, 0.0001, 1, 1),
    ],
)
def test_the_largest_rung_within_the_target(
    classifier: Classifier, tmp_path: Path, fixed_s: float, each_s: float, most: int, wanted: int
) -> None:
    engine = Timed(classifier, fixed_s=fixed_s, each_s=each_s)
    assert largest_batch(engine, Item(text="a"), most=most, target_s=0.5, cache=tmp_path) == wanted
    assert max(engine.sizes) <= max(1, 2 * wanted)


class Narrow(Timed):
    """Fails with more than `most` products at once, as a device without memory does."""

    def __init__(self, classifier: Classifier, most: int) -> None:
        super().__init__(classifier, fixed_s=0.0, each_s=0.001)
        self.most = most

    def answer(self, items: Sequence[Item]) -> Batch:
        batch = super().answer(items)
        return replace(batch, seconds={}) if len(items) > self.most else batch


def test_a_rung_that_fails_is_not_taken_and_tried_again_another_time(
    classifier: Classifier, tmp_path: Path
) -> None:
    narrow = Narrow(classifier, most=16)
    assert largest_batch(narrow, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 16
    narrow.most = 64
    assert largest_batch(narrow, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 64


def test_rungs_are_measured_once_but_for_the_one_that_ends_the_climb(
    classifier: Classifier, tmp_path: Path
) -> None:
    first = Timed(classifier, fixed_s=0, each_s=0.01)
    assert largest_batch(first, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 32
    again = Timed(classifier, fixed_s=0, each_s=99)
    assert largest_batch(again, Item(text="a"), most=256, target_s=0.1, cache=tmp_path) == 8
    assert again.sizes == [16, 16]
    more = Timed(classifier, fixed_s=0, each_s=0.01)
    assert largest_batch(more, Item(text="a"), most=256, target_s=2, cache=tmp_path) == 128
    assert more.sizes == [128, 128, 256, 256]


def test_what_was_measured_on_a_busy_machine_does_not_last(classifier: Classifier, tmp_path: Path) -> None:
    busy = Timed(classifier, fixed_s=0.0, each_s=0.1)
    assert largest_batch(busy, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 4
    quiet = Timed(classifier, fixed_s=0.0, each_s=0.01)
    assert largest_batch(quiet, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 32
    busy.sizes.clear()
    assert largest_batch(busy, Item(text="a"), most=256, target_s=0.5, cache=tmp_path) == 32
    assert busy.sizes == [64, 64]


def test_a_damaged_cache_is_measured_again(classifier: Classifier, tmp_path: Path) -> None:
    first = Timed(classifier, fixed_s=0, each_s=0.01)
    largest_batch(first, Item(text="a"), most=4, target_s=0.5, cache=tmp_path)
    [file] = tmp_path.iterdir()
    for damage in ("", "[1]", '{"a": 1}', '{"1": null}', "\x00"):
        file.write_text(damage)
        engine = Timed(classifier, fixed_s=0, each_s=0.01)
        assert largest_batch(engine, Item(text="a"), most=4, target_s=0.5, cache=tmp_path) == 4
        assert engine.sizes == [1, 1, 2, 2, 4, 4]


def test_a_folder_that_cannot_be_written_stops_nothing(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    engine = Timed(classifier, fixed_s=0, each_s=0.01)
    assert largest_batch(engine, Item(text="a"), most=4, target_s=0.5, cache=tmp_path / "cache") == 4


def test_a_real_engine_is_timed(classifier: Classifier, tmp_path: Path) -> None:
    engine = Engine(classifier, cast(Any, Pantry()), write_back=False)
    assert largest_batch(engine, Item(text="a train"), most=4, target_s=60, cache=tmp_path) == 4
