"""Every family of models for this task, fitted on one fold and asked the same products.

What a contender needs of products that it was not trained on (temperature, weights, a stack) is fitted on
the fold's validation products, which are held back. Its answers about these, which it is chosen by, are
therefore made in turns: about each part of them after fitting on the others. Then it is trained again with
them, as long as was best, and asked about the test products, which see nothing of all that. A linear head
holds back the products of its own folds instead.

Shapes: N products, C categories.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from aisle.calibration import fit_temperature
from aisle.errors import CatalogError
from aisle.fusion import FusionNet
from aisle.fusion_net import ALONE, FEATURE, LATE
from aisle.late_fusion import Late
from training.boosting import Boosting
from training.combiners import Said
from training.fit import FitSettings, Vectors, fit_fusion, own_logits, present_logits
from training.gru import Gru, GruSettings, fit_gru
from training.heads import both_say, combine, exchange, fit_alone, grouped_folds, out_of_fold
from training.linear_svm import LinearSvm
from training.whole import fit_whole_linear, refit

LEVELS = {
    **dict.fromkeys(("tfidf_svm", "gru", "text", "image"), "one modality"),
    **dict.fromkeys(FEATURE, "feature"),
    **dict.fromkeys((*LATE, "stacked_lightgbm"), "probability"),
}
SERVABLE = (*FEATURE, *LATE)  # heads of a bundle that read both modalities
TURNS = 5  # parts of the validation products
_BATCH = 32  # products that latency is measured with


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Products as all contenders see them: stored vectors, cleaned texts, and whose variants they are."""

    vectors: Vectors
    text_N: np.ndarray
    group_N: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        return cls(
            vectors=Vectors.joined([part.vectors for part in parts]),
            text_N=np.concatenate([part.text_N for part in parts]),
            group_N=np.concatenate([part.group_N for part in parts]),
        )

    def rows(self, index: np.ndarray) -> Examples:
        return Examples(
            vectors=self.vectors.rows(index), text_N=self.text_N[index], group_N=self.group_N[index]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Calibrated probabilities [N, C] of the validation products (in turns) and of the test products.
    `latency_s` is for one product in a batch, from text or stored vectors on."""

    validation_NC: np.ndarray
    test_NC: np.ndarray
    fit_s: float
    size_bytes: int
    latency_s: float


Ask = Callable[[Examples], np.ndarray]  # products to logits [N, C]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """`finish` fits what is left to be fitted on validation products, and `again` trains what it gave with
    them too. A stack that was fitted on them has no temperature: on what it has learned it looks surer than
    it is."""

    finish: Callable[[Examples], Ask]
    size_bytes: Callable[[Ask], int]
    again: Callable[[Ask], Ask] = lambda ask: ask
    has_temperature: bool = True


class Contest:
    """One fold. Parts that several contenders stand on are trained once, and their time counts for each."""

    def __init__(
        self, train: Examples, validation: Examples, test: Examples, settings: FitSettings, classes: int
    ) -> None:
        self._train, self._validation, self._test = train, validation, test
        self._settings = settings
        self._classes = classes
        self._parts: dict[str, tuple[Any, float]] = {}
        self._borrowed_s = 0.0

    def outcome(self, name: str) -> Outcome:
        """Fit a contender of LEVELS, and ask it."""
        if name == "linear":
            return self._linear()
        self._borrowed_s, began = 0.0, time.perf_counter()
        fitted = self._fit(name)
        held_back, temperature = _finished(fitted, self._validation)
        ask = fitted.again(held_back)
        fit_s = time.perf_counter() - began + self._borrowed_s
        return Outcome(
            validation_NC=self._in_turns(fitted),
            test_NC=softmax(ask(self._test) / temperature, axis=1),
            fit_s=fit_s,
            size_bytes=fitted.size_bytes(ask),
            latency_s=_latency(ask, self._test),
        )

    def _in_turns(self, fitted: _Fitted) -> np.ndarray:
        """Calibrated probabilities of the validation products, each by what was finished without its part."""
        said_NC = np.zeros((len(self._validation), self._classes))
        for others, own in self._turns():
            ask, temperature = _finished(fitted, self._validation.rows(others))
            said_NC[own] = softmax(ask(self._validation.rows(own)) / temperature, axis=1)
        return said_NC

    def _turns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        turns = list(grouped_folds(self._validation.group_N, TURNS))
        if not turns:
            raise CatalogError(
                f"validation: found {len(set(self._validation.group_N))} groups of products, "
                f"wanted {TURNS} or more to compare on"
            )
        return turns

    def _linear(self) -> Outcome:
        """Its folds hold back training products too, so its temperature is fitted on more."""
        began = time.perf_counter()
        both = Examples.joined([self._train, self._validation])
        whole = fit_whole_linear(both.vectors, both.group_N, self._classes, ask_all=True)
        said_NC, label_N = own_logits(whole.honest.logits_PNC, whole.honest.present_N2), whole.honest.label_N
        ask = _ask_network(whole.fusion)
        temperature = fit_temperature(said_NC, label_N)
        fit_s = time.perf_counter() - began
        place_N = np.argsort(whole.position_N)  # every product was asked about once
        validation_N = place_N[len(self._train) :]
        validation_NC = np.zeros((len(self._validation), self._classes))
        for _, own in self._turns():
            others = np.setdiff1d(place_N, validation_N[own])
            turn = fit_temperature(said_NC[others], label_N[others])
            validation_NC[own] = softmax(said_NC[validation_N[own]] / turn, axis=1)
        return Outcome(
            validation_NC=validation_NC,
            test_NC=softmax(ask(self._test) / temperature, axis=1),
            fit_s=fit_s,
            size_bytes=_bytes_of(whole.fusion),
            latency_s=_latency(ask, self._test),
        )

    def _fit(self, name: str) -> _Fitted:
        if name == "tfidf_svm":
            held_back, whole = (self._svm(examples) for examples in (self._train, self._both))
            return _of_texts(held_back, whole)
        if name == "gru":
            texts = self._texts(self._train), self._texts(self._validation)
            gru = fit_gru(*texts, GruSettings(seed=self._seed), classes=self._classes)
            return _of_texts(gru, gru)  # it has no settings for another run without early stopping
        if name in ALONE:
            return _of_network(*self._alone(name))
        if name in FEATURE:
            settings = replace(self._settings, variant=name)
            train, validation = self._train.vectors, self._validation.vectors
            first, history = fit_fusion(train, validation, settings, classes=self._classes)
            return _of_network(first, refit(first, history, self._both.vectors, settings, self._classes))
        return self._of_both(name)

    @property
    def _both(self) -> Examples:
        both: Examples = self._shared("both", lambda: Examples.joined([self._train, self._validation]))
        return both

    def _svm(self, examples: Examples) -> LinearSvm:
        return LinearSvm(*self._texts(examples), classes=self._classes, seed=self._seed)

    @property
    def _seed(self) -> int:
        return self._settings.seed

    @staticmethod
    def _texts(examples: Examples) -> tuple[list[str], np.ndarray]:
        has = np.array([bool(text) for text in examples.text_N])
        if not has.any():
            raise CatalogError("a contender of texts: found no product with one; name the others by --only")
        return list(examples.text_N[has]), examples.vectors.label_N[has]

    def _of_both(self, name: str) -> _Fitted:
        (text, text_again), (image, image_again) = self._alone("text"), self._alone("image")
        stack_on = self._shared("stack", self._out_of_fold) if name.startswith("stacked") else None

        def finish(held_out: Examples) -> Ask:
            if name == "stacked_lightgbm":
                return self._boosted(text, image, held_out, stack_on)
            return _AskLate(combine(name, text, image, held_out.vectors, stack_on))

        def again(ask: Ask) -> Ask:
            assert isinstance(ask, _AskLate | _AskTrees)
            return ask.exchange(text_again, image_again)

        def size_bytes(ask: Ask) -> int:
            trees = ask.trees.size_bytes if isinstance(ask, _AskTrees) else 0
            return _bytes_of(text) + _bytes_of(image) + trees

        fitted_on_validation = name.startswith("stacked") and stack_on is None
        return _Fitted(
            finish=finish,
            size_bytes=size_bytes,
            again=again,
            has_temperature=not fitted_on_validation,
        )

    def _boosted(
        self, text: FusionNet, image: FusionNet, held_out: Examples, stack_on: Said | None
    ) -> _AskTrees:
        pool = combine("weighted", text, image, held_out.vectors)
        said = stack_on if stack_on is not None else both_say(pool, held_out.vectors)
        return _AskTrees(pool, Boosting(said, classes=self._classes, seed=self._seed))

    def _alone(self, modality: str) -> tuple[FusionNet, FusionNet]:
        """A head of one modality, and the same trained with the validation products too."""
        settings = replace(self._settings, variant=modality)

        def fit() -> tuple[FusionNet, FusionNet]:
            train, validation = self._train.vectors, self._validation.vectors
            first, history = fit_alone(modality, train, validation, settings, self._classes)
            return first, refit(first, history, self._both.vectors, settings, self._classes)

        networks: tuple[FusionNet, FusionNet] = self._shared(modality, fit)
        return networks

    def _out_of_fold(self) -> Said | None:
        train, validation = self._train.vectors, self._validation.vectors
        return out_of_fold(train, validation, self._settings, self._classes, self._train.group_N)

    def _shared(self, key: str, make: Callable[[], Any]) -> Any:
        if key in self._parts:
            self._borrowed_s += self._parts[key][1]
        else:
            began = time.perf_counter()
            value = make()
            self._parts[key] = (value, time.perf_counter() - began)
        return self._parts[key][0]


class _AskLate:
    """A late head, whose parts can be exchanged for others of their kind."""

    def __init__(self, late: Late) -> None:
        self._late = late

    def __call__(self, examples: Examples) -> np.ndarray:
        return present_logits(self._late, examples.vectors)

    def exchange(self, text: FusionNet, image: FusionNet) -> _AskLate:
        return _AskLate(exchange(self._late, text, image))


class _AskTrees:
    """Trees for products with both modalities, the modality's own answer for the others."""

    def __init__(self, pool: Late, trees: Boosting) -> None:
        self._pool = pool
        self.trees = trees

    def __call__(self, examples: Examples) -> np.ndarray:
        logits_NC = present_logits(self._pool, examples.vectors)
        both = examples.vectors.present_N2.all(axis=1)
        logits_NC[both] = self.trees.logits(both_say(self._pool, examples.vectors))
        return logits_NC

    def exchange(self, text: FusionNet, image: FusionNet) -> _AskTrees:
        return _AskTrees(exchange(self._pool, text, image), self.trees)


def _of_texts(held_back: LinearSvm | Gru, whole: LinearSvm | Gru) -> _Fitted:
    def asking(model: LinearSvm | Gru) -> Ask:
        return lambda examples: model.logits(list(examples.text_N))

    return _Fitted(
        finish=lambda held_out: asking(held_back),
        size_bytes=lambda ask: whole.size_bytes,
        again=lambda ask: asking(whole),
    )


def _of_network(held_back: FusionNet, whole: FusionNet) -> _Fitted:
    return _Fitted(
        finish=lambda held_out: _ask_network(held_back),
        size_bytes=lambda ask: _bytes_of(whole),
        again=lambda ask: _ask_network(whole),
    )


def _ask_network(network: FusionNet) -> Ask:
    return lambda examples: present_logits(network, examples.vectors)


def _bytes_of(network: FusionNet) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _finished(fitted: _Fitted, held_out: Examples) -> tuple[Ask, float]:
    ask = fitted.finish(held_out)
    if not fitted.has_temperature:
        return ask, 1.0
    return ask, fit_temperature(ask(held_out), held_out.vectors.label_N)


def _latency(ask: Ask, examples: Examples) -> float:
    """Median of seven batches, a product."""
    batch = examples.rows(np.arange(min(_BATCH, len(examples))))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        ask(batch)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / len(batch)
