"""``smartbft check-application``: run an application in several copies and name the first operation that differs."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import examples, json_option, print_json
from smartbft.cli.parameters import application_parameters, application_parameters_options, look_in_working_folder
from smartbft.errors import LocalProtocolError

_HEXADECIMAL = "hex:"


@click.command(
    "check-application",
    epilog=examples(
        "smartbft check-application key_value --application-parameter 'max_bytes=10'",
        "smartbft check-application locks:Locks --operation locks:operation --count 500",
        "smartbft check-application locks:Locks --recorded operations.txt --json",
    ),
)
@click.argument("name")
@click.option("--operation", metavar="MODULE:FUNCTION", help="Makes operations: function(random, client, number).")
@click.option(
    "--recorded",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Operations, one a line: text, or hexadecimal after 'hex:'.",
)
@click.option("--count", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="Operations to make.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is drawn.")
@application_parameters_options
@click.option(
    "--hash-seed",
    "hash_seeds",
    type=click.IntRange(0, 2**32 - 1),
    multiple=True,
    default=(0, 1, 2),
    show_default=True,
    help="PYTHONHASHSEED of another process; may be repeated.",
)
@click.option("--whole-batches", is_flag=True, help="Never split a batch: for batch applications that see its bounds.")
@json_option
def check_application_command(
    name: str,
    operation: str | None,
    recorded: Path | None,
    count: int,
    seed: int,
    named: tuple[tuple[str, Any], ...],
    parameters_json: str | None,
    hash_seeds: tuple[int, ...],
    whole_batches: bool,
    as_json: bool,
) -> None:
    """Check that application NAME is deterministic: a built-in name, or MODULE:CLASS from the working folder.

    Several copies execute the same operations: again from the start, in whole batches, restored from snapshots at
    different points, and in processes with other hash seeds, time zones, clocks and environments. The first operation
    with a different result or snapshot is named, with both; then the exit code is 7.
    """
    from smartbft.testing.determinism import NotDeterministic, check_application

    given = application_parameters(named, parameters_json)
    look_in_working_folder()
    operations, own = _operations(name, operation, recorded)
    try:
        report = check_application(
            name,
            operations,
            count=count,
            seed=seed,
            parameters=own | given,
            hash_seeds=hash_seeds,
            split_batches=not whole_batches,
        )
    except NotDeterministic as error:
        if as_json:
            print_json(dataclasses.asdict(error.divergence))
        raise CheckFailed(str(error)) from None
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    click.echo(
        f"{name}: {report.operations} operations in {report.batches} batches, {report.rejected} rejected, "
        f"{report.refused} refused by check; snapshot of {report.snapshot_bytes} bytes"
    )
    for copy in report.copies:
        click.echo(f"  equal: {copy}")


def _operations(
    name: str, operation: str | None, recorded: Path | None
) -> tuple[Callable[..., bytes] | Sequence[bytes], dict[str, Any]]:
    """The operations to run, and the parameters that go with them."""
    from smartbft.testing.determinism.builtin import BUILT_IN

    if operation is not None and recorded is not None:
        raise click.UsageError("--operation and --recorded exclude each other")
    built_in = BUILT_IN.get(name)
    own = {} if built_in is None else dict(built_in.parameters)
    if operation is not None:
        return _maker(operation), own
    if recorded is not None:
        return _read(recorded), own
    if built_in is None and ":" not in name:
        raise click.UsageError(
            f"there is no application '{name}': it is one of {', '.join(sorted(BUILT_IN))}, or MODULE:CLASS of your own"
        )
    if built_in is None:
        raise click.UsageError(
            f"say which operations '{name}' understands: --operation MODULE:FUNCTION makes them, "
            "--recorded FILE lists them"
        )
    return built_in.operations(), own


def _maker(path: str) -> Callable[..., bytes]:
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.UsageError(f"cannot find '{path}': {error}") from error
    if not callable(found):
        raise click.UsageError(f"'{path}' is no function")
    return found  # type: ignore[no-any-return]


def _read(recorded: Path) -> list[bytes]:
    try:
        lines = recorded.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalProtocolError(f"cannot read {recorded}: {getattr(error, 'strerror', None) or error}") from error
    return [_parse(line, f"{recorded}, line {number}") for number, line in enumerate(lines, 1)]


def _parse(line: str, where: str) -> bytes:
    if not line.startswith(_HEXADECIMAL):
        return line.encode()
    try:
        return bytes.fromhex(line.removeprefix(_HEXADECIMAL))
    except ValueError:
        raise LocalProtocolError(f"{where}: '{line}' is not hexadecimal") from None
