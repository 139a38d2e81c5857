"""Workers follow the newest deployment, refuse what cannot serve, and never mix models."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tiny_service import Pantry, tiny_classifier

from aisle.classifier import Classifier, Item
from aisle.columns import measure_columns
from aisle.errors import AisleError, BundleError
from aisle.image import ImageEncoder
from aisle.ledger import CHAMPION, Ledger, ledger_url
from aisle.text import TextEncoder
from service.app import by_engine
from service.desk import Job
from service.engine import Engine
from service.models import Models, warm_engine


class Shelf:
    """Engines by tag; a tag that is not there cannot be loaded. Notes what it was asked."""

    def __init__(self, classifier: Classifier, *tags: str) -> None:
        self.engines = {tag: self._engine(classifier, tag) for tag in tags}
        self.loads: list[tuple[str, str | None]] = []
        self.swaps: list[tuple[str, str, str | None]] = []

    def _engine(self, like: Classifier, tag: str) -> Engine:
        classifier = Classifier(like.bundle, like.text_encoder, like.image_encoder, version=tag)
        return Engine(classifier, Pantry(), write_back=False)

    def load(self, tag: str, beside: Engine | None) -> Engine:
        self.loads.append((tag, beside and beside.classifier.version))
        if tag not in self.engines:
            raise BundleError(f"{tag}: not in the model store")
        return self.engines[tag]

    def models(self, ledger: Ledger, *, wanted: str = CHAMPION, newest: str = "newest") -> Models:
        return Models(
            ledger,
            wanted=wanted,
            newest=lambda: newest,
            load=self.load,
            warm=lambda engine: warm_engine(engine, Item(text="warm")),
            on_swap=lambda outcome, slot, engine: self.swaps.append(
                (outcome, slot, engine.classifier.version if engine else None)
            ),
            keep_s=0.2,
        )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger.open(ledger_url(tmp_path, ""))
    opened.create_tables()
    return opened


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


def test_without_a_deployment_the_newest_of_the_store_is_served(
    ledger: Ledger, classifier: Classifier
) -> None:
    models = Shelf(classifier, "newest").models(ledger)
    models.open()
    assert models.champion.classifier.version == "newest"


def test_a_newer_deployment_is_followed_and_shares_what_it_can(
    ledger: Ledger, classifier: Classifier
) -> None:
    shelf = Shelf(classifier, "a", "b")
    ledger.deploy("a", "first")
    models = shelf.models(ledger)
    models.open()
    models.look()
    assert shelf.loads == [("a", None)]
    ledger.deploy("b", "better")
    models.look()
    models.look()
    assert shelf.loads == [("a", None), ("b", "a")]
    assert models.champion is shelf.engines["b"]
    assert shelf.swaps == [("done", "champion", "a"), ("done", "champion", "b")]


def test_a_model_that_cannot_be_loaded_is_refused_once_and_says_why(
    ledger: Ledger, classifier: Classifier
) -> None:
    shelf = Shelf(classifier, "a")
    ledger.deploy("a", "first")
    models = shelf.models(ledger)
    models.open()
    ledger.deploy("broken", "mistake")
    models.look()
    models.look()
    assert models.champion is shelf.engines["a"]
    assert shelf.swaps == [("done", "champion", "a"), ("refused", "champion", "a")]
    [refused] = ledger.events("deploy.refused")
    assert (refused.detail["model"], refused.detail["why"]) == ("broken", "broken: not in the model store")
    ledger.deploy("a", "rollback")
    models.look()
    assert shelf.swaps[-1] == ("refused", "champion", "a")  # it was served all the time: nothing to swap


def test_a_refused_model_is_tried_again_later(
    ledger: Ledger, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(classifier, "a", "late")
    late = shelf.engines.pop("late")
    ledger.deploy("a", "first")
    models = shelf.models(ledger)
    models.open()
    ledger.deploy("late", "is still being copied")
    monkeypatch.setattr("service.models.REFUSED_AGAIN_S", 0.0)
    models.look()
    shelf.engines["late"] = late
    models.look()
    assert models.champion is late


def test_at_the_start_the_champions_before_are_tried_in_turn(ledger: Ledger, classifier: Classifier) -> None:
    shelf = Shelf(classifier, "old", "newest")
    for tag in ("old", "gone", "broken"):
        ledger.deploy(tag, "then")
    models = shelf.models(ledger)
    models.open()
    assert [tag for tag, _ in shelf.loads] == ["broken", "gone", "old"]
    assert models.champion is shelf.engines["old"]
    assert [event.detail["model"] for event in ledger.events("deploy.refused")] == ["broken"]


def test_whatever_a_model_raises_at_the_start_the_one_before_is_served(
    ledger: Ledger, classifier: Classifier
) -> None:
    shelf = Shelf(classifier, "old", "worse")
    shelf.engines["worse"].classifier = None  # type: ignore[assignment]
    for tag in ("old", "worse"):
        ledger.deploy(tag, "then")
    models = shelf.models(ledger)
    models.open()
    assert models.champion is shelf.engines["old"]
    assert [event.detail["model"] for event in ledger.events("deploy.refused")] == ["worse"]


def test_a_champion_that_failed_at_the_start_is_tried_again_later(
    ledger: Ledger, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.REFUSED_AGAIN_S", 0.0)
    shelf = Shelf(classifier, "old", "late")
    late = shelf.engines.pop("late")
    for tag in ("old", "late"):
        ledger.deploy(tag, "then")
    models = shelf.models(ledger)
    models.open()
    assert models.champion is shelf.engines["old"]
    shelf.engines["late"] = late
    models.look()
    assert models.champion is late


def test_with_nothing_to_serve_the_first_reason_is_raised(ledger: Ledger, classifier: Classifier) -> None:
    with pytest.raises(AisleError, match="newest: not in the model store"):
        Shelf(classifier).models(ledger).open()


def test_a_fixed_model_follows_nothing(ledger: Ledger, classifier: Classifier) -> None:
    shelf = Shelf(classifier, "fixed")
    ledger.deploy("other", "first")
    models = shelf.models(ledger, wanted="fixed")
    models.open()
    models.follow()
    assert models._thread is None
    assert models.champion is shelf.engines["fixed"]


def test_the_champion_stays_while_the_ledger_is_away(classifier: Classifier) -> None:
    shelf = Shelf(classifier, "newest")
    models = shelf.models(Ledger.open("postgresql://nobody@127.0.0.1:1/nothing"))
    models.open()
    models.look()
    assert shelf.swaps == [("done", "champion", "newest")]


def test_a_retired_engine_is_closed_when_no_request_can_still_hold_it(
    ledger: Ledger, classifier: Classifier
) -> None:
    shelf = Shelf(classifier, "a", "b")
    closed: list[str] = []
    for tag, engine in shelf.engines.items():
        engine.features.close = lambda tag=tag: closed.append(tag)
    ledger.deploy("a", "first")
    models = shelf.models(ledger)
    models.open()
    ledger.deploy("b", "better")
    models.look()
    assert closed == []
    time.sleep(0.25)
    models.look()
    assert closed == ["a"]


def test_a_batch_across_a_swap_is_answered_by_each_jobs_own_model(classifier: Classifier) -> None:
    shelf = Shelf(classifier, "a", "b")
    item = Item(text="train")
    jobs = [Job(item=item, columns=measure_columns(item), engine=shelf.engines[tag]) for tag in "aabba"]
    assert [[job.engine.classifier.version for job in same] for same in by_engine(jobs)] == [
        ["a", "a"],
        ["b", "b"],
        ["a"],
    ]


def test_a_model_that_cannot_answer_is_not_warm(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Classifier):
        def embed(self, items, *known):  # type: ignore[no-untyped-def]
            raise RuntimeError("no kernel image is available")

    broken = Broken(classifier.bundle, classifier.text_encoder, classifier.image_encoder, version="x")
    with pytest.raises(AisleError, match="x: cannot answer a warm-up batch of 1 products"):
        warm_engine(Engine(broken, Pantry(), write_back=False), Item(text="warm"))
    assert "no kernel image is available" in caplog.text
