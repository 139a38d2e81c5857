"""The commands that write pages: `report` about a classifier, `explore` about a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.catalog import ColumnMap, read_catalog
from training.judge import catalog_of, read_trial
from training.report import findings, report_page
from training.settings import Settings
from training.shop import Shop
from training.survey import SAMPLE, survey
from training.survey_page import catalog_name, survey_page

out = Console()
app = typer.Typer()

Columns = Annotated[
    str | None, typer.Option("--columns", help="Column map, as for `fit` (our name = its name).")
]
PageFile = Annotated[
    Path | None, typer.Option("--out", help="HTML file to write; default: below AISLE_HOME/reports.")
]


@app.command()
def report(
    tag: Annotated[str, typer.Argument(help="A classifier's tag, or aisle-classifier:latest.")],
    catalog: Annotated[
        Path | None, typer.Argument(help="Its catalogue; default: where it was when it was trained.")
    ] = None,
    columns: Columns = None,
    file: PageFile = None,
) -> None:
    """Write a page about a registered classifier: its figures, mistakes and model card. Prints its path."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns)) if catalog else catalog_of(tag)
    trial = read_trial(shop, tag, read)
    tag = trial.classifier.version
    path = file or shop.environment.reports / f"{tag.replace(':', '-')}.html"
    report_page(findings(tag, trial)).write(path)
    out.print(str(path), soft_wrap=True, highlight=False)


@app.command()
def explore(
    catalog: Annotated[Path, typer.Argument(help="A catalogue, as for `check`.")],
    columns: Columns = None,
    sample: Annotated[
        int, typer.Option(help="Products whose texts and pictures are looked at, drawn at random.")
    ] = SAMPLE,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same sample.")] = 27,
    file: PageFile = None,
) -> None:
    """Write a page about a catalogue: categories, texts, languages, pictures, twins. Prints its path."""
    environment = Settings.from_environment()
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    path = file or environment.reports / f"catalogue-{catalog_name(read)}.html"
    survey_page(survey(read, sample=sample, seed=seed)).write(path)
    out.print(str(path), soft_wrap=True, highlight=False)
