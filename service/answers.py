"""A batch of jobs of one model to answers; and who hears of it: metrics, the ledger, the shadow."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aisle.prediction import Role
from service.desk import Answer, Job
from service.engine import Batch, Engine, Outcome
from service.errors import challenger_failed
from service.recorder import Recorder, new_prediction_ids
from service.telemetry import Telemetry

if TYPE_CHECKING:
    from service.shadow import Shadow


logger = logging.getLogger("aisle.service")


class Answers:
    """`on_failure` hears of a challenger's engine that failed in a batch."""

    def __init__(
        self,
        *,
        telemetry: Telemetry,
        recorder: Recorder,
        shadow: Shadow,
        on_failure: Callable[[Engine], None],
    ) -> None:
        self.telemetry = telemetry
        self.recorder = recorder
        self.shadow = shadow
        self.on_failure = on_failure

    def answer(self, jobs: Sequence[Job], *, counted: bool = True) -> list[Answer]:
        """One answer a job, in order; all jobs are of one engine. A challenger that fails answers nothing:
        the desk asks the champion, and what it might say of single products would be given to nobody. Nobody
        hears of warm-up batches, which are not `counted`."""
        engine = jobs[0].engine
        batch = engine.answer([job.item for job in jobs])
        prediction_ids = new_prediction_ids(len(jobs))
        outcomes: Sequence[Outcome] = batch.outcomes
        if batch.role is not Role.CHAMPION and batch.embedded is None:
            self.on_failure(engine)
            outcomes = [challenger_failed()] * len(jobs)
        elif counted:
            self._tell(jobs, prediction_ids, batch)
        return [
            Answer(outcome=outcome, prediction_id=prediction_id, started=batch.started)
            for outcome, prediction_id in zip(outcomes, prediction_ids, strict=True)
        ]

    def _tell(self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch) -> None:
        """Let everybody hear of a batch. Whoever raises spoils it for nobody: neither client nor the next."""
        for hear in (
            functools.partial(self.telemetry.batch, batch.outcomes, batch.seconds),
            functools.partial(self.telemetry.answered, batch),
            functools.partial(self.recorder.record, jobs, prediction_ids, batch),
            functools.partial(self.shadow.copy, jobs, prediction_ids, batch),
        ):
            try:
                hear()
            except Exception:
                logger.exception("%d answers went unheard by %s", len(jobs), hear.func.__qualname__)
