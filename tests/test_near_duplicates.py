import csv
import io
import random
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from test_training_commands import training

from training.catalog import read_catalog
from training.demo_pictures import DRAWINGS, draw_photo
from training.duplicates import find_duplicates
from training.fingerprints import picture_hash, shingles, signatures, similarity
from training.near_duplicates import PICTURE_BITS, TEXT_SIMILARITY, picture_clusters, text_clusters


def resaved(photo: bytes, *, quality: int, scale: float = 1.0) -> bytes:
    picture = Image.open(io.BytesIO(photo))
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def photos(count: int) -> list[bytes]:
    return [draw_photo(sorted(DRAWINGS)[i % 4], Random(f"t{i}"), Random(f"p{i}")) for i in range(count)]


def hashes(pictures: list[bytes]) -> np.ndarray:
    return np.array([picture_hash(one) for one in pictures], dtype=np.uint64)


def test_a_photo_that_was_compressed_or_made_smaller_is_near_itself() -> None:
    originals = photos(40)
    for copies in (
        [resaved(photo, quality=40) for photo in originals],
        [resaved(photo, quality=80, scale=0.7) for photo in originals],
    ):
        bits = np.bitwise_count(hashes(originals) ^ hashes(copies))
        assert (bits <= PICTURE_BITS).mean() >= 0.95


def test_photos_of_different_things_are_far_apart() -> None:
    found = hashes(photos(40))
    one, other = np.triu_indices(40, 1)
    assert (np.bitwise_count(found[one] ^ found[other]) <= PICTURE_BITS).mean() <= 0.01


def test_a_picture_of_one_colour_has_no_hash() -> None:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "white").save(file, "PNG")
    assert picture_hash(file.getvalue()) is None


def test_picture_clusters_are_those_of_comparing_each_with_each() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.integers(0, 2**64, size=200, dtype=np.uint64)
    noise = np.zeros(400, dtype=np.uint64)
    for row in range(400):
        for bit in rng.choice(64, size=rng.integers(0, 6), replace=False):
            noise[row] |= np.uint64(1) << np.uint64(bit)
    found = np.concatenate([seeds, seeds[rng.integers(0, 200, size=400)] ^ noise])
    distance = np.bitwise_count(found[:, None] ^ found[None, :])
    near = distance <= PICTURE_BITS
    for _ in range(10):  # what is linked to what is linked
        near = (near.astype(int) @ near.astype(int)) > 0
    clusters = picture_clusters(found)
    assert ((clusters[:, None] == clusters[None, :]) == near).all()


def test_similarity_is_the_share_of_common_shingles() -> None:
    assert len(shingles("abcdef")) == 2
    assert similarity("abcdef", "ABCDEF") == 1
    assert similarity("abcdef", "bcdefg") == 1 / 3
    assert similarity("abc", "abc") == 0


def test_signatures_estimate_similarity() -> None:
    first = "coussin garni en coton biologique avec housse zippée et passepoil bleu marine"
    second = first.replace("bleu marine", "rouge brique")
    one, other = signatures([first, second])
    assert (one == other).mean() == pytest.approx(similarity(first, second), abs=0.12)


def listings(count: int) -> list[str]:
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 9))) for _ in range(600)]
    return [" ".join(rng.choices(words, k=rng.randint(12, 20))) for _ in range(count)]


def test_nearly_equal_texts_are_found_and_others_are_not() -> None:
    rng = random.Random(6)
    texts = listings(500)
    changed = []
    for text in texts[:200]:
        words = text.split()
        words[rng.randrange(len(words))] = "nouveau"
        changed.append(" ".join(words))
    near = np.array([similarity(*pair) >= TEXT_SIMILARITY for pair in zip(texts, changed, strict=False)])
    clusters = text_clusters([*texts, *changed])
    together = clusters[:200] == clusters[500:]
    assert near.sum() > 100
    assert together.tolist() == near.tolist()
    assert len(np.unique(clusters)) == 700 - near.sum()


def test_equal_texts_are_one_cluster_and_short_ones_are_none() -> None:
    clusters = text_clusters(["une robe rouge en coton", "robe", "robe", "une robe rouge en coton"])
    assert clusters[0] == clusters[3]
    assert len(set(clusters.tolist())) == 3


def test_three_thousand_texts_with_another_number_are_one_cluster() -> None:
    """A seller's boilerplate: all share nearly all bands, and are not compared each with each."""
    text = "coque de protection souple et transparente pour telephone, livraison gratuite en 48 h, modele {}"
    clusters = text_clusters([text.format(i) for i in range(3_000)])
    assert len(np.unique(clusters)) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six products: 0 and 1 share a text, 2 and 3 a photo, and 4 is a known variant of 5."""
    photo = photos(6)
    (tmp_path / "images").mkdir()
    for i in range(6):
        data = resaved(photo[2], quality=70) if i == 3 else photo[5] if i == 4 else photo[i]
        (tmp_path / "images" / f"{i}.jpg").write_bytes(data)
    titles = [
        "un grand coussin de lin lavé, 40 x 40 cm",
        "un grand coussin de lin lavé, 40 x 40 cm",
        "un article sans pareil, numéro alpha",
        "tout autre chose, sans rapport",
        "lampe de bureau en laiton brossé",
        "lampe de bureau en laiton brossé",
    ]
    with (tmp_path / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "description", "image", "category", "item_group_id"])
        for i, title in enumerate(titles):
            rows.writerow([i, title, "", f"images/{i}.jpg", "ab"[i == 1], "g" if i >= 4 else f"g{i}"])
    return tmp_path


def test_duplicates_say_what_they_cross(folder: Path) -> None:
    splits = np.array(["train", "train", "train", "test", "train", "train"], dtype=object)
    found = find_duplicates(read_catalog(folder), splits)
    flags = {
        row.product_id: (row.kind, bool(row.across_splits), bool(row.across_categories))
        for row in found.members.itertuples()
    }
    assert flags == {
        "0": ("text", False, True),
        "1": ("text", False, True),
        "2": ("picture", True, False),
        "3": ("picture", True, False),
    }
    assert found.compared == {"text": 6, "picture": 6}
    assert (found.clusters("text"), found.clusters("picture", "across_splits")) == (1, 1)


def test_the_command_writes_a_table(folder: Path) -> None:
    done = training(folder / "home", "duplicates", str(folder), "--out", str(folder / "found.csv"))
    assert done.returncode == 0, done.stderr
    assert "text: 6 compared, 1 clusters of near-duplicates" in done.stdout
    with (folder / "found.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["product_id"] for row in csv.DictReader(file)} == {"0", "1", "2", "3"}
