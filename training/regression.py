"""Fits a `linear` head: three logistic regressions, each with the penalties that grouped folds choose.

What the folds' regressions say of products that they did not see is kept: scalings are fitted on these
answers, so that no product has to be set aside for them, and the head itself learns from all.

Shapes: N products, A of them asked in some fold, D and E embedding widths, F features, C categories, P = 3
presence patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from aisle.calibration import PATTERNS
from aisle.feature_fusion import Linear
from aisle.fusion import FusionSettings, build_fusion
from training.fit import Vectors, class_weights
from training.folds import stratified_split
from training.progress import progress

# Of the sum of losses over squared weights of features of length 1; the strict ones first.
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# Steps that the two may move, when both are there, from what each wants alone.
TILTS = ((0, 0), (-1, -1), (-1, 0), (0, -1))
FOLDS = 5
ASKED = 5_000  # groups that are enough to choose by: a large catalogue is asked in one fold
_STEPS = 200  # of L-BFGS, at most
# It ends where a step gains less than this share of the loss: to choose by, and to keep.
_ROUGH, _EXACT = 1e-3, 1e-7
_SEED = 27

Powers = tuple[int, ...]  # places in PENALTIES, one a part


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What regressions said of products that they were fitted without: positions [A], logits [P, A, C]."""

    position_A: np.ndarray
    logits_PAC: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weights:
    weight_CF: torch.Tensor
    bias_C: torch.Tensor


class _Regression:
    """One pattern: features of length about 1 a part, and who can be seen so."""

    def __init__(
        self, parts: Sequence[torch.Tensor], seen_N: np.ndarray, vectors: Vectors, classes: int
    ) -> None:
        self.widths = [part_NF.shape[1] for part_NF in parts]
        self.seen_N = seen_N
        self._feature_NF = torch.cat([part_NF / part_NF.shape[1] ** 0.5 for part_NF in parts], dim=1)
        self._label_N = torch.from_numpy(vectors.label_N)
        self._classes = classes

    def fit(
        self, rows: np.ndarray, powers: Powers, start: _Weights | None = None, tolerance: float = _EXACT
    ) -> _Weights:
        """The regression of these products that has the least penalised loss; every category counts alike."""
        rows = rows[self.seen_N[rows]]
        root_F = self._roots(powers)
        feature_NF, label_N = self._feature_NF[rows] / root_F, self._label_N[rows]
        loss_weight_N = class_weights(label_N, self._classes)[label_N]
        classes, width = self._classes, feature_NF.shape[1]
        wanted_NC = torch.nn.functional.one_hot(label_N, classes).float()

        def loss(packed: np.ndarray) -> tuple[float, np.ndarray]:
            packed_CF = torch.from_numpy(packed).float().view(classes, width + 1)
            weight_CF, bias_C = packed_CF[:, :-1], packed_CF[:, -1]
            log_NC = torch.log_softmax(torch.addmm(bias_C, feature_NF, weight_CF.T), dim=1)
            slope_NC = (log_NC.exp() - wanted_NC) * loss_weight_N[:, None]
            value = -(loss_weight_N * (log_NC * wanted_NC).sum(dim=1)).double().sum()
            value = value + weight_CF.double().square().sum() / 2
            slope_CF = torch.cat([slope_NC.T @ feature_NF + weight_CF, slope_NC.sum(dim=0)[:, None]], dim=1)
            return float(value), slope_CF.double().numpy().ravel()

        begin = np.zeros((classes, width + 1))
        if start is not None:
            begin[:, :-1], begin[:, -1] = start.weight_CF * root_F, start.bias_C
        options = {"maxiter": _STEPS, "ftol": tolerance}
        found = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x
        found_CF = torch.from_numpy(found).float().view(classes, width + 1)
        return _Weights(weight_CF=found_CF[:, :-1] / root_F, bias_C=found_CF[:, -1].clone())

    def _roots(self, powers: Powers) -> torch.Tensor:
        """Dividing a feature by the root of its penalty makes all penalties one."""
        penalties = [PENALTIES[power] for power in powers]
        return torch.tensor(np.repeat(penalties, self.widths), dtype=torch.float32).sqrt()

    def logits(self, rows: np.ndarray, weights: _Weights) -> torch.Tensor:
        return torch.addmm(weights.bias_C, self._feature_NF[rows], weights.weight_CF.T)

    def loss(self, rows: np.ndarray, logits_BC: torch.Tensor) -> float:
        """Mean log-loss of the products that can be seen so, every category counting alike."""
        seen_B = torch.from_numpy(self.seen_N[rows])
        label_B = self._label_N[rows][seen_B]
        if not len(label_B):
            return 0.0
        own_B = -torch.log_softmax(logits_BC[seen_B], dim=1)[torch.arange(len(label_B)), label_B]
        weight_B = class_weights(label_B, self._classes)[label_B]
        return float((own_B * weight_B).sum() / weight_B.sum())

    def put(self, layer: torch.nn.Linear, weights: _Weights) -> None:
        """Into a layer that reads the standardised vectors as they are."""
        length_F = torch.tensor(np.repeat(np.sqrt(self.widths), self.widths), dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(weights.weight_CF / length_F)
            layer.bias.copy_(weights.bias_C)


def fit_linear(
    vectors: Vectors, *, classes: int, group_N: np.ndarray, ask_all: bool = False
) -> tuple[Linear, Asked, Mapping[str, tuple[float, ...]]]:
    """A linear head of all products; what heads like it said of products without having seen them; and the
    penalties by presence pattern. Variants of one product share `group_N` and a fold. Of a large catalogue
    not all products are asked about, unless `ask_all`.

    A category that no product shows keeps the bias of 0 that a regression begins with, less what its penalty
    leaves of it: it is never the answer."""
    head, regressions = _regressions(vectors, classes)
    folds = list(_folds(vectors.label_N, group_N, ask_all))
    ask_A = np.concatenate([ask for _, ask in folds])
    steps = len(PENALTIES)
    with progress() as bar:
        work = len(folds) * (2 * steps + len(TILTS)) + 3
        task = bar.add_task("fit regressions", total=work)

        def choose(pattern: int, candidates: Sequence[Powers]) -> tuple[Powers, torch.Tensor]:
            found = _choose(regressions[pattern], folds, ask_A, candidates)
            bar.advance(task, len(folds) * len(candidates))
            return found

        text, image = (choose(pattern, [(power,) for power in range(steps)]) for pattern in (1, 2))
        near = {
            tuple(_on_path(p + t) for (p, t) in zip(text[0] + image[0], tilt, strict=True)) for tilt in TILTS
        }
        chosen = [choose(0, sorted(near)), text, image]
        everyone = np.arange(len(vectors))
        layers = (head.both, head.text_alone, head.image_alone)
        for layer, regression, (powers, _) in zip(layers, regressions, chosen, strict=True):
            regression.put(layer, regression.fit(everyone, powers))
            bar.advance(task)
        bar.update(task, completed=work)
    penalties = {
        name: tuple(PENALTIES[power] for power in powers)
        for name, (powers, _) in zip(PATTERNS, chosen, strict=True)
    }
    logits_PAC = torch.stack([logits_AC for _, logits_AC in chosen]).numpy()
    return head, Asked(position_A=ask_A, logits_PAC=logits_PAC), penalties


def _on_path(place: int) -> int:
    return min(max(place, 0), len(PENALTIES) - 1)


def _regressions(vectors: Vectors, classes: int) -> tuple[Linear, list[_Regression]]:
    """An empty head that standardises, and a regression for each of its layers."""
    shape = FusionSettings(
        variant="linear",
        text_dim=vectors.text_ND.shape[1],
        image_dim=vectors.image_NE.shape[1],
        classes=classes,
    )
    head = build_fusion(shape).eval()
    assert isinstance(head, Linear)
    text_ND, image_NE = torch.from_numpy(vectors.text_ND), torch.from_numpy(vectors.image_NE)
    has_text_N, has_image_N = vectors.present_N2[:, 0] > 0, vectors.present_N2[:, 1] > 0
    head.standardise(text_ND[has_text_N], image_NE[has_image_N])
    with torch.inference_mode():
        text_ND, image_NE = head.project(text_ND, image_NE)
    parts = ([text_ND, image_NE], [text_ND], [image_NE])
    seen = (has_text_N & has_image_N, has_text_N, has_image_N)
    return head, [_Regression(*one, vectors, classes) for one in zip(parts, seen, strict=True)]


def _folds(
    label_N: np.ndarray, group_N: np.ndarray, ask_all: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions to learn from, positions to ask about) of each fold."""
    groups = np.unique(group_N)
    if ask_all or len(groups) <= FOLDS * ASKED:
        yield from stratified_split(label_N, group_N, FOLDS, _SEED)
        return
    asked = np.random.default_rng(_SEED).choice(groups, ASKED, replace=False)
    ask_N = np.isin(group_N, asked)
    yield np.flatnonzero(~ask_N), np.flatnonzero(ask_N)


def _choose(
    regression: _Regression,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    ask_A: np.ndarray,
    candidates: Sequence[Powers],
) -> tuple[Powers, torch.Tensor]:
    """The penalties of the least loss on products that were asked about, and the logits [A, C] of these. A
    path is left where the loss rises; candidates that are no path are all tried."""
    best: tuple[float, Powers, torch.Tensor] | None = None
    weights: list[_Weights | None] = [None] * len(folds)
    for powers in candidates:
        said = []
        for at, (learn, ask) in enumerate(folds):
            weights[at] = begun = regression.fit(learn, powers, weights[at], _ROUGH)
            said.append(regression.logits(ask, begun))
        logits_AC = torch.cat(said)
        loss = regression.loss(ask_A, logits_AC)
        if best is None or loss < best[0]:
            best = (loss, powers, logits_AC)
        elif len(powers) == 1:
            break
    assert best is not None
    return best[1:]
