"""Reading catalogues: what is kept, what is dropped and why, and errors that say what is missing."""

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from aisle.errors import CatalogError, SettingError
from training.catalog import Catalog, ColumnMap, read_catalog

HEADER = "product_id,title,description,image,category"


def write(folder: Path, *rows: str, header: str = HEADER, name: str = "products.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_catalogue_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    catalog = read_catalog(write(tmp_path, '007,"Chaise, bois","Dit ""Mia""",a.jpg,1560', "8,Lampe,,,2060"))
    assert catalog.products.to_dict("records") == [
        {
            "product_id": "007",
            "title": "Chaise, bois",
            "description": 'Dit "Mia"',
            "image": "a.jpg",
            "category": "1560",
            "group": "007",
        },
        {
            "product_id": "8",
            "title": "Lampe",
            "description": "",
            "image": "",
            "category": "2060",
            "group": "8",
        },
    ]
    assert catalog.names == {"1560": "1560", "2060": "2060"}
    assert catalog.product(0).image == b"a picture"
    assert catalog.product(1).image is None


def test_a_folder_with_products_csv_is_a_catalogue(tmp_path: Path) -> None:
    write(tmp_path, "1,Lampe,,,a")
    assert read_catalog(tmp_path).products.title.tolist() == ["Lampe"]


@pytest.mark.parametrize("text", ["NA", "null", "None", "123", "1e5", "007"])
def test_words_that_look_like_numbers_or_gaps_stay_words(tmp_path: Path, text: str) -> None:
    catalog = read_catalog(write(tmp_path, f"1,{text},,,{text}"))
    assert catalog.products.title[0] == text
    assert catalog.products.category[0] == text


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_the_delimiter_is_seen_in_the_header(tmp_path: Path, sign: str) -> None:
    path = write(tmp_path, sign.join(["1", "Lampe, noire", "", "", "a"]), header=HEADER.replace(",", sign))
    assert read_catalog(path).products.title[0] == "Lampe, noire"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text(f"{HEADER}\n1,Lampe,,,a\n", encoding="utf-8-sig")
    assert read_catalog(path).products.product_id[0] == "1"


def test_the_report_names_each_reason_with_its_first_examples(tmp_path: Path) -> None:
    (tmp_path / "here.jpg").write_bytes(b"x")
    path = write(
        tmp_path,
        "1,Lampe,,here.jpg,a",
        "1,Lampe bis,,,a",
        "{2},Lampe,,,a",
        ",Lampe,,,a",
        f"4,{'x' * 1001},,,a",
        "5, ,,,a",
        "6,,,gone.jpg,a",
        "7,Table,,gone.jpg,b",
        "8,Table,,../../etc/passwd,b",
        "9,Table,,/etc/passwd,b",
        "10,Table,,,",
        "11,Table,b",
    )
    catalog = read_catalog(path)
    report = catalog.report
    assert (report.read, report.kept) == (12, 5)
    assert {reason: finding.examples for reason, finding in report.dropped.items()} == {
        "product_id_repeated": ["row 2 (1): first seen in row 1"],
        "product_id_brace": ["row 3 ({2}): product_id: found '{2}', wanted an id without { and }"],
        "product_id_empty": ["row 4 (): product_id: found an empty id, wanted 1 or more characters"],
        "text_too_long": ["row 5 (4): title: found 1,001 characters, wanted at most 1,000"],
        "product_empty": [
            "row 6 (5): no title, no description, no picture",
            "row 7 (6): no title, no description, no picture, image gone.jpg missing",
        ],
        "row_malformed": ["row 12 (11): products.csv: found 3 fields, wanted 5 as in the header"],
    }
    assert {reason: finding.examples for reason, finding in report.noted.items()} == {
        "image_missing": ["row 8 (7): gone.jpg, kept without a picture"],
        "image_outside": [
            "row 9 (8): ../../etc/passwd, kept without a picture",
            "row 10 (9): /etc/passwd, kept without a picture",
        ],
        "category_missing": ["row 11 (10): it will train nothing"],
    }
    assert report.read == report.kept + sum(finding.rows for finding in report.dropped.values())
    assert catalog.products.product_id.tolist() == ["1", "7", "8", "9", "10"]
    assert catalog.products.image.tolist() == ["here.jpg", "", "", "", ""]


def test_three_examples_of_a_reason_are_enough(tmp_path: Path) -> None:
    finding = read_catalog(write(tmp_path, *["1,Lampe,,,a"] * 6)).report.dropped["product_id_repeated"]
    assert (finding.rows, len(finding.examples)) == (5, 3)


def test_the_printed_report_keeps_brackets_of_titles_and_ids(tmp_path: Path) -> None:
    report = read_catalog(write(tmp_path, "[bold]1,Lampe,,,a", "[bold]1,Lampe,,,a")).report
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report)
    assert capture.get() == (
        "2 rows read, 1 kept, 1 dropped\n"
        "  dropped 1: product_id_repeated\n"
        "    row 2 ([bold]1): first seen in row 1\n"
    )


def test_a_column_map_reads_a_foreign_file(tmp_path: Path) -> None:
    path = write(tmp_path, "1,Lampe,x,Luminaires,g1", header="sku,name,code,label,parent")
    columns = ColumnMap.parse(
        "product_id=sku, title=name,description=,image=,category=code,category_name=label,group=parent"
    )
    catalog = read_catalog(path, columns=columns)
    assert catalog.products.iloc[0].tolist() == ["1", "Lampe", "", "", "x", "g1"]
    assert catalog.names == {"x": "Luminaires"}


def test_no_column_map_is_none() -> None:
    assert ColumnMap.parse(None) is None


@pytest.mark.parametrize("text", ["name", "name=title", "title"])
def test_a_column_map_names_what_it_does_not_know(text: str) -> None:
    with pytest.raises(
        SettingError, match=f"columns: found '{text.partition('=')[0]}=?', wanted NAME=COLUMN"
    ):
        ColumnMap.parse(text)


def test_a_column_map_needs_ids_and_something_to_see() -> None:
    with pytest.raises(SettingError, match="product_id is mapped to nothing"):
        ColumnMap.parse("product_id=")
    with pytest.raises(SettingError, match="title, description and image are all mapped to nothing"):
        ColumnMap.parse("title=,description=,image=")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,b", header="product_id,name,image")
    with pytest.raises(
        CatalogError, match="no column 'title', 'description', 'category'; found 'product_id', "
    ):
        read_catalog(path)


def test_an_optional_column_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no column 'parent'"):
        read_catalog(write(tmp_path, "1,Lampe,,,a"), columns=ColumnMap(group="parent"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=f"{tmp_path}/nothing.csv: not found, wanted a catalogue"):
        read_catalog(tmp_path / "nothing.csv")


def test_a_folder_without_a_catalogue_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        CatalogError, match="found notes.txt, wanted products.csv, products.tsv, products.parquet"
    ):
        read_catalog(tmp_path)


def test_another_type_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "products.xlsx").write_bytes(b"")
    with pytest.raises(CatalogError, match="found a file of type .xlsx, wanted .csv, .tsv, .parquet"):
        read_catalog(tmp_path / "products.xlsx")


def test_an_empty_file_and_one_without_products_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CatalogError, match="found an empty file, wanted a header line"):
        read_catalog(tmp_path / "empty.csv")
    with pytest.raises(
        CatalogError, match="found no product that can be used, wanted 1 or more:\n0 rows read"
    ):
        read_catalog(write(tmp_path))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_bytes(HEADER.encode() + "\n1,Télé,,,a\n".encode("latin-1"))
    with pytest.raises(CatalogError, match="found the byte 0xe9, wanted UTF-8; convert it first: iconv"):
        read_catalog(path)


def test_the_limit_of_the_csv_module_is_left_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * 200_000
    report = read_catalog(write(tmp_path, f"1,Lampe,{long},,a", "2,Lampe,,,a")).report
    assert report.dropped["text_too_long"].examples == [
        "row 1 (1): description: found 200,000 characters, wanted at most 20,000"
    ]
    assert csv.field_size_limit() == before


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_codes_with_gaps_are_whole_numbers(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "products.parquet",
        product_id=pa.array([1, 2, 3]),
        title=pa.array(["Lampe", None, "Table"]),
        description=pa.array(["", "noire", None]),
        image=pa.nulls(3),
        category=pa.array([10.0, None, 2905.0]),
    )
    products = read_catalog(path).products
    assert products.product_id.tolist() == ["1", "2", "3"]
    assert products.category.tolist() == ["10", "", "2905"]
    assert products.title.tolist() == ["Lampe", "", "Table"]


def test_parquet_and_csv_of_the_same_products_have_one_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path, "1,Lampe,noire,,a", "2,Table,,,b")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.astype({"category": "category"}).to_parquet(tmp_path / "products.parquet")
    assert read_catalog(tmp_path / "products.parquet").fingerprint() == read_catalog(path).fingerprint()


def test_pictures_inside_a_parquet_file_are_refused(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "products.parquet",
        product_id=pa.array(["1"]),
        title=pa.array(["Lampe"]),
        description=pa.array([""]),
        image=pa.array([b"\xff\xd8"]),
        category=pa.array(["a"]),
    )
    with pytest.raises(CatalogError, match="column 'image' holds binary, wanted text or numbers"):
        read_catalog(path)


def test_a_file_that_is_only_called_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "products.parquet").write_bytes(b"not at all parquet")
    with pytest.raises(CatalogError, match="products.parquet: not a Parquet file"):
        read_catalog(tmp_path)


def read(folder: Path, *rows: str) -> Catalog:
    return read_catalog(write(folder, *rows))


def test_the_fingerprint_is_of_the_rows_not_of_their_order(tmp_path: Path) -> None:
    first = read(tmp_path, "1,Lampe,,,a", "2,Table,,,b").fingerprint()
    assert read(tmp_path, "2,Table,,,b", "1,Lampe,,,a").fingerprint() == first
    assert read(tmp_path, "2,Table,,,b", "1,Lampe,,,b").fingerprint() != first


def test_the_fingerprint_is_of_the_pictures_not_of_where_they_lie(tmp_path: Path) -> None:
    catalogs = []
    for folder, picture in (("a", b"red"), ("b", b"red"), ("c", b"new")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(picture)
        catalogs.append(read(tmp_path / folder, "1,Lampe,,1.jpg,a", "2,Table,,,b"))
    first, copied, changed = (catalog.fingerprint() for catalog in catalogs)
    assert copied == first
    assert changed != first


def test_a_picture_that_has_gone_since_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    catalog = read(tmp_path, "1,Lampe,,a.jpg,a")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(CatalogError, match="a.jpg: No such file or directory; it was there when"):
        catalog.product(0)
