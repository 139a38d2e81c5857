"""Passes at fixed sizes answer as plain ones do. Recording itself needs a GPU: without one, what stands in
for a graph runs the pass again over the tensor that the graph would read, into the one that it would fill."""

from __future__ import annotations

import copy
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from aisle.backbone import BACKBONES, build_backbone
from aisle.graphs import SIZES, Forward, Graphs, Recorded, cuda_recorder
from aisle.image import ImageEncoder
from aisle.text import TextEncoder

WIDTH = 6
TEXTS = [" ".join(["red shoe blue dress"] * words) for words in range(1, 45)]


def rerun(forward: Forward, rows: torch.Tensor) -> Recorded:
    answer = forward(rows).clone()
    return lambda: answer.copy_(forward(rows)), answer  # type: ignore[return-value]


def square(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(1, keepdim=True) + 1


def examples(sizes: tuple[int, ...] = SIZES, width: int = WIDTH) -> list[torch.Tensor]:
    return [torch.rand(size, width) + 1 for size in sizes]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 31, 32, 33, 0])
def test_rows_of_any_number_are_answered_as_by_the_plain_pass(count: int) -> None:
    graphs = Graphs(square, examples(), rerun)
    for seed in range(2):  # the second time over what the first has left there
        rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(graphs(rows), square(rows))


def test_a_batch_is_filled_up_to_the_next_size_and_no_further() -> None:
    seen: list[int] = []

    def counted(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return square(rows)

    graphs = Graphs(counted, examples((2, 8)), rerun)
    seen.clear()
    for count in (1, 2, 3, 8, 9):
        graphs(torch.randn(count, WIDTH))
    assert seen == [2, 2, 8, 8, 9]


def test_rows_of_another_shape_take_the_plain_pass() -> None:
    rows = torch.randn(3, WIDTH + 1)
    torch.testing.assert_close(Graphs(square, examples(), rerun)(rows), square(rows))


def test_an_answer_stays_when_the_next_is_made() -> None:
    graphs = Graphs(square, examples(), rerun)
    first = graphs(torch.zeros(2, WIDTH))
    graphs(torch.ones(2, WIDTH))
    assert first.tolist() == [[1], [1]]


def test_threads_do_not_get_each_others_answers() -> None:
    graphs = Graphs(square, examples(), rerun)

    def ask(number: int) -> bool:
        rows = torch.full((1 + number % 7, WIDTH), float(number))
        return torch.equal(graphs(rows), square(rows))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2_000)))


def test_what_cannot_be_recorded_is_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def picky(forward: Forward, rows: torch.Tensor) -> Recorded:
        if len(rows) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return rerun(forward, rows)

    graphs = Graphs(square, examples((1, 2)), picky)
    rows = torch.randn(2, WIDTH)
    torch.testing.assert_close(graphs(rows), square(rows))
    assert "[2, 6] are not recorded: operation not permitted" in caplog.text


@pytest.mark.parametrize("wrong", [0.999, float("nan")])
def test_a_recording_that_answers_otherwise_is_not_used(
    caplog: pytest.LogCaptureFixture, wrong: float
) -> None:
    def off(forward: Forward, rows: torch.Tensor) -> Recorded:
        return rerun(lambda given: forward(given) * wrong, rows)

    graphs = Graphs(square, examples(), off)
    rows = torch.randn(2, WIDTH)
    torch.testing.assert_close(graphs(rows), square(rows))
    assert "the replay is off by" in caplog.text


def test_pictures_are_encoded_the_same_at_fixed_sizes(tiny_image_encoder: ImageEncoder) -> None:
    size = tiny_image_encoder.settings.size
    pixels_BHWC = np.random.default_rng(0).integers(256, size=(45, size, size, 3), dtype=np.uint8)
    recorded = copy.copy(tiny_image_encoder)
    recorded.record(rerun)
    assert recorded.is_recorded
    assert not tiny_image_encoder.is_recorded
    for count in (0, 1, 3, 30, 45):
        wanted_BE = tiny_image_encoder.encode(pixels_BHWC[:count])
        np.testing.assert_allclose(recorded.encode(pixels_BHWC[:count]), wanted_BE, rtol=1e-4, atol=1e-5)


def test_texts_are_encoded_the_same_at_fixed_sizes(
    tiny_text_encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = copy.copy(tiny_text_encoder)
    with caplog.at_level(logging.INFO):
        recorded.record(rerun)
    lengths = [16, 32, 64, 128][: len(recorded._lengths)]
    assert recorded._lengths[:-1] == lengths[:-1]
    assert recorded._lengths[-1] == recorded.settings.max_tokens
    number = len(lengths) * len(SIZES)
    assert f"{number} of {number} sizes recorded" in caplog.text
    for texts in ([], TEXTS[:1], TEXTS[:3], TEXTS, TEXTS[::-1]):
        wanted_BD = tiny_text_encoder.encode(texts)
        np.testing.assert_allclose(recorded.encode(texts), wanted_BD, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_no_backbone_waits_for_what_the_gpu_has_computed(name: str) -> None:
    """A pass that asks for a value in its middle cannot be recorded. These tensors have none."""
    with torch.device("meta"), torch.inference_mode():
        model, width = build_backbone(name)
        answer = model.eval()(torch.zeros(2, 3, 64, 64))
    assert answer.shape == (2, width)


def test_no_text_pass_waits_for_what_the_gpu_has_computed(tiny_text_encoder: TextEncoder) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        answer = tiny_text_encoder._pooled(torch.ones((2, 2, 16), dtype=torch.long))
    assert answer.shape == (2, tiny_text_encoder.dim)


def test_a_pass_that_waits_is_found_out() -> None:
    class Waits(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows if rows.sum() > 0 else -rows

    with torch.device("meta"), pytest.raises(RuntimeError, match="meta tensors"):
        Waits()(torch.zeros(2))
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        Waits()(torch.zeros(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU")
def test_a_gpu_replays_what_it_would_compute(
    tiny_image_encoder: ImageEncoder, tiny_text_encoder: TextEncoder
) -> None:
    size = tiny_image_encoder.settings.size
    pixels_BHWC = np.random.default_rng(0).integers(256, size=(45, size, size, 3), dtype=np.uint8)
    for encoder, given in ((tiny_image_encoder, pixels_BHWC), (tiny_text_encoder, TEXTS)):
        recorded = copy.copy(encoder)
        recorded.model = copy.deepcopy(encoder.model).cuda()
        plain = recorded.encode(given)  # type: ignore[arg-type]
        recorded.record(cuda_recorder())
        assert recorded._graphs is not None
        assert len(recorded._graphs._recorded) == len(SIZES) * len(getattr(recorded, "_lengths", [0]))
        for _, count in itertools.product(range(2), (1, 3, 30, 45)):
            np.testing.assert_allclose(recorded.encode(given[:count]), plain[:count], rtol=1e-3, atol=1e-4)
