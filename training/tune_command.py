"""Commands that tune encoders on a catalogue, alone or under torchrun."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aisle import store
from aisle.text import TextEncoder, TextSettings
from training import pipeline
from training.catalog import ColumnMap, read_catalog
from training.image_encoder import BACKBONES, PUBLISHED_START, ImageTraining
from training.overrides import names_of, overridden
from training.processes import joined_processes
from training.settings import Settings
from training.shop import Shop
from training.text_encoder import MINILM, pretrained_text_encoder
from training.text_tuning import TextTraining
from training.tracking import tell_catalog, tracked
from training.tracking_command import TensorBoardToo

app = typer.Typer()
out = Console()

CatalogPath = Annotated[Path, typer.Argument(help="A catalogue, as for the other commands.")]
Columns = Annotated[str | None, typer.Option("--columns", help="Column map, as for the other commands.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same weights.")]
SaveEvery = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="At most so long between two checkpoints.")
]


def _set_option(settings: object) -> typer.models.OptionInfo:
    return typer.Option("--set", help=f"NAME=VALUE, as often as wanted: {', '.join(names_of(settings))}.")


@app.command("tune-text")
def tune_text(
    catalog: CatalogPath,
    columns: Columns = None,
    text_encoder: Annotated[
        str,
        typer.Option(help=f"What to begin with: {MINILM!r}, a folder, a hub name, or a tag of the store."),
    ] = MINILM,
    text_tokens: Annotated[int, typer.Option(help="Tokens that it reads; a tag keeps its own.")] = 128,
    text_prefix: Annotated[str, typer.Option(help="Put before every text; a tag keeps its own.")] = "",
    changes: Annotated[list[str] | None, _set_option(TextTraining())] = None,
    seed: Seed = 27,
    checkpoint_seconds: SaveEvery = 120.0,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Tune a text encoder on the catalogue's categories and put it into the model store; prints its tag."""
    shop = Shop.open(Settings.from_environment())
    training = overridden(TextTraining(seed=seed), changes or [])
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    start = _start(text_encoder, TextSettings(max_tokens=text_tokens, prefix=text_prefix))
    facts = {"catalog": read.path, "start": start.name, **asdict(training)}
    with (
        joined_processes(shop.device) as processes,
        tracked(shop, "tune-text", facts, tensorboard=tensorboard, is_first=processes.is_first) as run,
    ):
        if processes.is_first:
            tell_catalog(run, read)
        tag = pipeline.tune_text_encoder(
            shop,
            read,
            start,
            training,
            processes,
            save_every_s=checkpoint_seconds,
            told=run.epoch,
        )
        run.tags(encoder=tag)
    if tag:
        out.print(tag)


@app.command("tune-image")
def tune_image(
    catalog: CatalogPath,
    columns: Columns = None,
    backbone: Annotated[str, typer.Option(help=f"One of {', '.join(BACKBONES)}.")] = "mobilenet_v3_small",
    start: Annotated[
        str, typer.Option(help="imagenet (torchvision's weights, needs a network once) or random.")
    ] = "imagenet",
    image_size: Annotated[int, typer.Option(help="Pixels a side that it sees.")] = 224,
    changes: Annotated[list[str] | None, _set_option(ImageTraining())] = None,
    seed: Seed = 27,
    checkpoint_seconds: SaveEvery = 120.0,
    tensorboard: TensorBoardToo = False,
) -> None:
    """Tune an image encoder on the catalogue's categories and put it into the model store; prints its tag."""
    shop = Shop.open(Settings.from_environment())
    begin = ImageTraining(backbone=backbone, start=start, size=image_size, seed=seed)
    if start == "imagenet":
        begin = overridden(begin, PUBLISHED_START)
    training = overridden(begin, changes or [])
    read = read_catalog(catalog, columns=ColumnMap.parse(columns))
    facts = {"catalog": read.path, **asdict(training)}
    with (
        joined_processes(shop.device) as processes,
        tracked(shop, "tune-image", facts, tensorboard=tensorboard, is_first=processes.is_first) as run,
    ):
        if processes.is_first:
            tell_catalog(run, read)
        tag = pipeline.make_image_encoder(
            shop,
            read,
            training,
            weights="catalogue",
            processes=processes,
            save_every_s=checkpoint_seconds,
            told=run.epoch,
        )
        run.tags(encoder=tag)
    if tag:
        out.print(tag)


def _start(source: str, settings: TextSettings) -> TextEncoder:
    if source.startswith(f"{store.TEXT_ENCODER}:"):
        return store.load_text_encoder(store.resolve(source).partition(":")[2])
    return pretrained_text_encoder(source, settings)
