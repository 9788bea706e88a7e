"""The synchronization phase of Mod-SMaRt (Algorithm 3; protocols.md 2.3): how a leader that fails is replaced.

STOP asks for the next regency; enough of them install it. Installing is a promise that goes to the new leader as signed
STOPDATA; from `n - f` of these the leader makes the SYNC that begins the regency. Everybody repeats the leader's checks
(`smartbft.core.validation`), so a lying leader can delay, but not deceive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from smartbft.core.chassis import Chassis
from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.epoch_change import Outcome, Verdict, evaluate
from smartbft.core.inputs import Timer
from smartbft.core.naming import name_members, name_some
from smartbft.core.records import regency_record, sync_record
from smartbft.core.recovery import RecoveredState
from smartbft.core.regency_changes import RegencyChanges
from smartbft.limits import DECISIONS_PER_TIMEOUT_DECAY, SIGNATURE_BYTES
from smartbft.messages import (
    FetchSync,
    FetchValue,
    Message,
    ProposedValue,
    Stop,
    StopData,
    Sync,
    stop_data_statement,
    sync_statement,
)
from smartbft.protocols.mod_smart.suspicions import Suspicions

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart

_UNSIGNED = bytes(SIGNATURE_BYTES)


class Synchronization:
    """The regency changes of one replica.

    Attributes:
        asked: the highest regency this replica has sent STOP for (`nreg` in the paper).
        changes: what is remembered of the changes, for operators.
    """

    def __init__(self, chassis: Chassis, ordering: ModSmart) -> None:
        self.asked = 0
        self.changes = RegencyChanges()
        self._chassis = chassis
        self._ordering = ordering
        self._suspicions = Suspicions(chassis)
        self._overdue = b""
        self._failures = 0  # regencies since the last progress: each doubles the timeout
        self._progress = 0  # decisions since the timeout was changed
        self._own: tuple[int, StopData] | None = None  # with the token of its record
        self._stop_data: dict[int, StopData] = {}  # the newest of each signer
        self._sync: Sync | None = None  # of the installed regency
        self._sync_token = 0  # of its record
        self._key_changes = 0
        self._postponed: Sync | None = None  # valid, but decisions that it proves are not here yet
        self._wanted: tuple[int, bytes] | None = None  # instance and digest of the value that binds
        self._questions = 0
        self._answered: dict[int, int] = {}  # when a peer last got our SYNC

    @property
    def regency(self) -> int:
        """The installed regency (`creg` in the paper)."""
        return self._chassis.guard.regency

    @property
    def timeout(self) -> int:
        """Microseconds: doubled by each failed regency, capped, halved again by progress."""
        parameters = self._chassis.parameters
        return int(min(parameters.request_timeout << min(self._failures, 40), parameters.max_request_timeout))

    def on_message(self, sender: int, message: Message) -> None:
        """A verified message of the synchronization phase."""
        if isinstance(message, Stop):
            self._on_stop(sender, message)
        elif isinstance(message, StopData):
            self._on_stop_data(sender, message)
        elif isinstance(message, Sync):
            self._on_sync(message)
        elif isinstance(message, FetchSync):
            self._answer_with_sync(sender)
        elif isinstance(message, FetchValue):
            self._on_fetch_value(sender, message)
        elif isinstance(message, ProposedValue):
            self._on_proposed_value(message)

    # STOP

    def suspect(self, why: str, data: bytes) -> None:
        """Algorithm 3, lines 4-10: forwarded requests (`data`) were not ordered in time, or the leader is too slow: ask
        for the next regency.

        A leader whose regency has not begun is given the time that the regency's own timer allows.
        """
        guard = self._chassis.guard
        if self._chassis.view.n > 1 and guard.synchronized and not guard.suspended:
            self._stop(self.regency + 1, data, why)

    def _on_stop(self, sender: int, message: Stop) -> None:
        """Lines 11-18: adopt the requests, and join when a correct replica asks (more than `f`)."""
        if message.data:
            self._chassis.adopt(sender, message.data)
        self._suspicions.add(sender, message.target)
        self._count_stops()

    def _stop(self, target: int, data: bytes, why: str) -> None:
        if target <= self.asked:
            return
        self._because(why)
        self.asked, self._overdue = target, data
        self._suspicions.add(self._chassis.id, target)
        self._chassis.broadcast(Stop(self._chassis.view.number, self.regency, target, data))
        self._count_stops()

    def _count_stops(self) -> None:
        view = self._chassis.view
        if self._chassis.guard.suspended:
            return
        joinable = self._suspicions.asked_by(view.f + 1)
        if joinable > max(self.asked, self.regency):
            self._because(f"{name_members(self._suspicions.asking(joinable))} asked for regency {joinable}")
            self.asked, self._overdue = joinable, self._chassis.overdue()
            self._suspicions.add(self._chassis.id, joinable)
            self._chassis.broadcast(Stop(view.number, self.regency, joinable, self._overdue))
        installable = self._suspicions.asked_by(2 * view.f + 1)
        if installable > self.regency:
            self._install(installable)

    def _because(self, why: str) -> None:
        self.changes.begin(self._chassis.now, self.regency, self._chassis.view.leader(self.regency), why)

    def _withdraw(self) -> None:
        """A STOP that nobody needs any more is not repeated: what was overdue is ordered, the leader is quick, and
        others do not ask.
        """
        chassis = self._chassis
        suspects = chassis.suspects() or self._ordering.too_slow()
        if self._suspicions.others_asking(self.asked) <= chassis.view.f and not suspects:
            self.asked = self.regency
            self.changes.withdraw()
            self._suspicions.forget(chassis.id)

    def heard(self, sender: int, regency: int) -> None:
        """`sender` is in another regency than we are: follow `f + 1`, and help one who is behind."""
        if regency < self.regency:
            self._answer_with_sync(sender)
        elif self._suspicions.in_regency(sender, regency):
            self._follow()

    def _follow(self) -> None:
        followed = self._suspicions.reached_by(self._chassis.view.f + 1)
        if followed > self.regency:
            self._because(f"{self._chassis.view.f + 1} replicas are in regency {followed} or beyond")
            self._install(followed)

    # Installing a regency, and STOPDATA

    def _install(self, regency: int) -> None:
        """Lines 19-23: the promise is on disk before the new leader gets it."""
        chassis = self._chassis
        if not chassis.guard.install(regency):
            return
        self.asked = max(self.asked, regency)
        self._failures += 1
        self._progress = 0
        self._forget_old_regency()
        self._ordering.leave_regency()
        if chassis.guard.suspended:
            return  # a learner follows, and has nothing to promise
        stop_data = self._make_stop_data()
        leader = chassis.view.leader(regency)
        then = () if leader == chassis.id else (Send(leader, stop_data),)
        token = chassis.persist_promise(regency_record(stop_data.instance, stop_data), then)
        self._own = (token, stop_data)
        chassis.set_timer(Timer.REGENCY, self.timeout)
        if leader == chassis.id:
            self._stop_data[chassis.id] = stop_data
            self._try_sync()

    def _forget_old_regency(self) -> None:
        self._sync = self._postponed = self._wanted = None
        self._answered.clear()
        for signer in [signer for signer, known in self._stop_data.items() if known.regency < self.regency]:
            del self._stop_data[signer]

    def _make_stop_data(self) -> StopData:
        chassis = self._chassis
        accepted, write_set = self._ordering.current.collect()
        unsigned = StopData(
            chassis.view.number,
            self.regency,
            chassis.id,
            chassis.decided + 1,
            accepted,
            write_set,
            chassis.last_proof(),
            _UNSIGNED,
        )
        return _signed_stop_data(chassis, unsigned)

    def _on_stop_data(self, sender: int, message: StopData) -> None:
        """Lines 24-27, at the leader of the regency; anybody else has no use for it."""
        if self._chassis.view.leader(message.regency) != self._chassis.id or message.regency < self.regency:
            return
        known = self._stop_data.get(sender)
        if known is None or known.regency < message.regency:
            self._stop_data[sender] = message
        if message.regency == self.regency:
            if self._sync is None:
                self._try_sync()
            else:
                self._answer_with_sync(sender)

    # SYNC at the leader

    def _try_sync(self) -> None:
        """Lines 28-29: with a sound set and all decisions it proves, begin the regency."""
        chassis = self._chassis
        if chassis.guard.synchronized or chassis.view.leader(self.regency) != chassis.id or chassis.guard.suspended:
            return
        self._prove(self._collected())
        collected = self._collected()  # without what was signed with other keys than those in force now
        outcome = evaluate(collected, chassis.view.n, chassis.view.f)
        if chassis.guard.synchronized or outcome.verdict is Verdict.UNSOUND or not self._is_up_to(collected, outcome):
            return
        value, data = self._value_to_propose(outcome)
        if outcome.verdict is Verdict.BOUND and not value:
            self._want(outcome)
            return
        unsigned = Sync(chassis.view.number, self.regency, tuple(collected), value, _UNSIGNED)
        self._take_up(_signed_sync(chassis, unsigned), outcome, data)

    def _collected(self) -> list[StopData]:
        """The STOPDATA of the installed regency, in the order of signers."""
        return [known for _, known in sorted(self._stop_data.items()) if known.regency == self.regency]

    def _prove(self, collected: Sequence[StopData]) -> bool:
        """A proof may decide the running instance, and that may already begin the regency.

        Returns False if it has changed keys: what was checked with those before counts no more.
        """
        changes = self._key_changes
        for stop_data in collected:
            if stop_data.proof is not None:
                self._ordering.prove(stop_data.proof)
        return changes == self._key_changes

    def _is_up_to(self, collected: Sequence[StopData], outcome: Outcome) -> bool:
        """Whether all decisions proven in the set are here; if not, fetch them from who proved them."""
        if outcome.instance <= self._chassis.decided + 1:
            return True
        for stop_data in collected:
            if stop_data.signer != self._chassis.id:
                self._chassis.note_progress(stop_data.signer, stop_data.instance - 1)
        return False

    def _value_to_propose(self, outcome: Outcome) -> tuple[bytes, bytes | None]:
        chassis = self._chassis
        if outcome.instance <= chassis.decided:
            return chassis.decided_value(outcome.instance), None
        if outcome.verdict is Verdict.BOUND:
            return self._ordering.current.value_of(outcome.digest), None
        return self._ordering.form_value()

    def _want(self, outcome: Outcome) -> None:
        """The value that binds is not here: ask those who wrote or accepted it, one after the other."""
        if self._wanted != (outcome.instance, outcome.digest):
            self._wanted = (outcome.instance, outcome.digest)
            self._questions = 0
            self._ask_for_value()

    def _ask_for_value(self) -> None:
        if self._wanted is None or self._chassis.guard.synchronized:
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
            chassis.send(holder, FetchValue(chassis.view.number, self.regency, instance, digest))
            chassis.set_timer(Timer.VALUE, chassis.parameters.resend_interval)

    def _on_fetch_value(self, sender: int, message: FetchValue) -> None:
        chassis, current = self._chassis, self._ordering.current
        if message.instance < current.instance:
            chassis.answer_with_decision(sender, message.instance)
        elif message.instance == current.instance and (value := current.value_of(message.digest)):
            chassis.send(sender, ProposedValue(chassis.view.number, self.regency, message.instance, value))

    def _on_proposed_value(self, message: ProposedValue) -> None:
        """A value is what its digest says, whoever sends it."""
        current = self._ordering.current
        if message.instance != current.instance or current.on_value(message.value):
            return
        digest = self._chassis.domains.value_digest(message.value)
        if self._wanted == (message.instance, digest):
            current.learn(message.value, digest)
            self._try_sync()

    # SYNC at everybody

    def _on_sync(self, message: Sync) -> None:
        """Lines 30-35; validation has repeated the leader's checks."""
        if message.regency > self.regency:
            # `n - f` replicas have installed it, and signed so.
            self._because(f"a SYNC shows that the others are in regency {message.regency}")
            self._install(message.regency)
        if message.regency != self.regency or self._sync is not None:
            # Of an old regency, known already, or we may not install anything yet.
            return
        if not self._prove(message.stop_data) or self._sync is not None:
            return  # asked for again, and checked with the keys of now
        outcome = evaluate(message.stop_data, self._chassis.view.n, self._chassis.view.f)
        if self._is_up_to(message.stop_data, outcome):
            self._take_up(message, outcome, None)
        else:
            self._postponed = message

    def _take_up(self, sync: Sync, outcome: Outcome, data: bytes | None) -> None:
        """Lines 36-44: the regency begins: only now anything may be written in it, and in that instance only that
        value.
        """
        chassis = self._chassis
        digest = chassis.domains.value_digest(sync.value) if sync.value else b""
        if not chassis.guard.synchronize(sync.regency, outcome.instance, digest):
            return
        self._sync, self._postponed, self._wanted = sync, None, None
        leads = chassis.view.leader(sync.regency) == chassis.id
        if not chassis.guard.suspended:
            then = (Broadcast(sync),) if leads else ()
            self._sync_token = chassis.persist_promise(sync_record(chassis.decided + 1, sync), then)
        self._begin(sync, outcome, data)

    def _begin(self, sync: Sync, outcome: Outcome, data: bytes | None) -> None:
        chassis = self._chassis
        self.asked = self.regency
        self.changes.end(chassis.now, self.regency, chassis.view.leader(self.regency))
        self._suspicions.forget(chassis.id)
        chassis.cancel_timer(Timer.REGENCY)
        chassis.cancel_timer(Timer.VALUE)
        chassis.watch_again()
        current = self._ordering.current
        if sync.value and current.instance == outcome.instance:
            current.resume(sync.value, binds=outcome.verdict is Verdict.BOUND, data=data)
        self._ordering.begin_regency()

    # New consensus keys

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """What was checked with the keys before does not count any more; it is sent or asked for again.

        Proofs for later instances are among it, so it is not only what these members signed.
        """
        self._key_changes += 1
        own = self._stop_data.pop(self._chassis.id, None)
        self._stop_data.clear()
        if own is not None and self._chassis.id not in members:
            self._stop_data[self._chassis.id] = own
        self._postponed = None

    def promise_anew(self) -> None:
        """Promise a regency with our new key: the one we follow, or that of the last decision.

        A forgotten promise may be for a higher one. Nobody who has made the last decision takes up a SYNC with it any
        more, because it does not verify; who took it up before votes for the next instance in that regency only.
        So no two quorums come of it (the argument is in ARCHITECTURE.md, "New consensus keys").
        """
        chassis = self._chassis
        proof = chassis.last_proof()
        if proof is not None and proof.regency > self.regency:
            self._because(f"instance {proof.instance} was decided in regency {proof.regency}")
            chassis.guard.install(proof.regency)
            self.asked = max(self.asked, self.regency)
            self._forget_old_regency()
            self._ordering.leave_regency()
        self._stop_data.pop(chassis.id, None)
        if not self.regency:
            return  # nobody promises regency 0
        stop_data = self._make_stop_data()
        token = chassis.persist_promise(regency_record(stop_data.instance, stop_data))
        self._own = (token, stop_data)
        if self._sync is not None and chassis.guard.synchronized:
            self._sync_token = chassis.persist_promise(sync_record(stop_data.instance, self._sync))
            return
        if chassis.view.leader(self.regency) == chassis.id:
            self._stop_data[chassis.id] = stop_data
        chassis.set_timer(Timer.REGENCY, self.timeout)

    # Progress, time, repetition

    def on_decided(self) -> None:
        """A decision may be what a SYNC waited for; many in a row shorten the timeout again."""
        self._progress += 1
        if self._failures and self._progress >= DECISIONS_PER_TIMEOUT_DECAY:
            self._failures -= 1
            self._progress = 0
        if self._postponed is not None:
            postponed, self._postponed = self._postponed, None
            self._on_sync(postponed)
        elif not self._chassis.guard.synchronized:
            self._try_sync()

    def on_timer(self, timer: Timer) -> None:
        """REGENCY: no SYNC came in time: suspect this leader too, even with an empty pool. VALUE: ask the next."""
        if timer == Timer.VALUE:
            self._ask_for_value()
        elif self._chassis.guard.suspended:
            self._chassis.set_timer(Timer.REGENCY, self.timeout)  # we may not ask for anything yet
        elif not self._chassis.guard.synchronized:
            why = f"no SYNC of regency {self.regency} came within {self.timeout / 1e6:g} s"
            self._stop(self.regency + 1, self._chassis.overdue(), why)

    def resend(self, to: int | None) -> None:
        """STOP as long as it is meant, STOPDATA and the question for the SYNC as long as it is missing."""
        chassis, view = self._chassis, self._chassis.view.number
        if not chassis.guard.suspended:
            self._resend_promises(to)
        if not chassis.guard.synchronized:
            _tell(chassis, to, FetchSync(view, self.regency))

    def _resend_promises(self, to: int | None) -> None:
        chassis, view = self._chassis, self._chassis.view.number
        if self.asked > self.regency and chassis.guard.synchronized:
            self._withdraw()
        if self.asked > self.regency:
            self._suspicions.add(chassis.id, self.asked)
            _tell(chassis, to, Stop(view, self.regency, self.asked, self._overdue))
        if chassis.guard.synchronized:
            return
        leader = chassis.view.leader(self.regency)
        if self._own is not None and self._own[0] <= chassis.durable and leader != chassis.id and to in (None, leader):
            chassis.send(leader, self._own[1])

    def _answer_with_sync(self, to: int) -> None:
        """Any holder passes the SYNC on, at most once per resend interval and peer; the leader when it is durable: else
        it might make another one after a crash.
        """
        chassis = self._chassis
        interval = chassis.parameters.resend_interval
        if self._sync is None or self._sync_token > chassis.durable:
            return
        if chassis.guard.suspended and chassis.view.leader(self._sync.regency) == chassis.id:
            return  # it is one of an earlier life of ours, and not on record here
        if abs(chassis.now - self._answered.get(to, -interval)) >= interval:
            self._answered[to] = chassis.now
            chassis.send(to, self._sync)

    def running(self) -> bool:
        """Whether a regency change is under way."""
        return self.asked > self.regency or not self._chassis.guard.synchronized

    def waiting_for(self) -> str:
        """What the change waits for, and from whom, in words."""
        view = self._chassis.view
        if self.asked > self.regency:
            asking = self._suspicions.asking(self.asked)
            missing = 2 * view.f + 1 - len(asking)
            return f"STOP for regency {self.asked} from {name_some(missing, view.ids, asking)}"
        leader = view.leader(self.regency)
        proven = max((known.instance - 1 for known in self._stop_data.values()), default=0)
        if max(proven, self._postponed_until()) > self._chassis.decided:
            return f"the decision of instance {self._chassis.decided + 1}, which others have proven"
        if leader != self._chassis.id:
            return f"the SYNC of regency {self.regency} from its leader, replica {leader}"
        if self._wanted is not None:
            return f"the value that instance {self._wanted[0]} is bound to, from those who wrote it"
        sent = [signer for signer, known in self._stop_data.items() if known.regency == self.regency]
        if len(sent) >= view.quorum:
            return f"the decisions that the STOPDATA of regency {self.regency} prove"
        return f"STOPDATA of regency {self.regency} from {name_some(view.quorum - len(sent), view.ids, sent)}"

    def _postponed_until(self) -> int:
        """The highest decision that a postponed SYNC proves."""
        stop_data = self._postponed.stop_data if self._postponed is not None else ()
        return max((known.instance - 1 for known in stop_data), default=0)

    # Restarts

    def standing_records(self) -> tuple[Record, ...]:
        """The promise of the installed regency, and its SYNC if it has come, as they are in the log already."""
        if self._own is None:
            return ()
        instance = self._chassis.decided + 1
        records = [regency_record(instance, self._own[1])]
        if self._sync is not None:
            records.append(sync_record(instance, self._sync))
        return tuple(records)

    def recover(self, recovered: RecoveredState) -> None:
        """Take up the regency that was promised, and its SYNC if it had come."""
        stop_data, chassis = recovered.stop_data, self._chassis
        if stop_data is None:
            return
        chassis.guard.restore_regency(stop_data.regency)
        self.asked = stop_data.regency
        self._own = (0, stop_data)
        if chassis.view.leader(stop_data.regency) == chassis.id:
            self._stop_data[chassis.id] = stop_data
        if recovered.sync is not None:
            outcome = evaluate(recovered.sync.stop_data, chassis.view.n, chassis.view.f)
            digest = chassis.domains.value_digest(recovered.sync.value) if recovered.sync.value else b""
            chassis.guard.restore_sync(outcome.instance, digest)
            self._sync = recovered.sync
        else:
            chassis.set_timer(Timer.REGENCY, self.timeout)

    def take_part(self) -> None:
        """The start is over: follow what was heard meanwhile, and write what the SYNC says."""
        self._count_stops()
        self._follow()
        self.resume()

    def resume(self) -> None:
        """After a restart: the value of the SYNC may not have been written yet."""
        current = self._ordering.current
        if self._sync is None or not self._sync.value or current.proposal is not None:
            return
        outcome = evaluate(self._sync.stop_data, self._chassis.view.n, self._chassis.view.f)
        if outcome.instance == current.instance:
            current.resume(self._sync.value, binds=outcome.verdict is Verdict.BOUND)


def _signed_stop_data(chassis: Chassis, unsigned: StopData) -> StopData:
    payload = chassis.domains.stop_data_payload(stop_data_statement(unsigned))
    return replace(unsigned, signature=chassis.signer.sign(payload))


def _signed_sync(chassis: Chassis, unsigned: Sync) -> Sync:
    payload = chassis.domains.sync_payload(sync_statement(unsigned))
    return replace(unsigned, signature=chassis.signer.sign(payload))


def _tell(chassis: Chassis, to: int | None, message: Message) -> None:
    if to is None:
        chassis.broadcast(message)
    else:
        chassis.send(to, message)
