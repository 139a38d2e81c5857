"""Does a window look like the reference? One calibrated test a stream, and one alarm rate for them all.

The rate is divided by the number of tests (Bonferroni), so that it bounds the chance of any alarm, however
the streams hang together. And it is to hold for the reference at hand: every window meets the same one, so
that an unlucky reference of a few hundred products, at a level right on average, alarms again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm

from monitoring.category_test import category_test
from monitoring.embedding_test import EmbeddingTest
from monitoring.number_test import number_test
from monitoring.streams import KINDS, Kind, Streams, known_rows

UNLUCKY = 0.05  # share of references for which the rate need not hold
LEAST_ROWS = 50  # of a stream, in the reference and in the window: with fewer there is no verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`ratio` is statistic / threshold; `alarm` says that `p_value` is at most the level of the test."""

    stream: str
    statistic: float
    threshold: float
    p_value: float
    alarm: bool
    rows: int

    @property
    def ratio(self) -> float:
        return self.statistic / self.threshold if self.threshold > 0 else 0.0

    def to_json(self) -> dict[str, float]:
        facts = asdict(self)
        return {**{name: facts[name] for name in ("statistic", "threshold", "p_value")}, "ratio": self.ratio}


class DriftTest:
    """The reference of one model, made ready for windows of `window` products. Making it simulates the
    null distributions of the embeddings: seconds."""

    def __init__(self, reference: Streams, *, window: int, rate: float) -> None:
        known = {name: known_rows(values) for name, values in reference.items()}
        self.reference = {name: rows for name, rows in known.items() if _enough(KINDS[name], rows)}
        self._embeddings = {
            name: EmbeddingTest(rows, window=window)
            for name, rows in self.reference.items()
            if KINDS[name] is Kind.EMBEDDING
        }
        tests = max(1, len(self.reference))
        self.levels = {
            name: cautious_level(rate / tests, UNLUCKY / tests, window / self._rows(name))
            for name in self.reference
        }

    def __call__(self, window: Streams) -> list[Verdict]:
        """A verdict for each stream that has enough rows on both sides."""
        verdicts = []
        for name, reference in self.reference.items():
            rows = known_rows(window[name])
            if len(rows) >= LEAST_ROWS:
                verdicts.append(self._verdict(name, reference, rows))
        return verdicts

    def _rows(self, name: str) -> int:
        """Of the reference, as its test uses it."""
        held = self._embeddings[name].reference_ND if name in self._embeddings else self.reference[name]
        return len(held)

    def _verdict(self, name: str, reference: np.ndarray, rows: np.ndarray) -> Verdict:
        level = self.levels[name]
        if KINDS[name] is Kind.EMBEDDING:
            statistic, threshold, p_value = self._embeddings[name](rows, level)
        else:
            test = number_test if KINDS[name] is Kind.NUMBER else category_test
            statistic, threshold, p_value = test(reference, rows, level)
        return Verdict(
            stream=name,
            statistic=statistic,
            threshold=threshold,
            p_value=p_value,
            alarm=p_value <= level,
            rows=len(rows),
        )


def cautious_level(level: float, unlucky: float, ratio: float) -> float:
    """The level of a two-sample test that keeps `level` given the reference, for all but `unlucky` of all
    references; `ratio` is window rows over reference rows.

    Of a mean, in units of the window's noise: the reference errs by at most z(unlucky) sqrt(ratio), the
    window by z(level) on top, and the test divides by sqrt(1 + ratio). Tests of many degrees of freedom
    need less, so there it errs on the side of no alarm.
    """
    z = (norm.isf(level / 2) + norm.isf(unlucky / 2) * ratio**0.5) / (1 + ratio) ** 0.5
    return float(min(level, 2 * norm.sf(z)))


def any_alarm(verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.alarm for verdict in verdicts)


def _enough(kind: Kind, rows: np.ndarray) -> bool:
    # Vectors that are all alike have no distances to measure by.
    return len(rows) >= LEAST_ROWS and not (kind is Kind.EMBEDDING and bool((rows == rows[0]).all()))
