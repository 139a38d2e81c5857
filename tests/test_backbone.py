"""Every backbone: it builds, gives its width, folds and packs without another answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnext50_32x4d, vgg16
from torchvision.ops import SqueezeExcitation

from aisle.backbone import BACKBONES, GRADIENTS, build_backbone, fold_batch_norms
from aisle.errors import EncoderError
from aisle.packed import PackedConv2d, pack
from training.imagenet import imagenet_encoder, imagenet_weights

SIZE = 32
Built = tuple[str, nn.Module, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))


# The one without layers has tests of its own (test_gradients.py).
@pytest.fixture(scope="module", params=[name for name in BACKBONES if name != GRADIENTS])
def built(request: pytest.FixtureRequest, noise: torch.Tensor) -> Built:
    """(name, network with lived-in batch norms, what it gives for some pixels)."""
    if request.param.startswith("swin"):  # keeps an index of positions in a buffer
        model, _ = build_backbone(request.param)
    else:  # drawing 10^9 weights takes a minute, copying the same million again and again a second
        with torch.device("meta"):
            model, _ = build_backbone(request.param)
        model.to_empty(device="cpu")
        for name, weight in model.named_parameters():
            fill(weight.data, noise, name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            fill(module.running_mean, noise, "mean")
            module.running_mean.mul_(0.1)
            module.running_var.copy_(module.running_mean.abs() + 0.8)
    model = model.eval().to(memory_format=torch.channels_last)
    return request.param, model, answers(model)


def fill(values: torch.Tensor, noise: torch.Tensor, name: str) -> None:
    """Noise for matrices, by what they add up; norms that change little."""
    repeated = noise.repeat(-(-values.numel() // len(noise)))[: values.numel()].view(values.shape)
    if values.ndim in (2, 4):
        values.copy_(repeated).mul_(0.7 * values[0].numel() ** -0.5)
    else:
        values.copy_(repeated).mul_(0.05).add_(1.0 if name.endswith("weight") else 0.0)


def answers(model: nn.Module) -> torch.Tensor:
    pixels_BCHW = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        given: torch.Tensor = model(pixels_BCHW.contiguous(memory_format=torch.channels_last))
    return given


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_it_gives_features_of_its_width(built: Built) -> None:
    name, _, plain = built
    assert plain.shape == (2, BACKBONES[name])
    assert torch.isfinite(plain).all()
    assert plain.std() > 0


def test_its_folded_batch_norms_and_packed_layers_answer_as_before(built: Built) -> None:
    _, model, plain = built
    fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert_near(answers(model), plain)
    pack(model)
    assert any(isinstance(module, PackedConv2d) for module in model.modules())
    assert_near(answers(model), plain)


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(EncoderError, match="image backbone: found 'vgg', wanted one of mobilenet_v3_small"):
        build_backbone("vgg")


def test_se_resnext_begins_as_resnext_with_open_gates() -> None:
    torch.manual_seed(0)
    published = resnext50_32x4d().state_dict()
    excited, dim = build_backbone("se_resnext50", published)
    plain, _ = build_backbone("resnext50_32x4d", published)
    blocks = [module for module in excited.modules() if isinstance(module, SqueezeExcitation)]
    assert (dim, len(blocks)) == (2048, 16)
    for block in blocks:
        block.fc2.bias.data.fill_(30.0)  # sigmoid: 1
    assert_near(answers(excited.eval()), answers(plain.eval()))
    blocks[-1].fc2.bias.data.fill_(-30.0)  # and without what its last block adds
    assert not torch.allclose(answers(excited), answers(plain), rtol=0.1)


def test_vgg_takes_the_convolutions_of_published_weights() -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().state_dict().items()}
    weights = {name: torch.full(shape, 0.5) for name, shape in shapes.items() if name.startswith("features")}
    weights["classifier.0.weight"] = torch.zeros(1)  # of what is cut off, whatever it is
    model, _ = build_backbone("vgg16", weights)
    assert all(bool((tensor == 0.5).all()) for tensor in model.state_dict().values())
    assert len(model.state_dict()) == 26


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch|Missing key"):
        build_backbone("resnet18", mobilenet_v3_small().state_dict())


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TORCH_HOME, empty, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth"),
        ("vgg16", "vgg16-397923af.pth"),
        ("se_resnext50", "resnext50_32x4d-1a0047aa.pth"),
    ],
)
def test_imagenet_weights_without_a_network_say_which_file_goes_where(
    name: str, file: str, offline: Path
) -> None:
    with pytest.raises(EncoderError, match=rf"{name}: .*Put {file} into .*TORCH_HOME moves that folder"):
        imagenet_weights(name)


@pytest.mark.parametrize("name", ["small_cnn", "se_resnext50"])
def test_what_has_no_published_weights_says_so(name: str) -> None:
    with pytest.raises(EncoderError, match=f"{name}: found no published weights.*--image-weights catalogue"):
        imagenet_encoder(name)


def test_imagenet_weights_are_taken_from_torchvisions_cache(offline: Path) -> None:
    cache = offline / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(5)
    model = mobilenet_v3_small()
    torch.save(model.state_dict(), cache / "mobilenet_v3_small-047dcff4.pth")
    encoder = imagenet_encoder("mobilenet_v3_small")
    last = next(name for name in model.state_dict() if name.startswith("features.12.0"))
    assert encoder.weights == "imagenet"
    assert torch.equal(imagenet_weights("mobilenet_v3_small")[last], model.state_dict()[last])
