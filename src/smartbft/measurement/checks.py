"""What must hold after a run, whatever its speed: one state, no money made or lost, nothing acknowledged missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from smartbft._fastpath.pool import request_digests
from smartbft.apps import create_application
from smartbft.apps.coin import CoinApplication
from smartbft.config import Genesis
from smartbft.core.recovery import Decided, decisions_in
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog
from smartbft.limits import DIGEST_BYTES
from smartbft.smr.application import ExecutionContext
from smartbft.storage.reading import read_records
from smartbft.types import Value

_LAST_INSTANCE = 2**62


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what should hold.
        passed: whether it does.
        detail: what was found, for people.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class LogContents:
    """What the log of a stopped replica says, executed again if it goes back to the beginning.

    Attributes:
        instances: decisions in it.
        digests: of the requests that they decide, with the instance; their bytes are in the log, too.
        state_digest: of the application after executing them; empty if the log begins later (at a checkpoint).
        supply, minted: sum of all coins, and of all that were ever minted; 0 for another application.
        first: the instance of the first decision.
    """

    instances: int
    digests: Mapping[bytes, int]
    state_digest: bytes
    supply: int
    minted: int
    first: int = 1

    @property
    def complete(self) -> bool:
        """Whether the log goes back to the beginning."""
        return self.first == 1


def read_log(folder: Path, genesis: Genesis, replica: int) -> LogContents:
    """Read the log in `folder` and execute its decisions on a new instance of the application.

    Raises:
        StorageError: the log cannot be read, or is corrupt; `CorruptLog` also when a request's bytes are not those that
            were decided.
    """
    domains = Domains(genesis.chain_id)
    application = create_application(
        genesis.application.replace("coin_ledger", "coin"), genesis.chain_id, genesis.application_parameters
    )
    digests: dict[bytes, int] = {}
    instances = first = 0
    for decided in decisions_in(read_records(folder, genesis.chain_id, replica), domains, 1, _LAST_INSTANCE):
        value = _checked_value(decided, genesis.chain_id)
        first = first or decided.instance
        digests.update(dict.fromkeys(split_digests(value.digests), decided.instance))
        instances += 1
        if first > 1:
            continue
        seed = domains.seed(decided.instance, decided.proof.digest)
        application.execute_batch(decided.data, ExecutionContext(decided.instance, value.timestamp, seed))
    if first > 1:
        return LogContents(instances, digests, b"", 0, 0, first)
    supply = minted = 0
    if isinstance(application, CoinApplication):
        supply, minted = application.state.supply(), application.state.minted()
    return LogContents(instances, digests, application.digest(), supply, minted)


def split_digests(packed: bytes) -> Iterator[bytes]:
    """The digests in `packed`, 32 bytes each."""
    return (packed[start : start + DIGEST_BYTES] for start in range(0, len(packed), DIGEST_BYTES))


def same_state(digests: Mapping[int, str]) -> Check:
    """All replicas report the same state digest."""
    name = "all replicas at the same state digest"
    different = set(digests.values())
    if len(different) == 1 and len(digests) > 0:
        return Check(name, True, f"{len(digests)} times {next(iter(different))[:16]}…")
    shown = ", ".join(f"{replica}: {digest[:16]}…" for replica, digest in sorted(digests.items()))
    return Check(name, False, shown or "no replica answered")


def replayed_state(logs: Mapping[int, LogContents], live: Mapping[int, str], lost: Collection[int] = ()) -> Check:
    """Executing each log again gives the state that the replica had.

    Args:
        lost: replicas whose first log was removed on purpose; what they have now, they got from the others.
    """
    name = "each log replays to its replica's state"
    complete = {replica: log for replica, log in sorted(logs.items()) if log.complete}
    wrong = [replica for replica, log in complete.items() if log.state_digest.hex() != live.get(replica)]
    counts = sorted({log.instances for log in logs.values()})
    notes = f"differs: {wrong}" if wrong else f"{counts} instances"
    for replica in sorted(set(lost) & set(complete)):
        notes += f"; replica {replica}'s log was removed, this is the one it rebuilt"
    return Check(name, not wrong and bool(complete), notes + _later_logs(logs))


def money_conserved(logs: Mapping[int, LogContents], minted: int) -> Check:
    """In every log: coins add up to what was minted, and no more was minted than the load asked for."""
    name = "money conserved"
    complete = {replica: log for replica, log in sorted(logs.items()) if log.complete}
    wrong = [
        f"replica {replica}: minted {log.minted}, coins {log.supply}"
        for replica, log in complete.items()
        if not log.minted == log.supply == minted
    ]
    return Check(name, not wrong and bool(complete), "; ".join(wrong) or f"{minted:,} minted, {minted:,} in coins")


def nothing_lost(logs: Mapping[int, LogContents], acknowledged: bytes) -> Check:
    """Every acknowledged transaction is in every log; in one that begins later, unless it was decided before that."""
    name = "every acknowledged transaction in every durable log"
    expected = frozenset(split_digests(acknowledged))
    known: dict[bytes, int] = {}
    for log in logs.values():
        if log.complete:
            known.update(log.digests)
    missing = {
        replica: sum(1 for digest in expected if digest not in log.digests and not 0 < known.get(digest, 0) < log.first)
        for replica, log in sorted(logs.items())
    }
    if any(missing.values()) or not logs:
        return Check(name, False, ", ".join(f"replica {replica} lacks {count}" for replica, count in missing.items()))
    return Check(name, True, f"{len(expected):,} in {len(logs)} logs" + _later_logs(logs))


def _later_logs(logs: Mapping[int, LogContents]) -> str:
    """Which logs begin at a checkpoint, in words."""
    later = [f"replica {replica}'s at {log.first}" for replica, log in sorted(logs.items()) if not log.complete]
    return f"; logs that begin at a checkpoint: {', '.join(later)}" if later else ""


def all_executed(statuses: Mapping[int, int], results: Mapping[int, int], executed: int, ok: int) -> Check:
    """Every transaction of the load was executed and accepted (the load is made of valid ones only)."""
    refused = {status: count for status, count in statuses.items() if status != executed and count}
    rejected = {code: count for code, count in results.items() if code != ok and count}
    passed = not refused and not rejected
    detail = f"{sum(results.values()):,} accepted" if passed else f"refused {refused}, rejected {rejected}"
    return Check("every transaction accepted", passed, detail)


def clean_exits(exit_codes: Mapping[int, int]) -> Check:
    """Every replica flushed its log and ended with exit code 0."""
    wrong = {replica: code for replica, code in exit_codes.items() if code}
    return Check(
        "replicas stopped cleanly", not wrong, f"exit codes {wrong}" if wrong else f"{len(exit_codes)} replicas"
    )


def _checked_value(decided: Decided, chain_id: bytes) -> Value:
    value = Value.decode(decided.value)
    if request_digests(chain_id, decided.data) != value.digests:
        raise CorruptLog(f"the requests of instance {decided.instance} are not the ones that were decided")
    return value
