"""`python -m training report`: figures as registered, mistakes with their pictures, no markup of a seller."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from page_reader import PageReader
from test_training_commands import training

from training.report import course_blocks

EVIL = "<img src=x onerror=alert(1)>"  # cleaning takes tags out of a text, so its vector stays the same


@pytest.fixture(scope="module")
def metrics(tiny_home: Path) -> dict:  # type: ignore[type-arg]
    [file] = (tiny_home / "bentoml" / "models" / "aisle-classifier").glob("*/metrics.json")
    found: dict = json.loads(file.read_text())  # type: ignore[type-arg]
    return found


@pytest.fixture(scope="module")
def page(tiny_home: Path) -> PageReader:
    """The page of the tiny classifier, where it is written unless told otherwise."""
    done = training(tiny_home, "report", "aisle-classifier:latest")
    assert done.returncode == 0, done.stderr[-3_000:]
    path = Path(done.stdout.strip())
    [version] = [
        entry.name
        for entry in (tiny_home / "bentoml" / "models" / "aisle-classifier").iterdir()
        if entry.is_dir()
    ]
    assert path == tiny_home / "reports" / f"aisle-classifier-{version}.html"
    return PageReader(path.read_text())


@pytest.fixture(scope="module")
def wrong_page(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> PageReader:
    """The page about the same products with other labels, and with markup in their titles."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(tiny_home / "catalogue" / "images", folder / "images")
    with (tiny_home / "catalogue" / "products.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    turned = {"10": "40", "40": "50", "50": "10"}
    for row in rows:
        row["category"], row["title"] = turned[row["category"]], f"{row['title']} {EVIL}"
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    out = folder / "page.html"
    done = training(tiny_home, "report", "aisle-classifier:latest", str(folder), "--out", str(out))
    assert done.returncode == 0, done.stderr[-3_000:]
    return PageReader(out.read_text())


def test_the_compared_figures_are_those_that_were_registered(page: PageReader, metrics: dict) -> None:  # type: ignore[type-arg]
    for row, name in (("text alone", "text"), ("image alone", "image"), ("fused", "fused")):
        cells = next(cells for cells in page.rows if cells[0] == row)  # slices come later
        scores = metrics[name]
        assert cells[1:4] == [
            f"{scores['products']:,}",
            f"{scores['macro_f1']:.3f}",
            f"{scores['weighted_f1']:.3f}",
        ]
        assert cells[4] == f"{scores['accuracy']:.1%}"


def test_nothing_warns_where_the_catalogue_is_the_trained_one(page: PageReader) -> None:
    assert "warning" not in [attrs.get("class") for attrs in page.all("p")]


def test_every_category_has_its_f1(page: PageReader, metrics: dict) -> None:  # type: ignore[type-arg]
    for row in metrics["per_class"]:
        [cells] = [cells for cells in page.rows if cells[0] == row["code"] and len(cells) == 6]
        assert cells[2:] == [f"{row[key]:.3f}" for key in ("f1", "precision", "recall")] + [
            f"{row['products']:,}"
        ]


def test_the_card_tells_seed_code_and_data(page: PageReader, tiny_home: Path) -> None:
    [file] = (tiny_home / "bentoml" / "models" / "aisle-classifier").glob("*/card.json")
    card = json.loads(file.read_text())
    for fact in (card["git_revision"], card["data"]["fingerprint"], card["made"]):
        assert fact in page.text
    assert "training: seed 27" in page.text


def test_a_page_tells_no_path_of_the_machine(page: PageReader, tiny_home: Path) -> None:
    assert str(tiny_home) not in page.text


def test_slices_cover_the_test_split(page: PageReader, metrics: dict) -> None:  # type: ignore[type-arg]
    counted = [int(cells[4]) for cells in page.rows if cells[0] in ("text and picture", "text alone")[:1]]
    alone = [int(cells[4]) for cells in page.rows if cells[0] == "text alone" and "to" in cells[3]]
    assert sum(counted) + sum(alone) == metrics["products"]


def test_another_catalogue_is_told(wrong_page: PageReader) -> None:
    assert "This catalogue is not the one that the classifier was trained on" in wrong_page.text


def test_mistakes_are_shown_with_their_pictures(wrong_page: PageReader) -> None:
    pictures = wrong_page.all("img")
    assert 1 <= len(pictures) <= 24
    assert {(picture["src"] or "")[:23] for picture in pictures} == {"data:image/jpeg;base64,"}


def test_markup_in_a_title_is_shown_as_it_was_written(wrong_page: PageReader) -> None:
    titles = [words for words in wrong_page.words if EVIL in words]
    assert titles
    assert [attrs for attrs in wrong_page.all("img") if "onerror" in attrs] == []


def test_a_head_of_two_parts_has_two_courses() -> None:
    epochs = [(0, 0.5), (1, 0.7), (2, 0.6), (0, 0.2), (1, 0.3)]
    history = [{"epoch": epoch, "validation_macro_f1": score} for epoch, score in epochs]
    captions = [block.caption for block in course_blocks(history)]
    assert captions == [
        f"Validation macro-F1 of {part} alone by epoch: the best, {best}, says how long to train."
        for part, best in (("text", "0.700, after epoch 2 of 3"), ("image", "0.300, after epoch 2 of 2"))
    ]
    assert [len(block.table.rows) for block in course_blocks(history) if block.table] == [3, 2]
    assert list(course_blocks([{"both 0": 0.1}])) == []
