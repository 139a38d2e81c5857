"""The tests of drift, tested as statistics: what they promise is simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from market import MODEL, Market, Shift
from scipy.stats import norm

from aisle.bundle import Bundle
from monitoring.category_test import category_test
from monitoring.drift import DriftTest, any_alarm, cautious_level
from monitoring.embedding_test import EmbeddingTest, evidently_mmd, rbf_kernel, split_discrepancies
from monitoring.number_test import number_test
from monitoring.streams import (
    NOT_THERE,
    STREAMS,
    each_product_once,
    known_rows,
    reference_streams,
    window_streams,
)

WINDOW = 200
RATE = 0.002
Test = Callable[[np.ndarray, np.ndarray, float], tuple[float, float, float]]


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(27)


@pytest.fixture(scope="module")
def bundle(market: Market) -> Bundle:
    return market.bundle(726)  # as many as the demo's bundle has


@pytest.fixture(scope="module")
def drift(bundle: Bundle) -> DriftTest:
    return DriftTest(reference_streams(bundle), window=WINDOW, rate=RATE)


def zipf(rng: np.random.Generator, rows: int, values: int) -> np.ndarray:
    weights = 1 / np.arange(1, values + 1) ** 1.2
    return rng.choice(values, rows, p=weights / weights.sum()).astype(np.int16)


NULLS: dict[str, tuple[Test, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "number": (number_test, lambda rng, rows: rng.normal(size=rows)),
    "number with ties": (number_test, lambda rng, rows: rng.integers(0, 9, rows).astype(np.float32)),
    "27 categories": (category_test, lambda rng, rows: zipf(rng, rows, 27)),
    "2 categories": (category_test, lambda rng, rows: (rng.random(rows) < 0.05).astype(np.int16)),
}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("rows", [300, 5_000])
def test_p_values_without_drift_are_uniform_or_larger(name: str, rows: int) -> None:
    test, draw = NULLS[name]
    rng = np.random.default_rng(27)
    p_values = np.array([test(draw(rng, rows), draw(rng, WINDOW), RATE)[2] for _ in range(1_000)])
    for level in (0.2, 0.05, 0.01):
        noise = 3 * np.sqrt(level / len(p_values))
        assert (p_values <= level).mean() <= level + noise, level


@pytest.mark.parametrize("rows", [150, 700])
def test_p_values_of_embeddings_without_drift_are_uniform_or_larger(rows: int) -> None:
    market = Market(5)
    p_values = []
    for seed in range(6):  # windows of one reference err together, so there are several
        test = EmbeddingTest(market.draw(rows).text_ND, window=WINDOW, seed=seed)
        p_values += [test(market.draw(WINDOW).text_ND, 0.01)[2] for _ in range(20)]
    for level in (0.2, 0.05):
        assert (np.array(p_values) <= level).mean() <= level + 4 * np.sqrt(level / len(p_values)), level


def test_splits_are_measured_as_evidently_measures_windows() -> None:
    # The null distribution is made by matrices of our own: it must be that of Evidently's statistic.
    rows_ND = Market(9).draw(300).text_ND
    rng = np.random.default_rng(1)
    inside_SN = np.stack([rng.permutation(300) < 100 for _ in range(40)])
    theirs = np.array([evidently_mmd(rows_ND[inside], rows_ND[~inside]) for inside in inside_SN])
    ours = split_discrepancies(rbf_kernel(rows_ND), inside_SN.astype(np.float32))
    # Evidently says 0 where it would be negative, and takes the kernel's width from each pair of samples.
    assert np.abs(theirs - np.maximum(ours, 0)).max() < 0.05 * ours.std()


def test_beyond_what_is_simulated_p_values_are_not_too_small() -> None:
    rows_ND = Market(9, text_dim=12).draw(120).text_ND
    test = EmbeddingTest(rows_ND, window=60)
    kernel_NN, rng = rbf_kernel(rows_ND), np.random.default_rng(4)
    larger = np.zeros(3)
    for _ in range(40):
        inside_SN = np.zeros((5_000, 120), dtype=np.float32)
        np.put_along_axis(inside_SN, rng.random((5_000, 120)).argpartition(60, axis=1)[:, :60], 1.0, axis=1)
        scaled_S = split_discrepancies(kernel_NN, inside_SN) * 30
        larger += [(scaled_S >= test.quantile(level)).sum() for level in (1e-3, 1e-4, 1e-5)]
    # Of 200,000 splits; the simulated tail itself is known to a quarter.
    assert (larger <= np.array([200, 20, 2]) * 1.3 + 3 * np.sqrt([200, 20, 2])).all()
    assert larger[0] > 120


def test_p_value_and_quantile_are_each_others_inverse() -> None:
    test = EmbeddingTest(Market(9).draw(120).text_ND, window=60)
    for level in (0.2, 0.01, 1e-4, 1e-9):
        assert test.p_value(test.quantile(level)) == pytest.approx(level, rel=0.01)


def test_the_rate_holds_for_nearly_every_reference() -> None:
    # Given the reference. Of a mean it can be counted out: at the plain level 1 reference in 6 breaks it.
    level, unlucky, window, rows = 0.002, 0.05, 200, 400
    rng = np.random.default_rng(1)
    error_R = rng.normal(size=20_000) / np.sqrt(rows)  # of each reference's mean
    noise = np.sqrt(1 / window + 1 / rows)

    def rates_above(used: float) -> float:
        limit = norm.isf(used / 2) * noise
        rate_R = norm.sf((limit - error_R) * np.sqrt(window)) + norm.sf((limit + error_R) * np.sqrt(window))
        return float((rate_R > level * 1.05).mean())

    assert rates_above(level) > 0.15
    assert rates_above(cautious_level(level, unlucky, window / rows)) < unlucky * 1.05


def test_evidently_leaves_what_it_is_given_alone() -> None:
    rows_ND = Market(9).draw(200).text_ND
    before = rows_ND.copy()
    first = evidently_mmd(rows_ND[:100], rows_ND[100:])
    assert evidently_mmd(rows_ND[:100], rows_ND[100:]) == first
    assert (rows_ND == before).all()


def test_at_most_2_of_200_windows_without_drift_alarm() -> None:
    market = Market(3, text_dim=384, image_dim=96)  # as wide as MiniLM
    bundle = market.bundle(400)
    drift = DriftTest(reference_streams(bundle), window=WINDOW, rate=RATE)
    assert set(drift.reference) == set(STREAMS)
    windows = (drift(window_streams(market.records(WINDOW), bundle)) for _ in range(200))
    assert sum(any_alarm(verdicts) for verdicts in windows) <= 2


@pytest.mark.parametrize(
    ("shift", "stream"),
    [
        (Shift(prior=0.6), "category"),
        (Shift(text_mean=0.3), "text_embedding"),
        (Shift(brightness=-0.08), "brightness"),
        (Shift(french=0.25), "language"),
        (Shift(no_image=0.2), "image_missing"),
    ],
)
def test_a_shift_is_seen_within_3_windows(
    market: Market, bundle: Bundle, drift: DriftTest, shift: Shift, stream: str
) -> None:
    for _ in range(3):  # any three windows in a row
        three = [drift(window_streams(market.records(WINDOW, shift), bundle)) for _ in range(3)]
        assert any(verdict.stream == stream and verdict.alarm for verdicts in three for verdict in verdicts)


def test_statistic_threshold_ratio_p_value_and_alarm_agree(
    market: Market, bundle: Bundle, drift: DriftTest
) -> None:
    for shift in (Shift(), Shift(french=0.2), Shift(text_mean=0.1, no_image=0.15)):
        for verdict in drift(window_streams(market.records(WINDOW, shift), bundle)):
            assert verdict.ratio == verdict.statistic / verdict.threshold
            assert verdict.alarm == (verdict.p_value <= drift.levels[verdict.stream]) == (verdict.ratio >= 1)


def test_a_column_without_spread_is_quiet_until_it_moves(
    market: Market, bundle: Bundle, drift: DriftTest
) -> None:
    same = market.records(WINDOW)
    other = [replace(r, columns=replace(r.columns, image_height=400)) for r in same]
    heights = [
        {v.stream: v for v in drift(window_streams(records, bundle))}["image_height"]
        for records in (same, other)
    ]
    assert (heights[0].statistic, heights[0].p_value, heights[0].alarm) == (0.0, 1.0, False)
    assert (heights[1].statistic, heights[1].alarm) == (1.0, True)


def test_a_stream_with_too_few_rows_has_no_verdict(market: Market, bundle: Bundle, drift: DriftTest) -> None:
    records = market.records(WINDOW, Shift(no_image=0.9))
    streams = {verdict.stream for verdict in drift(window_streams(records, bundle))}
    assert set(STREAMS) - streams == {"image_embedding", "image_width", "image_height", "brightness"}


def test_a_reference_with_too_few_rows_has_no_verdict(market: Market) -> None:
    small = market.bundle(49)
    drift = DriftTest(reference_streams(small), window=WINDOW, rate=RATE)
    assert drift(window_streams(market.records(WINDOW), small)) == []


def test_a_bundle_older_than_the_cheap_columns_is_watched_in_the_rest(market: Market, bundle: Bundle) -> None:
    old = replace(
        bundle,
        reference={n: bundle.reference[n] for n in ("text", "image", "present", "probabilities", "label")},
    )
    drift = DriftTest(reference_streams(old), window=WINDOW, rate=RATE)
    verdicts = drift(window_streams(market.records(WINDOW), old))
    streams = ["text_embedding", "image_embedding", "category", "confidence", "text_missing", "image_missing"]
    assert [verdict.stream for verdict in verdicts] == streams


def test_equal_confidences_look_equal_in_reference_and_window(market: Market, bundle: Bundle) -> None:
    # 0.99987 is 1.0 in the reference's float16.
    [record] = market.records(1)
    streams = window_streams([replace(record, confidence=0.99987)], bundle)
    assert streams["confidence"].tolist() == [1.0]


def test_a_product_counts_once_in_a_window(market: Market) -> None:
    first, second, third = market.records(3)
    again = replace(first, prediction_id="again")
    assert each_product_once([first, second, again, third]) == [second, again, third]


def test_products_without_ids_are_told_apart_by_their_vectors(market: Market) -> None:
    first, second = (replace(record, product_id=None) for record in market.records(2))
    again = replace(first, prediction_id="again")
    assert each_product_once([first, second, again]) == [second, again]
    bare = [replace(r, text_embedding=None, image_embedding=None) for r in (first, second, again)]
    assert each_product_once(bare) == bare


def test_what_a_request_did_not_give_is_left_out_of_its_stream(market: Market, bundle: Bundle) -> None:
    records = [replace(r, model=MODEL) for r in market.records(3, Shift(no_image=0.0))]
    records[1] = replace(records[1], image_source="absent", image_embedding=None)
    records[2] = replace(
        records[2], text_source="stored", columns=replace(records[2].columns, language=None, text_chars=None)
    )
    streams = window_streams(records, bundle)
    assert known_rows(streams["image_embedding"]).shape == (2, 24)
    assert streams["image_missing"].tolist() == [0, 1, 0]
    assert streams["text_missing"].tolist() == [0, 0, 0]  # its stored vector answered
    assert streams["language"][2] == NOT_THERE
    assert len(known_rows(streams["text_chars"])) == 2


def test_two_categories_are_tested_exactly() -> None:
    # Ten of ten against none of ten: 2 of the C(20, 10) = 184,756 ways.
    found = category_test(np.zeros(10, dtype=np.int16), np.ones(10, dtype=np.int16), 0.001)
    assert found[0] == pytest.approx(20.0)
    assert found[2] == pytest.approx(2 / 184_756)


def test_rare_categories_are_pooled_and_a_flood_of_new_ones_is_seen() -> None:
    reference = np.repeat(np.array([0, 1, 2, 3], dtype=np.int16), [400, 300, 2, 1])
    like = np.repeat(np.array([0, 1, 2], dtype=np.int16), [114, 85, 1])
    new = np.repeat(np.array([0, 1, 7], dtype=np.int16), [100, 80, 20])
    assert category_test(reference, like, RATE)[2] > 0.5
    assert category_test(reference, new, RATE)[2] < 1e-10


def test_of_one_category_there_is_nothing_to_tell() -> None:
    statistic, threshold, p_value = category_test(
        np.zeros(300, dtype=np.int16), np.zeros(200, dtype=np.int16), 0.01
    )
    assert (statistic, p_value) == (0.0, 1.0)
    assert threshold == pytest.approx(6.635, abs=0.001)
