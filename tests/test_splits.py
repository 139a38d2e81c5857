"""Splits: the same everywhere, in the asked shares, and never through the middle of a product's variants."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from aisle.errors import SettingError
from training.catalog import Catalog, read_catalog
from training.splits import (
    SPLITS,
    SplitSettings,
    assign_splits,
    in_encoder_share,
    split_counts,
    split_report,
)

GROUPS = pd.Series([f"p{i}" for i in range(20_000)])


@pytest.fixture
def variants(tmp_path: Path) -> Catalog:
    """300 products in 100 groups of three."""
    rows = [f"p{i},t-shirt {i},,,{'ab'[i % 2]},g{i % 100}" for i in range(300)]
    text = "product_id,title,description,image,category,item_group_id\n" + "\n".join(rows)
    (tmp_path / "products.csv").write_text(text)
    return read_catalog(tmp_path)


def test_the_shares_are_those_that_were_asked_for() -> None:
    share = assign_splits(GROUPS, SplitSettings()).value_counts(normalize=True)
    assert share.round(2).to_dict() == {"train": 0.6, "calibration": 0.15, "test": 0.15, "validation": 0.1}


def test_the_splits_of_these_products_never_change() -> None:
    splits = assign_splits(GROUPS[:8], SplitSettings())
    assert splits.tolist() == ["train", "train", "train", "validation", "train", "train", "train", "train"]


def test_a_product_keeps_its_split_when_the_catalogue_grows_and_is_reordered() -> None:
    few = assign_splits(GROUPS[:100], SplitSettings())
    all_of_them = assign_splits(GROUPS.sample(frac=1, random_state=0), SplitSettings())
    assert all_of_them[few.index].equals(few)


def test_variants_stay_together(variants: Catalog) -> None:
    products = variants.products.assign(split=assign_splits(variants.products.group, SplitSettings()))
    assert (products.groupby("group").split.nunique() == 1).all()
    assert set(products.split) == set(SPLITS)


def test_the_encoder_share_is_half_of_the_training_split_and_nothing_else() -> None:
    splits = assign_splits(GROUPS, SplitSettings())
    own = in_encoder_share(GROUPS, SplitSettings())
    assert set(splits[own]) == {"train"}
    assert own.sum() / (splits == "train").sum() == pytest.approx(0.5, abs=0.01)


def test_variants_are_on_one_side_of_the_encoder_share(variants: Catalog) -> None:
    own = pd.Series(in_encoder_share(variants.products.group, SplitSettings()))
    assert (own.groupby(variants.products.group).nunique() == 1).all()


def test_another_salt_splits_otherwise() -> None:
    same = assign_splits(GROUPS, SplitSettings()) == assign_splits(GROUPS, SplitSettings(salt="other"))
    by_chance = np.square([0.6, 0.1, 0.15, 0.15]).sum()
    assert same.mean() == pytest.approx(by_chance, abs=0.02)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_must_lie_between_0_and_1(share: float) -> None:
    with pytest.raises(SettingError, match=f"split test: found {share}, wanted a share above 0 and below 1"):
        SplitSettings(test=share)


def test_something_must_be_left_to_train_on() -> None:
    with pytest.raises(
        SettingError, match="validation \\+ calibration \\+ test are 1.10, wanted less than 1"
    ):
        SplitSettings(validation=0.4, calibration=0.4, test=0.3)


def test_counts_add_up_to_the_catalogue(variants: Catalog) -> None:
    splits = assign_splits(variants.products.group, SplitSettings())
    counts = split_counts(variants, splits)
    assert list(counts.columns) == list(SPLITS)
    assert counts.sum(axis=1).to_dict() == {"a": 150, "b": 150}
    assert counts.sum().to_dict() == splits.value_counts().to_dict()


def test_the_report_shows_each_category_and_the_sum(variants: Catalog) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(split_report(variants))
    lines = [line.split() for line in capture.get().splitlines() if line.startswith("│")]
    assert [(line[1], line[-2]) for line in lines] == [("a", "150"), ("b", "150"), ("all", "300")]
