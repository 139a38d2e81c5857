"""A classifier on disk: everything that is needed to answer, and to know what it is.

| file                    | holds                                                              |
|-------------------------|--------------------------------------------------------------------|
| bundle.json             | format, fusion settings, taxonomy, calibration, the encoders it needs |
| head.safetensors        | weights of the fusion network                                      |
| reference.safetensors   | the drift reference: embeddings and probabilities of held-out products |
| neighbours.safetensors  | training products to show beside an answer; not in every bundle       |
| metrics.json, card.json | figures on the test split; data fingerprint, git revision, settings  |
| golden.*                | held-out products and their answers (aisle/golden.py); not in every bundle |
| manifest.json           | sha256 of all of these, written last                               |
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from aisle.calibration import Calibration
from aisle.errors import BundleError
from aisle.fusion import FusionNet, FusionSettings, build_fusion
from aisle.golden import GOLDEN_PARTS, Golden
from aisle.manifest import verify_manifest, write_manifest
from aisle.neighbours import FILE as NEIGHBOURS
from aisle.neighbours import Neighbours
from aisle.taxonomy import Taxonomy

FORMAT = 3
# Formats of old: 1 carries no golden products, 2 does; both know neither vector scaling nor prediction sets.
WITHOUT_GOLDEN, WITH_GOLDEN = 1, 2
PARTS = ("bundle.json", "head.safetensors", "reference.safetensors", "metrics.json", "card.json")


@dataclass(frozen=True, kw_only=True)
class EncoderRef:
    """The encoder revision a classifier was trained with, and the width of its vectors."""

    revision: str
    dim: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A trained and calibrated classifier. `reference` holds float16 arrays, one row a held-out
    product: text [N, D], image [N, E], present [N, 2], probabilities [N, C], and label [N]. `neighbours`
    gives training products to explain by; of a bundle on disk they are read at the first call. `golden` is
    None where nobody asked what it should answer."""

    fusion: FusionNet
    taxonomy: Taxonomy
    calibration: Calibration
    text_encoder: EncoderRef
    image_encoder: EncoderRef
    reference: Mapping[str, np.ndarray]
    neighbours: Callable[[], Neighbours] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    golden: Golden | None = None

    def __post_init__(self) -> None:
        settings = self.fusion.settings
        _agree("taxonomy", len(self.taxonomy), "the fusion network's outputs", settings.classes)
        _agree(
            "text encoder width", self.text_encoder.dim, "the fusion network's text_dim", settings.text_dim
        )
        _agree(
            "image encoder width",
            self.image_encoder.dim,
            "the fusion network's image_dim",
            settings.image_dim,
        )
        if self.golden is not None:
            width = self.golden.probabilities_NC.shape[1]
            _agree("golden probabilities", width, "the fusion network's outputs", settings.classes)
        for name, pattern in self.calibration.patterns.items():
            if pattern.vector is not None:
                for part, values in (("scales", pattern.vector.scale), ("biases", pattern.vector.bias)):
                    _agree(f"{name} vector scaling's {part}", len(values), "the taxonomy", len(self.taxonomy))
            if pattern.sets is not None:
                found = len(pattern.sets.quantile)
                _agree(f"{name} prediction sets' quantiles", found, "the taxonomy", len(self.taxonomy))

    def save(self, folder: Path) -> None:
        """Write all parts into `folder`, the manifest last."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "format": FORMAT,
            "golden": self.golden is not None,
            "fusion": self.fusion.settings.to_json(),
            "taxonomy": self.taxonomy.to_json(),
            "calibration": self.calibration.to_json(),
            "text_encoder": asdict(self.text_encoder),
            "image_encoder": asdict(self.image_encoder),
        }
        for name, data in (("bundle", facts), ("metrics", self.metrics), ("card", self.card)):
            (folder / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False))
        weights = {name: tensor.contiguous() for name, tensor in self.fusion.state_dict().items()}
        save_tensors(weights, folder / "head.safetensors")
        save_arrays(
            {name: np.ascontiguousarray(array) for name, array in self.reference.items()},
            folder / "reference.safetensors",
        )
        if self.golden is not None:
            self.golden.save(folder)
        if self.neighbours is not None:
            self.neighbours().save(folder)
        write_manifest(folder)

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read and verify a bundle. Raises BundleError naming the missing, changed or disagreeing part."""
        verify_manifest(folder)
        _check_parts(folder, PARTS)
        facts = json.loads((folder / "bundle.json").read_text())
        found = facts.get("format")
        if found not in (WITHOUT_GOLDEN, WITH_GOLDEN, FORMAT):
            raise BundleError(
                f"{folder.name}: found bundle format {found}, wanted {FORMAT} "
                f"(or {WITHOUT_GOLDEN} or {WITH_GOLDEN}, of old)"
            )
        has_golden = found == WITH_GOLDEN or (found == FORMAT and facts["golden"])
        if has_golden:
            _check_parts(folder, GOLDEN_PARTS)
        return cls(
            fusion=_load_fusion(folder, FusionSettings(**facts["fusion"])),
            taxonomy=Taxonomy.from_json(facts["taxonomy"]),
            calibration=Calibration.from_json(facts["calibration"]),
            text_encoder=EncoderRef(**facts["text_encoder"]),
            image_encoder=EncoderRef(**facts["image_encoder"]),
            reference=load_arrays(folder / "reference.safetensors"),
            neighbours=_later(folder) if (folder / NEIGHBOURS).is_file() else None,
            metrics=json.loads((folder / "metrics.json").read_text()),
            card=json.loads((folder / "card.json").read_text()),
            golden=Golden.load(folder) if has_golden else None,
        )


def _check_parts(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        if not (folder / part).is_file():
            raise BundleError(f"{folder.name}/{part}: missing; a bundle holds {', '.join(parts)}")


def _later(folder: Path) -> Callable[[], Neighbours]:
    return functools.cache(functools.partial(Neighbours.load, folder))


def _load_fusion(folder: Path, settings: FusionSettings) -> FusionNet:
    fusion = build_fusion(settings)
    try:
        fusion.load_state_dict(load_tensors(folder / "head.safetensors"))
    except RuntimeError as error:
        raise BundleError(f"{folder.name}/head.safetensors: does not fit bundle.json: {error}") from error
    return fusion.eval()


def _agree(what: str, found: int, other: str, wanted: int) -> None:
    if found != wanted:
        raise BundleError(f"{what}: found {found}, but {other} has {wanted}")
