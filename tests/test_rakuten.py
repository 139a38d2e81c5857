"""Rakuten's two challenges as they are downloaded, and their zip of pictures from a stranger's hand."""

import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aisle.errors import CatalogError, SettingError
from aisle.image import MAX_IMAGE_BYTES
from training.archive import unpack_pictures
from training.catalog import ColumnMap, read_catalog
from training.rakuten import NAMES

PICTURE = "images/image_train/image_1263597046_product_3804725264.jpg"


def write_challenge(folder: Path) -> Path:
    """Three rows of the ENS challenge; the labels come in another order, one is missing."""
    (folder / "X_train_update.csv").write_text(
        ",designation,description,productid,imageid\n"
        "0,Olivia: Personalisiertes Notizbuch,,3804725264,1263597046\n"
        '1,"Journal Des Arts, n° 133","<p>Le retour</p>",436067568,1008141237\n'
        "2,Grand Stylet Ergonomique Bleu,PILOT STYLE,201115110,938777978\n",
        encoding="utf-8",
    )
    (folder / "y_train_CVw08PX.csv").write_text(",prdtypecode\n1,2280\n0,10\n")
    return folder


def write_sigir(folder: Path) -> Path:
    (folder / "X_train.tsv").write_text(
        "Integer_id\tTitle\tDescription\tImage_id\tProduct_id\n"
        "0\tOlivia: Personalisiertes Notizbuch\t\t1263597046\t3804725264\n"
        "1\tPiscine, bâche\tbleue\t1008141237.0\t436067568.0\n",
        encoding="utf-8",
    )
    (folder / "Y_train.tsv").write_text("Integer_id\tPrdtypecode\n0\t10\n1\t2583\n")
    (folder / "images" / "image_training").mkdir(parents=True)
    return folder


def write_picture(folder: Path, name: str, data: bytes = b"jpeg") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_there_are_27_codes_with_names() -> None:
    assert len(NAMES) == 27
    assert len(set(NAMES.values())) == 27
    assert NAMES["2583"] == "Pool"


def test_the_challenge_is_read_as_downloaded(tmp_path: Path) -> None:
    write_picture(write_challenge(tmp_path), PICTURE)
    catalog = read_catalog(tmp_path)
    assert catalog.products.product_id.tolist() == ["3804725264", "436067568", "201115110"]
    assert catalog.products.title[1] == "Journal Des Arts, n° 133"
    assert catalog.products.category.tolist() == ["10", "2280", ""]
    assert catalog.products.image.tolist() == [PICTURE, "", ""]
    assert catalog.names == {"10": "Adult and used books", "2280": "Magazines"}
    assert catalog.product(0).image == b"jpeg"
    assert catalog.report.noted["image_missing"].rows == 2
    assert catalog.report.noted["category_missing"].rows == 1


def test_the_zip_of_pictures_is_unpacked_by_the_reader(tmp_path: Path) -> None:
    write_zip(write_challenge(tmp_path) / "images.zip", {PICTURE: b"packed"})
    assert read_catalog(tmp_path).product(0).image == b"packed"
    assert (tmp_path / PICTURE).read_bytes() == b"packed"


def test_the_sigir_variant_is_read(tmp_path: Path) -> None:
    write_picture(write_sigir(tmp_path), "images/image_training/image_1008141237_product_436067568.jpg")
    catalog = read_catalog(tmp_path)
    assert catalog.products.category.tolist() == ["10", "2583"]
    assert catalog.products.product_id.tolist() == ["3804725264", "436067568"]
    assert catalog.products.title[1] == "Piscine, bâche"
    assert (
        catalog.products.image.tolist()[1] == "images/image_training/image_1008141237_product_436067568.jpg"
    )


@pytest.mark.parametrize("name", ["X_train_update.csv", "y_train_CVw08PX.csv"])
def test_a_file_of_the_challenge_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    write_picture(write_challenge(tmp_path), PICTURE)
    (tmp_path / name).unlink()
    with pytest.raises(CatalogError, match=f"{name}: not found, wanted a file"):
        read_catalog(tmp_path)


def test_missing_pictures_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match="found neither images.zip nor images/image_train nor image_train; put"
    ):
        read_catalog(write_challenge(tmp_path))


def test_a_missing_column_of_the_challenge_is_named(tmp_path: Path) -> None:
    write_picture(write_challenge(tmp_path), PICTURE)
    (tmp_path / "y_train_CVw08PX.csv").write_text(",code\n0,10\n")
    with pytest.raises(CatalogError, match="no column 'prdtypecode'; found '', 'code'"):
        read_catalog(tmp_path)


def test_labels_of_another_download_are_refused(tmp_path: Path) -> None:
    write_picture(write_challenge(tmp_path), PICTURE)
    (tmp_path / "y_train_CVw08PX.csv").write_text(",prdtypecode\n0,10\n99,40\n")
    with pytest.raises(
        CatalogError, match="1 of its 2 rows \\(the first: 99\\) are not in X_train_update.csv"
    ):
        read_catalog(tmp_path)


def test_a_row_labelled_twice_is_refused(tmp_path: Path) -> None:
    write_picture(write_challenge(tmp_path), PICTURE)
    (tmp_path / "y_train_CVw08PX.csv").write_text(",prdtypecode\n0,10\n0,40\n")
    with pytest.raises(CatalogError, match="y_train_CVw08PX.csv: found row 0 more than once"):
        read_catalog(tmp_path)


def test_a_column_map_has_no_place_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is a Rakuten France challenge folder, whose columns are known"):
        read_catalog(write_challenge(tmp_path), columns=ColumnMap())


TRAIN = ("image_train",)


def test_unpacking_takes_the_training_pictures_and_nothing_else(tmp_path: Path) -> None:
    archive = write_zip(
        tmp_path / "images.zip",
        {
            "images/image_train/a.jpg": b"a",
            "images/image_test/b.jpg": b"b",
            "images/image_train/readme.txt": b"c",
            "__MACOSX/images/image_train/._a.jpg": b"d",
        },
    )
    assert unpack_pictures(archive, tmp_path / "out", inside=TRAIN) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_a_rerun_writes_only_what_is_missing_or_cut_short(tmp_path: Path) -> None:
    members = {f"image_train/{name}.jpg": b"whole picture" for name in "abc"}
    archive = write_zip(tmp_path / "images.zip", members)
    write_picture(tmp_path, "out/a.jpg", b"whole picture")
    write_picture(tmp_path, "out/b.jpg", b"who")
    assert unpack_pictures(archive, tmp_path / "out", inside=TRAIN) == 2
    assert {path.read_bytes() for path in (tmp_path / "out").iterdir()} == {b"whole picture"}
    assert unpack_pictures(archive, tmp_path / "out", inside=TRAIN) == 0


def test_several_that_unpack_at_once_do_not_mix_pictures(tmp_path: Path) -> None:
    members = {f"image_train/{i}.jpg": f"picture {i:04}".encode() * 5_000 for i in range(60)}
    archive = write_zip(tmp_path / "images.zip", members)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: unpack_pictures(archive, tmp_path / "out", inside=TRAIN), range(4)))
    found = {f"image_train/{path.name}": path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == members


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/tmp/evil.jpg", "image_train/../../evil.jpg", "C:\\evil.jpg"]
)
def test_a_name_that_points_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "images.zip", {"image_train/a.jpg": b"a", name: b"evil"})
    with pytest.raises(CatalogError, match="points out of the archive, wanted none"):
        unpack_pictures(archive, tmp_path / "out", inside=TRAIN)
    assert not (tmp_path / "out").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("image_train/a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CatalogError, match="'image_train/a.jpg' is a link, wanted pictures"):
        unpack_pictures(tmp_path / "images.zip", tmp_path / "out", inside=TRAIN)


def test_a_picture_no_decoder_would_take_is_left_out(tmp_path: Path) -> None:
    bomb = bytes(MAX_IMAGE_BYTES + 1)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_train/bomb.jpg", bomb)
        archive.writestr("image_train/a.jpg", b"a")
    assert unpack_pictures(tmp_path / "images.zip", tmp_path / "out", inside=TRAIN) == 1
    assert not (tmp_path / "out" / "bomb.jpg").exists()


def test_a_damaged_picture_is_an_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"image_train/a.jpg": b"a picture"})
    archive.write_bytes(archive.read_bytes().replace(b"a picture", b"b picture"))
    with pytest.raises(CatalogError, match="Bad CRC-32 for file 'image_train/a.jpg'; download it again"):
        unpack_pictures(archive, tmp_path / "out", inside=TRAIN)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_download_that_broke_off_is_an_error(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"image_train/a.jpg": b"a picture"})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(CatalogError, match="images.zip: File is not a zip file; download it again"):
        unpack_pictures(archive, tmp_path / "out", inside=TRAIN)


def test_an_archive_without_training_pictures_is_an_error(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"other/a.jpg": b"a"})
    with pytest.raises(CatalogError, match="found no picture in a folder image_train, wanted some"):
        unpack_pictures(archive, tmp_path / "out", inside=TRAIN)
