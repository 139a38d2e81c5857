"""Shards to a real Redis through Feast, and every way in which rows get lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feature_fixtures import (
    IMAGE_DIM,
    IMAGE_REVISION,
    TEXT_DIM,
    TEXT_REVISION,
    ColourImageEncoder,
    FeatureShop,
    HashTextEncoder,
    text_vector,
)

from aisle.errors import FeatureStoreError
from aisle.features import ServiceSpec
from training.embeddings import encode_images, encode_texts
from training.feature_store import apply_definitions
from training.publish import newest_rows, publish_view, read_hashes
from training.vectors import read_vectors

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


def service_writes(shop: FeatureShop, ids: list[str], *, digest: str | None = None) -> None:
    """Write vectors as a service does for products it finds nothing of: computed there, so other by a
    last bit; under the hash of the request's text (that of the catalogue, unless `digest` says another)."""
    newest = newest_rows(shop.text, shop.features).to_pandas().set_index("product_id")
    rows = frame(ids, datetime.now(UTC))
    rows["source_hash"] = digest or newest.source_hash[ids].tolist()
    shop.store.write_to_online_store(shop.text.embedding_view, df=rows)


def vector_of(shop: FeatureShop, product_id: str) -> list[float]:
    answer = shop.store.get_online_features(
        features=[f"{shop.text.embedding_view}:embedding"], entity_rows=[{"product_id": product_id}]
    )
    return answer.to_dict()["embedding"][0]


def test_vectors_that_a_service_wrote_first_fail_no_publish(tmp_path: Path) -> None:
    shop = FeatureShop(tmp_path, products=30)
    service_writes(shop, ["p3", "p4"])
    report = publish_view(shop.store, shop.text, shop.features)
    assert (report.products, report.written, report.compared) == (30, 28, 28)
    again = publish_view(shop.store, shop.text, shop.features)
    assert (again.written, again.compared) == (0, 0)


class OvertakingStore:
    """A Feast store whose first write is followed at once by a service's late write-back."""

    def __init__(self, shop: FeatureShop, *, digest: str | None) -> None:
        self.shop = shop
        self.digest = digest
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shop.store, name)

    def write_to_online_store(self, view: str, df: pd.DataFrame) -> None:
        self.shop.store.write_to_online_store(view, df=df)
        self.writes += 1
        if self.writes == 1:
            service_writes(self.shop, ["p3", "p4"], digest=self.digest)


@pytest.mark.parametrize("digest", [None, "f" * 16], ids=["same text", "other text"])
def test_the_catalogue_wins_over_a_service_that_overtook_it(tmp_path: Path, digest: str | None) -> None:
    shop = FeatureShop(tmp_path, products=30)
    store: Any = OvertakingStore(shop, digest=digest)
    report = publish_view(store, shop.text, shop.features)
    assert (report.products, report.written, report.compared) == (30, 30, 30)
    wanted = newest_rows(shop.text, shop.features).to_pandas().set_index("product_id").source_hash
    assert read_hashes(shop.store, shop.text, ["p3", "p4"]) == wanted[["p3", "p4"]].to_dict()
    assert vector_of(shop, "p3") == text_vector("train 3. wood wood wood").tolist()


class DamagingStore(OvertakingStore):
    """A Feast store that keeps half of every number."""

    def write_to_online_store(self, view: str, df: pd.DataFrame) -> None:
        halves = df.assign(embedding=[vector / 2 for vector in df.embedding])
        self.shop.store.write_to_online_store(view, df=halves)


def test_vectors_that_stay_changed_are_noticed(tmp_path: Path) -> None:
    shop = FeatureShop(tmp_path, products=30)
    store: Any = DamagingStore(shop, digest=None)
    with pytest.raises(FeatureStoreError, match="was read back changed, one of 30 among the 30 compared"):
        publish_view(store, shop.text, shop.features)


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
    ids = newest_rows(shop.text, shop.features).to_pandas().product_id.tolist()[:32]
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
    publish_view(shop.store, shop.image, shop.features)
    assert apply_definitions(shop.store) == [
        "image_embedding__bbbb0001",
        "image_index__bbbb0001",
        "product",
        "text_embedding__aaaa0001",
        "text_index__aaaa0001",
    ]
    assert len(read_hashes(shop.store, shop.image, ["p1", "p3"])) == 2


def test_a_classifier_whose_view_was_deleted_is_named_and_hinders_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = FeatureShop(tmp_path, products=4)
    whole = ServiceSpec(version="v1", text_revision=TEXT_REVISION, image_revision=IMAGE_REVISION)
    broken = ServiceSpec(version="v0", text_revision=TEXT_REVISION, image_revision="dddd0001")
    for service in (whole, broken):
        service.write(shop.features)
    applied = apply_definitions(shop.store)
    assert "classifier__v1" in applied
    assert "classifier__v0" not in applied
    [warning] = caplog.messages
    assert warning.startswith(
        f"classifier__v0: found no image_embedding__dddd0001 in {shop.features}, wanted its folder; left out"
    )


def source_of(shop: FeatureShop, view: str) -> str:
    return Path(shop.store.get_feature_view(view).batch_source.path).name


def test_a_view_names_the_first_shard_there_is(tmp_path: Path) -> None:
    shop = FeatureShop(tmp_path, products=30)
    view = shop.text.embedding_view
    assert source_of(shop, view) == "shard-00000.parquet"
    for suffix in ("parquet", "json"):
        (shop.text.folder(shop.features) / f"shard-00000.{suffix}").unlink()
    encode_texts(shop.catalog, HashTextEncoder(), shop.features)
    apply_definitions(shop.store)
    assert source_of(shop, view) == "shard-00001.parquet"
    assert publish_view(shop.store, shop.text, shop.features).written == 30


def test_a_view_without_any_picture_is_applied_published_and_read(tmp_path: Path) -> None:
    shop = FeatureShop(tmp_path, products=30)
    spec = replace(shop.image, revision="cccc0001")
    encoder = ColourImageEncoder()
    encoder.revision = spec.revision
    products = shop.catalog.products.assign(image="")
    encode_images(replace(shop.catalog, products=products), encoder, shop.features)
    assert spec.embedding_view in apply_definitions(shop.store)
    report = publish_view(shop.store, spec, shop.features)
    assert (report.products, report.written, report.compared) == (0, 0, 0)
    vectors, found = read_vectors(shop.store, spec, shop.features, ["p1", "p2"])
    assert (vectors.shape, found.tolist()) == ((2, IMAGE_DIM), [None, None])
