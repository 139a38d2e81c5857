"""Product text: cleaned the one way training and serving share, and turned into vectors.

Shapes: B texts, T tokens, D embedding width.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from aisle.errors import BundleError, EncoderError
from aisle.graphs import SIZES, Graphs, Recorder
from aisle.manifest import verify_manifest, write_manifest
from aisle.packed import pack

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LONG_REFERENCE = re.compile(r"&#[0-9]{100,};?")  # html.unescape raises ValueError on 4,301 digits
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f​-‏﻿]+")
_SPACE = re.compile(r"\s+")
_MARKS_IN_A_ROW = 30
PRETRAINED = "pretrained"
_LENGTHS = (16, 32, 64, 128, 256, 512, 1_024)  # tokens that texts are filled up to where passes are recorded
_ENCODE_BATCH = 32  # texts a forward pass: longer batches only add padding on a CPU


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How text becomes the encoder's input; saved with the encoder.

    `max_chars` bounds the cleaned text, `max_tokens` what the encoder reads of it. `prefix` is put
    before every text (E5 models want "query: "). `normalize` scales vectors to length 1.
    """

    max_tokens: int = 128
    max_chars: int = 2_000
    prefix: str = ""
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise EncoderError(f"text max_tokens: found {self.max_tokens}, wanted 2 or more")
        if self.max_chars < 1:
            raise EncoderError(f"text max_chars: found {self.max_chars}, wanted 1 or more")


def clean_text(title: str, description: str, settings: TextSettings) -> str:
    """One line of plain text out of a title and a description with HTML scraps; "" if none is left."""
    parts = [_plain(part, settings.max_chars) for part in (title, description)]
    return ". ".join(part for part in parts if part)[: settings.max_chars].strip()


def _plain(markup: str, max_chars: int) -> str:
    # Feeds escape twice ("&amp;eacute;"), and a tag may appear only after the first round.
    # A tag is shorter than this slack in practice; the bound keeps 20,000-character input cheap.
    text = _unescape(_unescape(markup[: max_chars * 8]))
    text = _TAG.sub(" ", _without_comments(text))
    text = unicodedata.normalize("NFKC", _stream_safe(text))
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def _unescape(text: str) -> str:
    return html.unescape(_LONG_REFERENCE.sub("\N{REPLACEMENT CHARACTER}", text))


def _without_comments(text: str) -> str:
    """One pass: a pattern would look for the end of every comment that has none, again and again."""
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return " ".join([*kept, text[at:]])


def _stream_safe(text: str) -> str:
    """At most 30 combining marks in a row (Unicode's UAX #15, section 13): normalising sorts them, in
    quadratic time."""
    if text.isascii():
        return text
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS_IN_A_ROW:
            kept.append(character)
    return "".join(kept)


def text_hash(text: str) -> str:
    """16 hex of the sha256 of a cleaned text: what a stored vector is compared by."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TextEncoder:
    """A transformers encoder with mean pooling: texts to float32 [B, D].

    Mean pooling over non-padding tokens follows Sentence-BERT (Reimers & Gurevych, 2019). `weights` is
    "pretrained", or "catalogue" where they were tuned on one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: TextSettings,
        *,
        name: str,
        revision: str = "",
        weights: str = PRETRAINED,
    ) -> None:
        if weights not in (PRETRAINED, "catalogue"):
            raise EncoderError(f"text weights: found {weights!r}, wanted {PRETRAINED} or catalogue")
        self.model = model.eval()
        self.weights = weights
        self.tokenizer = tokenizer
        self.settings = settings
        self.name = name
        self.revision = revision
        self.dim = int(model.config.hidden_size)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._graphs: Graphs | None = None
        self._lengths: Sequence[int] = ()  # of _LENGTHS, those that are recorded

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [B, D] for B cleaned texts; B may be 0. Order of rows is order of texts."""
        vectors_BD = np.zeros((len(texts), self.dim), dtype=np.float32)
        token_ids = self.tokenize(texts)
        by_length = sorted(range(len(texts)), key=lambda i: len(token_ids[i]))
        for start in range(0, len(by_length), _ENCODE_BATCH):
            rows = by_length[start : start + _ENCODE_BATCH]
            vectors_BD[rows] = self._forward([token_ids[i] for i in rows])
        return vectors_BD

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of cleaned texts, behind the prefix, cut to `max_tokens`."""
        if not texts:
            return []
        prefixed = [self.settings.prefix + text for text in texts]
        batch = self.tokenizer(prefixed, truncation=True, max_length=self.settings.max_tokens)
        ids: list[list[int]] = batch["input_ids"]
        return ids

    def pack(self) -> None:
        """From now on encode with packed layers (aisle/packed.py): the same vectors, sooner on a CPU."""
        pack(self.model)

    @property
    def is_recorded(self) -> bool:
        return self._graphs is not None

    @torch.inference_mode()
    def record(self, recorder: Recorder) -> None:
        """From now on replay what `recorder` makes of the passes (aisle/graphs.py)."""
        most = self.settings.max_tokens
        self._lengths = [*(length for length in _LENGTHS if length < most), most]
        chance = torch.Generator().manual_seed(0)
        examples = []
        for length in self._lengths:
            tokens_B2T = torch.ones((SIZES[-1], 2, length), dtype=torch.long)
            tokens_B2T[:, 0].random_(int(self.model.config.vocab_size), generator=chance)
            tokens_B2T[:, 1, length // 2 :] = 0
            examples += [tokens_B2T[:rows].to(self.device) for rows in SIZES]
        self._graphs = Graphs(self._pooled, examples, recorder)

    @torch.inference_mode()
    def _forward(self, token_ids: list[list[int]]) -> np.ndarray:
        longest = max(map(len, token_ids), default=1)
        length = next((length for length in self._lengths if length >= longest), longest)
        tokens_B2T = pad_tokens(token_ids, self.pad_id, length).to(self.device)
        vectors: np.ndarray = (self._graphs or self._pooled)(tokens_B2T).cpu().numpy()
        return vectors

    def _pooled(self, tokens_B2T: torch.Tensor) -> torch.Tensor:
        pooled_BD = mean_pooled(self.model, tokens_B2T)
        if self.settings.normalize:
            pooled_BD = torch.nn.functional.normalize(pooled_BD, dim=-1)
        return pooled_BD.float()

    def save(self, folder: Path) -> str:
        """Write weights, tokenizer, settings and manifest into a new folder; return the revision."""
        folder.mkdir(parents=True, exist_ok=True)
        disable_progress_bar()  # a flash of bars for a second's work
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        facts = {"name": self.name, "dim": self.dim, "pooling": "mean", **asdict(self.settings)}
        if (
            self.weights != PRETRAINED
        ):  # said only then: revisions of pretrained ones are older than this fact
            facts["weights"] = self.weights
        (folder / "encoder.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        self.revision = write_manifest(folder)
        return self.revision

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> TextEncoder:
        """Load what `save` wrote. Raises BundleError when a file is missing or changed."""
        revision = verify_manifest(folder)
        facts = json.loads((folder / "encoder.json").read_text())
        names = ("max_tokens", "max_chars", "prefix", "normalize")
        settings = TextSettings(**{name: facts[name] for name in names})
        disable_progress_bar()
        try:
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers has no type of its own
            raise BundleError(
                f"{folder.name}: found {error!r}, wanted a text encoder that transformers can read"
            ) from error
        # Its weights are a map of the file: one that is cut while it is in service would end the process.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        encoder = cls(
            model.to(device),
            tokenizer,
            settings,
            name=facts["name"],
            revision=revision,
            weights=facts.get("weights", PRETRAINED),
        )
        if encoder.dim != facts["dim"]:
            raise EncoderError(
                f"{folder.name}: the weights have width {encoder.dim}, encoder.json says {facts['dim']}"
            )
        return encoder


def pad_tokens(token_ids: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> torch.Tensor:
    """Int64 [B, 2, T]: ids filled up to `length` (the longest text's where that is None), and 1 where they
    are the text's own."""
    length = length or max(map(len, token_ids), default=1)
    tokens_B2T = torch.zeros((len(token_ids), 2, length), dtype=torch.long)
    tokens_B2T[:, 0] = pad_id
    for row, ids in enumerate(token_ids):
        tokens_B2T[row, 0, : len(ids)] = torch.tensor(ids)
        tokens_B2T[row, 1, : len(ids)] = 1
    return tokens_B2T


def mean_pooled(model: Any, tokens_B2T: torch.Tensor) -> torch.Tensor:
    """[B, D]: the mean of the model's last states over each text's own tokens."""
    ids_BT, mask_BT = tokens_B2T.unbind(1)
    hidden_BTD = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    pooled_BD: torch.Tensor = (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
    return pooled_BD
