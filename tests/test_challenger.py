"""A challenger beside the champion: a canary answers its own share of products, a shadow answers nobody, and
what goes wrong with either is the champion's to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import jpeg
from prometheus_client import CollectorRegistry
from sqlalchemy import create_engine, text
from test_models import Shelf
from tiny_service import Pantry, tiny_classifier, vectors

from aisle.backbone import build_backbone
from aisle.bundle import EncoderRef
from aisle.classifier import Classifier, Embedded, Item, Stored
from aisle.errors import LedgerRefusedError
from aisle.fusion import build_fusion
from aisle.golden import Golden
from aisle.image import ImageEncoder, ImageSettings
from aisle.ledger import CHALLENGER, Ledger, ledger_url
from aisle.prediction import Prediction, Role
from aisle.product import Product
from aisle.text import TextEncoder
from service.admission import Gate
from service.answers import Answers
from service.app import by_engine
from service.desk import Answer, Desk, Parcel, Reply
from service.engine import Engine
from service.models import MOST_FAILURES, Challenger, Models
from service.recorder import Recorder, sampled
from service.shadow import MAX_WAITING, Shadow
from service.telemetry import Telemetry
from service.terms import Priority, Terms
from service.wire import Ask

OLD, NEW = "aisle-classifier:old", "aisle-classifier:new"
IDS = [f"product-{number}" for number in range(10_000)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger.open(ledger_url(tmp_path, ""))
    opened.create_tables()
    opened.deploy(OLD, "first")
    return opened


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


@pytest.fixture
def shelf(classifier: Classifier) -> Shelf:
    return Shelf(classifier, OLD, NEW)


@pytest.fixture
def models(shelf: Shelf, ledger: Ledger) -> Models:
    models = shelf.models(ledger)
    models.open()
    return models


def canary(engine: Engine, share: float = 0.1) -> Challenger:
    return Challenger(engine=engine, mode=Role.CANARY, share=share)


# Whose products are the canary's.


def test_a_canary_answers_its_share_of_products_and_always_the_same_ones(shelf: Shelf) -> None:
    taken = [canary(shelf.engines[NEW]).takes(product_id) for product_id in IDS]
    assert sum(taken) == 1037
    assert taken == [canary(shelf.engines[NEW]).takes(product_id) for product_id in IDS]


def test_a_larger_share_keeps_the_products_of_the_smaller(shelf: Shelf) -> None:
    small, large = (
        {product_id for product_id in IDS if canary(shelf.engines[NEW], share).takes(product_id)}
        for share in (0.1, 0.3)
    )
    assert small < large


def test_another_canary_answers_other_products(shelf: Shelf) -> None:
    new, old = (
        {product_id for product_id in IDS if canary(shelf.engines[tag]).takes(product_id)}
        for tag in (NEW, OLD)
    )
    assert len(new & old) < 130  # a tenth of a tenth


def test_a_product_without_an_id_is_the_champions(shelf: Shelf) -> None:
    assert not canary(shelf.engines[NEW], 1.0).takes(None)


def test_a_shadow_takes_no_product(shelf: Shelf) -> None:
    shadow = Challenger(engine=shelf.engines[NEW], mode=Role.SHADOW, share=1.0)
    assert not shadow.takes(IDS[0])


# How it comes and goes.


def test_a_challenger_is_loaded_beside_the_champion(models: Models, shelf: Shelf, ledger: Ledger) -> None:
    ledger.challenge(NEW, mode="canary", share=1.0, reason="a test")
    models.look()
    assert shelf.loads == [(OLD, None), (NEW, OLD)]
    assert models.champion is shelf.engines[OLD]
    assert models.route("7") is shelf.engines[NEW]
    assert models.route(None) is shelf.engines[OLD]
    assert shelf.swaps[-1] == ("done", "challenger", NEW)


def test_another_share_needs_no_loading(models: Models, shelf: Shelf, ledger: Ledger) -> None:
    ledger.challenge(NEW, mode="shadow", share=0.5, reason="a test")
    models.look()
    ledger.challenge(NEW, mode="canary", share=0.25, reason="it went well")
    models.look()
    assert models.challenger is not None
    assert (models.challenger.mode, models.challenger.share) == (Role.CANARY, 0.25)
    assert shelf.engines[NEW].role is Role.CANARY
    assert len(shelf.loads) == 2


def test_a_challenger_that_is_withdrawn_answers_no_more(models: Models, shelf: Shelf, ledger: Ledger) -> None:
    ledger.challenge(NEW, mode="canary", share=1.0, reason="a test")
    models.look()
    ledger.withdraw("enough")
    models.look()
    assert models.challenger is None
    assert models.route("7") is shelf.engines[OLD]
    assert shelf.swaps[-1] == ("done", "challenger", None)


def test_a_challenger_that_is_promoted_is_the_champion_as_it_stands(
    models: Models, shelf: Shelf, ledger: Ledger
) -> None:
    ledger.challenge(NEW, mode="canary", share=0.5, reason="a test")
    models.look()
    ledger.deploy(NEW, "better")
    models.look()
    assert models.champion is shelf.engines[NEW]
    assert models.champion.role is Role.CHAMPION
    assert models.challenger is None
    assert len(shelf.loads) == 2
    ledger.deploy(OLD, "rollback")
    models.look()
    assert models.challenger is None  # promoted once, it does not come back


def test_a_challenger_that_cannot_be_loaded_is_refused_and_the_champion_is_untouched(
    models: Models, shelf: Shelf, ledger: Ledger
) -> None:
    ledger.challenge("aisle-classifier:gone", mode="canary", share=1.0, reason="a mistake")
    models.look()
    models.look()
    assert models.route("7") is shelf.engines[OLD]
    [refused] = ledger.events("deploy.refused")
    assert refused.detail["model"] == "aisle-classifier:gone"
    assert refused.detail["role"] == "challenger"
    assert refused.detail["why"] == "aisle-classifier:gone: not in the model store"
    assert shelf.swaps[-1] == ("refused", "challenger", None)


def test_a_model_whose_golden_answers_moved_is_refused(
    models: Models, shelf: Shelf, ledger: Ledger, classifier: Classifier
) -> None:
    golden = Golden.of(classifier, [Product(title="train"), Product(title="livre")])
    moved = golden.probabilities_NC.copy()
    moved[1] = np.roll(moved[1], 1)
    bundle = replace(classifier.bundle, golden=replace(golden, probabilities_NC=moved))
    wrong = Classifier(bundle, classifier.text_encoder, classifier.image_encoder, version=NEW)
    shelf.engines[NEW] = Engine(wrong, Pantry(), write_back=False)
    ledger.deploy(NEW, "looks fine")
    models.look()
    assert models.champion is shelf.engines[OLD]
    [refused] = ledger.events("deploy.refused")
    assert refused.detail["why"].startswith(f"{NEW}: golden product 1 ('livre'): found probability 0.")


def test_a_challenger_that_fails_thrice_is_out_until_it_is_set_again(
    models: Models, shelf: Shelf, ledger: Ledger
) -> None:
    ledger.challenge(NEW, mode="canary", share=1.0, reason="a test")
    models.look()
    for _ in range(MOST_FAILURES):
        assert models.route("7") is shelf.engines[NEW]
        models.failed(shelf.engines[NEW])
    assert models.route("7") is shelf.engines[OLD]
    models.look()
    [refused] = ledger.events("deploy.refused")
    assert (refused.detail["model"], refused.detail["why"]) == (NEW, "3 of its batches failed")
    assert models.challenger is None
    ledger.challenge(NEW, mode="canary", share=1.0, reason="repaired")
    models.look()
    assert models.route("7") is shelf.engines[NEW]


def test_the_champions_failures_take_nobody_out(models: Models, shelf: Shelf) -> None:
    for _ in range(MOST_FAILURES):
        models.failed(shelf.engines[OLD])
    assert models.champion is shelf.engines[OLD]


# What the ledger takes.


@pytest.mark.parametrize(
    ("model", "mode", "share", "message"),
    [
        (NEW, "dark", 0.1, "mode: found 'dark', wanted shadow or canary"),
        (NEW, "canary", 0.0, "share: found 0.0, wanted more than 0 and at most 1"),
        (NEW, "canary", 1.5, "share: found 1.5, wanted more than 0"),
        (OLD, "canary", 0.1, f"challenger: found {OLD}, the champion, wanted another model"),
    ],
)
def test_what_cannot_challenge_is_refused(
    ledger: Ledger, model: str, mode: str, share: float, message: str
) -> None:
    with pytest.raises(LedgerRefusedError, match=message):
        ledger.challenge(model, mode=mode, share=share, reason="a test")


def test_champions_and_challengers_have_rows_of_their_own(ledger: Ledger) -> None:
    ledger.challenge(NEW, mode="canary", share=0.1, reason="a test")
    ledger.deploy("aisle-classifier:third", "meanwhile")
    assert ledger.challenger() is not None
    ledger.deploy(NEW, "better")
    assert ledger.challenger() is None
    assert ledger.withdraw("again") is None
    assert [one.model for one in ledger.deployments()] == [NEW, "aisle-classifier:third", OLD]
    assert [one.model for one in ledger.deployments(role=CHALLENGER)] == ["", NEW]
    assert len(ledger.deployments(role=None)) == 5


# What answers.


class Brittle(Classifier):
    """Fails on any batch with a poisonous text."""

    def embed(self, items: Sequence[Item], *known: Any) -> Embedded:
        if any(item.text == "poison" for item in items):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().embed(items, *known)


class Worker:
    """Models, desk, answers, shadow and ledger of one worker, with a queue that makes a batch a request."""

    def __init__(self, models: Models, home: Path) -> None:
        self.models = models
        self.registry = CollectorRegistry()
        telemetry = Telemetry(max_batch=32, registry=self.registry)
        self.database = ledger_url(home, "")
        self.recorder = Recorder(
            Ledger.open(self.database),
            folder=home / "spool",
            limit_bytes=2**20,
            sample=sampled(1.0),
            observer=telemetry,
        )
        self.busy = False
        self.shadow = Shadow(
            challenger=lambda: models.challenger,
            idle=lambda: not self.busy,
            telemetry=telemetry,
            recorder=self.recorder,
            on_failure=models.failed,
        )
        self.answers = Answers(
            telemetry=telemetry, recorder=self.recorder, shadow=self.shadow, on_failure=models.failed
        )
        self.desk = Desk(
            champion=lambda: models.champion,
            route=models.route,
            dispatch=self,
            gate=Gate(max_queue=512, max_bulk=1024, batch=32),
            telemetry=telemetry,
            decode_threads=1,
            request_timeout_s=30,
        )

    async def batch_infer(self, items: Sequence[Parcel]) -> list[list[Answer]]:
        jobs = [job for parcel in items for job in parcel]
        answers = iter([answer for same in by_engine(jobs) for answer in self.answers.answer(same)])
        return [[next(answers) for _ in parcel] for parcel in items]

    def ask(self, *products: Product, priority: Priority = Priority.INTERACTIVE) -> Reply:
        return asyncio.run(self.desk.classify(products, Ask(top_k=3), Terms(priority=priority)))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def rows(self, wanted: int) -> list[Any]:
        """The ledger's predictions of every role, once there are as many as wanted."""
        query = text("SELECT role, model, product_id, category, confidence FROM predictions ORDER BY number")
        deadline = time.monotonic() + 10
        while True:
            with create_engine(self.database).connect() as connection:
                rows = list(connection.execute(query))
            if len(rows) >= wanted or time.monotonic() > deadline:
                return rows
            time.sleep(0.02)

    def close(self) -> None:
        self.desk.close()
        self.shadow.close()
        self.recorder.close()


@pytest.fixture
def worker(models: Models, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(models, tmp_path)
    yield worker
    worker.close()


def other_head(classifier: Classifier) -> Classifier:
    """The same encoders under weights that answer otherwise."""
    torch.manual_seed(2)
    bundle = replace(classifier.bundle, fusion=build_fusion(classifier.bundle.fusion.settings))
    return Classifier(bundle, classifier.text_encoder, classifier.image_encoder, version=NEW)


Challenge = Callable[..., Engine]


@pytest.fixture
def challenge(models: Models, shelf: Shelf, ledger: Ledger) -> Challenge:
    def set_beside(classifier: Classifier, mode: str, share: float = 1.0) -> Engine:
        engine = Engine(classifier, Pantry(), write_back=True, beside=models.champion)
        shelf.engines[NEW] = engine
        ledger.challenge(NEW, mode=mode, share=share, reason="a test")
        models.look()
        return engine

    return set_beside


def test_a_canary_answers_the_products_it_takes(
    worker: Worker, challenge: Challenge, classifier: Classifier
) -> None:
    challenge(other_head(classifier), "canary", 0.5)
    assert worker.models.challenger is not None
    by_model = {OLD: 0, NEW: 0}
    for product_id in IDS[:40]:
        reply = worker.ask(Product(product_id=product_id, title="train"))
        assert reply.model == (NEW if worker.models.challenger.takes(product_id) else OLD)
        by_model[reply.model] += 1
    assert by_model == {OLD: 16, NEW: 24}
    rows = worker.rows(40)
    assert {(row.role, row.model) for row in rows} == {("champion", OLD), ("canary", NEW)}
    assert worker.sample("aisle_challenger_products_total", mode="canary") == 24
    assert worker.sample("aisle_model_confidence_count", role="champion") == 16


@pytest.mark.parametrize("priority", list(Priority))
def test_a_request_is_answered_by_the_model_of_its_first_product(
    worker: Worker, challenge: Challenge, classifier: Classifier, priority: Priority
) -> None:
    challenge(other_head(classifier), "canary", 0.5)
    challenger = worker.models.challenger
    assert challenger is not None
    its = next(product_id for product_id in IDS if challenger.takes(product_id))
    others = next(product_id for product_id in IDS if not challenger.takes(product_id))
    products = [Product(product_id=product_id, title="livre") for product_id in (its, others)]
    reply = worker.ask(*products, priority=priority)
    assert reply.model == NEW
    [first, second] = reply.outcomes
    [wanted] = other_head(classifier).predict([Item(text="livre", top_k=3)])
    assert first == second == wanted
    assert worker.ask(*products[::-1], priority=priority).model == OLD
    assert worker.ask(Product(title="livre"), products[0], priority=priority).model == OLD


@pytest.mark.parametrize("priority", list(Priority))
def test_where_a_canary_fails_the_champion_answers_all_of_the_request(
    worker: Worker, challenge: Challenge, classifier: Classifier, ledger: Ledger, priority: Priority
) -> None:
    challenge(
        Brittle(classifier.bundle, classifier.text_encoder, classifier.image_encoder, version=NEW), "canary"
    )
    for _ in range(MOST_FAILURES):
        assert worker.models.challenger is not None
        reply = worker.ask(Product(product_id="7", title="train"), Product(title="poison"), priority=priority)
        assert reply.model == OLD
        assert all(isinstance(outcome, Prediction) for outcome in reply.outcomes)
    assert worker.models.challenger is None
    worker.models.look()
    assert [event.detail["model"] for event in ledger.events("deploy.refused")] == [NEW]
    rows = worker.rows(2 * MOST_FAILURES)
    assert [(row.role, row.model) for row in rows] == [("champion", OLD)] * 2 * MOST_FAILURES


# The shadow.


class Counting:
    """An encoder that counts what it encodes."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.encoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, batch: Any) -> np.ndarray:
        self.encoded += len(batch)
        vectors: np.ndarray = self.encoder.encode(batch)
        return vectors


PRODUCTS = [
    Product(product_id="both", title="un train", image=jpeg("blue")),
    Product(product_id="text", title="un livre"),
    Product(product_id="image", image=jpeg("red")),
    Product(product_id="stored"),
]


def test_a_shadow_answers_to_the_ledger_alone_from_the_champions_vectors(
    worker: Worker, challenge: Challenge, classifier: Classifier
) -> None:
    plain = other_head(classifier)
    text_encoder, image_encoder = Counting(plain.text_encoder), Counting(plain.image_encoder)
    shadow = Classifier(plain.bundle, text_encoder, image_encoder, version=NEW)  # type: ignore[arg-type]
    challenge(shadow, "shadow")
    text_encoder.encoded = image_encoder.encoded = 0  # of the warm-up
    pantry = worker.models.champion.features
    pantry.held = {"stored": vectors(classifier)}  # type: ignore[attr-defined]
    reply = worker.ask(*PRODUCTS)
    assert reply.model == OLD
    rows = worker.rows(8)
    answered = {row.product_id: row for row in rows if row.role == "shadow"}
    wanted = [
        outcome
        for product in PRODUCTS
        for outcome in plain.predict(
            [plain.prepare(product)], [vectors(classifier) if product.product_id == "stored" else Stored()]
        )
    ]
    for product, outcome in zip(PRODUCTS, wanted, strict=True):
        assert isinstance(outcome, Prediction)
        row = answered[product.product_id]
        assert (row.model, row.category) == (NEW, outcome.category.code)
        assert row.confidence == pytest.approx(outcome.confidence, abs=1e-6)
    assert (text_encoder.encoded, image_encoder.encoded) == (0, 0)
    assert [row.role for row in rows[:4]] == ["champion"] * 4


def test_disagreements_of_a_shadow_are_counted(
    worker: Worker, challenge: Challenge, classifier: Classifier
) -> None:
    challenge(other_head(classifier), "shadow")
    texts = [f"un train {number}" for number in range(20)]
    for title in texts:
        worker.ask(Product(title=title))
    worker.rows(40)
    items = [Item(text=title) for title in texts]
    pairs = zip(classifier.predict(items), other_head(classifier).predict(items), strict=True)
    wanted = sum(ours.category != theirs.category for ours, theirs in pairs)  # type: ignore[union-attr]
    assert worker.sample("aisle_challenger_disagreements_total") == wanted
    assert worker.sample("aisle_challenger_products_total", mode="shadow") == 20
    assert worker.sample("aisle_model_seconds_count", role="champion") == 20
    assert worker.sample("aisle_confidence_count") == 20  # what clients were answered


def test_a_shadow_answers_the_share_it_is_given(
    worker: Worker, challenge: Challenge, classifier: Classifier
) -> None:
    challenge(other_head(classifier), "shadow", 0.25)
    ids = []
    for _ in range(60):
        ids += worker.ask(Product(title="train")).prediction_ids
    wanted = sum(map(sampled(0.25), ids))
    assert 0 < wanted < 60
    assert [row.role for row in worker.rows(60 + wanted)].count("shadow") == wanted


def image_encoder_of(seed: int, size: int, folder: Path) -> ImageEncoder:
    torch.manual_seed(seed)
    model, _ = build_backbone("mobilenet_v3_small")
    encoder = ImageEncoder(
        model, ImageSettings(size=size), backbone="mobilenet_v3_small", weights="catalogue"
    )
    encoder.save(folder)
    return encoder


@pytest.mark.parametrize("size", [32, 48])
def test_a_shadow_with_another_image_encoder_shares_texts_and_prepares_as_its_own_settings_say(
    worker: Worker, challenge: Challenge, classifier: Classifier, tmp_path: Path, size: int
) -> None:
    image_encoder = image_encoder_of(7, size, tmp_path / "encoder")
    text_encoder = Counting(classifier.text_encoder)
    bundle = replace(
        classifier.bundle, image_encoder=EncoderRef(revision=image_encoder.revision, dim=image_encoder.dim)
    )
    shadow = Classifier(bundle, text_encoder, image_encoder, version=NEW)  # type: ignore[arg-type]
    challenge(shadow, "shadow")
    text_encoder.encoded = 0
    product = Product(title="un train", image=jpeg("green", 60))
    worker.ask(product)
    rows = worker.rows(2)
    assert text_encoder.encoded == 0
    [wanted] = shadow.predict([shadow.prepare(product)])
    assert isinstance(wanted, Prediction)
    [row] = [row for row in rows if row.role == "shadow"]
    assert row.confidence == pytest.approx(wanted.confidence, abs=1e-6)


def test_a_busy_worker_has_no_time_for_a_shadow_and_drops_what_finds_no_room(
    worker: Worker, challenge: Challenge, classifier: Classifier
) -> None:
    challenge(other_head(classifier), "shadow")
    worker.busy = True
    for _ in range(10):
        worker.ask(*[Product(title="train")] * 32)
    assert worker.sample("aisle_shadow_dropped_total") == 320 - MAX_WAITING
    assert {row.role for row in worker.rows(320)} == {"champion"}
    worker.busy = False
    assert [row.role for row in worker.rows(320 + MAX_WAITING)].count("shadow") == MAX_WAITING


def test_copies_for_a_challenger_that_is_gone_are_dropped(
    worker: Worker, challenge: Challenge, classifier: Classifier, ledger: Ledger
) -> None:
    challenge(other_head(classifier), "shadow")
    worker.busy = True
    worker.ask(*[Product(title="train")] * 3)
    ledger.withdraw("enough")
    worker.models.look()
    worker.busy = False
    deadline = time.monotonic() + 5
    while worker.sample("aisle_shadow_dropped_total") != 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shadow_that_fails_is_taken_out_and_no_client_sees_it(
    worker: Worker, challenge: Challenge, classifier: Classifier, ledger: Ledger
) -> None:
    challenge(
        Brittle(classifier.bundle, classifier.text_encoder, classifier.image_encoder, version=NEW), "shadow"
    )
    deadline = time.monotonic() + 5
    while worker.models.challenger is not None:
        assert worker.ask(Product(title="poison")).model == OLD
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.models.look()
    assert [event.detail["why"] for event in ledger.events("deploy.refused")] == ["3 of its batches failed"]
    assert {row.role for row in worker.rows(3)} == {"champion"}
