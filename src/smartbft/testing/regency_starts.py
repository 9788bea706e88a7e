"""Checks what a regency begins with: the SYNC that a replica takes up must follow from the STOPDATA in it.

As in `smartbft.testing.checkers` the rules are written again here (protocols.md, sections 1 and 2.3), with sets of
signers, so that nothing can be counted twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import KeyVerifier
from smartbft.messages import Accept, Message, Proof, StopData, Sync, Write, stop_data_statement, sync_statement
from smartbft.testing.promises import PropertyViolation
from smartbft.types import View

CheckProof = Callable[[int, bytes, Proof], None]
Candidate = tuple[int, bytes]  # timestamp and value digest


class RegencyStarts:
    """No replica takes up a SYNC that the rules do not allow, nor votes on the strength of one that has lost its force.

    Args:
        view: the members.
        domains, verifier: to check signatures with.
        check_proof: ``check_proof(instance, digest, proof)`` raises if the proof proves nothing.
        key: ``key(member, instance)`` is the member's consensus key in force.
    """

    __slots__ = ("_check_proof", "_domains", "_key", "_known", "_signed_with", "_taken", "_verifier", "_view")

    def __init__(
        self,
        view: View,
        domains: Domains,
        verifier: KeyVerifier,
        check_proof: CheckProof,
        key: Callable[[int, int], bytes],
    ) -> None:
        self._view = view
        self._domains = domains
        self._verifier = verifier
        self._check_proof = check_proof
        self._key = key
        # Statements of SYNCs that were found right, and the instance by whose keys; membership tests only.
        self._known: set[tuple[bytes, int]] = set()
        self._taken: dict[int, bytes] = {}  # what each replica has recorded last: it may record that again
        # The regency of that SYNC, and who promised it with which key.
        self._signed_with: dict[int, tuple[int, dict[int, bytes]]] = {}

    def recorded(self, replica: int, sync: Sync, instance: int, *, comes_back: bool = False) -> None:
        """A replica wants this SYNC, which it has taken up before it decided `instance`, persisted.

        Promises count with the keys in force in the next instance of who takes them up. A replica that `comes_back`
        with a new key may have taken up the SYNC before, when it learned.
        """
        statement = sync_statement(sync)
        again, self._taken[replica] = self._taken.get(replica) == statement, statement
        if again:
            return
        self._signed_with[replica] = sync.regency, {}
        highest = max((stop_data.instance for stop_data in sync.stop_data), default=0)
        latest = max(highest, instance)
        for at in range(highest, latest) if comes_back else ():
            with contextlib.suppress(PropertyViolation):
                self._take_up(replica, sync, statement, at)
                return
        self._take_up(replica, sync, statement, latest)

    def _take_up(self, replica: int, sync: Sync, statement: bytes, at: int) -> None:
        self._check(replica, sync, statement, at)
        promises = {stop_data.signer: self._key(stop_data.signer, at) for stop_data in sync.stop_data}
        self._signed_with[replica] = sync.regency, promises

    def sent(self, replica: int, message: Message) -> None:
        """A vote rests on `n - f` promises that count in its instance: a member that has another key there has
        forgotten what it promised with this one.
        """
        if not isinstance(message, (Write, Accept)):
            return
        regency, promises = self._signed_with.get(replica, (0, {}))
        if regency != message.regency or not promises:
            return  # of an earlier regency, and said again
        kept = [signer for signer, key in promises.items() if self._key(signer, message.instance) == key]
        if len(kept) < self._view.n - self._view.f:
            raise PropertyViolation(
                "promises kept",
                f"replica {replica} sent {type(message).__name__} in instance {message.instance} of regency {regency}, "
                f"which only {kept} of {list(promises)} have promised with the keys that they have there",
                replicas=(replica,),
                instance=message.instance,
            )

    def _check(self, replica: int, sync: Sync, statement: bytes, at: int) -> None:
        """Whether the SYNC could be taken up as long as instance `at` was the next one."""
        if (statement, at) in self._known:
            return
        where = f"replica {replica} begins regency {sync.regency} with"
        leader = self._view.leader(sync.regency)
        if not self._verifier.verify(self._key(leader, at), sync.signature, self._domains.sync_payload(statement)):
            raise _violation(f"{where} a SYNC that replica {leader} did not sign")
        signers = {stop_data.signer for stop_data in sync.stop_data}
        if len(signers) != len(sync.stop_data) or len(signers) < self._view.n - self._view.f:
            raise _violation(f"{where} STOPDATA of {len(signers)} signers in {len(sync.stop_data)} entries")
        for stop_data in sync.stop_data:
            if wrong := self._wrong(sync, stop_data, at):
                raise _violation(f"{where} a STOPDATA of replica {stop_data.signer} {wrong}")
        self._check_value(where, sync)
        self._known.add((statement, at))

    def _wrong(self, sync: Sync, stop_data: StopData, at: int) -> str:
        """What is wrong with one STOPDATA by itself; empty if nothing is."""
        if stop_data.signer not in self._view.ids:
            return "who is no member"
        if (stop_data.view, stop_data.regency) != (sync.view, sync.regency):
            return f"that was made for regency {stop_data.regency}"
        payload = self._domains.stop_data_payload(stop_data_statement(stop_data))
        if not self._verifier.verify(self._key(stop_data.signer, at), stop_data.signature, payload):
            return "that it did not sign"
        if len({entry.digest for entry in stop_data.write_set}) != len(stop_data.write_set):
            return "that names a value twice"
        timestamps = [entry.regency for entry in stop_data.write_set]
        if stop_data.accepted is not None:
            timestamps.append(stop_data.accepted.regency)
        if any(timestamp >= sync.regency for timestamp in timestamps):
            return f"with votes of {max(timestamps)}, which it has not left yet"
        decided = stop_data.instance - 1
        if decided == 0:
            return ""
        if stop_data.proof is None or stop_data.proof.instance != decided:
            return f"that claims instance {decided} without its proof"
        self._check_proof(decided, stop_data.proof.digest, stop_data.proof)
        return ""

    def _check_value(self, where: str, sync: Sync) -> None:
        """The value that binds is the only one; if none does, `unbound` must hold."""
        highest = max(stop_data.instance for stop_data in sync.stop_data)
        # Who has not decided what comes before cannot have voted there.
        voters = [stop_data for stop_data in sync.stop_data if stop_data.instance == highest]
        accepting = sum(1 for voter in voters if voter.accepted is not None)
        binding = [one for one in self._candidates(voters) if self._binds(one, voters, len(sync.stop_data))]
        if binding:
            if self._domains.value_digest(sync.value) != max(binding)[1]:
                raise _violation(f"{where} another value than the one that binds in instance {highest}")
        elif not self._many(len(sync.stop_data) - accepting):
            raise _violation(f"{where} STOPDATA that say neither that a value binds nor that none does")

    def _candidates(self, voters: list[StopData]) -> list[Candidate]:
        return sorted({(one.accepted.regency, one.accepted.digest) for one in voters if one.accepted is not None})

    def _binds(self, candidate: Candidate, voters: list[StopData], signers: int) -> bool:
        regency, digest = candidate
        newer = 0
        writers = 0
        for voter in voters:
            accepted = voter.accepted
            if accepted is not None and (accepted.regency, accepted.digest) != candidate:
                newer += accepted.regency >= regency
            writers += any(entry.digest == digest and entry.regency >= regency for entry in voter.write_set)
        return self._many(signers - newer) and writers > self._view.f

    def _many(self, signers: int) -> bool:
        """Strictly more than ``(n + f) / 2``."""
        return 2 * signers > self._view.n + self._view.f


def _violation(what: str) -> PropertyViolation:
    return PropertyViolation("justified SYNC", what)
