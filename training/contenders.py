"""Every family of models for this task, fitted on one fold and asked the same products.

What a contender needs of products that it was not trained on (temperature, weights, a stack) is fitted on the
fold's validation products. Its answers about these, which it is chosen by, are therefore made in turns: about
each part of them after fitting on the others. The test products see nothing of all that.

Shapes: N products, C categories.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.special import softmax

from aisle.calibration import fit_temperature
from aisle.errors import CatalogError
from aisle.fusion import FusionNet
from aisle.fusion_net import ALONE, FEATURE, LATE
from training.boosting import Boosting
from training.combiners import Said
from training.fit import FitSettings, Vectors, fit_fusion, present_logits
from training.gru import Gru, GruSettings, fit_gru
from training.heads import both_say, combine, fit_alone, grouped_folds, out_of_fold
from training.linear_svm import LinearSvm

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
    """`finish` fits what is left to be fitted on validation products. A stack that was fitted on them has no
    temperature: on what it has learned it looks surer than it is."""

    finish: Callable[[Examples], Ask]
    size_bytes: Callable[[Ask], int]
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
        self._borrowed_s, began = 0.0, time.perf_counter()
        fitted = self._fit(name)
        ask, temperature = _finished(fitted, self._validation)
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
        turns = list(grouped_folds(self._validation.group_N, TURNS))
        if not turns:
            raise CatalogError(
                f"validation: found {len(set(self._validation.group_N))} groups of products, "
                f"wanted {TURNS} or more to compare on"
            )
        for others, own in turns:
            ask, temperature = _finished(fitted, self._validation.rows(others))
            said_NC[own] = softmax(ask(self._validation.rows(own)) / temperature, axis=1)
        return said_NC

    def _fit(self, name: str) -> _Fitted:
        if name == "tfidf_svm":
            return self._of_texts(
                LinearSvm(*self._texts(self._train), classes=self._classes, seed=self._seed)
            )
        if name == "gru":
            texts = self._texts(self._train), self._texts(self._validation)
            return self._of_texts(fit_gru(*texts, GruSettings(seed=self._seed), classes=self._classes))
        if name in ALONE:
            return _of_network(self._alone(name))
        if name in FEATURE:
            settings = replace(self._settings, variant=name)
            train, validation = self._train.vectors, self._validation.vectors
            return _of_network(fit_fusion(train, validation, settings, classes=self._classes)[0])
        return self._of_both(name)

    @property
    def _seed(self) -> int:
        return self._settings.seed

    @staticmethod
    def _texts(examples: Examples) -> tuple[list[str], np.ndarray]:
        has = np.array([bool(text) for text in examples.text_N])
        return list(examples.text_N[has]), examples.vectors.label_N[has]

    def _of_texts(self, model: LinearSvm | Gru) -> _Fitted:
        def ask(examples: Examples) -> np.ndarray:
            return model.logits(list(examples.text_N))

        return _Fitted(finish=lambda held_out: ask, size_bytes=lambda ask: model.size_bytes)

    def _of_both(self, name: str) -> _Fitted:
        text, image = self._alone("text"), self._alone("image")
        stack_on = self._shared("stack", self._out_of_fold) if name.startswith("stacked") else None

        def finish(held_out: Examples) -> Ask:
            if name == "stacked_lightgbm":
                return self._boosted(text, image, held_out, stack_on)
            return _ask_network(combine(name, text, image, held_out.vectors, stack_on))

        def size_bytes(ask: Ask) -> int:
            trees = ask.trees.size_bytes if isinstance(ask, _AskTrees) else 0
            return _bytes_of(text) + _bytes_of(image) + trees

        fitted_on_validation = name.startswith("stacked") and stack_on is None
        return _Fitted(finish=finish, size_bytes=size_bytes, has_temperature=not fitted_on_validation)

    def _boosted(
        self, text: FusionNet, image: FusionNet, held_out: Examples, stack_on: Said | None
    ) -> _AskTrees:
        pool = combine("weighted", text, image, held_out.vectors)
        said = stack_on if stack_on is not None else both_say(pool, held_out.vectors)
        return _AskTrees(pool, Boosting(said, classes=self._classes, seed=self._seed))

    def _alone(self, modality: str) -> FusionNet:
        train, validation = self._train.vectors, self._validation.vectors
        fit = partial(fit_alone, modality, train, validation, self._settings, self._classes)
        network: FusionNet = self._shared(modality, lambda: fit()[0])
        return network

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


class _AskTrees:
    """Trees for products with both modalities, the modality's own answer for the others."""

    def __init__(self, pool: FusionNet, trees: Boosting) -> None:
        self._pool = pool
        self.trees = trees

    def __call__(self, examples: Examples) -> np.ndarray:
        logits_NC = present_logits(self._pool, examples.vectors)
        both = examples.vectors.present_N2.all(axis=1)
        logits_NC[both] = self.trees.logits(both_say(self._pool, examples.vectors))
        return logits_NC


def _of_network(network: FusionNet) -> _Fitted:
    ask = _ask_network(network)
    return _Fitted(finish=lambda held_out: ask, size_bytes=lambda ask: _bytes_of(network))


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
