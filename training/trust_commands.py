"""Commands on what a catalogue and its answers are worth: score, label-noise, duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console

from aisle import store
from aisle.errors import CatalogError
from aisle.features import JOIN_KEY
from training.score import score
from training.settings import Settings
from training.shop import Encoders, Shop, view_specs

app = typer.Typer()
out = Console()


@app.command("score")
def score_command(
    folder: Annotated[Path, typer.Argument(help="Folder of Parquet parts to write, or to go on with.")],
    tag: Annotated[str, typer.Option(help="A classifier's tag; default the newest.")] = store.LATEST,
    products: Annotated[
        Path | None,
        typer.Option(help="Parquet with the product_id of whom to score; default: all that are encoded."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates to write, best first.")] = 3,
) -> None:
    """Classify the whole catalogue again from its stored vectors. Resumes after a kill."""
    shop = Shop.open(Settings.from_environment())
    classifier = store.load_classifier(tag, shop.device).pack()
    specs = view_specs(shop, Encoders(text=classifier.text_encoder, image=classifier.image_encoder))
    wanted = _read_ids(products) if products else None
    report = score(classifier, specs, shop.environment.features, folder, wanted=wanted, top_k=top_k)
    out.print(
        f"{report.products:,} products by {classifier.version}, {report.kept:,} of them by an earlier run, "
        f"in {report.parts:,} parts: {folder}"
    )


def _read_ids(path: Path) -> set[str]:
    if not path.exists():
        raise CatalogError(f"{path}: not found, wanted a Parquet file with a column {JOIN_KEY}")
    names = pq.read_schema(path).names if path.is_file() else pq.ParquetDataset(path).schema.names
    if JOIN_KEY not in names:
        raise CatalogError(f"{path}: found the columns {', '.join(names)}, wanted {JOIN_KEY} among them")
    return set(map(str, pq.read_table(path, columns=[JOIN_KEY])[JOIN_KEY].to_pylist()))
