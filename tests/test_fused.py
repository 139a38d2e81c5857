"""A network written down as one function answers as the network does."""

import copy
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aisle.backbone import BACKBONES, build_backbone, fold_batch_norms
from aisle.fused import fuse
from aisle.image import ImageEncoder, ImageSettings
from aisle.packed import PackedConv2d, pack

# One of each family; sizes of one family are made of the same parts.
FAMILIES = (
    "mobilenet_v3_small",
    "mobilenet_v2",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "se_resnext50",
    "convnext_tiny",
    "swin_t",
    "vgg16",
    "small_cnn",
    "gradients",
)


def test_every_backbone_has_a_family_here() -> None:
    sizes = r"_(b\d|[sml]|[tb]|tiny|small|base|large)$|_?\d+(_.*)?$"

    def family(name: str) -> str:
        return name if name in ("small_cnn", "vgg16") else re.sub(sizes, "", name.removeprefix("wide_"))

    assert {family(name) for name in BACKBONES} == {family(name) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fused_backbone_gives_the_same_features(name: str) -> None:
    torch.manual_seed(0)
    model = fold_batch_norms(build_backbone(name)[0].eval()).to(memory_format=torch.channels_last)
    pixels = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    flat = fuse(pack(copy.deepcopy(model)))
    with torch.inference_mode():
        plain, fused = model(pixels), flat(pixels)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


def calls(model: nn.Module) -> list[str]:
    """What a fused model calls, in order: the activation of a convolution, or another layer's name."""
    fused = fuse(pack(model.eval()))
    assert isinstance(fused, torch.fx.GraphModule)
    nodes = [node for node in fused.graph.nodes if node.op.startswith("call")]
    return [str(node.args[-3] if node.op == "call_function" else node.target) for node in nodes]


def test_an_activation_goes_into_the_convolution_that_it_alone_reads() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Identity(), nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.Dropout(), nn.ReLU6()]
    assert calls(nn.Sequential(*layers)) == ["hardswish", "hardtanh"]


def test_an_activation_that_onednn_does_not_know_stays_a_layer() -> None:
    assert calls(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU())) == ["none", "1"]


class Shared(nn.Module):
    """Reads a convolution's sums twice: before its activation and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        sums = self.convolution(rows)
        added: torch.Tensor = self.relu(sums) - sums
        return added


def test_sums_that_are_read_before_their_activation_are_kept() -> None:
    model = Shared().eval()
    rows = torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        wanted = model(rows)
    flat = fuse(pack(model))
    with torch.inference_mode():
        found = flat(rows)
    torch.testing.assert_close(found, wanted)
    assert float(found.abs().max()) > 0


def test_a_packed_encoder_gives_the_same_vectors_and_saves_the_same_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoders = []
    for packed in (False, True):
        torch.manual_seed(0)
        model, _ = build_backbone("mobilenet_v3_small")
        encoder = ImageEncoder(
            model, ImageSettings(size=64), backbone="mobilenet_v3_small", weights="catalogue"
        )
        if packed:
            encoder.pack()
            encoder.pack()  # again changes nothing
            assert any(isinstance(layer, PackedConv2d) for layer in encoder.model.modules())
        encoders.append(encoder)
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    plain, fused = (encoder.encode(pixels_BHWC) for encoder in encoders)
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-5 * float(np.abs(plain).max()))
    assert encoders[0].save(tmp_path / "plain") == encoders[1].save(tmp_path / "packed")
    for twin in (copy.deepcopy(encoders[1]), pickle.loads(pickle.dumps(encoders[1]))):  # noqa: S301 - our own
        np.testing.assert_allclose(twin.encode(pixels_BHWC), plain, rtol=1e-5, atol=1e-6)


def test_other_threads_compute_on_while_networks_are_fused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()).eval()
    rows = torch.randn(2, 3, 5, 5)
    with torch.inference_mode():
        wanted = model(rows)
    answers, faults, ended = 0, [], threading.Event()

    def compute() -> None:
        nonlocal answers
        while not ended.is_set():
            try:
                with torch.inference_mode():
                    assert torch.equal(model(rows), wanted)
                answers += 1
            except Exception as error:
                faults.append(repr(error))

    networks = [pack(build_backbone(name)[0].eval()) for name in ("mobilenet_v3_small", "resnet18")]
    threads = [threading.Thread(target=compute)]
    threads += [threading.Thread(target=fuse, args=[network]) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    ended.set()
    threads[0].join()
    assert faults == []
    assert answers > 0
    assert nn.Module.__call__.__module__ == "torch.nn.modules.module"  # as it was


class Twice(nn.Module):
    """Uses a convolution twice, an activation in place, and ends with sums."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        again: torch.Tensor = self.convolution(self.relu(self.convolution(rows)))
        return again


def test_a_convolution_that_is_used_twice_has_its_own_activation_each_time() -> None:
    model = Twice().eval()
    rows = torch.randn(2, 3, 5, 5)
    with torch.inference_mode():
        wanted = model(rows)
    assert calls(model) == ["relu", "none"]
    flat = fuse(model)
    with torch.inference_mode():
        torch.testing.assert_close(flat(rows), wanted)
