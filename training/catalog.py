"""A catalogue: products with their texts, pictures and categories, whatever feed they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from aisle.errors import CatalogError, SettingError
from aisle.picture import image_hash
from aisle.product import Product
from training.rakuten import RakutenLayout, find_rakuten, read_rakuten
from training.rows import COLUMNS, ReadReport, check_rows
from training.table import SUFFIXES, read_table

__all__ = ["Catalog", "ColumnMap", "ReadReport", "read_catalog", "read_picture"]

FILES = tuple(f"products{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """The names that a file gives to our columns; "" for one that it has not.

    `group` (products that are variants of one another) and `category_name` are taken when they are
    there; under their default names they may be absent.
    """

    product_id: str = "product_id"
    title: str = "title"
    description: str = "description"
    image: str = "image"
    category: str = "category"
    group: str = "item_group_id"
    category_name: str = "category_name"

    def __post_init__(self) -> None:
        if not self.product_id:
            raise SettingError("columns: product_id is mapped to nothing, wanted the column with the ids")
        if not (self.title or self.description or self.image):
            raise SettingError("columns: title, description and image are all mapped to nothing, wanted one")

    @classmethod
    def parse(cls, text: str | None) -> ColumnMap | None:
        """Read "title=name,image=" (ours = theirs); None for None. Raises SettingError."""
        if text is None:
            return None
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        names = [field.name for field in fields(cls)]
        for ours, sign, _ in pairs:
            if not sign or ours.strip() not in names:
                wanted = f"NAME=COLUMN, with a NAME of {', '.join(names)}"
                raise SettingError(f"columns: found {ours + sign!r}, wanted {wanted}")
        return cls(**{ours.strip(): theirs.strip() for ours, _, theirs in pairs})

    @property
    def required(self) -> list[str]:
        """Columns that the file must have: all that are mapped, but optional ones left at their default."""
        return [
            theirs
            for field in fields(self)
            if (theirs := getattr(self, field.name))
            and not (field.name in ("group", "category_name") and theirs == field.default)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """Products as read. `products` has one row a product and these columns, all str:

    product_id (unique), title, description, image (path relative to `image_root`, or ""), category
    (code, "" where unknown), group (variants of one product share it; else the product's own id).
    `names` goes from a category's code to what people call it. `path` and `columns` are what it was read
    from and with.
    """

    products: pd.DataFrame
    names: dict[str, str]
    image_root: Path
    report: ReadReport
    path: Path
    columns: ColumnMap | None = None

    def product(self, position: int) -> Product:
        """The product in row `position`, with its picture's bytes. Raises CatalogError if they are gone."""
        row = self.products.iloc[position]
        return Product(
            product_id=row.product_id,
            title=row.title,
            description=row.description,
            image=self._picture(row.image) if row.image else None,
        )

    def _picture(self, image: str) -> bytes:
        return read_picture(self.image_root / image)

    def fingerprint(self) -> str:
        """Hex sha256 over the rows, whatever their order, and the content of their pictures: the same for
        copies in two places. Reads every picture (85,000 of 27 kB: 2 s and what the disk takes). Raises
        CatalogError if one is gone."""
        digest = hashlib.sha256()
        for row in self.products.sort_values("product_id")[list(COLUMNS)].itertuples(index=False):
            image = str(row.image)
            picture = image_hash(self._picture(image)) if image else ""
            digest.update(json.dumps([*row, picture]).encode() + b"\n")
        return digest.hexdigest()


def read_picture(path: Path) -> bytes:
    """A picture's file. Raises CatalogError if it is gone."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}; it was there when the catalogue was read") from error


def read_catalog(path: Path, *, columns: ColumnMap | None = None) -> Catalog:
    """Read a Rakuten France folder, a SIGIR 2020 folder, or a CSV, TSV or Parquet file (or its folder).

    `columns` names the columns of such a file. Raises CatalogError naming the file or column that is
    missing, what was found and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise CatalogError(
            f"{path}: not found, wanted a catalogue: a folder, or a file of {_listed(SUFFIXES)}"
        )
    layout = find_rakuten(path) if path.is_dir() else None
    if layout is not None:
        if columns is not None:
            raise SettingError(
                f"columns: {path} is a {layout.name} folder, whose columns are known; leave it out"
            )
        return _rakuten_catalog(path, layout)
    return replace(_table_catalog(_table_of(path), columns or ColumnMap()), columns=columns)


def _rakuten_catalog(folder: Path, layout: RakutenLayout) -> Catalog:
    read = read_rakuten(folder, layout)
    products, report = check_rows(read.rows, read.image_root, read.malformed)
    names = {code: read.names.get(code, code) for code in set(products.category) - {""}}
    return _catalog(products, names, read.image_root, report, folder)


def _table_catalog(path: Path, columns: ColumnMap) -> Catalog:
    table, malformed = read_table(path, columns.required, (columns.group, columns.category_name))
    nothing = pd.Series("", index=table.index, dtype=object)

    def column(theirs: str) -> pd.Series:
        return table.get(theirs, nothing)

    rows = pd.DataFrame({name: column(getattr(columns, name)) for name in COLUMNS})
    products, report = check_rows(rows, path.parent, malformed)
    codes, names = rows.category.str.strip(), column(columns.category_name).str.strip()
    named = {code: name for code, name in zip(codes, names, strict=True) if code and name}
    names_by_code = {code: named.get(code, code) for code in set(products.category) - {""}}
    return _catalog(products, names_by_code, path.parent, report, path)


def _catalog(
    products: pd.DataFrame, names: dict[str, str], image_root: Path, report: ReadReport, path: Path
) -> Catalog:
    if products.empty:
        raise CatalogError(f"{path}: found no product that can be used, wanted 1 or more:\n{report}")
    return Catalog(
        products=products,
        names=dict(sorted(names.items())),
        image_root=image_root,
        report=report,
        path=path.absolute(),
    )


def _table_of(path: Path) -> Path:
    if path.is_file():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    found = sorted(entry.name for entry in path.iterdir())
    shown = _listed(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    raise CatalogError(
        f"{path}: found {shown or 'nothing'}, wanted {_listed(FILES)} or X_train_update.csv or X_train.tsv; "
        "or name the file itself"
    )


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)
