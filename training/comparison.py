"""All families of models on the same folds: figures with intervals, and which one to take.

A finished contender of a fold is kept on disk, so that a stopped comparison goes on where it was.
Shapes: N products, C categories, R bootstrap resamples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.metrics import f1_score

from aisle.calibration import expected_calibration_error
from training.contenders import LEVELS, SERVABLE, Contest, Examples, Outcome
from training.fit import FitSettings
from training.folds import Fold
from training.progress import progress

RESAMPLES = 500
LEVEL = 0.95  # of the intervals
METHOD = 2  # raised when contenders are fitted otherwise, so that figures of two ways never mix


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """What a contender said of the products of all folds, test or validation; `label_N` is what they are."""

    probabilities_NC: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray

    def losses(self) -> np.ndarray:
        """Log-loss of each product."""
        own = self.probabilities_NC[np.arange(len(self.label_N)), self.label_N]
        loss: np.ndarray = -np.log(own.clip(min=1e-12))
        return loss

    def answers(self) -> np.ndarray:
        answer: np.ndarray = self.probabilities_NC.argmax(axis=1)
        return answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Outcomes by contender, one a fold."""

    folds: Sequence[Fold]
    outcomes: Mapping[str, Sequence[Outcome]]
    label_N: np.ndarray
    group_N: np.ndarray

    def test(self, name: str) -> Pooled:
        return self._pooled([o.test_NC for o in self.outcomes[name]], [fold.test for fold in self.folds])

    def validation(self, name: str) -> Pooled:
        """A product stands once a fold whose validation it was in."""
        return self._pooled(
            [o.validation_NC for o in self.outcomes[name]], [fold.validation for fold in self.folds]
        )

    def _pooled(self, probabilities: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> Pooled:
        row_N = np.concatenate(rows)
        return Pooled(
            probabilities_NC=np.concatenate(probabilities),
            label_N=self.label_N[row_N],
            group_N=self.group_N[row_N],
        )


def compare(
    examples: Mapping[str, Examples],
    folds: Sequence[Fold],
    settings: FitSettings,
    *,
    classes: int,
    names: Sequence[str] = tuple(LEVELS),
    work: Path,
) -> Comparison:
    """Fit every contender of `names` on every fold. `examples` are by the fold's name, because an image
    encoder may have been trained on the fold; their labels are the same in all."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with progress() as bar:
        task = bar.add_task("compare", total=len(folds) * len(names))
        for fold in folds:
            own = examples[fold.name]
            parts = [own.rows(rows) for rows in (fold.train, fold.validation, fold.test)]
            contest = Contest(parts[0], parts[1], parts[2], settings, classes)
            identity = _identity(parts, settings, classes)
            for name in names:
                bar.update(task, description=f"{fold.name} {name}")
                path = work / f"{fold.name}-{name}.safetensors"
                outcomes[name].append(_kept(path, identity) or _keep(path, identity, contest.outcome(name)))
                bar.advance(task)
    first = examples[folds[0].name]
    return Comparison(folds=folds, outcomes=outcomes, label_N=first.vectors.label_N, group_N=first.group_N)


def _identity(parts: Sequence[Examples], settings: FitSettings, classes: int) -> str:
    digest = hashlib.sha256(json.dumps([METHOD, asdict(settings), classes], sort_keys=True).encode())
    for part in parts:
        vectors = part.vectors
        for array in (vectors.text_ND, vectors.image_NE, vectors.present_N2, vectors.label_N):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps([list(map(str, part.text_N)), list(map(str, part.group_N))]).encode())
    return digest.hexdigest()


def _keep(path: Path, identity: str, outcome: Outcome) -> Outcome:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {name: getattr(outcome, name) for name in ("fit_s", "size_bytes", "latency_s")}
    arrays = {"validation": outcome.validation_NC, "test": outcome.test_NC}
    part = path.with_suffix(f".{os.getpid()}.part")  # another comparison may be at the same fold
    save_file(arrays, part, metadata={"identity": identity, "facts": json.dumps(facts)})
    part.replace(path)
    return outcome


def _kept(path: Path, identity: str) -> Outcome | None:
    if not path.is_file():
        return None
    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("identity") != identity:
            return None
        arrays = {"validation_NC": file.get_tensor("validation"), "test_NC": file.get_tensor("test")}
    return Outcome(**arrays, **json.loads(metadata["facts"]))


def figures(comparison: Comparison, *, seed: int) -> dict[str, dict[str, Any]]:
    """Figures by contender, best validation log-loss first. Those of the test products have bootstrap
    intervals (groups are drawn, not products); F1 is of all folds' products together, and `fold_macro_f1`
    of each."""
    rows: dict[str, dict[str, Any]] = {}
    for name, outcomes in comparison.outcomes.items():
        test, validation = comparison.test(name), comparison.validation(name)
        confidence_N = test.probabilities_NC.max(axis=1)
        rows[name] = {
            "level": LEVELS[name],
            "servable": name in SERVABLE,
            "validation_log_loss": float(validation.losses().mean()),
            "validation_macro_f1": macro_f1(validation.label_N, validation.answers()),
            "test": scores_with_intervals(test, seed=seed),
            "fold_macro_f1": [
                macro_f1(comparison.label_N[fold.test], outcome.test_NC.argmax(axis=1))
                for fold, outcome in zip(comparison.folds, outcomes, strict=True)
            ],
            "ece": expected_calibration_error(confidence_N, test.answers() == test.label_N),
            "fit_s": float(np.mean([outcome.fit_s for outcome in outcomes])),
            "size_bytes": int(np.mean([outcome.size_bytes for outcome in outcomes])),
            "latency_ms": 1_000 * float(np.median([outcome.latency_s for outcome in outcomes])),
        }
    return dict(sorted(rows.items(), key=lambda row: row[1]["validation_log_loss"]))


def macro_f1(label_N: np.ndarray, answer_N: np.ndarray) -> float:
    return float(f1_score(label_N, answer_N, average="macro", zero_division=0))


def scores_with_intervals(pooled: Pooled, *, seed: int) -> dict[str, dict[str, float]]:
    """{score: {value, low, high}} by the percentile bootstrap over groups (Efron, 1979)."""
    classes = pooled.probabilities_NC.shape[1]
    cell_N = pooled.label_N * classes + pooled.answers()
    loss_N = pooled.losses()

    def scores(weight_N: np.ndarray) -> tuple[float, float, float]:
        counts_CC = np.bincount(cell_N, weight_N, classes**2).reshape(classes, classes)
        macro, weighted = f1_of_counts(counts_CC)
        return macro, weighted, float((loss_N * weight_N).sum() / weight_N.sum())

    value = scores(np.ones(len(loss_N)))
    resampled_R3 = np.array([scores(weight_N) for weight_N in resamples(pooled.group_N, seed=seed)])
    low, high = np.quantile(resampled_R3, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: {"value": value[i], "low": float(low[i]), "high": float(high[i])}
        for i, name in enumerate(("macro_f1", "weighted_f1", "log_loss"))
    }


def f1_of_counts(counts_CC: np.ndarray) -> tuple[float, float]:
    """Macro and weighted F1 of a table of (label, answer) counts, over what stands in either."""
    right_C, labels_C, answers_C = counts_CC.diagonal(), counts_CC.sum(axis=1), counts_CC.sum(axis=0)
    f1_C = 2 * right_C / np.maximum(labels_C + answers_C, 1e-9)
    there = labels_C + answers_C > 0
    return float(f1_C[there].mean()), float((f1_C * labels_C).sum() / labels_C.sum())


def resamples(group_N: np.ndarray, *, seed: int, count: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each product stands in each of `count` resamples of groups."""
    groups, place_N = np.unique(group_N, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.integers(0, len(groups), len(groups))
        yield np.bincount(drawn, minlength=len(groups))[place_N].astype(float)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which contender to take, and the reason in words."""

    name: str
    why: str


def choose(
    comparison: Comparison,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    among: Sequence[str] = SERVABLE,
) -> Choice:
    """The best of `among` by validation log-loss; where others are as good (the interval of the paired
    difference holds 0), the one of these with the best validation macro-F1. No test figure is looked at."""
    ranked = [name for name in rows if name in among]
    best, tied = ranked[0], [ranked[0]]
    loss_N, group_N = comparison.validation(best).losses(), comparison.validation(best).group_N
    for name in ranked[1:]:
        worse_N = comparison.validation(name).losses() - loss_N
        weights = resamples(group_N, seed=seed)
        mean_R = [float((worse_N * weight_N).sum() / weight_N.sum()) for weight_N in weights]
        if np.quantile(mean_R, (1 - LEVEL) / 2) <= 0:
            tied.append(name)
    name = max(tied, key=lambda one: rows[one]["validation_macro_f1"])
    why = f"best validation log-loss of {len(ranked)}, {rows[best]['validation_log_loss']:.3f}"
    if len(tied) > 1:
        equals = ", ".join(one for one in tied if one != best)
        why += f" ({best}); as good within the noise: {equals}; of these the best validation macro-F1"
    return Choice(name=name, why=f"{why}, {rows[name]['validation_macro_f1']:.3f}")
