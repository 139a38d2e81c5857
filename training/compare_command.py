"""`python -m training compare` and `search`: which head, and with which settings?"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from aisle.errors import CatalogError, SettingError
from aisle.fusion import VARIANTS
from aisle.taxonomy import Taxonomy
from aisle.text import clean_text
from training import pipeline
from training.catalog import Catalog, ColumnMap, read_catalog
from training.comparison import Choice, choose, compare, figures
from training.comparison_view import comparison_table, draw_comparison
from training.contenders import LEVELS, Examples
from training.fit import FitSettings
from training.folds import Fold, stratified_folds
from training.labelled import Labelled, read_labelled
from training.labels import no_labels
from training.runs import Run, harmless
from training.settings import Settings
from training.shop import Encoders, Shop, load_encoders
from training.splits import SplitSettings
from training.tracking import tracked
from training.tracking_command import TensorBoardToo

CatalogPath = Annotated[Path, typer.Argument(help="The catalogue whose vectors the shop holds.")]
Tag = Annotated[str, typer.Option(help="Encoder tag; default the newest.")]
Columns = Annotated[str | None, typer.Option("--columns", help="Column map, as in `training check`.")]
MinClass = Annotated[int, typer.Option("--min-class", help="Categories with fewer products are left out.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same figures.")]
out = Console(width=None if sys.stdout.isatty() else 120)


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("compare")(compare_command)
    app.command("search")(search_command)


def compare_command(
    catalog: CatalogPath,
    folds: Annotated[
        int, typer.Option(min=0, help="Grouped folds of all but the test split; 0: the splits that fit uses.")
    ] = 5,
    only: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(LEVELS)}; default all.")] = "",
    folder: Annotated[Path, typer.Option("--out", help="For compare.json and compare.png.")] = Path("out"),
    text: Tag = "",
    image: Tag = "",
    columns: Columns = None,
    min_class: MinClass = 20,
    seed: Seed = 27,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Train every family of models on the same folds; say which to take, and why. Resumes."""
    names = _names(only)
    shop = Shop.open(Settings.from_environment())
    labelled, examples, taxonomy, data = _read(shop, catalog, columns, text, image, min_class)
    made = _folds(labelled, examples, folds, seed)
    work = shop.environment.scratch / "compare"
    settings = FitSettings(seed=seed)
    by_fold = {fold.name: examples for fold in made}
    facts = {
        "folds": len(made),
        "min_class": min_class,
        "contenders": ", ".join(names),
        "fit": asdict(settings),
    }
    with tracked(shop, "compare", facts, tensorboard=tensorboard) as run:
        run.dataset(catalog.absolute().name, data.partition(" ")[0], str(catalog.absolute()))
        comparison = compare(by_fold, made, settings, classes=len(taxonomy), names=names, work=work)
        rows = figures(comparison, seed=seed)
        among = [name for name in rows if name in VARIANTS] or list(rows)
        choice = choose(comparison, rows, seed=seed, among=among)
        out.print(comparison_table(rows, title=f"{len(examples):,} products, {len(made)} folds"))
        out.print(f"{choice.name}: {choice.why}")
        folder.mkdir(parents=True, exist_ok=True)
        report = {"chosen": choice.name, "why": choice.why, "folds": len(made), "seed": seed}
        (folder / "compare.json").write_text(json.dumps({**report, "contenders": rows}, indent=1) + "\n")
        draw_comparison(rows, folder / "compare.png", title=f"{catalog.name}, {len(made)} folds")
        _tell_comparison(run, rows, choice, folder)


@harmless("comparison")
def _tell_comparison(run: Run, rows: Mapping[str, Mapping[str, Any]], choice: Choice, folder: Path) -> None:
    for name, row in rows.items():
        with run.child("contender", {"contender": name, "level": row["level"]}, name=name) as child:
            for fold, score in enumerate(row["fold_macro_f1"]):
                child.epoch(fold, {"fold_macro_f1": score})
            child.metrics({key: value for key, value in row.items() if key != "servable"})
    run.tags(chosen=choice.name, why=choice.why)
    for file in ("compare.json", "compare.png"):
        run.file(file, (folder / file).read_bytes())


def search_command(
    catalog: CatalogPath,
    variant: Annotated[str, typer.Option(help=f"Fusion: {', '.join(VARIANTS)}.")] = "gated",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier runs included.")] = 40,
    file: Annotated[Path, typer.Option("--out", help="The best settings, for `fit --settings`.")] = Path(
        "out/settings.json"
    ),
    text: Tag = "",
    image: Tag = "",
    columns: Columns = None,
    min_class: MinClass = 10,
    seed: Seed = 27,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Search the settings of a head on the validation split. Resumes."""
    from training.search import SCORE, search  # here: Optuna takes a second that others need not wait

    shop = Shop.open(Settings.from_environment())
    labelled, _, taxonomy, data = _read(shop, catalog, columns, text, image, min_class)
    settings = FitSettings(variant=variant, seed=seed)
    facts = {"variant": variant, "trials": trials, "min_class": min_class, "seed": seed}
    with tracked(shop, "search", facts, tensorboard=tensorboard) as run:
        run.dataset(catalog.absolute().name, data.partition(" ")[0], str(catalog.absolute()))
        found, score = search(
            labelled.train(),
            labelled.split("validation"),
            labelled.group_N[labelled.split_N == "train"],
            settings,
            classes=len(taxonomy),
            trials=trials,
            home=shop.environment.home,
            data=data,
            run=run,
        )
        run.settings({"best": asdict(found)})
        run.metrics({SCORE: score})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(found), indent=1) + "\n")
    out.print(f"best validation macro-F1 of {trials} trials: {score:.4f}, written to {file}")


def read_fit_settings(file: Path) -> FitSettings:
    """What `search` wrote. Raises SettingError when it is not that."""
    try:
        return FitSettings(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(f"settings {file}: {error}; wanted what `training search` wrote") from error


def _names(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(LEVELS)
    unknown = [name for name in names if name not in LEVELS]
    if unknown:
        raise SettingError(f"contenders: found {unknown[0]!r}, wanted some of {', '.join(LEVELS)}")
    return names


def _read(
    shop: Shop, path: Path, columns: str | None, text: str, image: str, min_class: int
) -> tuple[Labelled, Examples, Taxonomy, str]:
    """Labelled products with vectors, the same with texts, their categories, and a name for all of that."""
    catalog = read_catalog(path, columns=ColumnMap.parse(columns))
    pair = load_encoders(shop, text, image)
    taxonomy = pipeline.known_categories(catalog, min_class=min_class)
    labelled = read_labelled(
        shop, catalog, pair, taxonomy, SplitSettings(), no_labels(pair.text.dim, pair.image.dim)
    )
    vectors = labelled.unlearned()
    examples = Examples(vectors=vectors, text_N=_texts(catalog, labelled, pair), group_N=labelled.group_N)
    data = f"{catalog.fingerprint()} {pair.text.revision} {pair.image.revision} {min_class}"
    return labelled, examples, taxonomy, data


def _texts(catalog: Catalog, labelled: Labelled, pair: Encoders) -> np.ndarray:
    rows = catalog.products.iloc[labelled.row_N].itertuples(index=False)
    texts = [clean_text(str(row.title), str(row.description), pair.text.settings) for row in rows]
    return np.array(texts, dtype=object)


def _folds(labelled: Labelled, examples: Examples, folds: int, seed: int) -> list[Fold]:
    """Products that trained an encoder are in no part that is scored: it knows them."""
    known_N = np.asarray(examples.vectors.present_N2.any(axis=1))
    scored_N = known_N & ~labelled.own_N & ~labelled.own_text_N
    if folds < 2:
        rows = {name: np.flatnonzero(labelled.split_N == name) for name in ("train", "validation", "test")}
        made = [Fold(name="split", **rows)]
    else:
        open_N = np.flatnonzero(labelled.split_N != "test")
        labels, groups = examples.vectors.label_N[open_N], examples.group_N[open_N]
        made = [
            Fold(name=f.name, train=open_N[f.train], validation=open_N[f.validation], test=open_N[f.test])
            for f in stratified_folds(labels, groups, folds=folds, seed=seed)
        ]
    kept = [
        Fold(
            name=fold.name,
            train=fold.train[known_N[fold.train]],
            validation=fold.validation[scored_N[fold.validation]],
            test=fold.test[scored_N[fold.test]],
        )
        for fold in made
    ]
    for fold in kept:
        for part in ("train", "validation", "test"):
            if not len(getattr(fold, part)):
                raise CatalogError(f"{fold.name}: found no product for {part}; the catalogue is too small")
    return kept
