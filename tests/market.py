"""A market that is drawn from known distributions, so that drift is there exactly when it was asked for.

`python tests/market.py SEED PREDICTIONS`, with AISLE_HOME and BENTOML_HOME set, registers a bundle with its
reference and records so many predictions: a process of its own, because BentoML reads BENTOML_HOME when it
is imported.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import torch

from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.columns import LANGUAGES, Columns, column_arrays
from aisle.fusion import FusionSettings, build_fusion
from aisle.ledger import PredictionRecord
from aisle.taxonomy import Taxonomy

MODEL = "aisle-classifier:market"
CATEGORIES = 6
ACCURACY = 0.9


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What moved, and by how much."""

    prior: float = 0.0  # of category 0, added to its share
    text_mean: float = 0.0  # of every coordinate, before vectors get length 1
    brightness: float = 0.0
    french: float = 0.05  # share
    no_image: float = 0.04  # share


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """N products. Embeddings of length 1, as encoders make them: clusters in a narrow cone."""

    text_ND: np.ndarray
    image_NE: np.ndarray
    present_N2: np.ndarray
    probabilities_NC: np.ndarray
    columns: list[Columns]


class Market:
    def __init__(self, seed: int, *, text_dim: int = 48, image_dim: int = 24) -> None:
        self.rng = np.random.default_rng(seed)
        self.dims = text_dim, image_dim
        self._clouds = [_Cloud(self.rng, dim) for dim in self.dims]

    def draw(self, products: int, shift: Shift | None = None) -> Draw:
        shift, rng = shift or Shift(), self.rng
        share_C = np.linspace(1.6, 0.4, CATEGORIES) / CATEGORIES
        share_C[0] += shift.prior
        label_N = rng.choice(CATEGORIES, products, p=share_C / share_C.sum())
        logits_NC = rng.gumbel(size=(products, CATEGORIES))
        logits_NC[np.arange(products), label_N] += 5
        exp_NC = np.exp(logits_NC)
        present_N2 = np.ones((products, 2), dtype=np.uint8)
        present_N2[:, 1] = rng.random(products) >= shift.no_image
        return Draw(
            text_ND=self._clouds[0].draw(label_N, rng, shift.text_mean),
            image_NE=self._clouds[1].draw(label_N, rng, 0.0),
            present_N2=present_N2,
            probabilities_NC=exp_NC / exp_NC.sum(axis=1, keepdims=True),
            columns=[self._columns(bool(there), shift) for there in present_N2[:, 1]],
        )

    def bundle(self, products: int) -> Bundle:
        """A real bundle whose reference is a draw of this market. Its weights are random."""
        torch.manual_seed(1)
        text, image = self.dims
        settings = FusionSettings(
            variant="concat", text_dim=text, image_dim=image, hidden_dim=8, classes=CATEGORIES
        )
        pattern = PatternCalibration(temperature=1.5, threshold=0.3)
        return Bundle(
            fusion=build_fusion(settings),
            taxonomy=Taxonomy.from_codes([f"{10 * (i + 1)}" for i in range(CATEGORIES)]),
            calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
            text_encoder=EncoderRef(revision="aaaa0001", dim=text),
            image_encoder=EncoderRef(revision="bbbb0001", dim=image),
            reference=self._reference(self.draw(products)),
            metrics={"fused": {"accuracy": ACCURACY, "macro_f1": 0.9, "weighted_f1": 0.9}},
            card={"data": {"fingerprint": "market"}},
        )

    def records(
        self, products: int, shift: Shift | None = None, *, model: str = MODEL
    ) -> list[PredictionRecord]:
        """Predictions of new products, each of a product of its own."""
        drawn = self.draw(products, shift)
        return [self._record(drawn, row, model) for row in range(products)]

    def _record(self, drawn: Draw, row: int, model: str) -> PredictionRecord:
        has_image = bool(drawn.present_N2[row, 1])
        best = int(drawn.probabilities_NC[row].argmax())
        name = self.rng.bytes(16).hex()
        return PredictionRecord(
            prediction_id=name,
            at_s=1_000_000.0,
            model=model,
            product_id=f"product-{name}",
            category=f"{10 * (best + 1)}",
            confidence=float(drawn.probabilities_NC[row, best]),
            accepted=True,
            text_source="computed",
            image_source="computed" if has_image else "absent",
            text_encoder="aaaa0001",
            image_encoder="bbbb0001",
            columns=drawn.columns[row],
            text_embedding=drawn.text_ND[row].astype(np.float16),
            image_embedding=drawn.image_NE[row].astype(np.float16) if has_image else None,
        )

    def _columns(self, has_image: bool, shift: Shift) -> Columns:
        rng = self.rng
        columns = Columns(
            text_chars=int(rng.gamma(4, 30)) + 1,
            language="fr" if rng.random() < shift.french else LANGUAGES[int(rng.integers(2))],
            description_missing=bool(rng.random() < 0.2),
            image_width=int(rng.choice([320, 500, 640])),
            image_height=500,  # as a shop that crops every picture has it
            brightness=float(np.clip(rng.normal(0.6 + shift.brightness, 0.1), 0, 1)),
        )
        gone = {"image_width": None, "image_height": None, "brightness": None}
        return columns if has_image else replace(columns, **gone)

    @staticmethod
    def _reference(drawn: Draw) -> dict[str, np.ndarray]:
        return {
            "text": drawn.text_ND.astype(np.float16),
            "image": (drawn.image_NE * drawn.present_N2[:, 1:]).astype(np.float16),
            "present": drawn.present_N2,
            "probabilities": drawn.probabilities_NC.astype(np.float16),
            "label": np.zeros(len(drawn.text_ND), dtype=np.int32),
            **column_arrays(drawn.columns),
        }


class _Cloud:
    """A cluster a category, noise along a few common directions, a mean that is far from 0."""

    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self.mean_D = rng.normal(size=dim)
        self.centre_CD = 0.7 * rng.normal(size=(CATEGORIES, dim))
        self.directions_KD = rng.normal(size=(8, dim)) / 3

    def draw(self, label_N: np.ndarray, rng: np.random.Generator, shift: float) -> np.ndarray:
        rows, dim = len(label_N), len(self.mean_D)
        common_ND = rng.normal(size=(rows, 8)) @ self.directions_KD
        vectors_ND = self.mean_D + self.centre_CD[label_N] + common_ND + 0.5 * rng.normal(size=(rows, dim))
        vectors_ND += shift
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def main(seed: int, predictions: int) -> None:
    from aisle import store
    from aisle.ledger import Ledger
    from monitoring.settings import Settings

    settings = Settings.from_environment()
    market = Market(seed)
    folder = settings.home / "bundle"
    market.bundle(400).save(folder)
    store.save_bundle(folder, MODEL.partition(":")[2], {})
    ledger = Ledger.open(settings.ledger_url)
    ledger.create_tables()
    ledger.record_predictions(market.records(predictions))
    ledger.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
