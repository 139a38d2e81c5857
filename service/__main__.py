"""`python -m service serve`: the server, with safe defaults."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aisle.environment import QUIET
from aisle.errors import AisleError, KeysError, LedgerError, SettingError
from aisle.ledger import CHAMPION, Ledger, ledger_url
from aisle.manifest import verify_manifest
from service.address import check_private, resolve
from service.balance import balance_file
from service.key_commands import keys
from service.keys import KeyBook
from service.settings import Places, Settings, describe

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Serve a classifier over HTTP, and say which.",
    pretty_exceptions_enable=False,  # settings hold passwords
)
cli.add_typer(keys, name="keys")

console = Console(width=None if sys.stdout.isatty() else 160)

ROOT = Path(__file__).parents[1]  # the checkout, or `src` of a bento


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    workers: Annotated[int | None, typer.Option(min=1, help="Overrides AISLE_WORKERS.")] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first."""
    if workers is not None:
        os.environ["AISLE_WORKERS"] = str(workers)
    settings = read_settings()
    host, tls_options = check_doors(settings, host)
    check_port("--port", host, port)
    if settings.grpc_port == port:
        raise typer.BadParameter(
            f"AISLE_GRPC_PORT: found {port}, which is --port, wanted another, or 0 for no gRPC"
        )
    if settings.grpc_port:
        check_port("AISLE_GRPC_PORT", host, settings.grpc_port)
    os.environ["AISLE_GRPC_HOST"] = host
    lock_store(Places.from_environment().bentoml_home)
    check_model(settings)
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
    command += ["--timeout-graceful-shutdown", str(settings.stop_timeout_s), *tls_options]
    # BentoML's images set it, and with it BentoML never starts a dead worker again.
    os.environ.pop("BENTOML_CONTAINERIZED", None)
    sys.stdout.flush()
    os.execve(sys.executable, command, os.environ)  # signals then reach BentoML's supervisor itself


def read_settings() -> Settings:
    """The settings, with this process's environment made ready for BentoML, which reads its own when it is
    imported. Ends the command with one line where a variable is wrong."""
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        raise typer.BadParameter(str(error)) from error
    os.environ.update(QUIET)
    os.environ.setdefault("BENTOML_HOME", str(settings.home.absolute() / "bentoml"))
    Places.from_environment().bentoml_home.mkdir(parents=True, exist_ok=True)
    return settings


def check_doors(settings: Settings, host: str) -> tuple[str, list[str]]:
    """The address to listen on, and BentoML's options for TLS. Ends the command with one line where other
    machines would get in without a key, or TLS cannot be spoken."""
    try:
        check_private(settings.auth, host, "--host")
        tls = settings.tls()
        if settings.auth == "keys" and not KeyBook(settings.keys_file).read():
            console.print(
                f"[yellow]nobody gets in:[/yellow] found no key in {settings.keys_file}, wanted one: "
                "python -m service keys add NAME --scope classify"
            )
        # The address that was judged, so that no other answer of the resolver is listened on.
        return resolve(host)[0], tls.bentoml_options() if tls else []
    except (SettingError, KeysError) as error:
        raise typer.BadParameter(str(error)) from error


def check_port(name: str, host: str, port: int) -> None:
    """End here, with one line, where the port is taken: BentoML's supervisor would try again for ever."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            found = f"{port} on {host}, of which the system says {error.strerror!r}"
            raise typer.BadParameter(f"{name}: found {found}, wanted a free port of this machine") from error


def lock_store(bentoml_home: Path) -> None:
    """End here, with one line, where a service runs on this BENTOML_HOME: BentoML keeps the metrics of its
    workers there, and empties them when it starts. The lock lasts as long as the supervisor."""
    lock = os.open(bentoml_home / "service.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise typer.BadParameter(
            f"BENTOML_HOME: found {bentoml_home}, on which a service runs already, wanted a model store of "
            "this service's own; AISLE_WORKERS gives one service more processes"
        ) from error
    os.set_inheritable(lock, True)  # what runs here next is BentoML
    balance_file(bentoml_home).unlink(missing_ok=True)  # of workers that are gone


def check_model(settings: Settings) -> None:
    """End here, with one line, where nothing that could be served is whole: the supervisor would start
    workers that fail again and again. The first champion is written down, so that workers which start
    later follow the same one."""
    from aisle import store  # imports BentoML, which reads BENTOML_HOME then

    held = store.versions(store.CLASSIFIER)
    if settings.model != CHAMPION:
        name, _, version = settings.model.partition(":")
        if (version != "latest" and version not in store.versions(name)) or not store.versions(name):
            wanted = ", ".join(f"{store.CLASSIFIER}:{one}" for one in held) or _nothing_held()
            raise typer.BadParameter(f"AISLE_MODEL: found {settings.model!r}, wanted {wanted}")
        check_whole([settings.model])
        return
    if not held and not adopt_from_bento():
        raise typer.BadParameter(f"model store: found no {store.CLASSIFIER}, wanted {_nothing_held()}")
    try:
        ledger = open_ledger(settings)
        if ledger.champion() is None:
            ledger.deploy(store.resolve(store.LATEST), "the newest model when serving began")
        check_whole([*dict.fromkeys(one.model for one in ledger.deployments()), store.LATEST])
    except LedgerError as error:
        console.print(f"[yellow]the ledger is away, so the newest model is served:[/yellow] {error}")
        check_whole([store.LATEST])


def adopt_from_bento() -> bool:
    """Whether this code runs from a bento that carries a classifier, which is in the store then. Ends the
    command with one line where its model is damaged."""
    from aisle import store

    if not (ROOT.parent / "bento.yaml").is_file():
        return False
    try:
        adopted = store.adopt(ROOT.parent / "models")
    except AisleError as error:
        raise typer.BadParameter(f"the bento's model: {error}") from error
    if adopted:
        console.print(f"the model store is empty, so the bento's model is served: {adopted[-1]}")
    return bool(adopted)


def check_bundle(tag: str) -> None:
    """Raise AisleError unless the classifier can be read with both its encoders."""
    from aisle import store

    bundle = store.load_bundle(tag)
    verify_manifest(store.find(f"{store.TEXT_ENCODER}:{bundle.text_encoder.revision}"))
    verify_manifest(store.find(f"{store.IMAGE_ENCODER}:{bundle.image_encoder.revision}"))


def check_whole(tags: Sequence[str]) -> None:
    """End here, with one line, unless one of the classifiers is whole."""
    failures = []
    for tag in tags:
        try:
            check_bundle(tag)
            return
        except AisleError as error:
            failures.append(error)
    raise typer.BadParameter(f"no model can be served: {failures[0]}") from failures[0]


def _nothing_held() -> str:
    from aisle.store import CLASSIFIER, MADE_BY

    return f"a model in {Places.from_environment().bentoml_home}: {MADE_BY[CLASSIFIER]}"


def open_ledger(settings: Settings) -> Ledger:
    """The ledger with its tables, for who can do nothing without. Raises LedgerError."""
    ledger = Ledger.open(ledger_url(settings.home, settings.database_url))
    ledger.create_tables()
    return ledger


@cli.command()
def promote(
    tag: Annotated[str, typer.Argument(help="A classifier's tag or version, or latest.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand",
) -> None:
    """Make a classifier the champion. Every worker that serves the champion follows within seconds. A
    challenger that is promoted challenges no more."""
    settings = read_settings()
    try:
        deployment = open_ledger(settings).deploy(whole_bundle(tag), reason)
    except AisleError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(f"{deployment.model} is the champion from now on")


def whole_bundle(tag: str) -> str:
    """The full tag of a classifier that was verified here, so that a broken one is refused before it is
    announced. Raises AisleError."""
    from aisle import store

    wanted = store.resolve(tag if ":" in tag else f"{store.CLASSIFIER}:{tag}")
    check_bundle(wanted)
    return wanted


@cli.command()
def challenge(
    tag: Annotated[str, typer.Argument(help="A classifier's tag or version, or latest.")],
    mode: Annotated[
        str, typer.Option(help="shadow: copies, answered to nobody; canary: answers clients.")
    ] = "shadow",
    share: Annotated[float, typer.Option(help="Of the traffic: more than 0, at most 1.")] = 0.1,
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand",
) -> None:
    """Set a classifier beside the champion, or change the mode and share of the one that is there."""
    settings = read_settings()
    try:
        challenger = open_ledger(settings).challenge(whole_bundle(tag), mode=mode, share=share, reason=reason)
    except AisleError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(f"{challenger.model} is the challenger from now on: {mode} of {share:.1%}")


@cli.command()
def withdraw(reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand") -> None:
    """Let the challenger challenge no more."""
    try:
        ledger = open_ledger(read_settings())
        challenger = ledger.challenger()
        if challenger is None:
            raise AisleError("withdraw: found no challenger, wanted one")
        ledger.withdraw(reason)
    except AisleError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(f"{challenger.model} challenges no more")


@cli.command()
def rollback(reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand") -> None:
    """Make the champion before the present one the champion again."""
    settings = read_settings()
    try:
        ledger = open_ledger(settings)
        history = ledger.deployments()
        before = next((old for old in history if old.model != history[0].model), None)
        if before is None:
            held = history[0].model if history else "no deployment"
            raise AisleError(f"rollback: found {held} alone in the ledger, wanted a champion before it")
        deployment = ledger.deploy(before.model, f"rollback from {history[0].model}: {reason}")
    except AisleError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(f"{deployment.model} is the champion again")


@cli.command()
def deployments(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """List the champions and challengers of late, newest first."""
    try:
        history = open_ledger(read_settings()).deployments(limit, role=None)
    except LedgerError as error:
        raise typer.BadParameter(str(error)) from error
    table = Table("since (UTC)", "role", "model", "reason")
    for one in history:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.at_s))
        role = f"{one.role}, {one.mode} of {one.share:.1%}" if one.share is not None else one.role
        table.add_row(since, role, one.model or "none", one.reason)
    console.print(table if history else "no deployment yet; `python -m service serve` makes the first")


@cli.command()
def bentofile(
    tag: Annotated[str, typer.Argument(help="A classifier's tag or version, or latest.")] = "latest",
) -> None:
    """Print bentofile.yaml with a classifier and its encoders, for `bentoml build -f`: the bento carries
    them, and serves them where its model store is empty."""
    read_settings()
    from aisle import store

    try:
        model = whole_bundle(tag)
        bundle = store.load_bundle(model)
    except AisleError as error:
        raise typer.BadParameter(str(error)) from error
    encoders = (
        f"{store.TEXT_ENCODER}:{bundle.text_encoder.revision}",
        f"{store.IMAGE_ENCODER}:{bundle.image_encoder.revision}",
    )
    models = "".join(f'  - "{one}"\n' for one in (model, *encoders))
    print(f"{(ROOT / 'bentofile.yaml').read_text()}models:\n{models}", end="")


@cli.command()
def settings() -> None:
    """List the AISLE_* variables: name, default and meaning."""
    table = Table("variable", "default", "meaning")
    for row in describe():
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    cli()
