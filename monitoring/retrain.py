"""Retraining: when it is due, one round of it, and what the ledger remembers.

The ledger's events are all the state there is: a round that was killed is found as one that started and
never finished. One round runs at a time, by a lock that the kernel frees with its process.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from aisle.bundle import Bundle
from aisle.child_process import dying_with_parent
from aisle.errors import AisleError, LedgerError, SettingError
from aisle.ledger import Event, Ledger
from monitoring.gate import decide, figures
from monitoring.settings import Settings

STARTED, FINISHED, REFUSED = "retrain.started", "retrain.finished", "retrain.refused"
ALARMS = ("drift.alarm", "quality.alarm")
POLL_S = 2.0
ALIVE_S = 60.0
LOCK = "retrain.lock"  # who is at work holds it, and touches it at each look
LIVES = "retrainer.lock"  # whoever lives shares it
ROOT = Path(__file__).parent.parent
_TAIL_LINES = 5  # of a failed training's log, in the ledger

logger = logging.getLogger("aisle.monitoring")


@dataclass(frozen=True, kw_only=True)
class Due:
    """A round that may begin: why, and the last label it may use."""

    reason: str
    until: int


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """There is a reason, but a condition is not met yet."""

    reason: str
    why: str


class TrainingFailedError(AisleError):
    """The training command ended with an error."""


def is_alive(home: Path) -> bool:
    """Whether a retrainer of this shop lives, and is at work or has looked at the ledger within ALIVE_S."""
    lives, works = home / LIVES, home / LOCK
    if not (lives.is_file() and works.is_file() and _is_held(lives, fcntl.LOCK_EX)):
        return False
    return _is_held(works, fcntl.LOCK_SH) or time.time() - works.stat().st_mtime < ALIVE_S


def _is_held(path: Path, kind: int) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _locked(lock: IO[str]) -> bool:
    """Take the lock; False where another has it for longer than `is_alive` would."""
    for _ in range(10):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def training_command() -> list[str]:
    return [sys.executable, "-m", "training"]


class Retrainer:
    """`train` is the training CLI; `newest` names the newest classifier of the store, `load` reads one."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        settings: Settings,
        catalog: str,
        train: Sequence[str],
        newest: Callable[[], str],
        load: Callable[[str], Bundle],
    ) -> None:
        if not catalog:
            raise SettingError("AISLE_CATALOG: found nothing, wanted a catalogue to train on (or --catalog)")
        if not Path(catalog).exists():
            raise SettingError(f"AISLE_CATALOG: found {catalog!r}, wanted a folder or file that is there")
        self.ledger = ledger
        self.settings = settings
        self.catalog = str(Path(catalog).resolve())
        self.train = list(train)
        self.newest = newest
        self.load = load
        self._told = ""
        self._has_tables = False

    def run(self) -> None:
        """Follow the ledger until interrupted."""
        with self._living():
            while True:
                self._look()
                time.sleep(POLL_S)

    def once(self, by_hand: str = "") -> str:
        """At most one round; what came of it, for people. Raises AisleError where it failed."""
        with self._living(), self._alone():
            due: Due | Waiting | None = self.due()
            if by_hand:
                due = Due(reason=f"by hand: {by_hand}", until=self.ledger.newest_label())
                if due.until == 0:
                    why = "the ledger holds no label, so a challenger could be compared on nothing"
                    self.ledger.record_event(REFUSED, {"reason": due.reason, "why": why})
                    raise AisleError(f"retraining {due.reason}: {why}")
            if due is None:
                return "nothing is due: no alarm about the champion, and the schedule is not up"
            if isinstance(due, Waiting):
                return f"{due.reason} waits: {due.why}"
            return str(self.round(due).detail["why"])

    def due(self) -> Due | Waiting | None:
        """Whether a round is due now. Rounds that were killed are written down as abandoned first."""
        if not self._has_tables:  # the service may not have begun
            self.ledger.create_tables()
            self._has_tables = True
        self._abandon_killed()
        last = self._last_round()
        reason = self._reason(last)
        if reason is None:
            return None
        used_until = int(last.detail["until"]) if last else 0
        new_labels = self.ledger.count_labels(after=used_until)
        if new_labels < self.settings.retrain_min_labels:
            wanted = f"{new_labels:,} new labels, wanted {self.settings.retrain_min_labels:,}"
            return Waiting(reason=reason, why=wanted)
        rest_s = last.at_s + self.settings.retrain_cooldown_s - time.time() if last else 0.0
        if rest_s > 0:
            return Waiting(reason=reason, why=f"the last round ended too recently; {rest_s:,.0f} s are left")
        return Due(reason=reason, until=self.ledger.newest_label())

    def round(self, due: Due) -> Event:
        """Train a challenger, compare, promote or not; return the event that says all of it."""
        champion = self._champion()
        started = self.ledger.record_event(
            STARTED, {"reason": due.reason, "until": due.until, "champion": champion}
        )
        logger.info("retraining: %s", due.reason)
        detail: dict[str, Any] = {
            "started": started.number,
            "reason": due.reason,
            "until": due.until,
            "champion": champion,
            "challenger": None,
            "promoted": False,
        }
        try:
            detail |= self._train_and_judge(champion, due.until, started.number)
        except AisleError as error:
            detail["why"] = f"failed: {error}"
        except BaseException:
            self._finish(started, {**detail, "why": "stopped", "abandoned": True})
            raise
        return self._finish(started, detail)

    def _train_and_judge(self, champion: str, until: int, number: int) -> dict[str, Any]:
        work = self.settings.home.resolve() / "retrain" / f"{number:06d}"
        work.mkdir(parents=True, exist_ok=True)
        bundle = self.load(champion)
        log, report = work / "training.log", work / "report.json"
        encoders = [
            "--text", f"aisle-text-encoder:{bundle.text_encoder.revision}",
            "--image", f"aisle-image-encoder:{bundle.image_encoder.revision}",
        ]  # fmt: skip
        labels = ["--labels-until", str(until)]
        # A head that starts anew answers many old products otherwise, by its seed alone.
        start = ["--start-from", champion]
        self._call(["fit", self.catalog, *encoders, *labels, *start, "--report", str(report)], log)
        facts: Mapping[str, Any] = json.loads(report.read_text())
        challenger = str(facts["tag"])
        tables = []
        for tag, name in ((champion, "champion"), (challenger, "challenger")):
            file = work / f"{name}.parquet"
            self._call(["answers", tag, self.catalog, *labels, "--out", str(file)], log)
            tables.append(pd.read_parquet(file))
        decision = decide(*tables)
        promoted, why = decision.promoted, decision.why
        if promoted and self._champion() != champion:
            promoted, why = False, f"{self._champion()} was promoted meanwhile; {why}"
        if promoted:
            self.ledger.deploy(challenger, why[:1024])
        used = {name: facts.get(f"labels_{name}") for name in ("used", "held_out", "without_vectors")}
        return {
            "challenger": challenger,
            "labels": used,
            **figures(decision),
            "promoted": promoted,
            "why": why,
        }

    def _finish(self, started: Event, detail: dict[str, Any]) -> Event:
        finished = self.ledger.record_event(
            FINISHED, {**detail, "seconds": round(time.time() - started.at_s, 1)}
        )
        logger.info("%s: %s", "promoted" if detail["promoted"] else "not promoted", detail["why"])
        return finished

    def _call(self, arguments: Sequence[str], log: Path) -> None:
        """Run the training CLI; its output goes to `log`. It ends with us, however we end."""
        with log.open("ab") as output:
            begins = output.tell()
            process = subprocess.Popen(
                dying_with_parent([*self.train, *arguments]),
                cwd=ROOT,
                env={**os.environ, "AISLE_HOME": str(self.settings.home.resolve()), "COLUMNS": "120"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, and we end it
            )
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if code != 0:
            said = log.read_bytes()[begins:].decode(errors="replace").strip().splitlines()
            tail = " / ".join(line.strip() for line in said[-_TAIL_LINES:])
            raise TrainingFailedError(f"training {arguments[0]} ended with {code}: {tail[-1000:]}")

    def _reason(self, last: Event | None) -> str | None:
        """An alarm about the champion stays a reason until another model is promoted."""
        champion = self._champion()
        for kind in ALARMS:
            alarm = self.ledger.last_event(kind)
            if alarm is not None and alarm.detail.get("model") == champion:
                return f"{kind} {alarm.number}"
        every_s = self.settings.retrain_every_s
        if every_s > 0:
            deployed = self.ledger.champion()
            since_s = last.at_s if last else (deployed.at_s if deployed else 0.0)
            if time.time() - since_s >= every_s:
                return f"schedule: {every_s:g} s have passed"
        return None

    def _champion(self) -> str:
        deployed = self.ledger.champion()
        return deployed.model if deployed else self.newest()

    def _last_round(self) -> Event | None:
        """The newest round that ended by itself."""
        after, found = 0, None
        while page := self.ledger.events(FINISHED, after=after):
            after = page[-1].number
            found = next((e for e in reversed(page) if not e.detail.get("abandoned")), found)
        return found

    def _abandon_killed(self) -> None:
        started, finished = self.ledger.last_event(STARTED), self.ledger.last_event(FINISHED)
        if started is None or (finished is not None and finished.detail.get("started") == started.number):
            return
        self._finish(
            started,
            {
                **started.detail,
                "started": started.number,
                "challenger": None,
                "promoted": False,
                "abandoned": True,
                "why": "abandoned: its process was killed",
            },
        )

    def _look(self) -> None:
        try:
            with self._alone():
                due = self.due()
                if isinstance(due, Due):
                    self.round(due)
                elif due is not None:
                    self._tell(f"{due.reason} waits: {due.why}")
        except LedgerError as error:
            self._tell(f"the ledger is away: {error}")
        except AisleError as error:
            self._tell(str(error))

    @contextmanager
    def _living(self) -> Iterator[None]:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        with (self.settings.home / LIVES).open("a+") as file:  # a lock on NFS asks for both modes
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises AisleError where another retrainer of this shop is at work."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        with (self.settings.home / LOCK).open("w") as lock:
            if not _locked(lock):
                raise AisleError("retraining: another retrainer of this shop is at work")
            os.utime(lock.fileno())
            yield

    def _tell(self, what: str) -> None:
        """Say a state once, not at every look."""
        if what != self._told:
            logger.info("%s", what)
            self._told = what
