"""`python -m service keys`: make, list and revoke API keys."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aisle.errors import KeysError, SettingError
from service.keys import KeyBook, Scope
from service.settings import Settings

keys = typer.Typer(no_args_is_help=True, help="API keys, which AISLE_AUTH=keys asks for.")

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def read_expiry(text: str) -> float:
    """`90d` (d, h, m or s) as the time it means, counted from now. Raises typer.BadParameter."""
    match = re.fullmatch(r"([1-9]\d{0,5})([dhms])", text)
    if match is None:
        raise typer.BadParameter(f"--expires: found {text!r}, wanted a number of d, h, m or s such as 90d")
    return round(time.time(), 3) + int(match[1]) * _UNITS_S[match[2]]


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Who holds it; it stands in the audit lines.")],
    scope: Annotated[list[Scope], typer.Option(help="What it opens; give one --scope each.")],
    rate: Annotated[float | None, typer.Option(help="Most products a second; without it any.")] = None,
    expires: Annotated[str | None, typer.Option(help="Its life: 90d, 12h, 30m; without it no end.")] = None,
) -> None:
    """Make a key. It alone goes to stdout, this once: only its hash is kept."""
    expires_s = None if expires is None else read_expiry(expires)
    try:
        key, text = open_book().add(name, scope, rate=rate, expires_s=expires_s)
    except KeysError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(text)
    typer.echo(f"key {key.id} of {key.name}; it is not shown again", err=True)


@keys.command("list")
def list_() -> None:
    """List the keys: what they open, and whether they work."""
    try:
        held = open_book().read()
    except KeysError as error:
        raise typer.BadParameter(str(error)) from error
    table = Table("id", "name", "scopes", "products a second", "made (UTC)", "expires (UTC)", "state")
    for key in held:
        rate = "any" if key.rate is None else f"{key.rate:g}"
        scopes = " ".join(sorted(key.scopes))
        dates = [_date(key.created_s), "never" if key.expires_s is None else _date(key.expires_s)]
        table.add_row(key.id, key.name, scopes, rate, *dates, key.state(time.time()))
    Console(width=160).print(table if held else "no key yet; `python -m service keys add` makes one")


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="From `keys list`.")]) -> None:
    """Revoke a key. Every worker refuses it within two seconds."""
    try:
        key = open_book().revoke(key_id)
    except KeysError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"key {key.id} of {key.name} is revoked")


def open_book() -> KeyBook:
    """The key file that AISLE_KEYS names. Raises typer.BadParameter where a variable is wrong."""
    try:
        return KeyBook(Settings.from_environment().keys_file)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from error


def _date(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M}"
