"""The demo catalogue: the same bytes each time, as dirty as a feed, and solvable only by both halves."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from aisle.errors import CatalogError
from training.catalog import Catalog, read_catalog
from training.demo import CATEGORIES, write_demo_catalog
from training.splits import SplitSettings, assign_splits

PRODUCTS = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    write_demo_catalog(path, products=PRODUCTS, seed=27)
    return path


@pytest.fixture(scope="module")
def catalog(folder: Path) -> Catalog:
    return read_catalog(folder)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo_catalog(tmp_path / name, products=24, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_a_killed_run_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, products=24)
    whole = digest(tmp_path)
    (tmp_path / "products.csv").unlink()
    pictures = sorted((tmp_path / "images").iterdir())
    before = pictures[0].stat().st_mtime_ns
    for picture in pictures[5:]:
        picture.unlink()
    pictures[5].with_name(pictures[5].name + ".part").write_bytes(b"half")
    write_demo_catalog(tmp_path, products=24)
    assert digest(tmp_path) == whole
    assert pictures[0].stat().st_mtime_ns == before


def test_another_seed_replaces_what_was_there(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path / "a", products=40, seed=1)
    write_demo_catalog(tmp_path / "a", products=24, seed=2)
    write_demo_catalog(tmp_path / "b", products=24, seed=2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize("name", ["holiday.txt", "products.csv", "images/holiday.jpg"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(CatalogError, match=f"found {name}, wanted an empty folder"):
        write_demo_catalog(tmp_path, products=24)
    assert (tmp_path / name).read_text() == "mine"


def test_fewer_products_than_categories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="found 11 products, wanted 12 or more"):
        write_demo_catalog(tmp_path, products=11)


def test_it_holds_the_asked_products_and_rows_that_a_reader_must_drop(catalog: Catalog) -> None:
    report = catalog.report
    assert (report.read, report.kept) == (PRODUCTS + 6, PRODUCTS)
    assert {reason: finding.rows for reason, finding in report.dropped.items()} == {
        "product_id_repeated": 3,
        "product_empty": 3,
    }
    assert list(report.noted) == ["image_missing"]


def test_each_category_has_its_name_and_dozens_of_products(catalog: Catalog) -> None:
    assert catalog.names == {code: category.name for code, category in CATEGORIES.items()}
    counts = catalog.products.category.value_counts()
    assert len(counts) == 12
    assert counts.min() >= 24


def test_it_is_as_dirty_as_a_feed(catalog: Catalog) -> None:
    products = catalog.products
    assert 0.2 < (products.description == "").mean() < 0.45
    assert products.title.str.contains("Ã").any()
    assert products.title.str.isupper().any()
    assert products.description.str.contains("<br").any()
    assert products.description.str.contains("&#233;").any()
    assert 0 < (products.image == "").mean() < 0.1


def test_its_pictures_are_300_pixels_a_side(catalog: Catalog) -> None:
    with Image.open(io.BytesIO(catalog.product(0).image or b"")) as image:
        assert (image.format, image.size) == ("JPEG", (300, 300))


def test_variants_stay_in_one_split(catalog: Catalog) -> None:
    products = catalog.products.assign(split=assign_splits(catalog.products.group, SplitSettings()))
    sizes = products.groupby("group").size()
    assert (sizes > 1).sum() > 30
    assert (products.groupby("group").split.nunique() == 1).all()
    assert (products.groupby("group").category.nunique() == 1).all()


def test_neither_words_nor_pictures_are_enough_and_both_are(catalog: Catalog) -> None:
    products = catalog.products
    test = (assign_splits(products.group, SplitSettings(test=0.35)) == "test").to_numpy()
    truth = products.category.to_numpy()
    texts = (products.title + " " + products.description).tolist()
    words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    edges = np.stack([edges_of(catalog, image) for image in products.image])
    by_words, by_edges = (log_probabilities(features, truth, test) for features in (words, edges))
    text, image, fused = (
        f1_score(truth[test], np.unique(truth)[logp.argmax(axis=1)], average="macro")
        for logp in (by_words, by_edges, by_words + by_edges)
    )
    assert text < 0.8
    assert image < 0.8
    assert fused > max(text, image) + 0.08, (text, image, fused)


def edges_of(catalog: Catalog, image: str) -> np.ndarray:
    """Histograms of edge directions [8 x 8 cells x 8 directions]: a plain sight of shape and texture."""
    if not image:
        return np.zeros(512, dtype=np.float32)
    with Image.open(catalog.image_root / image) as photo:
        grey = np.asarray(photo.convert("L").resize((64, 64)), dtype=np.float32) / 255
    dy, dx = np.gradient(grey)
    direction = (np.arctan2(dy, dx) % np.pi / np.pi * 8).astype(int).clip(0, 7)
    strength = np.where(direction[..., None] == np.arange(8), np.hypot(dx, dy)[..., None], 0)
    cells = strength.reshape(8, 8, 8, 8, 8).sum(axis=(1, 3)).ravel()
    return np.sqrt(cells / (np.linalg.norm(cells) + 1e-6)).astype(np.float32)


def log_probabilities(features: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=10, max_iter=500).fit(features[~test], truth[~test])
    return np.log(model.predict_proba(features[test]) + 1e-6)
