"""Text encoders tuned on texts: they learn, stay vector makers, and say what they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from aisle.errors import CatalogError
from aisle.text import TextEncoder
from training.text_tuning import TextTraining, tune_text_encoder
from training.texts import Texts

KINDS = ("livre roman poche", "jeu console manette", "train bois")
FAST = TextTraining(epochs=4, learning_rate=3e-3, layer_decay=1.0, ema=0.0, precision="fp32")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def start(tiny_text_encoder: TextEncoder) -> TextEncoder:
    encoder = copy.copy(tiny_text_encoder)
    encoder.model = copy.deepcopy(tiny_text_encoder.model)
    return encoder


def drawn(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Titles of three kinds, words shuffled, with a number."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, 3, count)
    texts = [" ".join(rng.permutation(KINDS[k].split())) + f" {rng.integers(100)}" for k in label_N]
    return texts, label_N


@pytest.fixture(scope="module")
def tuned(start: TextEncoder) -> TextEncoder:
    start = copy.copy(start)
    start.model = copy.deepcopy(start.model)
    encoder, history = tune_text_encoder(
        start,
        Texts(start, *drawn(96, 0)),
        Texts(start, *drawn(48, 1)),
        FAST,
        classes=3,
        progress=Progress(disable=True),
    )
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    return encoder


def margin(encoder: TextEncoder) -> float:
    """How much more alike two texts of a kind are than two of different kinds: mean cosines."""
    texts, label_N = drawn(120, 2)
    vectors_ND = encoder.encode(texts)
    likeness_NN = vectors_ND @ vectors_ND.T
    same_NN = label_N[:, None] == label_N[None]
    return float(likeness_NN[same_NN].mean() - likeness_NN[~same_NN].mean())


def test_its_vectors_keep_kinds_apart(tuned: TextEncoder, start: TextEncoder) -> None:
    assert margin(tuned) > 0.3 > 3 * margin(start)


def test_it_is_saved_and_loaded_as_one_of_the_catalogue(tuned: TextEncoder, tmp_path: Path) -> None:
    revision = tuned.save(tmp_path)
    loaded = TextEncoder.load(tmp_path)
    assert (loaded.weights, loaded.revision, loaded.name) == ("catalogue", revision, "tiny-bert")
    texts, _ = drawn(5, 3)
    assert loaded.encode(texts).tobytes() == tuned.encode(texts).tobytes()


def test_its_vectors_are_fp32_and_of_length_one(tuned: TextEncoder) -> None:
    vectors_BD = tuned.encode(drawn(5, 3)[0])
    assert {tensor.dtype for tensor in tuned.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(np.linalg.norm(vectors_BD, axis=1), 1, rtol=1e-6)


def test_a_pretrained_encoder_keeps_the_facts_that_its_revision_is_of(
    start: TextEncoder, tmp_path: Path
) -> None:
    start.save(tmp_path)
    assert "weights" not in json.loads((tmp_path / "encoder.json").read_text())
    assert TextEncoder.load(tmp_path).weights == "pretrained"


def test_what_pooling_goes_by_is_left_as_it_was(tuned: TextEncoder, start: TextEncoder) -> None:
    for one, other in zip(tuned.model.pooler.parameters(), start.model.pooler.parameters(), strict=True):
        assert torch.equal(one, other)


def test_texts_are_tokens_as_the_encoder_reads_them(start: TextEncoder) -> None:
    texts = Texts(start, ["ab", "abc d"], np.array([1, 0]))
    tokens_B2T, label_B = next(texts.read([np.array([1, 0])], None))  # type: ignore[arg-type]
    assert tokens_B2T[:, 1].sum(1).tolist() == [len(ids) for ids in start.tokenize(["abc d", "ab"])]
    assert label_B.tolist() == [0, 1]
    nothing, _ = next(texts.read([np.empty(0, dtype=np.int64)], None))  # type: ignore[arg-type]
    assert nothing.shape == (0, 2, 1)


def test_no_text_at_all_is_an_error(start: TextEncoder) -> None:
    some, none = Texts(start, *drawn(4, 0)), Texts(start, [], np.array([]))
    with pytest.raises(CatalogError, match="validation texts: found none, wanted some"):
        tune_text_encoder(start, some, none, FAST, classes=3)
