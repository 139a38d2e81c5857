"""The commands of `python -m training`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aisle.fusion import VARIANTS
from training import compare_command, pipeline
from training.catalog import ColumnMap, read_catalog
from training.classifier_run import tell_classifier
from training.demo import write_demo_catalog
from training.encode_command import app as encode_command
from training.fit import FitSettings
from training.image_encoder import BACKBONES, ImageTraining
from training.judge import answers_of, catalog_of, evaluate_tag
from training.labels import read_ledger_labels
from training.report_command import app as pages
from training.settings import Settings, describe
from training.shop import Shop, load_encoders
from training.splits import split_report
from training.text_encoder import MINILM
from training.tracking import tell_catalog, tracked
from training.tracking_command import TensorBoardToo
from training.tracking_command import app as tracking_commands
from training.trust_commands import app as trust_commands
from training.tune_command import app as tune_commands

app = typer.Typer(
    help="Read a catalogue, make embeddings, fill the feature store, train and register a classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(pages)
app.add_typer(encode_command)
app.add_typer(trust_commands)
app.add_typer(tune_commands)
app.add_typer(tracking_commands)
out = Console()
compare_command.register(app)

CatalogPath = Annotated[
    Path, typer.Argument(help="A Rakuten folder, a SIGIR 2020 folder, a CSV or Parquet file, or its folder.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Column map, for example title=name,category=type_code (our name = its name)."
    ),
]
TextSource = Annotated[
    str,
    typer.Option(
        "--text-encoder",
        help=f"{MINILM!r} (works offline), a folder, a hub name such as camembert-base, or a tag.",
    ),
]
TextTokens = Annotated[int, typer.Option("--text-tokens", help="Tokens that the text encoder reads.")]
TextPrefix = Annotated[
    str, typer.Option("--text-prefix", help="Put before every text; E5 models want 'query: '.")
]
Backbone = Annotated[str, typer.Option("--backbone", help=f"Image backbone: {', '.join(sorted(BACKBONES))}.")]
ImageWeights = Annotated[
    str,
    typer.Option(
        "--image-weights",
        help="imagenet (torchvision's, needs a network once), catalogue, or a tag of the store.",
    ),
]
ImageSize = Annotated[int, typer.Option("--image-size", help="Pixels a side that the image encoder sees.")]
ImageEpochs = Annotated[int, typer.Option("--image-epochs", help="Most epochs of a catalogue image encoder.")]
Variant = Annotated[str, typer.Option("--variant", help=f"Fusion: {', '.join(VARIANTS)}.")]
TargetError = Annotated[
    float, typer.Option("--target-error", help="At most this share of accepted products may be wrong.")
]
MinClass = Annotated[
    int, typer.Option("--min-class", help="Categories with fewer products are left out, and named.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same figures.")]
LabelsUntil = Annotated[
    int,
    typer.Option(
        "--labels-until", min=0, help="Number of the ledger's last label that counts; 0: no labels."
    ),
]


@app.command("demo-catalog")
def demo_catalog(
    folder: Annotated[Path, typer.Argument(help="Where to write products.csv and images/.")],
    products: Annotated[int, typer.Option(help="How many products.")] = 2_400,
    seed: Seed = 27,
    shifted: Annotated[bool, typer.Option(help="As the market looks after it moved.")] = False,
) -> None:
    """Draw and write the demo catalogue."""
    write_demo_catalog(folder, products=products, seed=seed, shifted=shifted)
    out.print(f"wrote {products:,} products to {folder}")


@app.command()
def check(catalog: CatalogPath, columns: Columns = None) -> None:
    """Read a catalogue and say what is in it: rows kept, dropped and why, categories by split."""
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    out.print(read.report)
    out.print(split_report(read))


@app.command("image-encoder")
def image_encoder(
    catalog: CatalogPath,
    columns: Columns = None,
    backbone: Backbone = "mobilenet_v3_small",
    image_weights: ImageWeights = "catalogue",
    image_size: ImageSize = 96,
    image_epochs: ImageEpochs = 20,
    seed: Seed = 27,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Make an image encoder and put it into the model store; prints its tag."""
    training = ImageTraining(backbone=backbone, size=image_size, epochs=image_epochs, seed=seed)
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    facts = {"catalog": read.path, "weights": image_weights, **asdict(training)}
    with tracked(shop, "image-encoder", facts, tensorboard=tensorboard) as run:
        tell_catalog(run, read)
        tag = pipeline.make_image_encoder(shop, read, training, weights=image_weights, told=run.epoch)
        run.tags(encoder=tag)
    out.print(tag)


@app.command("text-encoder")
def text_encoder(
    text_encoder: TextSource = MINILM, text_tokens: TextTokens = 128, text_prefix: TextPrefix = ""
) -> None:
    """Put a text encoder into the model store; prints its tag."""
    shop = Shop.open(Settings.from_environment())
    out.print(pipeline.make_text_encoder(shop, text_encoder, max_tokens=text_tokens, prefix=text_prefix))


@app.command()
def publish(
    text: Annotated[str, typer.Option(help="Text encoder tag; default the newest.")] = "",
    image: Annotated[str, typer.Option(help="Image encoder tag; default the newest.")] = "",
) -> None:
    """Apply the feature views and write the vectors to the online store; reads a sample back."""
    shop = Shop.open(Settings.from_environment())
    pipeline.publish(shop, load_encoders(shop, text, image))


@app.command()
def fit(
    catalog: CatalogPath,
    text: Annotated[str, typer.Option(help="Text encoder tag; default the newest.")] = "",
    image: Annotated[str, typer.Option(help="Image encoder tag; default the newest.")] = "",
    columns: Columns = None,
    variant: Variant = "gated",
    target_error: TargetError = 0.05,
    min_class: MinClass = 10,
    seed: Seed = 27,
    labels_until: LabelsUntil = 0,
    start_from: Annotated[
        str, typer.Option(help="Train the head of this classifier on; default: a new one.")
    ] = "",
    report: Annotated[Path | None, typer.Option(help="Write the tag and what was used, as JSON.")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="What `search` wrote; instead of --variant and --seed.")
    ] = None,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Train the fusion head on stored vectors, calibrate, evaluate and register it; prints its tag."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    pair = load_encoders(shop, text, image)
    labels = read_ledger_labels(shop, read, pair, labels_until)
    chosen = (
        compare_command.read_fit_settings(settings) if settings else FitSettings(variant=variant, seed=seed)
    )
    facts = {"target_error": target_error, "min_class": min_class, "labels_until": labels_until}
    with tracked(shop, "fit", {**facts, "start_from": start_from}, tensorboard=tensorboard) as run:
        bundle, tag = pipeline.fit(
            shop,
            read,
            pair,
            chosen,
            target_error=target_error,
            min_class=min_class,
            labels=labels,
            start_from=start_from,
        )
        tell_classifier(run, bundle, tag)
    _print_metrics(bundle.metrics)
    if report is not None:
        facts = {f"labels_{name}": value for name, value in labels.to_json().items()}
        report.write_text(json.dumps({"tag": tag, **facts}, indent=1) + "\n")
    out.print(tag)


@app.command()
def answers(
    tag: Annotated[str, typer.Argument(help="A classifier's tag, or aisle-classifier:latest.")],
    catalog: CatalogPath,
    file: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    columns: Columns = None,
    labels_until: LabelsUntil = 0,
) -> None:
    """Write a classifier's answers about the test split and about labelled products kept out of training."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    frame = answers_of(shop, tag, read, labels_until=labels_until)
    frame.to_parquet(file, index=False)
    for name, rows in frame.groupby("set"):
        out.print(f"{name}: {len(rows):,} products, {rows.correct.mean():.1%} right")


@app.command()
def evaluate(
    tag: Annotated[str, typer.Argument(help="A classifier's tag, or aisle-classifier:latest.")],
    catalog: Annotated[
        Path | None, typer.Argument(help="Its catalogue; default: where it was when it was trained.")
    ] = None,
    columns: Columns = None,
) -> None:
    """Make the figures of a registered classifier again, on its catalogue's untouched test split."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns)) if catalog else catalog_of(tag)
    _print_metrics(evaluate_tag(shop, tag, read))


@app.command()
def run(
    catalog: CatalogPath,
    columns: Columns = None,
    text_encoder: TextSource = MINILM,
    text_tokens: TextTokens = 128,
    text_prefix: TextPrefix = "",
    backbone: Backbone = "mobilenet_v3_small",
    image_weights: ImageWeights = "catalogue",
    image_size: ImageSize = 96,
    image_epochs: ImageEpochs = 20,
    variant: Variant = "gated",
    target_error: TargetError = 0.05,
    min_class: MinClass = 10,
    seed: Seed = 27,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Everything, in order: read, encoders, encode, publish, fit, register. Prints the tag."""
    shop = Shop.open(Settings.from_environment())
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    out.print(read.report)
    image_training = ImageTraining(backbone=backbone, size=image_size, epochs=image_epochs, seed=seed)
    settings = FitSettings(variant=variant, seed=seed)
    facts = {"target_error": target_error, "min_class": min_class}
    with tracked(shop, "run", facts, tensorboard=tensorboard) as run:
        text_tag = pipeline.make_text_encoder(shop, text_encoder, max_tokens=text_tokens, prefix=text_prefix)
        with run.child("image-encoder", {"weights": image_weights, **asdict(image_training)}) as child:
            image_tag = pipeline.make_image_encoder(
                shop, read, image_training, weights=image_weights, told=child.epoch
            )
            child.tags(encoder=image_tag)
        encoders = load_encoders(shop, text_tag, image_tag)
        pipeline.encode(shop, read, encoders)
        pipeline.publish(shop, encoders)
        bundle, tag = pipeline.fit(
            shop, read, encoders, settings, target_error=target_error, min_class=min_class
        )
        tell_classifier(run, bundle, tag)
    _print_metrics(bundle.metrics)
    out.print(tag)


@app.command()
def settings() -> None:
    """List the AISLE_* variables that training reads: name, default and meaning."""
    table = Table("variable", "default", "meaning")
    for row in describe():
        table.add_row(*row)
    out.print(table)


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    table = Table(title=f"{metrics['products']:,} test products, through the path that serves")
    for column in ("", "macro-F1", "weighted-F1", "accuracy", "log-loss"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("text", "image", "fused"):
        scores = metrics[name]
        if scores is not None:
            cells = [f"{scores[key]:.3f}" for key in ("macro_f1", "weighted_f1", "accuracy", "log_loss")]
            table.add_row(f"{name} alone" if name != "fused" else name, *cells)
    out.print(table)
    classes = Table(title="by category")
    for column in ("category", "precision", "recall", "F1", "products"):
        classes.add_column(column, justify="left" if column == "category" else "right")
    for row in metrics["per_class"]:
        label = row["name"] if row["name"] == row["code"] else f"{row['code']} {row['name']}"
        cells = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        classes.add_row(label, *cells, f"{row['products']:,}")
    out.print(classes)
    error, target = metrics["accepted_error"], metrics["target_error"]
    wrong = (
        f", of which {error:.1%} wrong (target {target:.1%})"
        if error is not None
        else f": too few held-out products to show that any stay under {target:.1%} wrong"
    )
    out.print(f"ECE {metrics['ece']:.3f}; accepted {metrics['accepted_share']:.1%} of products{wrong}")
    curve, sets = metrics.get("risk_coverage"), metrics.get("prediction_sets")
    if curve:
        out.print(f"AURC {curve['aurc']:.4f} (at best {curve['aurc_best']:.4f})")
    if sets:
        out.print(
            f"prediction sets of {sets['mean_size']:.2f} categories on average hold the true one of "
            f"{sets['covered']:.1%} (promised {sets['promised']:.0%})"
        )
