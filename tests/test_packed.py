"""Packed layers answer as plain ones do, and notice every change of their weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from aisle.packed import PackedConv2d, PackedLinear, pack
from aisle.text import TextEncoder


@pytest.fixture
def layer() -> PackedLinear:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24)
    pack(nn.Sequential(layer))
    assert isinstance(layer, PackedLinear), "this PyTorch has no oneDNN: serving is slower with it"
    return layer


def answers(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        given: torch.Tensor = layer(rows)
    return given


@pytest.mark.parametrize("shape", [(40,), (1, 40), (3, 7, 40), (0, 40)])
def test_a_linear_layer_answers_as_a_plain_one(layer: PackedLinear, shape: tuple[int, ...]) -> None:
    rows = torch.randn(shape)
    plain = nn.functional.linear(rows, layer.weight, layer.bias).detach()
    torch.testing.assert_close(answers(layer, rows), plain)


@pytest.mark.parametrize("pictures", [0, 1, 5, 17])
@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 1}, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 4, "bias": False}],
)
def test_a_convolution_answers_as_a_plain_one(options: dict, pictures: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, **options).to(memory_format=torch.channels_last)
    packed = copy.deepcopy(plain)
    pack(nn.Sequential(packed))
    assert isinstance(packed, PackedConv2d)
    pixels = torch.randn(pictures, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    wanted = answers(plain, pixels)
    found = answers(packed, pixels)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_weights_changed_in_place_are_packed_again(layer: PackedLinear) -> None:
    rows = torch.randn(5, 40)
    answers(layer, rows)
    layer.load_state_dict({"weight": torch.zeros(24, 40), "bias": torch.ones(24)})
    assert torch.equal(answers(layer, rows), torch.ones(5, 24))


def test_weights_that_are_exchanged_are_packed_again(layer: PackedLinear) -> None:
    rows = torch.randn(5, 40)
    answers(layer, rows)
    ones = {"weight": torch.zeros(24, 40), "bias": torch.ones(24)}
    layer.load_state_dict(ones, assign=True)
    assert torch.equal(answers(layer, rows), torch.ones(5, 24))
    layer.weight.data = torch.ones(24, 40)
    torch.testing.assert_close(answers(layer, rows), rows.sum(1, keepdim=True).expand(5, 24) + 1)
    assert answers(layer.double(), rows.double()).dtype == torch.float64


def test_a_packed_layer_is_copied_and_trained_as_a_plain_one(layer: PackedLinear) -> None:
    rows = torch.randn(5, 40)
    before = answers(layer, rows)
    twin = copy.deepcopy(layer)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(rows).square().sum().backward()
    optimizer.step()
    after = answers(twin, rows)
    torch.testing.assert_close(after, nn.functional.linear(rows, twin.weight, twin.bias).detach())
    assert not torch.allclose(after, before)
    assert torch.equal(answers(layer, rows), before)
    assert list(twin.state_dict()) == ["weight", "bias"]


def test_layers_that_onednn_would_answer_otherwise_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4).bfloat16(),
        nn.Conv2d(3, 3, 1).bfloat16(),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 3, 3, padding="same"),
    )
    pack(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Conv2d, nn.Conv2d, nn.Conv2d]


def test_a_packed_text_encoder_gives_the_same_vectors(tiny_text_encoder: TextEncoder) -> None:
    texts = ["red shoe", "a long blue dress " * 9]
    plain = tiny_text_encoder.encode(texts)
    packed = copy.copy(tiny_text_encoder)
    packed.model = pack(copy.deepcopy(tiny_text_encoder.model))
    np.testing.assert_allclose(packed.encode(texts), plain, atol=1e-6)
