"""The commands of `python -m monitoring`."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from monitoring.settings import Settings, describe

if TYPE_CHECKING:
    from monitoring.watch import Watch

TOO_FEW = 3  # exit code

app = typer.Typer(
    help="Watch what the service answers, and retrain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def watch(
    once: Annotated[
        bool,
        typer.Option(
            "--once", help=f"Judge the last window, print it, write its report; {TOO_FEW} if there is none."
        ),
    ] = False,
) -> None:
    """Judge every window of predictions, and serve what is seen to Prometheus, until SIGTERM or Ctrl-C."""
    from aisle import store  # imports BentoML and torch, which a report does without
    from aisle.ledger import Ledger
    from monitoring.exporter import Exporter
    from monitoring.reports import Reports
    from monitoring.watch import Watch

    settings = Settings.from_environment()
    _log()
    watching = Watch(
        Ledger.open(settings.ledger_url),
        settings=settings,
        newest=lambda: store.resolve(store.LATEST),
        load=store.load_bundle,
        exporter=Exporter(),
        reports=Reports(),
    )
    try:
        if once:
            _once(watching, settings)
        else:
            _serve(watching, settings)
    finally:
        watching.reports.close()
        watching.ledger.close()


@app.command()
def report(
    windows: Annotated[list[Path], typer.Argument(help="window.npz files that `watch` wrote.", exists=True)],
) -> None:
    """Write Evidently's report of each window, HTML and JSON, beside it."""
    from monitoring.evidently_report import write_report

    for window in windows:
        typer.echo(write_report(window))


@app.command()
def settings() -> None:
    """List every environment variable, its default and its meaning."""
    table = Table("variable", "default", "meaning")
    for row in describe():
        table.add_row(*row)
    Console().print(table)


@app.command()
def retrain(
    once: Annotated[bool, typer.Option("--once", help="One round if it is due, then end.")] = False,
    now: Annotated[
        str, typer.Option("--now", help="A round by hand, for this reason, whatever is due; then end.")
    ] = "",
    catalog: Annotated[str, typer.Option(help="The catalogue to start from; default AISLE_CATALOG.")] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether a retrainer of this shop runs; 1 if none does.")
    ] = False,
) -> None:
    """Train a challenger when the ledger says so, and promote it if it is better, until SIGTERM or Ctrl-C."""
    from monitoring.retrain import Retrainer, is_alive, training_command

    settings = Settings.from_environment()
    if check:
        alive = is_alive(settings.home)
        typer.echo(
            f"a retrainer of {settings.home} runs" if alive else f"no retrainer of {settings.home} runs"
        )
        raise typer.Exit(0 if alive else 1)
    from aisle import store
    from aisle.ledger import Ledger

    _log()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    retrainer = Retrainer(
        Ledger.open(settings.ledger_url),
        settings=settings,
        catalog=catalog or settings.catalog,
        train=training_command(),
        newest=lambda: store.resolve(store.LATEST),
        load=store.load_bundle,
    )
    try:
        if once or now:
            typer.echo(retrainer.once(now))
        else:
            retrainer.run()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
    finally:
        retrainer.ledger.close()


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plugins


def _serve(watching: Watch, settings: Settings) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    port = watching.exporter.start(settings.host, settings.port)
    logging.getLogger("aisle.monitoring").info("metrics on http://%s:%d/metrics", settings.host, port)
    try:
        watching.run(stop)
    finally:
        watching.exporter.close()


def _once(watching: Watch, settings: Settings) -> None:
    console = Console()
    judged = watching.once()
    if isinstance(judged, int):
        typer.echo(
            f"found {judged} predictions of the champion, wanted a window of {settings.window}", err=True
        )
        raise typer.Exit(TOO_FEW)
    window, quality = judged
    first, last = window.numbers
    table = Table(
        "stream", "statistic", "threshold", "ratio", "p-value", "drift",
        title=f"{window.model}, predictions {first} to {last}, {window.products} products",
    )  # fmt: skip
    for verdict in window.verdicts:
        numbers = (verdict.statistic, verdict.threshold, verdict.ratio, verdict.p_value)
        table.add_row(
            verdict.stream, *(f"{number:.4g}" for number in numbers), "DRIFT" if verdict.alarm else ""
        )
    console.print(table)
    if quality is not None:
        console.print(
            f"accuracy {quality.accuracy:.3f} on {quality.labels} labels, "
            f"{quality.reference:.3f} on the test split"
        )
    if watching.reports.finish():
        typer.echo("the report failed; its report.log says why", err=True)
