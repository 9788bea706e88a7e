"""``smartbft genesis``: what a genesis file says, and whether its copies are of one chain."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.streams import prints_only
from smartbft.config import ClientProfile, Genesis, ReplicaConfig
from smartbft.disk import write_file
from smartbft.errors import ConfigError

# As `Genesis.dump` writes it. It is a comment, so nothing but people believes it.
_COMMENT = re.compile(r"^(#[ \t]*chain id:[ \t]*)([0-9a-fA-F]+)[ \t]*$", re.MULTILINE)
_FILE = "genesis.toml"


@dataclass(frozen=True)
class Copy:
    """A genesis file.

    Attributes:
        path: where it is.
        genesis: what it holds.
        comment: the chain id that its comment names; empty: it has no such comment.
    """

    path: Path
    genesis: Genesis
    comment: str

    @property
    def chain(self) -> str:
        """The chain id, in hexadecimal."""
        return self.genesis.chain_id.hex()

    @property
    def stale(self) -> bool:
        """Whether the comment names another chain: the file was edited after it was written."""
        return bool(self.comment) and self.comment != self.chain


@click.group(cls=SuggestingGroup, epilog=examples("smartbft genesis show net", "smartbft genesis check net --json"))
def genesis() -> None:
    """Look at genesis files. The chain id is the hash of what such a file says; comments and layout do not count.

    PATH is a genesis file, a client profile, a replica's home, or a folder of a test network.
    """


@genesis.command(epilog=examples("smartbft genesis show net/genesis.toml", "smartbft genesis show net --json"))
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@prints_only
def show(path: Path, as_json: bool) -> None:
    """Show the chain id of PATH, its members, parameters and application."""
    found = _load(_files(path)[0])
    if as_json:
        print_json(_as_json(found))
        return
    chain = found.genesis
    created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=chain.created)
    rows = [
        ("chain id", found.chain),
        ("chain name", chain.chain_name),
        ("created", f"{created:%Y-%m-%dT%H:%M:%S.%fZ}"),
        ("replicas", f"{chain.view.n}, of which {chain.view.f} may be faulty; a quorum has {chain.view.quorum}"),
        ("application", chain.application),
        *((f"application.parameters.{name}", value) for name, value in sorted(chain.application_parameters.items())),
        *((f"parameters.{name}", value) for name, value in _parameters(chain).items()),
    ]
    print_table(("what", "value"), [(name, str(value)) for name, value in rows])
    members = [
        (one.id, str(one.replica_address), str(one.client_address), one.permanent_key.hex()) for one in chain.members
    ]
    print_table(("replica", "replica_address", "client_address", "permanent_key"), members)
    if found.stale:
        say(_stale(found))


@genesis.command(
    epilog=examples("smartbft genesis check net", "smartbft genesis check genesis.toml net/replica-0 --write-comment")
)
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option("--write-comment", is_flag=True, help="Write the chain id into the comments that name another one.")
@json_option
def check(paths: tuple[Path, ...], write_comment: bool, as_json: bool) -> None:
    """Check that all copies are of one chain.

    Every genesis file of each PATH is checked: that it is valid, that all are of one chain, and that no comment names
    another one. A genesis that is edited makes another chain: its copies have to be edited alike before the chain
    begins, and never afterwards.

    Exit code 3 if a file is wrong, if the files are of several chains, or if a comment names another chain than the
    file is of.
    """
    copies = [_load(file) for file in dict.fromkeys(file for path in paths for file in _files(path))]
    if write_comment:
        copies = [_with_comment(copy) if copy.stale else copy for copy in copies]
    if as_json:
        print_json([_as_json(copy) for copy in copies])
    else:
        print_table(("file", "chain id"), [(str(copy.path), copy.chain) for copy in copies])
    chains = {copy.chain for copy in copies}
    if len(chains) > 1:
        raise ConfigError(f"these files are of {len(chains)} chains: replicas and clients need the same genesis")
    stale = [copy for copy in copies if copy.stale]
    if stale:
        raise ConfigError("; ".join(_stale(copy) for copy in stale))
    if not as_json:
        say(f"{len(copies)} {'file' if len(copies) == 1 else 'files'} of one chain")


def _files(path: Path) -> list[Path]:
    """The genesis files that `path` stands for.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        return [_of_profile(path) if _is_profile(path) else path]
    if (path / "config.toml").is_file():
        return [ReplicaConfig.load(path).genesis_path]
    found = [path / _FILE] if (path / _FILE).is_file() else []
    profile = path / "client.toml"
    if profile.is_file():
        found.append(_of_profile(profile))
    found += [ReplicaConfig.load(home.parent).genesis_path for home in sorted(path.glob("replica-*/config.toml"))]
    if not found:
        what = f"there is no genesis in {path}" if path.is_dir() else f"there is no file or folder {path}"
        raise ConfigError(f"{what}: give a genesis file, a client profile, or the home of a replica")
    return list(dict.fromkeys(found))


def _is_profile(path: Path) -> bool:
    try:
        return re.search(r"^\s*genesis\s*=", path.read_text(errors="replace"), re.MULTILINE) is not None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None


def _of_profile(path: Path) -> Path:
    return ClientProfile.genesis_path(path)


def _load(path: Path) -> Copy:
    loaded = Genesis.load(path)
    named = _COMMENT.search(path.read_text(errors="replace"))
    return Copy(path, loaded, named[2].lower() if named is not None else "")


def _with_comment(copy: Copy) -> Copy:
    """The copy, its file's comment put right; nothing else of the file changes."""
    text = _COMMENT.sub(lambda found: found[1] + copy.chain, copy.path.read_text(), count=1)
    write_file(copy.path, text.encode(), copy.path.stat().st_mode & 0o777)
    return _load(copy.path)


def _stale(copy: Copy) -> str:
    return (
        f"{copy.path}: a comment says chain id {copy.comment[:16]}..., but the file is of chain {copy.chain[:16]}...: "
        "it was edited after it was written ('smartbft genesis check --write-comment' puts the comment right)"
    )


def _parameters(chain: Genesis) -> dict[str, str]:
    return {name: str(value) for name, value in chain.parameters_as_written().items()}


def _as_json(copy: Copy) -> dict[str, Any]:
    chain = copy.genesis
    return {
        "file": str(copy.path),
        "chain_id": copy.chain,
        "comment": copy.comment,
        "chain_name": chain.chain_name,
        "created": chain.created,
        "n": chain.view.n,
        "f": chain.view.f,
        "quorum": chain.view.quorum,
        "application": {"name": chain.application, "parameters": chain.application_parameters},
        "parameters": asdict(chain.parameters),
        "members": [
            {
                "id": one.id,
                "replica_address": str(one.replica_address),
                "client_address": str(one.client_address),
                "permanent_key": one.permanent_key,
                "consensus_key": one.consensus_key,
                "certificate_sha256": one.certificate_sha256,
            }
            for one in chain.members
        ],
    }
