"""Searches the settings of a head with Optuna: a Tree-structured Parzen Estimator (Bergstra et al., 2011)
over validation macro-F1, and bad runs stopped early against the median of the others.

Trials lie in SQLite below AISLE_HOME: a stopped search goes on, and one that was killed in a trial makes that
trial again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from aisle.errors import SettingError
from training.fit import FitSettings, Vectors, validation_macro_f1
from training.heads import fit_head
from training.progress import progress
from training.runs import Run

FILE = "search.db"
SCORE = "best_validation_macro_f1"  # of a trial's best epoch
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SEARCHED = ("hidden_dim", "dropout", "modality_dropout", "learning_rate", "weight_decay", "label_smoothing")


def search(
    train: Vectors,
    validation: Vectors,
    group_N: np.ndarray,
    settings: FitSettings,
    *,
    classes: int,
    trials: int,
    home: Path,
    data: str,
    run: Run,
) -> tuple[FitSettings, float]:
    """The best settings of all `trials` finished trials, and their validation macro-F1. `settings` gives the
    variant, and the first trial. `data` names what is trained on: another name begins another search.
    Each trial made now is a child of `run`. Raises SettingError for fewer than one trial, and for a linear
    head, which has nothing to search."""
    if trials < 1:
        raise SettingError(f"trials: found {trials}, wanted 1 or more")
    if settings.variant == "linear":
        raise SettingError("search: found variant 'linear', wanted another; it chooses its penalties itself")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(home, settings, data)

    def score_of(trial: optuna.Trial) -> float:
        tried = suggest(trial, settings)
        facts = {name: getattr(tried, name) for name in SEARCHED}
        with run.child("trial", facts, name=f"trial {trial.number}") as child:
            score = score_or_pruned(trial, tried, child)
        if score is None:
            raise optuna.TrialPruned
        return score

    def score_or_pruned(trial: optuna.Trial, tried: FitSettings, child: Run) -> float | None:
        """Make a trial; its score, or None where it was pruned."""

        def watch(epoch: int, score: float) -> None:
            child.epoch(epoch, {"validation_macro_f1": score})
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            fusion, _ = fit_head(train, validation, tried, classes=classes, group_N=group_N, watch=watch)
        except optuna.TrialPruned:
            child.tags(outcome="pruned")
            return None
        score = validation_macro_f1(fusion, validation)
        child.metrics({SCORE: score})
        child.tags(outcome="finished")
        return score

    with progress() as bar:
        task = bar.add_task("search", total=trials)
        while (done := len(study.get_trials(deepcopy=False, states=_DONE))) < trials:
            bar.update(task, completed=done)
            # A sampler begins anew in each process: its seed tells the trials apart.
            study.sampler = optuna.samplers.TPESampler(seed=settings.seed + done)
            study.optimize(score_of, n_trials=1)
        bar.update(task, completed=trials)
    best = study.best_trial
    return replace(settings, **best.params), float(best.value or 0.0)


def suggest(trial: optuna.Trial, settings: FitSettings) -> FitSettings:
    """`settings` with the searched ones as the trial has them."""
    return replace(
        settings,
        hidden_dim=trial.suggest_categorical("hidden_dim", [64, 128, 256, 512]),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
        modality_dropout=trial.suggest_float("modality_dropout", 0.0, 0.6),
        learning_rate=trial.suggest_float("learning_rate", 2e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.2),
    )


def _study(home: Path, settings: FitSettings, data: str) -> optuna.Study:
    others = {name: value for name, value in asdict(settings).items() if name not in SEARCHED}
    key = hashlib.sha256(json.dumps([data, others], sort_keys=True).encode()).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{home / FILE}",
        study_name=f"{settings.variant}-{key}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=10),
    )
    if not study.get_trials(deepcopy=False, states=(*_DONE, TrialState.WAITING)):
        study.enqueue_trial({name: getattr(settings, name) for name in SEARCHED})
    return study
