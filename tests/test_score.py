"""Bulk scoring: the answers that `decide` gives, of every product, once, and on after a kill."""

from __future__ import annotations

import fcntl
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aisle import Prediction, ProductError, Taxonomy
from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.classifier import Classifier, Embedded
from aisle.errors import CatalogError
from aisle.features import ViewSpec
from aisle.fusion import FusionSettings, build_fusion
from aisle.image import ImageEncoder
from aisle.prediction import Source
from aisle.prediction_sets import SetRule
from aisle.text import TextEncoder
from training import score as score_module
from training.score import score
from training.shards import Shards

TEXT_ONLY, IMAGE_ONLY, BROKEN = "p3", "p10", "p8"
PRODUCTS = 40


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    torch.manual_seed(3)
    settings = FusionSettings(
        text_dim=tiny_text_encoder.dim, image_dim=tiny_image_encoder.dim, hidden_dim=16, classes=5
    )
    sets = SetRule(coverage=0.9, penalty=0.05, free_ranks=1, quantile=(0.5, 0.6, 0.7, 0.8, 0.9))
    rules = {"both": sets, "text": sets, "image": None}
    patterns = {
        name: PatternCalibration(temperature=0.5, threshold=0.3, sets=rules[name]) for name in PATTERNS
    }
    bundle = Bundle(
        fusion=build_fusion(settings),
        taxonomy=Taxonomy.from_codes([f"c{i}" for i in range(5)]),
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=patterns),
        text_encoder=EncoderRef(revision=tiny_text_encoder.revision, dim=tiny_text_encoder.dim),
        image_encoder=EncoderRef(revision=tiny_image_encoder.revision, dim=tiny_image_encoder.dim),
        reference={},
    )
    return Classifier(bundle, tiny_text_encoder, tiny_image_encoder, version="aisle-classifier:test")


class Store:
    """Both views of PRODUCTS products on disk, and their vectors by id."""

    def __init__(self, features: Path, classifier: Classifier) -> None:
        rng = np.random.default_rng(27)
        self.features = features
        text, image = classifier.bundle.text_encoder, classifier.bundle.image_encoder
        self.specs = (
            ViewSpec(modality="text", revision=text.revision, encoder="t", dim=text.dim),
            ViewSpec(modality="image", revision=image.revision, encoder="i", dim=image.dim),
        )
        ids = [f"p{i}" for i in range(PRODUCTS)]
        self.vectors = [
            {one: rng.normal(size=spec.dim).astype(np.float32) for one in ids} for spec in self.specs
        ]
        del self.vectors[0][IMAGE_ONLY], self.vectors[1][TEXT_ONLY]
        self.vectors[0][BROKEN][0] = np.inf
        self._write(0, [i for i in rng.permutation(ids) if i != IMAGE_ONLY], shard=7)
        self._write(1, [i for i in ids if i != TEXT_ONLY], shard=11)

    def _write(self, modality: int, ids: list[str], shard: int) -> None:
        shards = Shards(self.specs[modality], self.features)
        # An older row of the first product comes before its newest.
        shards.write(ids[:1], ["old"], np.zeros((1, self.specs[modality].dim), dtype=np.float32))
        for start in range(0, len(ids), shard):
            part = ids[start : start + shard]
            shards.write(part, ["new"] * len(part), np.stack([self.vectors[modality][i] for i in part]))
        shards.close({})

    def embedded(self, ids: list[str]) -> Embedded:
        rows = [
            np.stack([held.get(i, np.zeros(spec.dim, np.float32)) for i in ids])
            for held, spec in zip(self.vectors, self.specs, strict=True)
        ]
        sources = [[Source.STORED if i in held else Source.ABSENT for i in ids] for held in self.vectors]
        return Embedded(text_BD=rows[0], image_BE=rows[1], text_source=sources[0], image_source=sources[1])


@pytest.fixture(scope="module")
def shop(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("features"), classifier)


Run = Callable[..., pa.Table]


@pytest.fixture
def run(classifier: Classifier, shop: Store, tmp_path: Path) -> Run:
    def score_and_read(**options: object) -> pa.Table:
        folder = tmp_path / "out"
        score(classifier, shop.specs, shop.features, folder, part_rows=16, **options)  # type: ignore[arg-type]
        return pq.read_table(folder)

    return score_and_read


def test_every_product_is_scored_once(run: Run) -> None:
    ids = run()["product_id"].to_pylist()
    assert sorted(ids) == sorted(f"p{i}" for i in range(PRODUCTS))


def test_the_answers_are_those_of_decide(run: Run, classifier: Classifier, shop: Store) -> None:
    rows = run(top_k=2).to_pylist()
    answers = classifier.decide(shop.embedded([row["product_id"] for row in rows]), 2)
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, ProductError):
            assert row["product_id"] == BROKEN
            continue
        assert row["category"] == answer.category.code
        assert row["confidence"] == pytest.approx(answer.confidence, abs=1e-6)
        assert row["accepted"] == answer.accepted
        assert row["top_categories"] == [c.category.code for c in answer.top]
        assert row["top_probabilities"] == pytest.approx([c.probability for c in answer.top], abs=1e-6)
        assert row["prediction_set"] == (list(answer.prediction_set.codes) if answer.prediction_set else None)
        for name, alone in (("text", answer.text_only), ("image", answer.image_only)):
            assert row[f"{name}_category"] == (alone.category.code if alone else None)
            assert row[f"{name}_probability"] == (
                pytest.approx(alone.probability, abs=1e-6) if alone else None
            )
        assert row["model"] == "aisle-classifier:test"
    assert sum(isinstance(answer, Prediction) for answer in answers) == PRODUCTS - 1


def test_a_product_without_a_finite_vector_has_no_answer(run: Run) -> None:
    [row] = [row for row in run().to_pylist() if row["product_id"] == BROKEN]
    assert row == dict.fromkeys(row) | {
        "product_id": BROKEN,
        "accepted": False,
        "model": "aisle-classifier:test",
    }


def test_only_wanted_products_are_scored(run: Run) -> None:
    assert sorted(run(wanted={"p5", "p21", "nobody"})["product_id"].to_pylist()) == ["p21", "p5"]


def test_a_rerun_keeps_finished_parts_and_makes_the_lost_one_again(
    run: Run, classifier: Classifier, shop: Store, tmp_path: Path
) -> None:
    before = run()
    kept, lost = tmp_path / "out" / "part-00000.parquet", tmp_path / "out" / "part-00001.parquet"
    lost.unlink()
    (tmp_path / "out" / "_part-00001.parquet.part").write_bytes(b"half")
    times = kept.stat().st_mtime_ns
    report = score(classifier, shop.specs, shop.features, tmp_path / "out", part_rows=16)
    assert (report.products, report.kept, report.parts) == (PRODUCTS, PRODUCTS - 16, 3)
    assert kept.stat().st_mtime_ns == times
    assert pq.read_table(tmp_path / "out").equals(before)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        score_module.IDENTITY,
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]


def test_scores_of_another_run_are_not_mixed(
    run: Run, classifier: Classifier, shop: Store, tmp_path: Path
) -> None:
    run()
    with pytest.raises(CatalogError, match="scores of another model or of other vectors"):
        score(classifier, shop.specs, shop.features, tmp_path / "out", part_rows=16, wanted={"p5"})


def test_two_processes_do_not_score_into_one_folder(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "part-00001.parquet").unlink()
    with (tmp_path / "out" / score_module.LAYOUT).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CatalogError, match="found another process that scores into it, wanted none"):
            run()
    assert run().num_rows == PRODUCTS


def test_a_disk_without_room_is_told_and_a_rerun_goes_on(run: Run, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, hard))  # which allocating meets as it does a full disk
    try:
        with pytest.raises(CatalogError, match=r"bytes free, wanted [\d,]+ for text vectors"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "out" / score_module.LAYOUT).stat().st_size == 0
    assert run().num_rows == PRODUCTS


def test_nothing_to_score_is_an_error(run: Run) -> None:
    with pytest.raises(CatalogError, match="found no stored vector of a wanted product"):
        run(wanted={"nobody"})


def test_the_command_scores_a_shop(tiny_home: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "training", "score", str(tmp_path / "scores")],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AISLE_HOME": str(tiny_home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "120 products by aisle-classifier:" in done.stdout
    assert len(pq.read_table(tmp_path / "scores")) == 120
