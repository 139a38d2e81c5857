"""A bidirectional GRU over words that it learns itself: the small neural baseline of text.

After Cho et al. (2014) for the unit; the outputs of all words are reduced to their largest values.
Shapes: N texts, B a batch, T words, H hidden width, C categories.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from training.fit import class_weights
from training.progress import progress

_WORD = re.compile(r"\w+")
PAD, UNKNOWN = 0, 1


@dataclass(frozen=True, kw_only=True)
class GruSettings:
    """Facts about one run. Words that fewer than `min_count` training texts have are one: the unknown."""

    min_count: int = 2
    max_vocabulary: int = 50_000
    max_words: int = 100
    word_dim: int = 100
    hidden_dim: int = 100
    dropout: float = 0.4
    word_dropout: float = 0.1  # words that training replaces by the unknown
    epochs: int = 30
    patience: int = 6
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 27


class Vocabulary:
    """Words by number, the most common first."""

    def __init__(self, texts: Sequence[str], settings: GruSettings) -> None:
        counts = Counter(word for text in texts for word in set(words_of(text)))
        common = counts.most_common(settings.max_vocabulary)
        kept = [word for word, count in common if count >= settings.min_count]
        self._number = {word: number for number, word in enumerate(sorted(kept), start=2)}
        self._max_words = settings.max_words

    def __len__(self) -> int:
        return len(self._number) + 2

    def numbers(self, text: str) -> torch.Tensor:
        """Int64 [T], T at least 1: a text without words is one unknown word."""
        found = [self._number.get(word, UNKNOWN) for word in words_of(text)[: self._max_words]]
        return torch.tensor(found or [UNKNOWN])


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class GruNet(nn.Module):
    def __init__(self, vocabulary: int, classes: int, settings: GruSettings) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, settings.word_dim, padding_idx=PAD)
        self.gru = nn.GRU(settings.word_dim, settings.hidden_dim, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(2 * settings.hidden_dim, classes)

    def forward(self, word_BT: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        embedded = self.dropout(self.words(word_BT))
        packed = pack_padded_sequence(embedded, length_B, batch_first=True, enforce_sorted=False)
        output_BTH, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, padding_value=-1.0)
        logits_BC: torch.Tensor = self.head(self.dropout(output_BTH.amax(dim=1)))
        return logits_BC


class Gru:
    """A trained network with its vocabulary."""

    def __init__(self, net: GruNet, vocabulary: Vocabulary) -> None:
        self.net = net.eval()
        self._vocabulary = vocabulary

    @property
    def size_bytes(self) -> int:
        return sum(weight.numel() * weight.element_size() for weight in self.net.parameters())

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Float32 [N, C], in the order of `texts`."""
        numbers = [self._vocabulary.numbers(text) for text in texts]
        parts = [self.net(*_padded(numbers[at : at + batch_size])) for at in range(0, len(texts), batch_size)]
        logits: np.ndarray = torch.cat(parts).numpy() if parts else np.zeros((0, self.net.head.out_features))
        return logits


def fit_gru(
    train: tuple[Sequence[str], np.ndarray],
    validation: tuple[Sequence[str], np.ndarray],
    settings: GruSettings,
    *,
    classes: int,
) -> Gru:
    """Train on (texts, labels); the epoch of the best macro-F1 on `validation` is kept. Same seed and same
    texts give the same network."""
    torch.manual_seed(settings.seed)
    vocabulary = Vocabulary(train[0], settings)
    net = GruNet(len(vocabulary), classes, settings)
    numbers, label = [vocabulary.numbers(text) for text in train[0]], torch.from_numpy(train[1])
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    loss_of = nn.CrossEntropyLoss(weight=class_weights(label, classes))
    best_score, best_epoch, best_weights = -1.0, 0, net.state_dict()
    with progress() as bar:
        task = bar.add_task("fit GRU", total=settings.epochs)
        for epoch in range(settings.epochs):
            net.train()
            for rows in torch.randperm(len(label)).split(settings.batch_size):
                words, lengths = _padded([numbers[int(row)] for row in rows])
                hidden = torch.rand(words.shape) < settings.word_dropout
                words = words.masked_fill(hidden & (words != PAD), UNKNOWN)
                loss = loss_of(net(words, lengths), label[rows])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            answer_N = Gru(net, vocabulary).logits(validation[0]).argmax(axis=1)
            score = float(f1_score(validation[1], answer_N, average="macro", zero_division=0))
            bar.update(task, advance=1, description=f"fit GRU F1 {score:.3f}")
            if score > best_score:
                best_score, best_epoch = score, epoch
                best_weights = {name: value.clone() for name, value in net.state_dict().items()}
            elif epoch - best_epoch >= settings.patience:
                break
        bar.update(task, total=epoch + 1, completed=epoch + 1)
    net.load_state_dict(best_weights)
    return Gru(net, vocabulary)


def _padded(numbers: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(number) for number in numbers])
    return pad_sequence(list(numbers), batch_first=True, padding_value=PAD), lengths
