import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aisle.bundle import PARTS, Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.errors import BundleError
from aisle.fusion import FusionSettings, build_fusion
from aisle.manifest import MANIFEST, write_manifest
from aisle.prediction_sets import SetRule
from aisle.taxonomy import Taxonomy
from aisle.vector_scaling import VectorScaling


def small_bundle(
    *, text_width: int = 6, vector: VectorScaling | None = None, sets: SetRule | None = None
) -> Bundle:
    torch.manual_seed(0)
    settings = FusionSettings(variant="gated", text_dim=6, image_dim=4, hidden_dim=8, classes=3)
    pattern = PatternCalibration(temperature=1.5, threshold=0.8, vector=vector, sets=sets)
    return Bundle(
        fusion=build_fusion(settings),
        taxonomy=Taxonomy.from_codes(["10", "40", "50"], {"10": "adult books"}),
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
        text_encoder=EncoderRef(revision="aaaaaaaa", dim=text_width),
        image_encoder=EncoderRef(revision="bbbbbbbb", dim=4),
        reference={"text": np.ones((2, 6), dtype=np.float16)},
        metrics={"macro_f1": 0.5},
        card={"seed": 27},
    )


def test_a_saved_bundle_loads_as_it_was(tmp_path: Path) -> None:
    bundle = small_bundle()
    bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.taxonomy == bundle.taxonomy
    assert loaded.calibration == bundle.calibration
    assert (loaded.text_encoder, loaded.image_encoder) == (bundle.text_encoder, bundle.image_encoder)
    assert loaded.metrics == {"macro_f1": 0.5}
    assert loaded.card == {"seed": 27}
    np.testing.assert_array_equal(loaded.reference["text"], bundle.reference["text"])
    for name, value in bundle.fusion.state_dict().items():
        assert torch.equal(value, loaded.fusion.state_dict()[name]), name


@pytest.mark.parametrize("part", PARTS)
def test_a_changed_part_is_refused_by_name(tmp_path: Path, part: str) -> None:
    small_bundle().save(tmp_path)
    with (tmp_path / part).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=f"{part}: found sha256"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused_by_name(tmp_path: Path, part: str) -> None:
    small_bundle().save(tmp_path)
    (tmp_path / part).unlink()
    with pytest.raises(BundleError, match=f"{part}: missing"):
        Bundle.load(tmp_path)
    write_manifest(tmp_path)  # a manifest that agrees with the hole does not help
    with pytest.raises(BundleError, match=f"{part}: missing; a bundle holds"):
        Bundle.load(tmp_path)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(BundleError, match="no manifest.json; the folder was not finished"):
        Bundle.load(tmp_path)


def test_a_stray_file_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path)
    (tmp_path / "extra.bin").write_bytes(b"?")
    with pytest.raises(BundleError, match="extra.bin: found, but the manifest does not name it"):
        Bundle.load(tmp_path)


def test_a_disagreeing_dimension_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match="text encoder width: found 7, but the fusion .* text_dim has 6"):
        small_bundle(text_width=7)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path)
    facts = json.loads((tmp_path / "bundle.json").read_text())
    facts["fusion"]["hidden_dim"] = 16
    (tmp_path / "bundle.json").write_text(json.dumps(facts))
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match="head.safetensors: does not fit bundle.json"):
        Bundle.load(tmp_path)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path)
    facts = json.loads((tmp_path / "bundle.json").read_text()) | {"format": 99}
    (tmp_path / "bundle.json").write_text(json.dumps(facts))
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match=r"found bundle format 99, wanted 3 \(or 1 or 2, of old\)"):
        Bundle.load(tmp_path)


def test_vector_scaling_and_sets_come_back_as_they_were(tmp_path: Path) -> None:
    bundle = small_bundle(
        vector=VectorScaling(scale=(1.0, 0.1, 2.0), bias=(0.0, 0.3, -1.5)),
        sets=SetRule(coverage=0.95, penalty=0.01, free_ranks=1, quantile=(0.5, 1.0, 1.01)),
    )
    bundle.save(tmp_path)
    assert Bundle.load(tmp_path).calibration == bundle.calibration


def test_a_bundle_of_format_1_is_read(tmp_path: Path) -> None:
    """As the first release wrote it: no vector scaling, no sets."""
    small_bundle().save(tmp_path)
    facts = json.loads((tmp_path / "bundle.json").read_text()) | {"format": 1}
    assert set(facts["calibration"]["patterns"]["both"]) == {"temperature", "threshold"}
    (tmp_path / "bundle.json").write_text(json.dumps(facts))
    write_manifest(tmp_path)
    pattern = Bundle.load(tmp_path).calibration.patterns["both"]
    assert (pattern.vector, pattern.sets) == (None, None)


def test_scales_and_quantiles_must_be_of_the_taxonomy() -> None:
    with pytest.raises(BundleError, match="both vector scaling's scales: found 2, but the taxonomy has 3"):
        small_bundle(vector=VectorScaling(scale=(1.0, 1.0), bias=(0.0, 0.0, 0.0)))
    sets = SetRule(coverage=0.95, penalty=0.01, free_ranks=1, quantile=(1.0,) * 4)
    with pytest.raises(BundleError, match="both prediction sets' quantiles: found 4, but the taxonomy has 3"):
        small_bundle(sets=sets)
