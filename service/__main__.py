"""`python -m service serve`: the server, with safe defaults."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aisle.errors import SettingError
from service.settings import Settings, describe

cli = typer.Typer(add_completion=False, no_args_is_help=True, help="Serve a classifier over HTTP.")

# BentoML, Evidently and Feast report usage to their makers unless told not to.
QUIET = {"BENTOML_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1", "ANONYMIZED_TELEMETRY": "False"}


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    workers: Annotated[int | None, typer.Option(min=1, help="Overrides AISLE_WORKERS.")] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first."""
    environ = {**os.environ, **QUIET}
    if workers is not None:
        environ["AISLE_WORKERS"] = str(workers)
    try:
        settings = Settings.from_environment(environ)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from error
    environ.setdefault("BENTOML_HOME", str(settings.home.absolute() / "bentoml"))
    Path(environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    os.environ.update(environ)
    check_model(settings.model)
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "service.app:Aisle",
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--timeout-graceful-shutdown", str(settings.stop_timeout_s)]
    sys.stdout.flush()
    os.execve(sys.executable, command, environ)  # signals then reach BentoML's supervisor itself


def check_model(tag: str) -> None:
    """End here, with one line, where the model store does not know `tag`. (Workers verify it whole; the
    supervisor would start one that fails again and again.)"""
    import bentoml  # reads BENTOML_HOME when it is imported

    name = tag.partition(":")[0]
    held = [str(model.tag) for model in bentoml.models.list() if model.tag.name == name]
    if tag not in held and not (tag.endswith(":latest") and held):
        wanted = ", ".join(held) or f"a model in {os.environ['BENTOML_HOME']}: python -m training fit"
        raise typer.BadParameter(f"AISLE_MODEL: found {tag!r}, wanted {wanted}")


@cli.command()
def settings() -> None:
    """List the AISLE_* variables: name, default and meaning."""
    table = Table("variable", "default", "meaning")
    for row in describe():
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    cli()
