"""``smartbft version``: what is installed, for a bug report."""

from __future__ import annotations

import click

from smartbft.cli.output import examples, json_option, print_json
from smartbft.cli.streams import prints_only


@click.command(epilog=examples("smartbft version", "smartbft version --json"))
@json_option
@prints_only
def version(as_json: bool) -> None:
    """Show the versions of the program, its native code and what it runs on."""
    found = environment()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:12} {value}")


def environment() -> dict[str, str]:
    """Versions of everything that a measurement or a bug report should name."""
    import platform
    from importlib import metadata

    from smartbft._fastpath.native import versions

    libraries = {name: metadata.version(name) for name in ("msgspec", "pynacl", "uvloop")}
    native = " ".join(f"{area}={number}" for area, number in sorted(versions().items()))
    return {
        "smartbft": metadata.version("smartbft"),
        "native": native,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **libraries,
    }
