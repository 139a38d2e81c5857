"""What `python -m training explore` counts, on catalogues whose counts are known."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page_reader import PageReader
from pictures import jpeg
from PIL import Image
from test_training_commands import training

from aisle.errors import SettingError
from training.catalog import Catalog, read_catalog
from training.survey import Survey, look_of, survey
from training.survey_page import survey_page
from training.terms import log_odds, telling_terms
from training.twins import find_twins, text_keys

EVIL = "<script>alert(1)</script>"
HEAD = ("product_id", "title", "description", "image", "category", "category_name", "item_group_id")


def write(folder: Path, rows: list[tuple[str, ...]], pictures: dict[str, bytes]) -> Catalog:
    (folder / "images").mkdir(parents=True)
    for name, data in pictures.items():
        (folder / "images" / name).write_bytes(data)
    with (folder / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return read_catalog(folder)


def bordered(box: tuple[int, int, int, int], size: tuple[int, int] = (400, 200)) -> bytes:
    """A PNG, white but for `box`."""
    picture = Image.new("RGB", size, "white")
    picture.paste("navy", box)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """40 products: 30 lamps and 10 books, and one with markup for a name; every fourth without a picture."""
    rows = []
    for i in range(40):
        code = "lamp" if i < 30 else "book"
        words = f"lampe de chevet blanche numero {i}" if i < 30 else f"un beau roman de poche numero {i}"
        picture = "" if i % 4 == 0 else f"images/{i}.jpg"
        rows.append((f"p{i}", words, "" if i < 20 else "neuf", picture, code, EVIL + code, f"g{i}"))
    rows.append((f"p{EVIL}", EVIL, EVIL, "images/broken.jpg", EVIL, EVIL, ""))
    pictures = {f"{i}.jpg": jpeg("red" if i < 30 else "blue", 60 + i) for i in range(40) if i % 4}
    return write(tmp_path_factory.mktemp("explored"), rows, {**pictures, "broken.jpg": b"no picture"})


@pytest.fixture(scope="module")
def found(catalog: Catalog) -> Survey:
    return survey(catalog)


def test_categories_are_counted_with_their_missing_parts(found: Survey) -> None:
    assert found.counts.loc["lamp"].to_dict() == {
        "products": 30,
        "no_title": 0,
        "no_description": 20,
        "no_picture": 8,
    }


def test_pictures_that_cannot_be_read_are_counted_by_reason(found: Survey) -> None:
    assert dict(found.faults()) == {"image_format": 1}
    assert len(found.readable) == 30


def test_a_telling_word_is_one_that_the_others_do_not_use() -> None:
    texts = ["lampe de chevet"] * 200 + ["roman de poche"] * 100
    lamp, book = telling_terms(texts, np.repeat([0, 1], [200, 100]), 2)
    assert {(term.word, term.texts) for term in lamp} == {("lampe", 200), ("chevet", 200)}
    assert {(term.word, term.texts) for term in book} == {("roman", 100), ("poche", 100)}


def test_a_sample_is_as_large_as_told_and_the_same_again(catalog: Catalog) -> None:
    first, again = survey(catalog, sample=10, seed=3), survey(catalog, sample=10, seed=3)
    assert len(first.row_N) == len(first.text_N) == len(first.looks) == 10
    assert first.row_N.tolist() == again.row_N.tolist() == sorted(set(first.row_N.tolist()))
    assert first.counts.products.sum() == 41


def test_the_page_says_that_it_is_of_a_sample(catalog: Catalog) -> None:
    assert "a random sample of 10 products" in survey_page(survey(catalog, sample=10)).render()


def test_an_empty_sample_is_refused(catalog: Catalog) -> None:
    with pytest.raises(SettingError, match="sample: found 0, wanted 1 or more products"):
        survey(catalog, sample=0)


def test_markup_of_a_catalogue_runs_nowhere(found: Survey) -> None:
    html = survey_page(found).render()
    assert PageReader(html).all("script") == []
    assert EVIL in PageReader(html).text


def test_the_page_counts_every_category(found: Survey) -> None:
    rows = PageReader(survey_page(found).render()).rows
    assert ["lamp " + EVIL + "lamp", "", "30", "66.7%", "26.7%", "6"] in rows


@pytest.mark.parametrize(
    ("box", "border"), [((0, 0, 400, 200), 0.0), ((100, 0, 300, 200), 0.5), ((100, 50, 300, 150), 0.75)]
)
def test_white_borders_are_a_share_of_the_picture_s_own_area(
    box: tuple[int, int, int, int], border: float
) -> None:
    assert look_of(bordered(box)).border == pytest.approx(border, abs=0.055)


def test_a_picture_of_white_alone_is_all_border() -> None:
    assert look_of(bordered((0, 0, 0, 0))).border == 1.0


def products(*rows: tuple[str, str, str]) -> tuple[pd.DataFrame, pd.Series]:
    """(title, category, group) of each, and their splits: the first is trained on, the rest tested."""
    frame = pd.DataFrame(rows, columns=["title", "category", "group"], dtype=object)
    frame["description"], frame["product_id"] = "", [f"p{i}" for i in range(len(rows))]
    return frame, pd.Series(["train"] + ["test"] * (len(rows) - 1))


def test_twins_are_in_different_groups() -> None:
    frame, split = products(
        ("Red  Lamp", "a", "1"), ("red lamp", "b", "2"), ("blue", "a", "3"), ("blue", "b", "3")
    )
    twins = find_twins("text", frame, text_keys(frame), split)
    assert (twins.looked_at, twins.sets, twins.products, twins.disagreeing, twins.leaked) == (4, 1, 2, 1, 1)
    assert twins.examples[0].categories == ("a", "b")
    assert twins.examples[0].product_ids == ("p0", "p1")


def test_products_without_a_text_are_no_twins() -> None:
    frame, split = products(("", "a", "1"), (" ", "b", "2"))
    twins = find_twins("text", frame, text_keys(frame), split)
    assert (twins.looked_at, twins.sets, twins.products, twins.leaked) == (0, 0, 0, 0)


def test_words_are_not_telling_by_chance() -> None:
    rng = np.random.default_rng(27)
    texts = [" ".join(f"w{w:03d}" for w in rng.integers(0, 300, 12)) for _ in range(3_000)]
    label_N = rng.integers(0, 4, 3_000)
    terms = telling_terms(texts, label_N, 4, most=300, least_z=1.6449)
    assert 0.03 <= sum(map(len, terms)) / (4 * 300) <= 0.065  # promised: 5 % one-sided
    assert sum(map(len, telling_terms(texts, label_N, 4, most=300))) <= 6  # z of 3: 1.6 expected


def test_log_odds_compare_with_the_others_only() -> None:
    z_CW = log_odds(np.array([[90.0, 50.0], [10.0, 50.0]]))
    assert z_CW[0, 0] == pytest.approx(-z_CW[1, 0])
    assert z_CW[0, 0] > 5 > 0 > z_CW[0, 1]


def test_texts_without_words_tell_nothing() -> None:
    assert telling_terms(["", "!"], np.array([0, 1]), 2) == [[], []]


def test_explore_writes_its_page(catalog: Catalog, tmp_path: Path) -> None:
    done = training(tmp_path, "explore", str(catalog.path))
    assert done.returncode == 0, done.stderr[-3_000:]
    path = Path(done.stdout.strip())
    assert path == tmp_path / "reports" / f"catalogue-{catalog.path.parent.name}.html"
    assert "41 products in 3 categories" in path.read_text()
