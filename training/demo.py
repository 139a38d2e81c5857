"""The demo catalogue: 12 categories in six pairs, drawn and written so that neither half is enough.

In three pairs the sellers use the same words and only the picture tells (a comic or a game of one
saga); in three the things look alike and only the words tell (a bottle of pool care or of plant
feed). To this comes what real feeds have: wrong and missing photos, empty descriptions, HTML scraps,
mojibake, variants of one product, repeated ids, rows that cannot be used.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from aisle.errors import CatalogError
from training import demo_pictures, demo_shift, demo_words
from training.demo_pictures import DRAWINGS, draw_photo
from training.demo_shift import SHIFTED, draw_shifted_photo
from training.demo_words import TRADES, write_words
from training.progress import progress

MARK = "demo.json"  # says which demo catalogue a folder holds, or is about to hold
TABLE = "products.csv"  # written last: a folder with it is complete
HEADER = (
    "product_id", "title", "description", "image", "category", "category_name", "item_group_id",
)  # fmt: skip
WRONG_PHOTO = 0.02  # share of products that show something else
NO_PHOTO = 0.025  # share that name no photo
LOST_PHOTO = 0.005  # share whose photo is named and not there
VARIANT = 0.15  # share that are another colour of an earlier product


@dataclass(frozen=True, kw_only=True)
class DemoCategory:
    """A category: the trade whose words it uses, what it looks like, and what only its sellers say."""

    name: str
    trade: str
    picture: str
    weight: int
    french: str
    english: str


CATEGORIES: dict[str, DemoCategory] = {
    "comic": DemoCategory(
        name="Comics", trade="saga", picture="comic", weight=4,
        french="Bande dessinée reliée de 48 pages.", english="Hardcover comic book, 48 pages.",
    ),
    "videogame": DemoCategory(
        name="Video games", trade="saga", picture="disc", weight=4,
        french="Jeu vidéo sur disque pour console.", english="Video game on disc for consoles.",
    ),
    "figurine": DemoCategory(
        name="Figurines", trade="creature", picture="figurine", weight=3,
        french="Figurine en PVC de 18 cm sur socle.", english="PVC figure, 18 cm, on a stand.",
    ),
    "card": DemoCategory(
        name="Trading cards", trade="creature", picture="cards", weight=4,
        french="Carte à jouer holographique.", english="Holographic playing card.",
    ),
    "cushion": DemoCategory(
        name="Cushions", trade="linen", picture="cushion", weight=3,
        french="Coussin garni, housse zippée.", english="Filled pillow with zipped cover.",
    ),
    "curtain": DemoCategory(
        name="Curtains", trade="linen", picture="curtains", weight=3,
        french="Rideau occultant à oeillets.", english="Blackout curtain with eyelets.",
    ),
    "pool-care": DemoCategory(
        name="Pool care", trade="pool", picture="bottle", weight=3,
        french="Entretien de piscine.", english="Pool maintenance.",
    ),
    "plant-feed": DemoCategory(
        name="Plant feed", trade="garden", picture="bottle", weight=4,
        french="Soin du jardin.", english="Garden care.",
    ),
    "pet-supplies": DemoCategory(
        name="Pet supplies", trade="pets", picture="pouch", weight=4,
        french="Animalerie.", english="Pet shop.",
    ),
    "coffee-tea": DemoCategory(
        name="Coffee and tea", trade="coffee", picture="pouch", weight=3,
        french="Épicerie fine.", english="Fine groceries.",
    ),
    "board-game": DemoCategory(
        name="Board games", trade="games", picture="box", weight=4,
        french="Jeux et jouets.", english="Toys and games.",
    ),
    "printer-supplies": DemoCategory(
        name="Printer supplies", trade="printer", picture="box", weight=3,
        french="Fournitures de bureau.", english="Office supplies.",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """One product of the plan. `parent` is the position of the product it is a variant of, or its own."""

    position: int
    parent: int
    category: str


def write_demo_catalog(folder: Path, *, products: int = 2_400, seed: int = 27, shifted: bool = False) -> None:
    """Write products.csv and images/ with `products` usable products; the same bytes for a seed. `shifted`
    gives listings as they look after the market moved (training/demo_shift.py).

    For every 200 products there are two rows more that a reader must drop: a repeated id and an empty
    product. A killed run is resumed; a finished one is left alone; one with other settings is replaced.
    Raises CatalogError when `folder` holds something else.
    """
    if products < len(CATEGORIES):
        raise CatalogError(f"demo catalogue: found {products} products, wanted {len(CATEGORIES)} or more")
    mark = json.dumps({"products": products, "seed": seed, "shifted": shifted, "source": _source_hash()})
    _claim(folder, mark)
    if (folder / TABLE).is_file():
        return
    plan = _plan(products, seed)
    rows = [_row(listing, seed, shifted) for listing in plan]
    _draw(folder, plan, rows, seed, shifted)
    _write_table(folder / TABLE, rows + _useless(rows))


def _source_hash() -> str:
    """Changes with the code that draws and writes, so that an older catalogue is drawn anew."""
    digest = hashlib.sha256()
    for module in (__file__, demo_pictures.__file__, demo_shift.__file__, demo_words.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:16]


def _claim(folder: Path, mark: str) -> None:
    """Make `folder` the home of the catalogue `mark`, without what an earlier one left there."""
    path = folder / MARK
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_text() == mark:
        return
    ours = (MARK, TABLE, "images")
    found = sorted(entry.name for entry in folder.iterdir())
    others = [name for name in found if name.removesuffix(".part") not in ours]
    if not path.is_file():
        others += [name for name in (TABLE,) if (folder / name).exists()]
        others += sorted(f"images/{entry.name}" for entry in (folder / "images").iterdir())[:1]
    if others:
        raise CatalogError(f"{folder}: found {others[0]}, wanted an empty folder for the demo catalogue")
    (folder / TABLE).unlink(missing_ok=True)
    for picture in (folder / "images").glob("*.jpg"):
        picture.unlink()
    _write(path, mark.encode())


def _plan(products: int, seed: int) -> list[_Listing]:
    """Which product is what: categories by weight, every one from the first dozens on."""
    rng = Random(f"{seed}/plan")
    listings: list[_Listing] = []
    deck: list[str] = []
    for position in range(products):
        if position > len(CATEGORIES) and rng.random() < VARIANT:
            earlier = rng.choice(listings)
            listings.append(_Listing(position=position, parent=earlier.parent, category=earlier.category))
            continue
        if not deck:
            weighted = [code for code, category in CATEGORIES.items() for _ in range(category.weight - 1)]
            rng.shuffle(weighted)
            firsts = list(CATEGORIES)
            rng.shuffle(firsts)
            deck = weighted + firsts
        listings.append(_Listing(position=position, parent=position, category=deck.pop()))
    return listings


def _row(listing: _Listing, seed: int, shifted: bool) -> dict[str, str]:
    category = CATEGORIES[listing.category]
    trade, hints = TRADES[category.trade], {"fr": category.french, "en": category.english}
    if shifted and listing.category in SHIFTED:
        trade, hints = SHIFTED[listing.category].trade, SHIFTED[listing.category].hints
    words = write_words(
        trade,
        hints,
        Random(f"{seed}/words/{listing.parent}"),
        Random(f"{seed}/seller/{listing.position}"),
    )
    product_id = _product_id(listing.position)
    has_photo = Random(f"{seed}/photo/{listing.position}").random() >= NO_PHOTO
    return {
        "product_id": product_id,
        "title": words.title,
        "description": words.description,
        "image": f"images/{product_id}.jpg" if has_photo else "",
        "category": listing.category,
        "category_name": category.name,
        "item_group_id": _product_id(listing.parent),
    }


def _product_id(position: int) -> str:
    return f"demo-{position:06d}"


def _draw(folder: Path, plan: list[_Listing], rows: list[dict[str, str]], seed: int, shifted: bool) -> None:
    with progress() as bar:
        for listing, row in bar.track(
            list(zip(plan, rows, strict=True)), description="draw the demo catalogue"
        ):
            luck = Random(f"{seed}/luck/{listing.position}")
            path = folder / row["image"]
            if row["image"] and luck.random() >= LOST_PHOTO and not path.is_file():
                _write(path, _photo(listing, luck, seed, shifted))


def _photo(listing: _Listing, luck: Random, seed: int, shifted: bool) -> bytes:
    kind = CATEGORIES[listing.category].picture
    if luck.random() < WRONG_PHOTO:
        kind = luck.choice([other for other in DRAWINGS if other != kind])
    draw = draw_shifted_photo if shifted and listing.category in SHIFTED else draw_photo
    return draw(kind, Random(f"{seed}/thing/{listing.parent}"), Random(f"{seed}/pose/{listing.position}"))


def _useless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows that no reader can use: a repeated id and an empty product for every 200 good ones."""
    useless = []
    for row in rows[::200]:
        useless.append(row | {"title": row["title"] + " (bis)"})
        useless.append(
            row | {"product_id": f"{row['product_id']}-x", "title": " ", "description": "", "image": ""}
        )
    return useless


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
