"""Rakuten France's catalogue, as its two challenges give it out.

The ENS challenge (challengedata.ens.fr, no. 35) and the SIGIR eCom'20 data challenge hold the same
listings under different names: a table of texts, a table of `prdtypecode`s, a folder of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aisle.errors import CatalogError
from training.archive import unpack_pictures
from training.rows import Finding
from training.table import read_table

ARCHIVE = "images.zip"

NAMES = {
    "10": "Adult and used books",
    "40": "Video games, imports",
    "50": "Gaming accessories",
    "60": "Consoles",
    "1140": "Figurines and derived goods",
    "1160": "Collectible cards",
    "1180": "Figurines and role games",
    "1280": "Toys for children",
    "1281": "Board games",
    "1300": "Radio-controlled models",
    "1301": "Baby socks, shoes and games accessories",
    "1302": "Outdoor games and sport",
    "1320": "Early childhood",
    "1560": "Indoor furniture",
    "1920": "Bedding",
    "1940": "Food",
    "2060": "Decoration",
    "2220": "Pet supplies",
    "2280": "Magazines",
    "2403": "Books and comics series",
    "2462": "Games lots",
    "2522": "Stationery",
    "2582": "Outdoor furniture",
    "2583": "Pool",
    "2585": "Garden tools",
    "2705": "Books",
    "2905": "PC games, download",
}


@dataclass(frozen=True, kw_only=True)
class RakutenLayout:
    """The names of one challenge: two files joined by their column `key`, and folders for pictures."""

    name: str
    texts: str
    codes: str
    key: str
    title: str
    description: str
    product_id: str
    image_id: str
    code: str
    folders: tuple[str, ...]


ENS = RakutenLayout(
    name="Rakuten France challenge",
    texts="X_train_update.csv",
    codes="y_train_CVw08PX.csv",
    key="",  # pandas wrote its index without a name
    title="designation",
    description="description",
    product_id="productid",
    image_id="imageid",
    code="prdtypecode",
    folders=("images/image_train", "image_train"),
)
SIGIR = RakutenLayout(
    name="SIGIR 2020 challenge",
    texts="X_train.tsv",
    codes="Y_train.tsv",
    key="Integer_id",
    title="Title",
    description="Description",
    product_id="Product_id",
    image_id="Image_id",
    code="Prdtypecode",
    folders=("images/image_training", "image_training", "images/image_train", "image_train"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RakutenRows:
    """Unchecked rows with the columns of `training.rows`, and where their pictures lie."""

    rows: pd.DataFrame
    malformed: Finding
    names: dict[str, str]
    image_root: Path


def find_rakuten(folder: Path) -> RakutenLayout | None:
    """The challenge whose files (one of them, at least) lie in `folder`."""
    for layout in (ENS, SIGIR):
        if (folder / layout.texts).is_file() or (folder / layout.codes).is_file():
            return layout
    return None


def read_rakuten(folder: Path, layout: RakutenLayout) -> RakutenRows:
    """Join texts and codes, and find the pictures; unpack images.zip when it lies there.

    Raises CatalogError naming the file, column or folder that is missing, or a code of a row that the
    texts have not.
    """
    texts, malformed = read_table(
        folder / layout.texts,
        [layout.key, layout.title, layout.description, layout.product_id, layout.image_id],
    )
    codes, _ = read_table(folder / layout.codes, [layout.key, layout.code])
    image_folder = _image_folder(folder, layout)
    product_ids = texts[layout.product_id].map(_whole)
    image_ids = texts[layout.image_id].map(_whole)
    prefix = image_folder.relative_to(folder).as_posix()
    rows = pd.DataFrame(
        {
            "product_id": product_ids,
            "title": texts[layout.title],
            "description": texts[layout.description],
            "image": [
                f"{prefix}/image_{image_id}_product_{product_id}.jpg" if image_id else ""
                for image_id, product_id in zip(image_ids, product_ids, strict=True)
            ],
            "category": _codes_of(folder, layout, texts[layout.key], codes),
            "group": product_ids,
        },
        dtype=object,
    )
    return RakutenRows(rows=rows, malformed=malformed, names=NAMES, image_root=folder)


def _codes_of(folder: Path, layout: RakutenLayout, keys: pd.Series, codes: pd.DataFrame) -> pd.Series:
    """The code of every row of the texts, "" where there is none."""
    for path, column in ((layout.texts, keys), (layout.codes, codes[layout.key])):
        if column.duplicated().any():
            key = column[column.duplicated()].iloc[0]
            raise CatalogError(f"{folder / path}: found row {key} more than once, wanted each once")
    strangers = codes[layout.key][~codes[layout.key].isin(keys)]
    if len(strangers):
        raise CatalogError(
            f"{folder / layout.codes}: {len(strangers):,} of its {len(codes):,} rows (the first: "
            f"{strangers.iloc[0]}) are not in {layout.texts}, wanted the two files of one download"
        )
    by_key = dict(zip(codes[layout.key], codes[layout.code].map(_whole), strict=True))
    return keys.map(lambda key: by_key.get(key, ""))


def _whole(number: str) -> str:
    """An id without the ".0" that pandas leaves on whole numbers in columns with gaps."""
    return number.strip().removesuffix(".0")


def _image_folder(folder: Path, layout: RakutenLayout) -> Path:
    found = next((folder / name for name in layout.folders if (folder / name).is_dir()), None)
    if (folder / ARCHIVE).is_file():
        target = found or folder / layout.folders[0]
        unpack_pictures(folder / ARCHIVE, target, inside=("image_train", "image_training"))
        return target
    if found is None:
        raise CatalogError(
            f"{folder}: no pictures: found neither {ARCHIVE} nor {' nor '.join(layout.folders)}; "
            f"put {ARCHIVE} there as it was downloaded, it will be unpacked"
        )
    return found
