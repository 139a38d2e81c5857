"""What people said since the catalogue was made, as training takes it: nothing leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from live_server import ROOT

from aisle.columns import Columns
from aisle.ledger import Label, Ledger, PredictionRecord, ledger_url
from aisle.text import TextEncoder, clean_text
from training.catalog import Catalog, read_catalog
from training.demo import write_demo_catalog
from training.demo_shift import SHIFTED
from training.labels import FRESH, FRESH_SHARE, fresh_or_split, no_labels, read_labels
from training.splits import SplitSettings, assign_splits

SPLITS = SplitSettings()
DIM = 4
TEXT, IMAGE = ("aaaa0001", DIM), ("bbbb0001", DIM)
COLUMNS = Columns(
    text_chars=20,
    language="fr",
    description_missing=True,
    image_width=None,
    image_height=None,
    brightness=None,
)


def record(
    product_id: str | None, *, vector: bool = True, revision: str = TEXT[0], text: float = 0.5
) -> PredictionRecord:
    return PredictionRecord(
        prediction_id=uuid4().hex,
        at_s=1.0,
        model="aisle-classifier:one",
        product_id=product_id,
        category="10",
        confidence=0.5,
        accepted=False,
        text_source="computed",
        image_source="absent",
        text_encoder=revision,
        image_encoder=IMAGE[0],
        columns=COLUMNS,
        text_embedding=np.full(DIM, text, dtype=np.float16) if vector else None,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.create_tables()
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("catalogue")
    rows = [{"product_id": f"c{i}", "title": f"livre {i}", "category": "10"} for i in range(200)]
    pd.DataFrame(rows).assign(description="", image="").to_csv(folder / "products.csv", index=False)
    return read_catalog(folder)


def answered(ledger: Ledger, category: str, *products: str, **facts: object) -> None:
    """Record an answer about each product, and its label."""
    records = [record(product, **facts) for product in products]  # type: ignore[arg-type]
    ledger.record_predictions(records)
    ledger.record_labels(
        [Label(prediction_id=one.prediction_id, category=category, source="audit") for one in records]
    )


def read(ledger: Ledger, catalog: Catalog, until: int | None = None):  # type: ignore[no-untyped-def]
    until = ledger.newest_label() if until is None else until
    return read_labels(ledger, catalog, SPLITS, until=until, text_encoder=TEXT, image_encoder=IMAGE)


def test_a_product_is_always_on_the_same_side() -> None:
    keys = [f"p{i}" for i in range(2_000)]
    alone = [str(fresh_or_split([key], SPLITS)[0]) for key in keys[:50]]
    assert alone == fresh_or_split(keys, SPLITS)[:50].tolist()
    assert fresh_or_split(keys[::-1], SPLITS).tolist()[::-1] == fresh_or_split(keys, SPLITS).tolist()


def test_shares_are_what_they_promise() -> None:
    found = Counter(fresh_or_split([f"p{i}" for i in range(20_000)], SPLITS))
    left = (1 - FRESH_SHARE) / (1 - SPLITS.test)
    promised = {
        FRESH: FRESH_SHARE,
        "calibration": left * SPLITS.calibration,
        "validation": left * SPLITS.validation,
        "train": left * (1 - SPLITS.test - SPLITS.calibration - SPLITS.validation),
    }
    assert set(found) == set(promised)
    for name, share in promised.items():
        assert found[name] / 20_000 == pytest.approx(share, abs=0.012)


def test_more_labels_move_no_product_to_the_other_side(ledger: Ledger, catalog: Catalog) -> None:
    answered(ledger, "10", *(f"new{i}" for i in range(100)))
    before = read(ledger, catalog).answers
    answered(ledger, "40", *(f"later{i}" for i in range(100)))
    after = read(ledger, catalog).answers
    sides = dict(zip(after.key_N, after.split_N, strict=True))
    assert [sides[key] for key in before.key_N] == before.split_N.tolist()
    assert len(after) == 200


def test_a_label_after_the_last_that_counts_does_not(ledger: Ledger, catalog: Catalog) -> None:
    answered(ledger, "10", "a", "b")
    until = ledger.newest_label()
    answered(ledger, "40", "a", "c")
    labels = read(ledger, catalog, until)
    assert dict(zip(labels.answers.key_N, labels.answers.category_N, strict=True)) == {"a": "10", "b": "10"}
    assert labels.until == until


def test_the_last_label_of_a_product_wins(ledger: Ledger, catalog: Catalog) -> None:
    answered(ledger, "10", "a")
    answered(ledger, "40", "a")
    ledger.record_labels([Label(product_id="a", category="50", source="review")])
    answers = read(ledger, catalog).answers
    assert (answers.key_N.tolist(), answers.category_N.tolist()) == (["a"], ["50"])


def test_a_catalogue_products_label_corrects_it_but_never_in_the_test_split(
    ledger: Ledger, catalog: Catalog
) -> None:
    is_test = (assign_splits(catalog.products.group, SPLITS) == "test").to_numpy()
    ids = catalog.products.product_id.to_numpy()
    answered(ledger, "40", *ids)
    labels = read(ledger, catalog)
    assert is_test.sum() > 10
    assert set(labels.corrections) == set(ids[~is_test])
    corrected = labels.corrected(catalog).products
    assert set(corrected.category[~is_test]) == {"40"}
    assert set(corrected.category[is_test]) == {"10"}
    assert len(labels.answers) == 0


def test_answers_without_vectors_of_these_encoders_are_counted_and_not_used(
    ledger: Ledger, catalog: Catalog
) -> None:
    answered(ledger, "10", "a", "b")
    answered(ledger, "10", "c", vector=False)
    answered(ledger, "10", "d", revision="cccc0001")
    labels = read(ledger, catalog)
    assert (sorted(labels.answers.key_N), labels.without_vectors) == (["a", "b"], 2)


def test_vectors_are_those_that_were_recorded(ledger: Ledger, catalog: Catalog) -> None:
    answered(ledger, "10", "a", text=0.25)
    answers = read(ledger, catalog).answers
    assert answers.text_ND.tolist() == [[0.25] * DIM]
    assert answers.image_NE.tolist() == [[0.0] * DIM]
    assert answers.present_N2.tolist() == [[1.0, 0.0]]
    assert answers.columns == [COLUMNS]


def test_counts_say_what_is_used_and_what_is_kept_out(ledger: Ledger, catalog: Catalog) -> None:
    answered(ledger, "10", *(f"new{i}" for i in range(100)))
    labels = read(ledger, catalog)
    assert labels.used + labels.held_out == 100
    assert labels.to_json() == {
        "until": 100,
        "used": labels.used,
        "corrections": 0,
        "held_out": labels.held_out,
        "without_vectors": 0,
    }
    assert no_labels(DIM, DIM).to_json()["used"] == 0


# The commands, on the tiny shop.


def training(home: Path, *words: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AISLE_", "BENTOML_", "PROMETHEUS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**environ, "AISLE_HOME": str(home), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(home: Path, modality: str) -> str:
    """The revision of an encoder in the shop's store."""
    [folder] = [f for f in (home / "bentoml/models" / f"aisle-{modality}-encoder").iterdir() if f.is_dir()]
    return folder.name


NEW = ("moulin café", "60")  # a category that the catalogue has not


@pytest.fixture(scope="module")
def shop(own_tiny_home: Path, tiny_text_encoder: TextEncoder) -> Path:
    """A shop whose ledger has 80 labelled answers of a new category and 40 of an old one."""
    kinds = [NEW] * 80 + [("train bois", "50")] * 40
    texts = [clean_text(f"{words} {i}", "", tiny_text_encoder.settings) for i, (words, _) in enumerate(kinds)]
    vectors = tiny_text_encoder.encode(texts).astype(np.float16)
    records = [
        replace(
            record(f"answer-{i}", revision=stored(own_tiny_home, "text")),
            image_encoder=stored(own_tiny_home, "image"),
            text_embedding=vectors[i],
        )
        for i in range(len(kinds))
    ]
    ledger = Ledger.open(ledger_url(own_tiny_home, ""))
    ledger.create_tables()
    ledger.record_predictions(records)
    ledger.record_labels(
        [
            Label(prediction_id=one.prediction_id, category=code, source="audit")
            for one, (_, code) in zip(records, kinds, strict=True)
        ]
    )
    ledger.close()
    return own_tiny_home


@pytest.fixture(scope="module")
def challenger(shop: Path) -> dict[str, object]:
    report = shop / "report.json"
    words = ("--labels-until", "120", "--min-class", "2", "--report", str(report))
    training(shop, "fit", str(shop / "catalogue"), *words)
    facts: dict[str, object] = json.loads(report.read_text())
    return facts


def card_of(shop: Path, tag: object) -> dict[str, dict[str, object]]:
    folder = shop / "bentoml" / "models" / str(tag).replace(":", "/")
    card: dict[str, dict[str, object]] = json.loads((folder / "card.json").read_text())
    return card


def test_labels_bring_a_new_category_and_their_products(shop: Path, challenger: dict[str, object]) -> None:
    folder = shop / "bentoml" / "models" / str(challenger["tag"]).replace(":", "/")
    assert NEW[1] in (folder / "bundle.json").read_text()
    assert challenger["labels_used"] + challenger["labels_held_out"] == 120  # type: ignore[operator]
    assert card_of(shop, challenger["tag"])["data"]["labels"]["until"] == 120  # type: ignore[index]


def test_training_sees_no_fresh_and_no_test_product(shop: Path, challenger: dict[str, object]) -> None:
    sides = Counter(fresh_or_split([f"answer-{i}" for i in range(120)], SPLITS))
    catalog = read_catalog(shop / "catalogue")
    mine = Counter(assign_splits(catalog.products.group, SPLITS))
    assert card_of(shop, challenger["tag"])["data"]["products"] == {
        name: mine[name] + sides[name] for name in ("train", "validation", "calibration", "test")
    }
    assert challenger["labels_held_out"] == sides[FRESH]
    assert sides["test"] == 0


def test_the_same_labels_make_the_same_weights(shop: Path, challenger: dict[str, object]) -> None:
    report = shop / "again.json"
    words = ("--labels-until", "120", "--min-class", "2", "--report", str(report))
    training(shop, "fit", str(shop / "catalogue"), *words)
    tags = (challenger["tag"], json.loads(report.read_text())["tag"])
    heads = [
        (shop / "bentoml" / "models" / str(tag).replace(":", "/") / "head.safetensors").read_bytes()
        for tag in tags
    ]
    assert tags[0] != tags[1]
    assert heads[0] == heads[1]


def test_answers_are_about_the_test_split_and_fresh_products(
    shop: Path, challenger: dict[str, object]
) -> None:
    file = shop / "answers.parquet"
    words = (str(challenger["tag"]), str(shop / "catalogue"), "--labels-until", "120", "--out", str(file))
    training(shop, "answers", *words)
    answers = pd.read_parquet(file)
    assert list(answers.columns) == ["set", "product_id", "label", "answer", "confidence", "correct"]
    assert (answers.correct == (answers.label == answers.answer)).all()
    catalog = read_catalog(shop / "catalogue")
    is_test = (assign_splits(catalog.products.group, SPLITS) == "test").to_numpy()
    by_set = {name: set(rows.product_id) for name, rows in answers.groupby("set")}
    assert by_set["frozen"] == set(catalog.products.product_id[is_test])
    keys = [f"answer-{i}" for i in range(120)]
    sides = fresh_or_split(keys, SPLITS)
    assert by_set["fresh"] == {key for key, side in zip(keys, sides, strict=True) if side == FRESH}


def test_a_challenger_that_starts_from_the_champion_says_so(shop: Path) -> None:
    first = sorted((shop / "bentoml" / "models" / "aisle-classifier").glob("2*"))[0].name
    report = shop / "warm.json"
    words = ("--start-from", f"aisle-classifier:{first}", "--min-class", "2", "--report", str(report))
    training(shop, "fit", str(shop / "catalogue"), *words)
    card = card_of(shop, json.loads(report.read_text())["tag"])
    assert card["data"]["started_from"] == f"aisle-classifier:{first}"


def test_the_market_moves_in_the_categories_that_it_names_and_nowhere_else(tmp_path: Path) -> None:
    for name, shifted in (("before", False), ("after", True)):
        write_demo_catalog(tmp_path / name, products=240, seed=5, shifted=shifted)
    before, after = (read_catalog(tmp_path / name).products for name in ("before", "after"))
    assert before.product_id.tolist() == after.product_id.tolist()
    assert before.category.tolist() == after.category.tolist()
    moved = (before.title != after.title).to_numpy()
    assert set(before.category[moved]) == set(SHIFTED)
    still = ~before.category.isin(list(SHIFTED)).to_numpy()
    for name in before.image[still & (before.image != "").to_numpy()]:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
