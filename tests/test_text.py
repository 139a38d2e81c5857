import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aisle.errors import BundleError, EncoderError
from aisle.text import TextEncoder, TextSettings, clean_text, text_hash
from training.text_encoder import pretrained_text_encoder

SETTINGS = TextSettings()


@pytest.mark.parametrize(
    ("title", "description", "wanted"),
    [
        ("Robe  noire\n", "", "Robe noire"),
        ("Robe", "<p>D&eacute;collet&eacute;e <br/>longue</p>", "Robe. Décolletée longue"),
        ("Robe", "&lt;b&gt;longue&lt;/b&gt;", "Robe. longue"),
        ("&amp;eacute;t&amp;eacute;", "", "été"),
        ("", "<br><br/>", ""),
        ("taille < 3 ans > 1 an", "", "taille < 3 ans > 1 an"),
        ("ｆｕｌｌ\x00width", "", "full width"),
        ("", "seule", "seule"),
    ],
)
def test_cleaning_leaves_one_line_of_plain_text(title: str, description: str, wanted: str) -> None:
    assert clean_text(title, description, SETTINGS) == wanted


def test_cleaned_text_is_cut_at_max_chars() -> None:
    assert clean_text("abc " * 1000, "", TextSettings(max_chars=10)) == "abc abc ab"


def test_cleaning_is_idempotent_so_that_hashes_agree() -> None:
    once = clean_text("<b>Sac &amp; main</b>", "cuir  rouge", SETTINGS)
    assert text_hash(clean_text(once, "", SETTINGS)) == text_hash(once)


def test_settings_refuse_a_length_no_encoder_can_read() -> None:
    with pytest.raises(EncoderError, match="max_tokens: found 1, wanted 2 or more"):
        TextSettings(max_tokens=1)


def test_a_text_has_the_same_vector_whatever_its_batch(tiny_text_encoder: TextEncoder) -> None:
    texts = ["red shoe", "a long blue dress " * 9, "", "sac"]
    together = tiny_text_encoder.encode(texts)
    alone = np.concatenate([tiny_text_encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert tiny_text_encoder.encode([]).shape == (0, tiny_text_encoder.dim)


def test_saved_encoder_loads_with_the_same_revision_and_vectors(
    tiny_text_encoder: TextEncoder, tmp_path
) -> None:
    revision = tiny_text_encoder.save(tmp_path / "a")
    loaded = TextEncoder.load(tmp_path / "a")
    assert loaded.revision == revision == tiny_text_encoder.save(tmp_path / "b")
    np.testing.assert_array_equal(loaded.encode(["red shoe"]), tiny_text_encoder.encode(["red shoe"]))


def test_a_changed_setting_is_another_revision(tiny_text_encoder: TextEncoder, tmp_path) -> None:
    longer = TextEncoder(
        tiny_text_encoder.model, tiny_text_encoder.tokenizer, TextSettings(max_tokens=64), name="tiny"
    )
    assert longer.save(tmp_path / "longer") != tiny_text_encoder.save(tmp_path / "as-it-was")


def test_a_damaged_encoder_is_refused_by_name(tiny_text_encoder: TextEncoder, tmp_path) -> None:
    tiny_text_encoder.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleError, match="model.safetensors: found sha256"):
        TextEncoder.load(tmp_path)


def test_an_encoder_that_is_nowhere_says_what_to_set(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EncoderError, match="--text-encoder a folder .* or 'minilm', which needs no network"):
        pretrained_text_encoder(str(empty), SETTINGS)


@pytest.fixture
def half_folder(tiny_text_encoder: TextEncoder, tmp_path: Path) -> Path:
    """A model as hubs have them, in bfloat16; it has 128 positions."""
    copy.deepcopy(tiny_text_encoder.model).bfloat16().save_pretrained(tmp_path)
    tiny_text_encoder.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_weights_of_half_the_bits_are_taken_as_float32(half_folder: Path) -> None:
    encoder = pretrained_text_encoder(str(half_folder), SETTINGS)
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.float32}


def test_more_tokens_than_a_model_has_positions_are_refused(half_folder: Path) -> None:
    assert pretrained_text_encoder(str(half_folder), TextSettings(max_tokens=128)).dim == 32
    with pytest.raises(EncoderError, match="found 129 tokens to read, wanted fewer: its model takes no text"):
        pretrained_text_encoder(str(half_folder), TextSettings(max_tokens=129))


def test_minilm_of_the_wheel_puts_like_texts_together() -> None:
    encoder = pretrained_text_encoder("minilm", SETTINGS)
    shirt, blouse, drill = encoder.encode(["a cotton shirt", "a silk blouse", "a cordless power drill"])
    assert encoder.dim == 384
    assert shirt @ blouse > shirt @ drill + 0.2


@pytest.mark.parametrize(
    "hostile",
    ["<!--" * 4_000, "<!-- -- >" * 1_700, "<a" * 8_000, "&" * 16_000, "a" + "\u0301\u0316" * 8_000],
)
def test_cleaning_takes_linear_time(hostile: str) -> None:
    started = time.process_time()
    for _ in range(10):
        clean_text("", hostile, TextSettings())
    assert time.process_time() - started < 2  # quadratic ways took 2 to 10 s, this one takes 0.1 s


def test_comments_are_cut_out_and_one_without_an_end_is_kept() -> None:
    assert clean_text("", "a<!-- <b> -->b<!---->c<!-->d", TextSettings()) == "a b c<!-->d"


def test_of_a_row_of_combining_marks_the_first_30_are_kept() -> None:
    assert clean_text("q" + "\u0301" * 40 + "r", "", TextSettings()) == "q" + "\u0301" * 30 + "r"


@pytest.mark.parametrize("digits", ["&#" + "1" * 5_000 + ";", "&amp;#" + "1" * 5_000])
def test_a_character_reference_of_5000_digits_is_no_character(digits: str) -> None:
    assert clean_text(f"a {digits} b", "", TextSettings(max_chars=1_000)) == "a \N{REPLACEMENT CHARACTER} b"
