"""Tunes an encoder, of texts or of pictures, to tell the categories apart. Read `tune` from top to bottom.

All chance comes from (seed, epoch, step, micro-batch): a run that was killed goes on to the very weights of
one that was not, and several processes walk the path of one. Shapes: B examples at once, C categories.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch.nn.functional import one_hot

from aisle.errors import CatalogError, EncoderError, StoppedError
from training.checkpoints import Checkpoints
from training.depth import blocks_of, parameter_groups, recomputed
from training.interrupt import Interrupt
from training.lesson import Lesson, TuneSettings
from training.loss import balanced_weights, weighted_cross_entropy
from training.moving_average import MovingAverage
from training.precision import autocast, gradient_scaler, resolve_precision
from training.processes import Processes
from training.progress import progress as default_progress
from training.tuning_state import History, Told, TuningState

_VALIDATION_BATCH = 64
_ORDER, _EXAMPLES = 1, 2  # what chance is for
Batch = tuple[torch.Tensor, torch.Tensor]


def tune(
    lesson: Lesson,
    settings: TuneSettings,
    *,
    begins_with: str = "",
    work: Path | None = None,
    processes: Processes | None = None,
    save_every_s: float = 120.0,
    told: Told | None = None,
    progress: Progress | None = None,
) -> History:
    """Tune `lesson.network`, leave the weights of its best epoch in it, and return the history by epoch.

    Same seed, examples and machine give the same weights. In a `work` folder each epoch, every
    `save_every_s` and a signal leave a checkpoint: a rerun goes on there, a finished run is answered from
    it, and other settings, examples or weights that it `begins_with` start anew. `told` hears of each epoch
    when it ends, and at once of those that a checkpoint brought. Raises StoppedError after a signal,
    CatalogError where nothing can be read, EncoderError where the weights leave the numbers at once,
    SettingError where another process is at the same run.
    """
    processes = processes or Processes()
    precision = resolve_precision(settings.precision, torch.device(processes.device), lesson.network)
    facts = [lesson.kind, asdict(settings), precision, lesson.classes, begins_with]
    facts += [lesson.train.fingerprint(), lesson.validation.fingerprint()]
    checkpoints = Checkpoints(work, json.dumps(facts, sort_keys=True)) if work else None
    blocks = blocks_of(lesson.encoder) if settings.recompute else []
    label = f"tune {lesson.kind}"
    bars = progress or (default_progress() if processes.is_first else Progress(disable=True))
    with (
        nullcontext() if progress else bars,
        checkpoints.held() if checkpoints and processes.is_first else nullcontext(),
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        Interrupt() as interrupt,
        recomputed(blocks),
    ):
        run = _Run(lesson, settings, precision, processes, interrupt)
        run.keep_in(checkpoints, save_every_s)
        for epoch in run.state.history:
            _tell(told, epoch)
        task = bars.add_task(label, total=settings.epochs * len(lesson.train), completed=run.seen)
        while not run.finished:
            run.train_epoch(pool, lambda examples: bars.advance(task, examples))
            score = run.close_epoch(pool)
            _tell(told, run.state.history[-1])
            bars.update(task, completed=run.seen, description=f"{label} F1 {score:.3f}")
        bars.update(task, total=run.seen)
    lesson.network.load_state_dict(run.state.best)
    return run.state.history


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        lesson: Lesson,
        settings: TuneSettings,
        precision: str,
        processes: Processes,
        interrupt: Interrupt,
    ) -> None:
        self.lesson = lesson
        self.settings = settings
        self.precision = precision
        self.processes = processes
        self.interrupt = interrupt
        self.micro_batch = settings.micro_batch or math.ceil(settings.batch_size / processes.count)
        if min(self.micro_batch, settings.batch_size) < lesson.least:
            raise EncoderError(
                f"tuning {lesson.kind}: found micro-batches of {self.micro_batch} {lesson.shown} (steps of "
                f"{settings.batch_size}, {processes.count} processes), wanted {lesson.least} or more"
            )
        self.device = torch.device(processes.device)
        network = lesson.network.to(self.device)
        groups = parameter_groups(
            lesson.encoder,
            lesson.head,
            rate=settings.learning_rate,
            decay=settings.layer_decay,
            weight_decay=settings.weight_decay,
        )
        self.state = TuningState(
            network=network,
            optimizer=torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True),
            scaler=gradient_scaler(precision, self.device),
            average=MovingAverage(network, settings.ema),
            steps=math.ceil(len(lesson.train) / settings.batch_size),
        )
        self.network = processes.wrap(network)
        weight_C = balanced_weights(lesson.train.label_N, lesson.classes, settings.class_balance)
        self.weight_C = weight_C.to(self.device)
        self._checkpoints: Checkpoints | None = None
        self._save_every_s = math.inf
        self._saved_s = time.monotonic()

    def keep_in(self, checkpoints: Checkpoints | None, every_s: float) -> None:
        """Go on from the newest checkpoint, and leave others."""
        found = checkpoints.newest() if checkpoints else None
        if found is not None:
            self.state.load(*found)
        self.processes.agree(self.state.number, "steps in its checkpoint; AISLE_HOME must be one for all")
        if self.processes.is_first:
            self._checkpoints, self._save_every_s = checkpoints, every_s

    @property
    def seen(self) -> int:
        """Examples that the network was trained on so far, the same one each epoch."""
        train = len(self.lesson.train)
        return len(self.state.history) * train + min(self.state.step * self.settings.batch_size, train)

    @property
    def finished(self) -> bool:
        scores = [epoch["validation_macro_f1"] for epoch in self.state.history]
        if len(scores) >= self.settings.epochs:
            return True
        return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience

    def train_epoch(self, pool: ThreadPoolExecutor, advance: Callable[[int], None]) -> None:
        """What is left of one pass, in an order of its own."""
        self.network.train()
        chance = torch.Generator().manual_seed(_seed(_ORDER, self.settings.seed, len(self.state.history)))
        order = torch.randperm(len(self.lesson.train), generator=chance).numpy()
        steps = _cut(order, self.settings.batch_size)[self.state.step :]
        shares = [self._share(_cut(positions, self.micro_batch)) for positions in steps]
        read = self.lesson.train.read([chunk for share in shares for chunk in share], pool)
        for positions, share in zip(steps, shares, strict=True):
            loss, weight = self._step([next(read) for _ in share])
            advance(len(positions))
            loss, asked = self.processes.sum([loss, float(bool(self.interrupt.asked))])
            self.state.count(loss, weight)
            if asked:
                self._stop()
            if time.monotonic() - self._saved_s >= self._save_every_s:
                self._save()

    def _share(self, chunks: list[np.ndarray]) -> list[np.ndarray]:
        """This process's micro-batches of a step; an empty one where there are fewer than processes."""
        return chunks[self.processes.rank :: self.processes.count] or [np.empty(0, dtype=np.int64)]

    def _step(self, batches: list[Batch]) -> tuple[float, float]:
        """One step of the optimizer; (loss of these batches, weight of the step's examples everywhere)."""
        useful = [(i, batch) for i, batch in enumerate(batches) if len(batch[1]) >= self.lesson.least]
        own = sum(float(self.weight_C[label_B.to(self.device)].sum()) for _, (_, label_B) in useful)
        [weight] = self.processes.sum([own])
        if not weight:
            return 0.0, 0.0
        self._set_learning_rate()
        total = 0.0
        for at, (i, batch) in enumerate(useful):
            more_to_come = at < len(useful) - 1
            with self.processes.keep_apart(self.network) if more_to_come else nullcontext():
                loss = self._loss(batch, micro_batch=i * self.processes.count + self.processes.rank)
                # The wrapped network averages gradients over the processes, and a sum is wanted.
                self.state.scaler.scale(loss * (self.processes.count / weight)).backward()
            total += float(loss.item())
        if not useful:
            self._backward_of_nothing(batches[0][0])
        self.state.take_step(clip=self.settings.clip)
        norms = [tensor for tensor in self.lesson.network.buffers() if tensor.is_floating_point()]
        self.processes.average_(norms)
        self.state.average.update(self.state.number)
        return total, weight

    def _loss(self, batch: Batch, *, micro_batch: int) -> torch.Tensor:
        inputs, label_B = (tensor.to(self.device) for tensor in batch)
        place = (len(self.state.history), self.state.step, micro_batch)
        seed = _seed(_EXAMPLES, self.settings.seed, *place)
        torch.manual_seed(seed)  # dropout
        target_BC = one_hot(label_B, self.lesson.classes).float()
        shown, target_BC = self.lesson.vary(inputs, target_BC, torch.Generator().manual_seed(seed))
        with autocast(self.precision, self.device):
            logits_BC = self.network(shown)
        return weighted_cross_entropy(logits_BC, target_BC, self.weight_C, self.settings.label_smoothing)

    def _backward_of_nothing(self, inputs: torch.Tensor) -> None:
        """Other processes wait for this one's gradients, which are 0; batch norms must not see it."""
        if self.processes.count > 1:
            self.network.eval()
            self.network(self.lesson.show(inputs[:0].to(self.device))).sum().backward()
            self.network.train()

    def _set_learning_rate(self) -> None:
        share = self.state.number / (self.settings.epochs * self.state.steps)
        factor = rate_factor(share, self.settings.warmup)
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["rate"] * factor

    def close_epoch(self, pool: ThreadPoolExecutor) -> float:
        """Validate, keep the weights if they are the best, leave a checkpoint; the validation macro-F1."""
        if not self.state.weight:
            raise CatalogError(f"training {self.lesson.shown}: found none that can be read")
        with self.state.average.applied():
            score = self._validate(pool)
            self.state.close_epoch(score)
        self._save()
        if self.processes.sum([float(bool(self.interrupt.asked))])[0]:
            self._stop()
        return score

    @torch.inference_mode()
    def _validate(self, pool: ThreadPoolExecutor) -> float:
        """Macro-F1 over the validation examples that can be read, by all processes together."""
        self.network.eval()
        examples, classes = self.lesson.validation, self.lesson.classes
        counts_CC, lost = np.zeros((classes, classes)), 0.0
        chunks = self._share(_cut(np.arange(len(examples)), _VALIDATION_BATCH))
        for inputs, label_B in examples.read(chunks, pool):
            if len(label_B):
                with autocast(self.precision, self.device):
                    logits_BC = self.lesson.network(self.lesson.show(inputs.to(self.device)))
                np.add.at(counts_CC, (label_B.numpy(), logits_BC.argmax(1).cpu().numpy()), 1)
                lost += float((~logits_BC.isfinite()).any(dim=1).sum())
        *counts, lost = self.processes.sum([*counts_CC.ravel(), lost])
        counts_CC = np.reshape(counts, (classes, classes))
        if not counts_CC.any():
            raise CatalogError(f"validation {self.lesson.shown}: found none that can be read")
        if lost and not self.state.best:
            raise EncoderError(
                f"tuning {self.lesson.kind}: found no finite answer about {lost:,.0f} of "
                f"{counts_CC.sum():,.0f} validation {self.lesson.shown} after step {self.state.number:,}, "
                f"wanted one about each; try precision=fp32 (found {self.precision}), a clip (found "
                f"{self.settings.clip:g}), or a lower learning_rate (found {self.settings.learning_rate:g})"
            )
        return _macro_f1(counts_CC)

    def _stop(self) -> None:
        kept = (
            "a rerun goes on there" if self._checkpoints or not self.processes.is_first else "nothing is kept"
        )
        self._save()
        raise StoppedError(
            f"tuning stopped by {self.interrupt.asked or 'another process'} after step "
            f"{self.state.number:,} of {self.settings.epochs * self.state.steps:,}; {kept}"
        )

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        if self._checkpoints is not None:
            self._checkpoints.write(self.state.number, self.state.tensors(), self.state.facts())


def rate_factor(share: float, warmup: float) -> float:
    """What the learning rate is multiplied by after `share` of all steps: it rises from a twentieth over the
    first `warmup` of them, and falls to 0 as a cosine (Loshchilov & Hutter, 2017)."""
    if share < warmup:
        return 0.05 + 0.95 * share / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (share - warmup) / (1 - warmup))


def _tell(told: Told | None, epoch: dict[str, float]) -> None:
    if told is not None:
        told(int(epoch["epoch"]), {name: value for name, value in epoch.items() if name != "epoch"})


def _cut(positions: np.ndarray, length: int) -> list[np.ndarray]:
    return [positions[start : start + length] for start in range(0, len(positions), length)]


def _seed(*place: int) -> int:
    """63 bits of a place, as good as independent of its neighbours'."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _macro_f1(counts_CC: np.ndarray) -> float:
    """Of counts by (label, answer): the mean F1 of the classes that are among either, as scikit-learn's."""
    told_C = counts_CC.sum(axis=0) + counts_CC.sum(axis=1)
    return float((2 * counts_CC.diagonal()[told_C > 0] / told_C[told_C > 0]).mean())
