"""Is the champion still as right as it was? Its accuracy on the labels that came back, against its bundle's.

The test is exact (binomial) and asks more than "worse": by more than MARGIN, so that a test split that was
a little lucky, or traffic that is a little harder, is no alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from aisle.bundle import Bundle
from aisle.ledger import Ledger

NEWEST = 1_000  # labelled predictions that count
MARGIN = 0.05  # of accuracy
LEVEL = 0.001
# Tests are made only so many new labels apart: each look is another chance of a false alarm.
NEW_LABELS = 50
_AGAIN = 500  # labels that are read twice: a label can be there before its prediction is
EVENT = "quality.alarm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """`accuracy` of the newest `labels` labelled predictions; the last label's number is `until`."""

    accuracy: float
    reference: float
    labels: int
    until: int
    p_value: float

    @property
    def worse(self) -> bool:
        return self.p_value <= LEVEL


def judge_quality(correct: int, labels: int, reference: float, until: int = 0) -> Quality:
    """`p_value` is of: accuracy is at least `reference` - MARGIN."""
    least = max(0.0, reference - MARGIN)
    p_value = float(binomtest(correct, labels, least, alternative="less").pvalue)
    accuracy = correct / labels
    return Quality(accuracy=accuracy, reference=reference, labels=labels, until=until, p_value=p_value)


def reference_accuracy(bundle: Bundle) -> float | None:
    """On the test split; None of a bundle that was never evaluated."""
    accuracy: Any = bundle.metrics.get("fused", {}).get("accuracy")
    return None if accuracy is None else float(accuracy)


class QualityWatch:
    """The labels of one model. Raises LedgerError from every method when the ledger is away."""

    def __init__(self, ledger: Ledger, model: str, reference: float) -> None:
        self.ledger = ledger
        self.model = model
        self.reference = reference
        self._known: dict[int, tuple[int, bool]] = {}  # prediction: (its last label, correct)
        self._seen = max(0, ledger.newest_label() - 5 * NEWEST)
        self._tested = _last_alarm(ledger, model)  # label number until which there was a test
        self._alarmed = False

    def look(self) -> Quality | None:
        """The newest labels, tested or not; None while there are none."""
        found = self.ledger.labelled_predictions(after=max(0, self._seen - _AGAIN), model=self.model)
        for one in found:
            self._known[one.prediction.number] = (one.label.number, one.correct)
            self._seen = max(self._seen, one.label.number)
        if not self._known:
            return None
        newest = sorted(self._known.items(), key=lambda item: item[1][0])[-NEWEST:]
        self._known = dict(newest)
        correct = sum(right for _, right in self._known.values())
        return judge_quality(correct, len(self._known), self.reference, until=newest[-1][1][0])

    def is_news(self, quality: Quality) -> bool:
        """Whether this look is to be recorded as an alarm. True once, until a look finds nothing wrong."""
        new = sum(label > self._tested for label, _ in self._known.values())
        if new < min(NEW_LABELS, NEWEST):
            return False
        self._tested = quality.until
        news = quality.worse and not self._alarmed
        self._alarmed = quality.worse
        return news

    def forget(self) -> None:
        """The alarm could not be recorded: it is news still."""
        self._tested, self._alarmed = 0, False


def _last_alarm(ledger: Ledger, model: str) -> int:
    """The last label that an alarm about `model` counted: after a restart it is no news."""
    number = until = 0
    while page := ledger.events(EVENT, after=number):
        number = page[-1].number
        until = max([until, *(int(e.detail.get("until", 0)) for e in page if e.detail.get("model") == model)])
    return until
