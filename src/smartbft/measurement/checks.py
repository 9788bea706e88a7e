"""What must hold after a run, whatever its speed: one state, no money made or lost, nothing acknowledged missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from smartbft._fastpath.pool import request_digests
from smartbft.apps import create_application
from smartbft.apps.coin import CoinApplication
from smartbft.config import Genesis
from smartbft.core.naming import name_members
from smartbft.core.recovery import Decided, decisions_in
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog
from smartbft.limits import DIGEST_BYTES
from smartbft.smr.application import ExecutionContext, execute_decided
from smartbft.smr.session_snapshot import executed_requests
from smartbft.snapshots import Snapshot
from smartbft.storage import read_snapshots
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
    """What the log of a stopped replica says, executed again from its beginning or from the checkpoint it begins at.

    Attributes:
        instances: decisions in it.
        digests: of the requests that they decide, with the instance; their bytes are in the log, too.
        state_digest: of the application after executing them; empty if the log begins later than any snapshot.
        supply, minted: sum of all coins, and of all that were ever minted; 0 for another application.
        first: the instance of the first decision from which on none is missing.
        before: requests executed before that, as the session table of the snapshot counts them.
    """

    instances: int
    digests: Mapping[bytes, int]
    state_digest: bytes
    supply: int
    minted: int
    first: int = 1
    before: int = 0

    @property
    def complete(self) -> bool:
        """Whether the log goes back to the beginning."""
        return self.first == 1


def read_log(folder: Path, genesis: Genesis, replica: int) -> LogContents:
    """Read the log in `folder` and execute its decisions on a new instance of the application, after the oldest
    snapshot that is needed.

    Raises:
        StorageError: the log cannot be read, or is corrupt; `CorruptLog` also when a request's bytes are not those that
            were decided.
    """
    domains = Domains(genesis.chain_id)
    again = _Again(genesis, read_snapshots(folder, genesis.chain_id))
    records = read_records(folder, genesis.chain_id, replica)
    first_record = next(records, None)
    if first_record is None:
        return again.contents()
    start = 1 if first_record[1] <= 1 else again.oldest + 1
    for decided in decisions_in(chain((first_record,), records), domains, start, _LAST_INSTANCE):
        value = _checked_value(decided, genesis.chain_id)
        again.add(decided, value, domains.seed(decided.instance, decided.proof.digest))
    return again.contents()


class _Again:
    """Executes the decisions of a log once more; where it has a gap, a snapshot takes the place of what is missing."""

    def __init__(self, genesis: Genesis, snapshots: list[Snapshot]) -> None:
        self.oldest = snapshots[0].instance if snapshots else 0
        self._application = create_application(
            genesis.application.replace("coin_ledger", "coin"), genesis.chain_id, genesis.application_parameters
        )
        self._snapshots = snapshots
        self._digests: dict[bytes, int] = {}
        self._instances = self._at = self._before = 0
        self._first = 1
        self._known = True

    def add(self, decided: Decided, value: Value, seed: bytes) -> None:
        """Take up the next decision of the log."""
        self._instances += 1
        self._digests.update(dict.fromkeys(split_digests(value.digests), decided.instance))
        if decided.instance > self._at + 1:
            self._skip_to(decided.instance)
        if decided.instance == self._at + 1:
            self._at = decided.instance
            if self._known:
                context = ExecutionContext(decided.instance, value.timestamp, seed)
                execute_decided(self._application, decided.data, context)

    def _skip_to(self, instance: int) -> None:
        """Decisions before `instance` are missing."""
        reaching = next((known for known in self._snapshots if known.instance >= instance - 1), None)
        self._known = reaching is not None
        self._at = instance - 1
        if reaching is not None:
            self._application.restore(reaching.state)
            self._at = reaching.instance
            self._before = executed_requests(reaching.sessions)
        self._first = self._at + 1

    def contents(self) -> LogContents:
        """What was found; a snapshot later than the last decision is the state."""
        if self._snapshots and self._snapshots[-1].instance > self._at:
            self._skip_to(self._snapshots[-1].instance + 1)
        supply = minted = 0
        application = self._application
        if isinstance(application, CoinApplication) and self._known:
            supply, minted = application.state.supply(), application.state.minted()
        state = application.digest() if self._known else b""
        return LogContents(self._instances, self._digests, state, supply, minted, self._first, self._before)


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
    wrong = [replica for replica, log in sorted(logs.items()) if log.state_digest.hex() != live.get(replica)]
    notes = [f"{name_members(wrong)}: another state"] if wrong else [_instances(logs)]
    notes += [f"replica {replica} rebuilt its log" for replica in sorted(set(lost) & set(logs))]
    return Check(name, not wrong and bool(logs), "; ".join(notes + _later_logs(logs)))


def money_conserved(logs: Mapping[int, LogContents], minted: int) -> Check:
    """In every log: coins add up to what was minted, and no more was minted than the load asked for."""
    name = "money conserved"
    wrong = [
        f"replica {replica}: minted {log.minted}, coins {log.supply}"
        for replica, log in sorted(logs.items())
        if not log.minted == log.supply == minted
    ]
    return Check(name, not wrong and bool(logs), "; ".join(wrong) or f"{minted:,} minted, {minted:,} in coins")


def nothing_lost(logs: Mapping[int, LogContents], acknowledged: bytes) -> Check:
    """Every acknowledged transaction is in every log.

    In one that begins at a checkpoint, unless it was decided before that: so another log says, or, where none goes back
    that far, the number of requests that the snapshot has executed.
    """
    name = "every acknowledged transaction in every durable log"
    expected = frozenset(split_digests(acknowledged))
    known: dict[bytes, int] = {}
    for log in logs.values():
        known.update(log.digests)
    missing: dict[int, int] = {}
    for replica, log in sorted(logs.items()):
        absent = [digest for digest in expected if digest not in log.digests]
        earlier = sum(1 for digest in absent if known.get(digest, 0) < log.first)
        missing[replica] = len(absent) - min(earlier, log.before)
    if any(missing.values()) or not logs:
        return Check(name, False, ", ".join(f"replica {replica} lacks {count}" for replica, count in missing.items()))
    counted = "" if all(log.complete for log in logs.values()) else ", or before them and counted by their snapshots"
    return Check(name, True, f"{len(expected):,}, minting included, in {len(logs)} logs{counted}")


def _instances(logs: Mapping[int, LogContents]) -> str:
    """How many instances the logs hold."""
    counts = sorted({log.instances for log in logs.values()})
    return f"{' or '.join(f'{count:,}' for count in counts)} instances" if counts else "no log"


def _later_logs(logs: Mapping[int, LogContents]) -> list[str]:
    """Which logs begin at a checkpoint, in words; those that begin alike together."""
    together: dict[tuple[int, int], list[int]] = {}
    for replica, log in sorted(logs.items()):
        if not log.complete:
            together.setdefault((log.first, log.before), []).append(replica)
    return [
        f"{name_members(replicas)} from instance {first:,} on, with a snapshot of {before:,} requests"
        for (first, before), replicas in sorted(together.items())
    ]


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
