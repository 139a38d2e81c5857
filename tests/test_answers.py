"""Who watches the answers breaks none of them."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_service import Pantry, tiny_classifier

from aisle.classifier import Item
from aisle.columns import measure_columns
from aisle.image import ImageEncoder
from aisle.prediction import Prediction
from aisle.text import TextEncoder
from service.answers import Answers
from service.desk import Job
from service.engine import Engine


class Broken:
    """Metrics or a shadow that cannot be told anything."""

    def batch(self, *_: Any) -> None:
        raise OSError("no space left on device")

    answered = copy = batch


class Heard:
    """A recorder that keeps what it hears."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def record(self, jobs: list[Job], prediction_ids: list[str], batch: Any) -> None:
        self.ids += prediction_ids


def test_who_cannot_hear_of_an_answer_spoils_it_for_nobody(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder: Any = Heard()
    broken: Any = Broken()
    answers = Answers(telemetry=broken, recorder=recorder, shadow=broken, on_failure=lambda engine: None)
    engine = Engine(tiny_classifier(tiny_text_encoder, tiny_image_encoder), Pantry(), write_back=False)
    item = Item(text="train")
    [answer] = answers.answer([Job(item=item, columns=measure_columns(item), engine=engine)])
    assert isinstance(answer.outcome, Prediction)
    assert recorder.ids == [answer.prediction_id]
    assert [one.getMessage() for one in caplog.records] == ["1 answers went unheard by Broken.batch"] * 3
