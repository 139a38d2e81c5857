"""`python -m training ui`: MLflow's pages about a shop's runs; and the option of commands that make runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from aisle.errors import SettingError
from training.outbox import QUIET, tracking_uri, without_secrets
from training.settings import Settings

app = typer.Typer()

TensorBoardToo = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write TensorBoard's files too: AISLE_HOME/tracking/tensorboard."),
]


@app.command()
def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it sees all runs.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's pages about the runs: serves them until Ctrl-C."""
    environment = Settings.from_environment()
    uri = tracking_uri(environment)
    if uri.startswith(("http://", "https://")):
        raise SettingError(f"MLFLOW_TRACKING_URI: {without_secrets(uri)} is a server; its pages are there")
    environment.tracking_folder.mkdir(parents=True, exist_ok=True)
    files = ["--artifacts-destination", (environment.tracking_folder / "artifacts").as_uri()]
    options = ["--backend-store-uri", uri, *files, "--host", host, "--port", str(port), "--workers", "1"]
    # In this process's place, so that it ends as whoever started us expects.
    os.execve(
        sys.executable,
        [sys.executable, "-m", "mlflow", "server", *options],
        {**QUIET, **os.environ},
    )
