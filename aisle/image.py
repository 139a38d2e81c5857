"""Pictures turned into vectors by a torchvision backbone.

Shapes: B pictures, H = W = size pixels, C 3 colours, D embedding width.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aisle.backbone import BACKBONES, build_backbone, fold_batch_norms
from aisle.errors import BundleError, EncoderError
from aisle.fused import fuse
from aisle.graphs import SIZES, Graphs, Recorder
from aisle.manifest import verify_manifest, write_manifest
from aisle.packed import pack
from aisle.picture import DECODING, ImageSettings, decode_image, decode_with_size, image_hash
from aisle.picture_header import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, sniff

__all__ = [
    "BACKBONES",
    "MAX_IMAGE_BYTES",
    "MAX_IMAGE_PIXELS",
    "ImageEncoder",
    "ImageSettings",
    "decode_image",
    "decode_with_size",
    "image_hash",
    "normalise",
    "sniff",
]

_ENCODE_BATCH = 32  # pictures a forward pass
# ImageNet's statistics: what torchvision's weights were trained with, and fine for any photo.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ImageEncoder:
    """A torchvision backbone without its classifier: pixels to its pooled features, float32 [B, D].

    `weights` is "imagenet", "catalogue", or "none" of a backbone that has nothing to train. Batch norms are
    folded into the convolutions in place, so `model` is for inference alone. `revision` is "" until `save` or
    `load` knows it.
    """

    def __init__(
        self, model: nn.Module, settings: ImageSettings, *, backbone: str, weights: str, revision: str = ""
    ) -> None:
        if weights not in ("imagenet", "catalogue", "none"):
            raise EncoderError(f"image weights: found {weights!r}, wanted imagenet, catalogue or none")
        self.model = fold_batch_norms(model.eval()).to(memory_format=torch.channels_last)
        self.settings = settings
        self.backbone = backbone
        self.weights = weights
        self.revision = revision
        self.dim = BACKBONES[backbone]
        self._graphs: Graphs | None = None
        self._flat: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(chain(self.model.parameters(), self.model.buffers())).device

    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        """Float32 [B, D] of uint8 pixels [B, size, size, 3] from `decode_image`; B may be 0. Raises
        EncoderError for others."""
        size = self.settings.size
        if pixels_BHWC.dtype != np.uint8 or pixels_BHWC.shape[1:] != (size, size, 3):
            raise EncoderError(
                f"pixels: found {pixels_BHWC.dtype} {list(pixels_BHWC.shape)}, "
                f"wanted uint8 [B, {size}, {size}, 3]"
            )
        vectors_BD = np.empty((len(pixels_BHWC), self.dim), dtype=np.float32)
        for start in range(0, len(pixels_BHWC), _ENCODE_BATCH):
            batch = slice(start, start + _ENCODE_BATCH)
            vectors_BD[batch] = self._forward(pixels_BHWC[batch])
        return vectors_BD

    def pack(self) -> None:
        """From now on encode with packed layers and fused activations (aisle/packed.py, aisle/fused.py): the
        same vectors, sooner. The weights are those of now. On a GPU nothing changes."""
        if self._flat is None and self.device.type == "cpu":
            self._flat = fuse(pack(self.model))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: all but what `pack` has made, which cannot be copied."""
        return {**self.__dict__, "_flat": None}

    @property
    def is_recorded(self) -> bool:
        return self._graphs is not None

    @torch.inference_mode()
    def record(self, recorder: Recorder) -> None:
        """From now on replay what `recorder` makes of the passes (aisle/graphs.py)."""
        size = self.settings.size
        chance = torch.Generator().manual_seed(0)
        pixels_BHWC = torch.randint(256, (SIZES[-1], size, size, 3), dtype=torch.uint8, generator=chance)
        examples = [pixels_BHWC[:rows].to(self.device) for rows in SIZES]
        self._graphs = Graphs(self._pooled, examples, recorder)

    @torch.inference_mode()
    def _forward(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(pixels_BHWC)).to(self.device)
        vectors: np.ndarray = (self._graphs or self._pooled)(pixels).cpu().numpy()
        return vectors

    def _pooled(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        # [B, H, W, C] in memory, seen as [B, C, H, W], is channels_last already.
        model = self._flat or self.model
        pooled_BD: torch.Tensor = model(normalise(pixels_BHWC.permute(0, 3, 1, 2)))
        return pooled_BD

    def save(self, folder: Path) -> str:
        """Write weights, settings and manifest into `folder`; return the revision."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "encoder.json").write_text(json.dumps(self._facts(), indent=1, sort_keys=True))
        self.revision = write_manifest(folder)
        return self.revision

    def _facts(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "weights": self.weights,
            "dim": self.dim,
            "pooling": "average",
            "decoding": DECODING,
            "mean": list(_MEAN),
            "std": list(_STD),
            **self.settings.to_json(),
        }

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> ImageEncoder:
        """Load what `save` wrote. Raises BundleError when a file is missing, changed or does not fit."""
        revision = verify_manifest(folder)
        try:
            facts = json.loads((folder / "encoder.json").read_text())
            weights = load_file(folder / "model.safetensors")
        except FileNotFoundError as error:
            raise BundleError(f"{error.filename}: missing; an image encoder holds it") from error
        if facts["decoding"] != DECODING:
            raise BundleError(
                f"{folder.name}/encoder.json: found decoding {facts['decoding']}, this Aisle decodes by "
                f"{DECODING}; train or import the encoder again"
            )
        model, _ = build_backbone(facts["backbone"])
        encoder = cls(
            model,
            ImageSettings.from_json(facts),
            backbone=facts["backbone"],
            weights=facts["weights"],
            revision=revision,
        )
        try:
            encoder.model.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(f"{folder.name}/model.safetensors: does not fit: {error}") from error
        encoder.model.to(device)
        return encoder


def normalise(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Float32 around 0 of uint8 pixels (or float ones, 0 to 255)."""
    scale_1CHW, shift_1CHW = _planes(*pixels_BCHW.shape[2:], pixels_BCHW.device)
    return pixels_BCHW.to(torch.float32, copy=True).mul_(scale_1CHW).add_(shift_1CHW)


@functools.cache  # for good: what is recorded on a GPU (aisle/graphs.py) reads them where they lie
def _planes(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What to multiply pixels by, and to add: of a whole picture, channels last as pixels are, because three
    numbers at a time are seven times slower."""
    with torch.inference_mode(False):  # training uses them too
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        planes = (1 / (255 * std), -mean / std)
        whole = (plane.expand(1, 3, height, width) for plane in planes)
        scale_1CHW, shift_1CHW = (plane.contiguous(memory_format=torch.channels_last) for plane in whole)
    return scale_1CHW, shift_1CHW
