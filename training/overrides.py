"""Settings of a run that are given as words: name=value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from aisle.errors import SettingError

Settings = TypeVar("Settings")


def overridden(settings: Settings, words: Iterable[str]) -> Settings:
    """`settings` with each NAME=VALUE of `words` in place; a name may be one of the settings inside it.
    Raises SettingError for a name that there is not, or a value of another kind than the one it replaces."""
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or name not in names_of(settings):
            wanted = f"NAME=VALUE, with a NAME of {', '.join(names_of(settings))}"
            raise SettingError(f"--set: found {word!r}, wanted {wanted}")
        settings = _with(settings, name, value)
    return settings


def names_of(settings: Any) -> list[str]:
    """The names that can be set, those inside included."""
    names: list[str] = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        names += names_of(value) if is_dataclass(value) else [item.name]
    return names


def _with(settings: Any, name: str, value: str) -> Any:
    for item in fields(settings):
        found = getattr(settings, item.name)
        if item.name == name:
            return replace(settings, **{name: _parsed(name, value, found)})
        if is_dataclass(found) and name in names_of(found):
            return replace(settings, **{item.name: _with(found, name, value)})
    raise AssertionError("unreachable")


def _parsed(name: str, value: str, like: Any) -> Any:
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[value]
        return type(like)(value)
    except (KeyError, ValueError) as error:
        raise SettingError(f"--set {name}: found {value!r}, wanted {kinds[type(like)]}") from error
