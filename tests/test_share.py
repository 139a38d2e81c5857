"""Intervals that keep their promise, also where variants of one product err together."""

from __future__ import annotations

import numpy as np
import pytest

from training.share import share_of


def test_an_interval_is_wilson_s() -> None:
    share = share_of(np.arange(100) < 90, np.arange(100))
    assert (share.hits, share.products) == (90, 100)
    assert share.low == pytest.approx(0.82563, abs=1e-5)  # Newcombe (1998)'s method 3
    assert share.high == pytest.approx(0.94477, abs=1e-5)


@pytest.mark.parametrize("true", [0.5, 0.9, 0.98])
def test_an_interval_holds_the_true_share_nineteen_times_of_twenty(true: float) -> None:
    rng = np.random.default_rng(27)
    groups = np.arange(150)
    found = [share_of(rng.random(150) < true, groups) for _ in range(4_000)]
    held = np.mean([share.low <= true <= share.high for share in found])
    assert 0.93 <= held <= 0.985


def test_an_interval_holds_where_variants_err_together() -> None:
    rng = np.random.default_rng(27)
    group_N = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    held = naive = 0
    for _ in range(4_000):
        right_N = (rng.random(60) < 0.8)[group_N]
        share, alone = share_of(right_N, group_N), share_of(right_N, np.arange(len(group_N)))
        held += share.low <= 0.8 <= share.high
        naive += alone.low <= 0.8 <= alone.high
    assert held / 4_000 >= 0.94
    assert naive / 4_000 < 0.8  # what the groups are for


def test_no_product_tells_nothing() -> None:
    share = share_of(np.empty(0, dtype=bool), np.empty(0))
    assert (share.value, share.low, share.high) == (0.0, 0.0, 1.0)
