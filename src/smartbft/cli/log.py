"""``smartbft log``: look inside a replica's log. Read-only; needs no running replica and no quorum."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.streams import prints_only
from smartbft.config import Genesis, ReplicaConfig
from smartbft.core.records import ACCEPT, DECISION, REGENCY, SYNC, VALUE
from smartbft.errors import CorruptLog, RemoteProtocolError, StorageError
from smartbft.storage.lives import NEVER_STARTED

if TYPE_CHECKING:
    from smartbft.storage.inspection import LogReport

KIND_NAMES = {VALUE: "value", ACCEPT: "accept", DECISION: "decision", REGENCY: "regency", SYNC: "sync"}


@click.group(
    cls=SuggestingGroup,
    epilog=examples("smartbft log inspect net/replica-0", "smartbft log verify net/replica-0 --json"),
)
def log() -> None:
    """Look inside a replica's log. Nothing is locked, cut or repaired."""


@log.command(
    epilog=examples("smartbft log inspect net/replica-0 --limit 20", "smartbft log inspect net/replica-0/data --json")
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="Show so many records; 0: all.")
@click.option("--instance", type=click.IntRange(0), help="Show only the records of this consensus instance.")
@json_option
@prints_only
def inspect(folder: Path, limit: int, instance: int | None, as_json: bool) -> None:
    """List the records of the log in FOLDER.

    FOLDER is a replica's home or its data folder. Exit code 8 if the log is damaged; the records before the damage are
    shown.
    """
    from smartbft.storage.inspection import inspect_log

    data = data_folder(folder)
    rows: list[dict[str, Any]] = []
    problem: CorruptLog | None = None
    found = (record for record in inspect_log(data) if instance in (None, record.instance))
    try:
        # Not at once: what comes before the damage is to be shown.
        for record in itertools.islice(found, limit or None):
            rows += [{**asdict(record), "kind": KIND_NAMES.get(record.kind, record.kind)}]
    except CorruptLog as error:
        problem = error
    if as_json:
        print_json(rows)
    else:
        names = ("segment", "offset", "kind", "instance", "body_bytes")
        if rows:
            columns = [name.replace("_", " ") for name in names]
            print_table(columns, [tuple(row[name] for name in names) for row in rows])
        elif problem is None:
            say("no records" if instance is None else f"no records of instance {instance}")
        if limit and len(rows) == limit:
            say(f"the first {limit} records; --limit 0 shows all")
    if problem is not None:
        raise _with_advice(problem, data)


@log.command(epilog=examples("smartbft log verify net/replica-0", "smartbft log verify net/replica-0/data --json"))
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def verify(folder: Path, as_json: bool) -> None:
    """Check every byte and decision of a log.

    Given a data folder as FOLDER: checksums and their chain. Given a replica's home, also every decision against the
    genesis: that no instance is missing (but for those that a snapshot stands for), that its proof holds `Q` valid
    signatures of distinct members, and that the requests are the ones that were decided.

    Exit code 8 if the log is damaged, 7 if a proof does not hold. A torn tail, which a crash leaves, is no damage.
    """
    from smartbft.storage.inspection import verify_log

    data = data_folder(folder)
    report = verify_log(data)
    decisions = verify_decisions(folder) if report.intact and is_home(folder) else None
    if as_json:
        print_json({**asdict(report), "records_of_kind": _named(report), "verified_decisions": decisions})
    else:
        _print_report(report, decisions)
    if not report.intact:
        raise _with_advice(CorruptLog(report.problem, report.problem_offset, report.problem_segment), data)


def _with_advice(problem: CorruptLog, data: Path) -> CorruptLog:
    advice = "a replica comes back without it, see 'Damaged log' in docs/operations.md"
    return CorruptLog(f"{data}: {problem} (offset {problem.offset}); {advice}", problem.offset, problem.segment)


def is_home(folder: Path) -> bool:
    """Whether `folder` is a replica's home rather than its data folder."""
    return (folder / "config.toml").is_file()


def data_folder(folder: Path) -> Path:
    """The data folder of a home; any other folder is one.

    Raises:
        StorageError: the replica whose home it is has never run, or there are homes in the folder instead of a log.
    """
    if is_home(folder):
        if (folder / NEVER_STARTED).exists():
            raise StorageError(f"{folder}: this replica has never run, so there is no log yet")
        return ReplicaConfig.load(folder).data_folder
    homes = sorted(home.name for home in folder.glob("replica-*") if is_home(home))
    if homes:
        raise StorageError(f"{folder} holds the homes of replicas: give one of them, e.g. {folder / homes[0]}")
    return folder


def verify_decisions(home: Path) -> int:
    """Verify each decision in the log of the replica in `home`; returns how many there are.

    Raises:
        CheckFailed: a decision is missing or its proof does not hold.
        CorruptLog: a record is not what its kind says.
    """
    from smartbft.core.member_keys import MemberKeys
    from smartbft.core.recovery import decisions_in
    from smartbft.core.validation import Validator
    from smartbft.crypto.domains import Domains
    from smartbft.crypto.signatures import Ed25519KeyVerifier
    from smartbft.messages import Decision
    from smartbft.storage import read_snapshots
    from smartbft.storage.reading import read_records
    from smartbft.types import Value

    config = ReplicaConfig.load(home)
    genesis = Genesis.load(config.genesis_path)
    view, domains = genesis.view, Domains(genesis.chain_id)
    keys = MemberKeys(view)
    validator = Validator(view, domains, Ed25519KeyVerifier(), genesis.parameters, keys)
    records = read_records(config.data_folder, genesis.chain_id, config.replica)
    snapshots = {one.instance: one.core for one in read_snapshots(config.data_folder, genesis.chain_id)}
    checkpoints = sorted(snapshots)
    count, expected = 0, 1
    first_record = next(records, None)
    if first_record is None:
        return 0
    start = 0 if first_record[1] <= 1 else min(checkpoints, default=0) + 1
    for decided in decisions_in(itertools.chain((first_record,), records), domains, start, 2**62):
        bridged = any(expected <= instance and decided.instance <= instance + 1 for instance in checkpoints)
        if decided.instance != expected and not bridged:
            raise CheckFailed(f"the decision of instance {expected} is missing: instance {decided.instance} follows")
        if decided.instance != expected:
            keys.restore(snapshots[next(instance for instance in checkpoints if decided.instance <= instance + 1)])
        count, expected = count + 1, decided.instance + 1
        proof = decided.proof
        message = Decision(proof.view, proof.regency, decided.instance, decided.value, decided.data, proof)
        try:
            validator.validate(config.replica, message)
        except RemoteProtocolError as error:
            raise CheckFailed(f"the decision of instance {decided.instance} does not hold: {error}") from None
        if decided.instance == keys.known:
            keys.decided(decided.instance, Value.decode(decided.value).statements)
    return count


def _named(report: LogReport) -> dict[str, int]:
    return {str(KIND_NAMES.get(kind, kind)): count for kind, count in sorted(report.records_of_kind.items())}


def _print_report(report: LogReport, decisions: int | None) -> None:
    unchecked = "no genesis beside this folder" if report.intact else "none: the log is damaged"
    kinds = ", ".join(f"{count:,} {name}" for name, count in _named(report).items())
    decided = report.first_instance is not None
    rows = [
        ("verdict", report.verdict),
        ("chain", report.chain_id.hex() or "not readable"),
        ("replica", str(report.replica) if report.chain_id else "not readable"),
        ("segments", f"{report.segments:,}"),
        ("records", f"{report.records:,} ({kinds})" if kinds else "0"),
        ("body bytes", f"{report.body_bytes:,}"),
        ("instances", f"{report.first_instance} to {report.last_instance}" if decided else "none"),
        ("decisions verified", unchecked if decisions is None else f"{decisions:,}"),
    ]
    print_table(("what", "found"), rows)
