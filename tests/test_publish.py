"""Shards to a real Redis through Feast, and every way in which rows get lost."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feature_fixtures import TEXT_DIM, FeatureShop

from aisle.errors import FeatureStoreError
from training.publish import newest_rows, publish_view, read_hashes

PRODUCTS = 1_200  # more than one write, and one shard


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> FeatureShop:
    return FeatureShop(tmp_path_factory.mktemp("shop"), products=PRODUCTS)


def frame(ids: list[str], when: datetime, *, digest: str = "0" * 16, dim: int = TEXT_DIM) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "product_id": ids,
            "embedding": [np.full(dim, 0.5, dtype=np.float32) for _ in ids],
            "source_hash": digest,
            "event_timestamp": pd.Timestamp(when),
        }
    )


def test_all_rows_are_published_and_a_rerun_writes_none(shop: FeatureShop) -> None:
    for spec, products in ((shop.text, PRODUCTS), (shop.image, PRODUCTS // 2)):
        first = publish_view(shop.store, spec, shop.features)
        assert (first.products, first.written, first.compared) == (products, products, 500)
        again = publish_view(shop.store, spec, shop.features)
        assert (again.products, again.written) == (products, 0)


def test_a_rerun_writes_what_an_interrupted_one_left(shop: FeatureShop) -> None:
    publish_view(shop.store, shop.text, shop.features)
    later = datetime.now(UTC)
    shop.store.write_to_online_store(shop.text.embedding_view, df=frame(["p3", "p4"], later))
    report = publish_view(shop.store, shop.text, shop.features)
    assert report.written == 2


def test_a_missing_product_has_no_hash(shop: FeatureShop) -> None:
    # Feast calls it PRESENT, with an empty value.
    assert "nobody" not in read_hashes(shop.store, shop.text, ["nobody", "p1"])


def test_a_row_with_an_equal_timestamp_is_dropped_by_feast(shop: FeatureShop) -> None:
    when = datetime.now(UTC)
    view = shop.text.embedding_view
    shop.store.write_to_online_store(view, df=frame(["twice"], when, digest="1" * 16))
    shop.store.write_to_online_store(view, df=frame(["twice"], when, digest="2" * 16))
    assert read_hashes(shop.store, shop.text, ["twice"]) == {"twice": "1" * 16}


def test_rows_that_feast_dropped_are_noticed(shop: FeatureShop) -> None:
    publish_view(shop.store, shop.text, shop.features)
    ahead = datetime.now(UTC) + timedelta(days=1)  # another machine's clock: later writes are dropped
    shop.store.write_to_online_store(shop.text.embedding_view, df=frame(["p9"], ahead))
    with pytest.raises(FeatureStoreError, match=r"1,200 products were written, 1 are not .* \['p9'\]"):
        publish_view(shop.store, shop.text, shop.features)


def test_a_vector_of_another_width_is_refused(shop: FeatureShop) -> None:
    wrong = frame(["wide"], datetime.now(UTC), dim=TEXT_DIM + 1)
    with pytest.raises(ValueError, match="Vector length 9 does not match expected 8"):
        shop.store.write_to_online_store(shop.text.embedding_view, df=wrong)
    assert read_hashes(shop.store, shop.text, ["wide"]) == {}


def test_feast_writes_only_the_first_chunk_of_a_table(shop: FeatureShop) -> None:
    # The trap that makes publish combine chunks and count: if this fails, Feast was mended.
    from feast.utils import _convert_arrow_to_proto

    view = shop.store.get_feature_view(shop.text.embedding_view)
    halves = [pa.Table.from_pandas(frame([name], datetime.now(UTC))) for name in ("left", "right")]
    join_keys = {"product_id": view.entity_columns[0].dtype.to_value_type()}
    assert len(_convert_arrow_to_proto(pa.concat_tables(halves), view, join_keys)) == 1
    assert len(_convert_arrow_to_proto(pa.concat_tables(halves).combine_chunks(), view, join_keys)) == 2


def test_a_publish_fails_no_read_beside_it(tmp_path: Path) -> None:
    shop = FeatureShop(tmp_path, products=1_500)
    ids = newest_rows(shop.text, shop.features).product_id.tolist()[:32]
    stop, failures, reads = threading.Event(), [], [0]

    def read() -> None:
        while not stop.is_set():
            try:
                read_hashes(shop.store, shop.text, ids)
                reads[0] += 1
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    publish_view(shop.store, shop.text, shop.features)
    stop.set()
    reader.join()
    assert failures == []
    assert reads[0] > 20


def test_applying_again_takes_nothing_away(shop: FeatureShop) -> None:
    from training.feature_store import apply_definitions

    publish_view(shop.store, shop.image, shop.features)
    assert apply_definitions(shop.store) == [
        "image_embedding__bbbb0001",
        "image_index__bbbb0001",
        "product",
        "text_embedding__aaaa0001",
        "text_index__aaaa0001",
    ]
    assert len(read_hashes(shop.store, shop.image, ["p1", "p3"])) == 2
