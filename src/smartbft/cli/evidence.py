"""``smartbft evidence``: check and list evidence against members. Needs no running replica and no quorum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json, print_rows, print_table, say
from smartbft.cli.streams import prints_only
from smartbft.config import Genesis, ReplicaConfig
from smartbft.errors import ConfigError, MalformedMessage

if TYPE_CHECKING:
    from smartbft.core.evidence import Evidence, Statement, Verdict


@click.group(
    cls=SuggestingGroup,
    epilog=examples(
        "smartbft evidence verify 2-0123456789abcdef.evidence --genesis net/genesis.toml",
        "smartbft evidence list net/replica-0 --json",
    ),
)
def evidence() -> None:
    """Check and list evidence: two statements that one replica signed, and that no correct one signs both."""


@evidence.command(
    epilog=examples(
        "smartbft evidence verify 2-0123456789abcdef.evidence --genesis net/genesis.toml",
        "smartbft evidence verify net/replica-0/evidence/2-0123456789abcdef.evidence --genesis net/genesis.toml --json",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--genesis", "genesis_path", type=click.Path(path_type=Path), required=True, help="Of the chain.")
@json_option
def verify(file: Path, genesis_path: Path, as_json: bool) -> None:
    """Check the evidence in FILE with the keys in the genesis.

    Exit code 0: it holds, the accused has lied. 7: it does not hold, and says nothing about anybody; the reason is
    printed. 3: the file cannot be read, or the genesis is wrong.
    """
    from smartbft.core.evidence import decode_evidence

    genesis = Genesis.load(genesis_path)
    content = _read(file)
    try:
        found = decode_evidence(content)
    except MalformedMessage as error:
        raise CheckFailed(f"{file}: {error}") from None
    verdict = _verdict(found, genesis)
    if as_json:
        print_json(_facts(file, found, verdict))
    elif verdict.offence is not None:
        rows = [("accused", f"replica {found.accused}"), ("has signed", verdict.offence.value)]
        rows += [("first", _in_words(found.first)), ("second", _in_words(found.second))]
        rows += [("verdict", "it holds: no correct replica signs both")]
        print_rows(rows, f"evidence on chain {found.chain_id.hex()}")
    if not verdict.holds:
        raise CheckFailed(f"{file}: the evidence against replica {found.accused} does not hold: {verdict.reason}")


@evidence.command(
    "list", epilog=examples("smartbft evidence list net/replica-0", "smartbft evidence list net/replica-0 --json")
)
@click.argument("home", type=click.Path(path_type=Path))
@json_option
@prints_only
def list_evidence(home: Path, as_json: bool) -> None:
    """List what the replica in HOME has gathered. Each file is checked against its genesis."""
    from smartbft.storage.evidence import EvidenceFolder

    config = ReplicaConfig.load(home)
    genesis = Genesis.load(config.genesis_path)
    rows = [_row(path, genesis) for path in EvidenceFolder(config.evidence_folder).files()]
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("file", "accused", "holds", "what")
        print_table(columns, [tuple(row[name] for name in columns) for row in rows])
    else:
        say("no evidence against anybody")


def _row(path: Path, genesis: Genesis) -> dict[str, Any]:
    from smartbft.core.evidence import decode_evidence

    try:
        found = decode_evidence(_read(path))
    except MalformedMessage as error:
        return {"file": str(path), "accused": None, "holds": False, "what": str(error)}
    verdict = _verdict(found, genesis)
    what = verdict.offence.value if verdict.offence is not None else verdict.reason
    return {"file": str(path), "accused": found.accused, "holds": verdict.holds, "what": what}


def _verdict(found: Evidence, genesis: Genesis) -> Verdict:
    from smartbft.core.evidence import verify as check
    from smartbft.crypto.domains import Domains

    return check(found, genesis.view, Domains(genesis.chain_id))


def _facts(file: Path, found: Evidence, verdict: Verdict) -> dict[str, Any]:
    return {
        "file": str(file),
        "chain": found.chain_id,
        "accused": found.accused,
        "holds": verdict.holds,
        "offence": verdict.offence.name.lower() if verdict.offence is not None else None,
        "reason": verdict.reason,
        "first": _in_words(found.first),
        "second": _in_words(found.second),
    }


def _in_words(statement: Statement) -> str:
    from smartbft.messages import Accept, StopData

    if isinstance(statement, Accept):
        return f"ACCEPT of {statement.digest.hex()[:16]} in instance {statement.instance}, regency {statement.regency}"
    if isinstance(statement, StopData):
        accepted = statement.accepted
        lock = f"{accepted.digest.hex()[:16]} of regency {accepted.regency}" if accepted is not None else "nothing"
        return f"STOPDATA for regency {statement.regency}: {lock} accepted in instance {statement.instance}"
    signers = ", ".join(str(stop_data.signer) for stop_data in statement.stop_data)
    return f"SYNC of regency {statement.regency}: STOPDATA of replicas {signers}, {len(statement.value)} value bytes"


def _read(file: Path) -> bytes:
    from smartbft.limits import MAX_EVIDENCE_BYTES

    try:
        with file.open("rb") as opened:
            return opened.read(MAX_EVIDENCE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", file=str(file)) from None
