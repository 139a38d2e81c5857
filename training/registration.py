"""From a trained head to a registered classifier: calibrate, evaluate, register.

Shapes: N products, C categories.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import Answers, Calibration, calibrate
from aisle.classifier import Classifier
from aisle.fusion import FusionNet, fusion_logits
from aisle.golden import Golden
from aisle.image import ImageEncoder
from aisle.neighbours import Neighbours
from aisle.product import Product
from aisle.store import save_bundle
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder
from training.evaluation import evaluate, present_probabilities
from training.fit import FitSettings, Vectors


def calibrate_fusion(
    fusion: FusionNet,
    *,
    tuned_on: Answers,
    tuned_group_N: np.ndarray,
    held_out: Vectors,
    group_N: np.ndarray,
    target_error: float,
    delta: float,
) -> Calibration:
    """Scalings from answers that heads like it gave about products that they had not seen, thresholds and
    prediction sets from its own about `held_out`; products are variants of one another where `group_N` (of
    `held_out`) or `tuned_group_N` is equal."""
    tested_on = Answers(
        logits_PNC=fusion_logits(fusion, held_out.text_ND, held_out.image_NE),
        present_N2=held_out.present_N2,
        label_N=held_out.label_N,
    )
    return calibrate(
        tuned_on, tested_on, group_N, target_error=target_error, delta=delta, tuned_group_N=tuned_group_N
    )


def make_bundle(
    fusion: FusionNet,
    *,
    taxonomy: Taxonomy,
    calibration: Calibration,
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    test: Vectors,
    reference: Vectors,
    columns: Mapping[str, np.ndarray],
    golden: Sequence[Product],
    card: Mapping[str, Any],
    neighbours: Neighbours | None = None,
) -> Bundle:
    """A bundle with its figures on `test` (through `Classifier`), its answers for `golden` products, its
    drift reference: the vectors and cheap `columns` of held-out products, and the training products that
    answers are explained by."""
    encoders = {
        "text_encoder": EncoderRef(revision=text_encoder.revision, dim=text_encoder.dim),
        "image_encoder": EncoderRef(revision=image_encoder.revision, dim=image_encoder.dim),
    }
    parts: dict[str, Any] = {"fusion": fusion, "taxonomy": taxonomy, "calibration": calibration, **encoders}
    draft = Classifier(Bundle(**parts, reference={}), text_encoder, image_encoder)
    return Bundle(
        **parts,
        reference={**_reference(draft, reference), **columns},
        neighbours=(lambda: neighbours) if neighbours is not None else None,
        metrics=evaluate(draft, test),
        card=card,
        golden=Golden.of(draft, golden),
    )


def register(bundle: Bundle, scratch: Path) -> str:
    """Write the bundle and put it into the model store; return its tag, aisle-classifier:<version>.

    A version is the time (UTC) and four hex that keep two of one second apart.
    """
    version = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{time.time_ns() % 0x10000:04x}"
    folder = scratch / f"bundle-{version}"
    bundle.save(folder)
    fused = bundle.metrics["fused"]
    tag = save_bundle(
        folder,
        version,
        {
            "macro_f1": fused["macro_f1"],
            "weighted_f1": fused["weighted_f1"],
            "text_encoder": bundle.text_encoder.revision,
            "image_encoder": bundle.image_encoder.revision,
            "data_fingerprint": bundle.card["data"]["fingerprint"],
        },
    )
    shutil.rmtree(folder)
    return tag


def model_card(
    *,
    settings: FitSettings,
    data: Mapping[str, Any],
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    """What made this classifier: settings, data, code revision, encoders, the course of training."""
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_revision": git_revision(),
        "fit": asdict(settings),
        "data": dict(data),
        "text_encoder": {
            "name": text_encoder.name,
            "weights": text_encoder.weights,
            **asdict(text_encoder.settings),
        },
        "image_encoder": {
            "backbone": image_encoder.backbone,
            "weights": image_encoder.weights,
            **asdict(image_encoder.settings),
        },
        "history": history,
    }


def git_revision() -> str:
    """The code's commit, with a + when files were changed since; "unknown" outside a checkout."""
    try:
        root = Path(__file__).parent
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _reference(classifier: Classifier, vectors: Vectors) -> dict[str, np.ndarray]:
    return {
        "text": vectors.text_ND.astype(np.float16),
        "image": vectors.image_NE.astype(np.float16),
        "present": vectors.present_N2.astype(np.uint8),
        "probabilities": present_probabilities(classifier, vectors).astype(np.float16),
        "label": vectors.label_N.astype(np.int32),
    }
