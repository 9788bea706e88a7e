"""Mod-SMaRt's Algorithm 3, lines 24-29: the leader of an installed regency collects STOPDATA until they say how to go
on, and makes the SYNC that begins the regency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from smartbft.core.chassis import Chassis
from smartbft.core.epoch_change import Outcome, Verdict, evaluate
from smartbft.core.inputs import Timer
from smartbft.core.naming import name_some
from smartbft.limits import SIGNATURE_BYTES
from smartbft.messages import FetchValue, ProposedValue, StopData, Sync, sync_statement

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart
    from smartbft.protocols.mod_smart.synchronization import Synchronization

_UNSIGNED = bytes(SIGNATURE_BYTES)


class Collecting:
    """The STOPDATA at one replica, of regencies that it leads; and the value that they bind it to.

    Args:
        chassis: of the replica.
        ordering: has the values of the running instance.
        phase: takes up the SYNC.
    """

    def __init__(self, chassis: Chassis, ordering: ModSmart, phase: Synchronization) -> None:
        self._chassis = chassis
        self._ordering = ordering
        self._phase = phase
        self._stop_data: dict[int, StopData] = {}  # the newest of each signer
        self._wanted: tuple[int, bytes] | None = None  # instance and digest of the value that binds
        self._questions = 0

    def add(self, message: StopData) -> bool:
        """Lines 24-27: keep the newest of its signer. False: this replica has no use for it."""
        if self._chassis.view.leader(message.regency) != self._chassis.id or message.regency < self._phase.regency:
            return False
        known = self._stop_data.get(message.signer)
        if known is None or known.regency < message.regency:
            self._stop_data[message.signer] = message
        return True

    def put_own(self, stop_data: StopData) -> None:
        """What this replica promises itself, in place of what it has promised before."""
        self._stop_data[self._chassis.id] = stop_data

    def drop_own(self) -> None:
        """What this replica has promised itself was signed with a key that does not count any more."""
        self._stop_data.pop(self._chassis.id, None)

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """What was checked with the keys before does not count any more: not only what these members signed, because it
        holds proofs. Our own is not in doubt, unless our key has changed.
        """
        own = self._stop_data.get(self._chassis.id)
        self._stop_data.clear()
        if own is not None and self._chassis.id not in members:
            self.put_own(own)

    def leave_regency(self) -> None:
        """Another regency is installed: what is for an older one has no use."""
        self._wanted = None
        for signer in [signer for signer, known in self._stop_data.items() if known.regency < self._phase.regency]:
            del self._stop_data[signer]

    def began(self) -> None:
        """The regency has its SYNC."""
        self._wanted = None

    def try_sync(self) -> None:
        """Lines 28-29: with a sound set and all decisions it proves, begin the regency."""
        chassis, phase = self._chassis, self._phase
        guard = chassis.guard
        if not guard.awaits_sync or chassis.view.leader(phase.regency) != chassis.id or guard.suspended:
            return
        phase.prove(self._collected())
        collected = self._collected()  # without what was signed with other keys than those in force now
        outcome = evaluate(collected, chassis.view.n, chassis.view.f)
        if not guard.awaits_sync or outcome.verdict is Verdict.UNSOUND or not phase.is_up_to(collected, outcome):
            return
        value, data = self._value_to_propose(outcome)
        if outcome.verdict is Verdict.BOUND and not value:
            self._want(outcome)
            return
        unsigned = Sync(chassis.view.number, phase.regency, tuple(collected), value, _UNSIGNED)
        signature = chassis.signer.sign(chassis.domains.sync_payload(sync_statement(unsigned)))
        phase.take_up(replace(unsigned, signature=signature), outcome, data)

    def _collected(self) -> list[StopData]:
        """The STOPDATA of the installed regency, in the order of signers."""
        return [known for _, known in sorted(self._stop_data.items()) if known.regency == self._phase.regency]

    def _value_to_propose(self, outcome: Outcome) -> tuple[bytes, bytes | None]:
        chassis = self._chassis
        if outcome.instance <= chassis.decided:
            return chassis.decided_value(outcome.instance), None
        if outcome.verdict is Verdict.BOUND:
            return self._ordering.current.value_of(outcome.digest), None
        return self._ordering.form_value()

    # The value that binds

    def _want(self, outcome: Outcome) -> None:
        """The value that binds is not here: ask those who wrote or accepted it, one after the other."""
        if self._wanted != (outcome.instance, outcome.digest):
            self._wanted = (outcome.instance, outcome.digest)
            self._questions = 0
            self.ask_for_value()

    def ask_for_value(self) -> None:
        """Ask the next one, if a value is missing."""
        if self._wanted is None or not self._chassis.guard.awaits_sync:
            return
        instance, digest = self._wanted
        holders = [
            signer
            for signer, known in sorted(self._stop_data.items())
            if signer != self._chassis.id and any(entry.digest == digest for entry in known.write_set)
        ]
        if holders:
            chassis = self._chassis
            holder = holders[self._questions % len(holders)]
            self._questions += 1
            chassis.send(holder, FetchValue(chassis.view.number, self._phase.regency, instance, digest))
            chassis.set_timer(Timer.VALUE, chassis.parameters.resend_interval)

    def on_fetch_value(self, sender: int, message: FetchValue) -> None:
        """A new leader asks for a value that was written here."""
        chassis, current = self._chassis, self._ordering.current
        if message.instance < current.instance:
            chassis.answer_with_decision(sender, message.instance)
            return
        value = current.value_of(message.digest) if message.instance == current.instance else b""
        if value and chassis.may_answer(sender, ProposedValue):
            answer = ProposedValue(chassis.view.number, self._phase.regency, message.instance, value)
            chassis.answer(sender, answer, len(value))

    def on_proposed_value(self, _: int, message: ProposedValue) -> None:
        """A value is what its digest says, whoever sends it."""
        current = self._ordering.current
        if message.instance != current.instance or current.on_value(message.value):
            return
        digest = self._chassis.domains.value_digest(message.value)
        if self._wanted == (message.instance, digest):
            current.learn(message.value, digest)
            self.try_sync()

    # In words

    @property
    def proven(self) -> int:
        """The last instance that somebody here claims to have decided; 0: none."""
        return max((known.instance - 1 for known in self._stop_data.values()), default=0)

    def waiting_for(self) -> str:
        """What the SYNC of this leader waits for."""
        view, regency = self._chassis.view, self._phase.regency
        if self._wanted is not None:
            return f"the value that instance {self._wanted[0]} is bound to, from those who wrote it"
        sent = [signer for signer, known in self._stop_data.items() if known.regency == regency]
        if len(sent) >= view.quorum:
            return f"the decisions that the STOPDATA of regency {regency} prove"
        return f"STOPDATA of regency {regency} from {name_some(view.quorum - len(sent), view.ids, sent)}"
