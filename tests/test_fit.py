import math

import numpy as np
import pytest
import torch

from aisle.errors import SettingError
from training.fit import FitSettings, Vectors, fit_fusion, present_logits

QUICK = FitSettings(epochs=40, patience=40, batch_size=64, hidden_dim=32)


def two_halves_of_a_label(rows: int, seed: int) -> Vectors:
    """Four classes: the text tells the high bit, the image the low bit; neither is enough."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, size=rows)
    text = rng.normal(size=(rows, 8)).astype(np.float32)
    image = rng.normal(size=(rows, 6)).astype(np.float32)
    text[:, 0] += 6 * (label // 2)
    image[:, 0] += 6 * (label % 2)
    return Vectors(
        text_ND=text, image_NE=image, present_N2=np.ones((rows, 2), dtype=np.float32), label_N=label
    )


def accuracy(fusion: torch.nn.Module, vectors: Vectors) -> float:
    return float((present_logits(fusion, vectors).argmax(axis=1) == vectors.label_N).mean())


def test_the_head_learns_what_only_both_modalities_tell() -> None:
    train, held_out = two_halves_of_a_label(600, 0), two_halves_of_a_label(400, 1)
    for variant in ("concat", "gated"):
        settings = FitSettings(**{**QUICK.__dict__, "variant": variant})
        fusion, _ = fit_fusion(train, held_out, settings, classes=4)
        assert accuracy(fusion, held_out) > 0.95
        without_images = held_out.without_images(np.ones(400, dtype=bool))
        assert 0.40 < accuracy(fusion, without_images) < 0.60  # the high bit alone: half of it


def test_same_seed_gives_the_same_head() -> None:
    train, held_out = two_halves_of_a_label(200, 0), two_halves_of_a_label(100, 1)
    settings = FitSettings(**{**QUICK.__dict__, "epochs": 5})
    first, first_history = fit_fusion(train, held_out, settings, classes=4)
    second, second_history = fit_fusion(train, held_out, settings, classes=4)
    assert first_history == second_history
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_class_that_training_has_not_is_allowed() -> None:
    train, held_out = two_halves_of_a_label(200, 0), two_halves_of_a_label(100, 1)
    fusion, _ = fit_fusion(train, held_out, QUICK, classes=5)
    assert present_logits(fusion, held_out).shape == (100, 5)


def test_a_large_catalogue_gets_fewer_epochs() -> None:
    train, held_out = two_halves_of_a_label(200, 0), two_halves_of_a_label(100, 1)
    settings = FitSettings(**{**QUICK.__dict__, "visits": 2_000})
    _, history = fit_fusion(train, held_out, settings, classes=4)
    assert len(history) == 10


def test_one_modality_alone_is_what_is_left() -> None:
    vectors = two_halves_of_a_label(6, 0).without_images(np.array([True, False] * 3))
    alone = vectors.alone("image")
    assert alone.present_N2.tolist() == [[0, 1]] * 3
    assert alone.label_N.tolist() == vectors.label_N[1::2].tolist()


def test_a_run_can_be_watched_and_stopped() -> None:
    train, held_out = two_halves_of_a_label(200, 0), two_halves_of_a_label(100, 1)
    seen: list[int] = []

    def watch(epoch: int, score: float) -> None:
        seen.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_fusion(train, held_out, QUICK, classes=4, watch=watch)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "1 or more"),
        ("seed", -1, "0 or more"),
        ("learning_rate", math.nan, "more than 0"),
        ("dropout", 1.0, "less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: float, wanted: str) -> None:
    with pytest.raises(SettingError, match=f"fit {name}: found {value}, wanted .*{wanted}"):
        FitSettings(**{name: value})  # type: ignore[arg-type]
