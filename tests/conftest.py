"""Small real models that the tests make themselves."""

from __future__ import annotations

import json
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from aisle.backbone import build_backbone
from aisle.image import ImageEncoder, ImageSettings
from aisle.text import TextEncoder, TextSettings

ROOT = Path(__file__).parent.parent

# MLflow takes seconds of a core beside each training; the tests of tracking turn it on.
os.environ.setdefault("AISLE_TRACKING", "off")


@pytest.fixture(scope="session")
def tiny_text_encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """A two-layer BERT of width 32 with a vocabulary of letters: right in kind, wrong in size."""
    letters = list(string.ascii_lowercase + string.digits + ".,-'éèàêçùô<>&%")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    encoder = TextEncoder(BertModel(config), tokenizer, TextSettings(), name="tiny-bert")
    encoder.save(tmp_path_factory.mktemp("tiny-text-encoder"))
    return encoder


@pytest.fixture(scope="session")
def tiny_image_encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    """An untrained MobileNetV3-Small that sees 32 pixels a side."""
    torch.manual_seed(0)
    model, _ = build_backbone("mobilenet_v3_small")
    encoder = ImageEncoder(model, ImageSettings(size=32), backbone="mobilenet_v3_small", weights="catalogue")
    encoder.save(tmp_path_factory.mktemp("tiny-image-encoder"))
    return encoder


@pytest.fixture(scope="session")
def tiny_home(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """AISLE_HOME of a shop of toy size (tests/tiny_shop.py); BENTOML_HOME is its `bentoml` folder."""
    home = tmp_path_factory.mktemp("tiny-home")
    folders = [home / "text-encoder", home / "image-encoder", home / "catalogue"]
    tiny_text_encoder.save(folders[0])
    tiny_image_encoder.save(folders[1])
    (home / "bentoml").mkdir()
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tiny_shop.py"), *map(str, folders)],
        cwd=ROOT,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return home


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, float | str]]:
    """What a test measured, besides what it asserts: written to out/reliability, for docs/reliability.md."""
    told: dict[str, float | str] = {}
    yield told
    file = ROOT / "out" / "reliability" / f"{request.node.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1))


@pytest.fixture(scope="module")
def own_tiny_home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `tiny_home` with models, features and registry, but an empty Redis and ledger of its own."""
    home = tmp_path_factory.mktemp("own") / "home"
    shutil.copytree(tiny_home, home, ignore=shutil.ignore_patterns("redis", "ledger.db*", "server.log"))
    return home


@pytest.fixture(scope="module")
def stocked_home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `tiny_home` with what it has published in a Redis of its own, and an empty ledger."""
    home = tmp_path_factory.mktemp("stocked") / "home"
    left_out = ("*.lock", "port", "*.log", "ledger.db*")
    shutil.copytree(tiny_home, home, ignore=shutil.ignore_patterns(*left_out))
    return home
