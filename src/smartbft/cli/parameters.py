"""Option types of our own, and options that several commands share."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smartbft.config import PERSISTENCE_MODES
from smartbft.config.toml import check_plain
from smartbft.config.units import parse_duration
from smartbft.errors import LocalProtocolError

Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:
    _IntegerType = click.ParamType[int]
    _BytesType = click.ParamType[bytes]
    _NamedValueType = click.ParamType[tuple[str, Any]]
else:  # generic only in new releases of click
    _IntegerType = _BytesType = _NamedValueType = click.ParamType


class DurationType(_IntegerType):
    """A duration with a unit; becomes microseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse ``"250ms"``; a number is taken as microseconds (a default)."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except LocalProtocolError as error:
            self.fail(str(error), param, ctx)


class HexKeyType(_BytesType):
    """A 32-byte key or id as 64 hexadecimal digits."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Parse the digits."""
        if isinstance(value, bytes):
            return value
        try:
            found = bytes.fromhex(value)
        except ValueError:
            found = b""
        if len(found) != 32:
            self.fail(f"'{value}' is not 64 hexadecimal digits", param, ctx)
        return found


class NamedValueType(_NamedValueType):
    """``name=value``, the value written as in TOML; becomes a pair."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parse ``'limit=10'`` or ``'names=["a", "b"]'``."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key.isidentifier():
            self.fail(f"'{value}' is not NAME=VALUE", param, ctx)
        try:
            found = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            found = {}
        if list(found) != ["value"]:
            self.fail(f"'{text}' is no TOML value: strings need quotes, as in {key}='\"text\"'", param, ctx)
        return key, found["value"]


class OutputFile(click.Path):
    """A file to write: refused before anything is done for it if it cannot be made there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See that the folder is there and may be written."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            reason = "may not be written" if path.parent.is_dir() else "does not exist"
            self.fail(f"the folder {path.parent} {reason}", param, ctx)
        return path


DURATION = DurationType()
OUTPUT_FILE = OutputFile()
NAMED_VALUE = NamedValueType()
HEX_KEY = HexKeyType()


def application_parameters_options(function: Function) -> Function:
    """The ``--application-parameter`` and ``--parameters`` options: `application_parameters` puts them together."""
    named = click.option(
        "--application-parameter",
        "named",
        type=NAMED_VALUE,
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the application, written as in TOML; may be given several times.",
    )
    together = click.option(
        "--parameters",
        "parameters_json",
        metavar="JSON",
        help="The same for several at once: a JSON object of parameters.",
    )
    return named(together(function))


def application_parameters(named: Sequence[tuple[str, Any]], parameters_json: str | None) -> dict[str, Any]:
    """The application's parameters, as a genesis would hold them.

    Raises:
        UsageError: one is given twice, the JSON is none, or a value is not one that a genesis may hold.
    """
    found = _parse_object(parameters_json) if parameters_json is not None else {}
    for name, value in named:
        if name in found:
            raise click.UsageError(f"the application's parameter '{name}' is given twice")
        found[name] = value
    try:
        check_plain(found, "")
    except LocalProtocolError as error:
        raise click.UsageError(f"the application's parameter {error}") from None
    return found


def _parse_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--parameters is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError("--parameters is no JSON object")
    return found


def look_in_working_folder() -> None:
    """Have modules of the user's own found in the working folder, as with ``python -m``."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def persistence_option(function: Function) -> Function:
    """The ``--persistence`` option."""
    return click.option(
        "--persistence",
        type=click.Choice(PERSISTENCE_MODES),
        default="sync",
        show_default=True,
        help="What an acknowledged request survives: nothing, killed processes, or power loss.",
    )(function)


def profile_option(function: Function) -> Function:
    """The ``--profile`` option: a client profile."""
    return click.option(
        "--profile",
        type=click.Path(path_type=Path),
        default=Path("client.toml"),
        show_default=True,
        envvar="SMARTBFT_PROFILE",
        show_envvar=True,
        help="The client profile that 'smartbft testnet' wrote.",
    )(function)


def timeout_option(default: str) -> Callable[[Function], Function]:
    """The ``--timeout`` option, a duration."""

    def decorate(function: Function) -> Function:
        option = click.option("--timeout", type=DURATION, default=default, show_default=True, help="How long to wait.")
        return option(function)

    return decorate
