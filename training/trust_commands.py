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
from training.catalog import ColumnMap, read_catalog
from training.duplicates import find_duplicates
from training.fit import FitSettings
from training.label_noise import find_label_noise
from training.label_review import write_suspicions
from training.labelled import read_labelled
from training.labels import no_labels
from training.pipeline import known_categories
from training.score import score
from training.settings import Settings
from training.shop import Encoders, Shop, load_encoders, view_specs
from training.splits import SplitSettings, assign_splits

app = typer.Typer()
out = Console()

CatalogPath = Annotated[Path, typer.Argument(help="A catalogue, as for the other commands.")]
Columns = Annotated[str | None, typer.Option("--columns", help="Column map, as for the other commands.")]


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
    classifier = store.load_classifier(tag, shop.device).optimise()
    specs = view_specs(shop, Encoders(text=classifier.text_encoder, image=classifier.image_encoder))
    wanted = _read_ids(products) if products else None
    report = score(classifier, specs, shop.environment.features, folder, wanted=wanted, top_k=top_k)
    out.print(
        f"{report.products:,} products by {classifier.version}, {report.kept:,} of them by an earlier run, "
        f"in {report.parts:,} parts: {folder}"
    )


@app.command("label-noise")
def label_noise(
    catalog: CatalogPath,
    file: Annotated[Path, typer.Option("--out", help="CSV to write.")] = Path("out/label-noise.csv"),
    text: Annotated[str, typer.Option(help="Text encoder tag; default the newest.")] = "",
    image: Annotated[str, typer.Option(help="Image encoder tag; default the newest.")] = "",
    columns: Columns = None,
    min_class: Annotated[int, typer.Option(help="Categories with fewer products are left out.")] = 10,
) -> None:
    """Name the labels that are likely wrong, for review: each judged by a model that never saw it."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    pair = load_encoders(shop, text, image)
    taxonomy = known_categories(read, min_class=min_class)
    nothing = no_labels(pair.text.dim, pair.image.dim)
    labelled = read_labelled(shop, read, pair, taxonomy, SplitSettings(), nothing)
    suspicions = find_label_noise(
        labelled.unlearned(), labelled.group_N, labelled.own_N, FitSettings(), classes=len(taxonomy)
    )
    written = write_suspicions(file, read, labelled, taxonomy, suspicions)
    judged = int(suspicions.judged_N.sum())
    out.print(
        f"{judged:,} of {len(labelled.vectors):,} labelled products judged, {written:,} labels suspected, "
        f"{suspicions.noise:.1%} estimated to be wrong: {file}"
    )


@app.command("duplicates")
def duplicates(
    catalog: CatalogPath,
    file: Annotated[Path, typer.Option("--out", help="CSV to write.")] = Path("out/duplicates.csv"),
    columns: Columns = None,
) -> None:
    """Find products with nearly the same text or photo, above all those that two splits share."""
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    split_N = assign_splits(read.products.group, SplitSettings()).to_numpy()
    found = find_duplicates(read, split_N)
    found.write(file)
    for kind, compared in found.compared.items():
        out.print(
            f"{kind}: {compared:,} compared, {found.clusters(kind):,} clusters of near-duplicates, "
            f"{found.clusters(kind, 'across_splits'):,} of them across splits, "
            f"{found.clusters(kind, 'across_categories'):,} across categories"
        )
    out.print(f"{file}: {len(found.members):,} rows; one item_group_id keeps a cluster in one split")


def _read_ids(path: Path) -> set[str]:
    if not path.exists():
        raise CatalogError(f"{path}: not found, wanted a Parquet file with a column {JOIN_KEY}")
    names = pq.read_schema(path).names if path.is_file() else pq.ParquetDataset(path).schema.names
    if JOIN_KEY not in names:
        raise CatalogError(f"{path}: found the columns {', '.join(names)}, wanted {JOIN_KEY} among them")
    return set(map(str, pq.read_table(path, columns=[JOIN_KEY])[JOIN_KEY].to_pylist()))
