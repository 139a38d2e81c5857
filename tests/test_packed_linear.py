"""Packed layers answer as plain ones do, and notice every change of their weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from aisle.packed_linear import PackedLinear, pack_linears
from aisle.text import TextEncoder


@pytest.fixture
def layer() -> PackedLinear:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24)
    assert pack_linears(nn.Sequential(layer))
    assert isinstance(layer, PackedLinear), "this PyTorch has no oneDNN: serving is slower with it"
    return layer


def answers(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return layer(rows)


@pytest.mark.parametrize("shape", [(40,), (1, 40), (3, 7, 40), (0, 40)])
def test_answers_are_those_of_a_plain_layer(layer: PackedLinear, shape: tuple[int, ...]) -> None:
    rows = torch.randn(shape)
    torch.testing.assert_close(
        answers(layer, rows), nn.functional.linear(rows, layer.weight, layer.bias).detach()
    )


def test_weights_changed_in_place_are_packed_again(layer: PackedLinear) -> None:
    rows = torch.randn(5, 40)
    answers(layer, rows)
    layer.load_state_dict({"weight": torch.zeros(24, 40), "bias": torch.ones(24)})
    assert torch.equal(answers(layer, rows), torch.ones(5, 24))


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


def test_a_half_precision_layer_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.Conv2d(3, 3, 1))
    pack_linears(model)
    assert type(model[0]) is nn.Linear


def test_a_packed_encoder_gives_the_same_vectors(tiny_text_encoder: TextEncoder) -> None:
    texts = ["red shoe", "a long blue dress " * 9]
    plain = tiny_text_encoder.encode(texts)
    packed = copy.copy(tiny_text_encoder)
    packed.model = pack_linears(copy.deepcopy(tiny_text_encoder.model))
    np.testing.assert_allclose(packed.encode(texts), plain, atol=1e-6)
