"""The synchronization phase of Mod-SMaRt (Algorithm 3; protocols.md 2.3): how a leader that fails is replaced.

STOP asks for the next regency (lines 4-18, `stopping.py`); enough of them install it. Installing is a promise that goes
to the new leader as signed STOPDATA (lines 19-23, here); from `n - f` of these the leader makes the SYNC that begins
the regency (lines 24-29, `collecting.py`). Everybody repeats the leader's checks (`smartbft.core.validation`), so a
lying leader can delay, but not deceive, and takes the SYNC up (lines 30-44, here).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from smartbft.core.chassis import Chassis
from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.epoch_change import Outcome, Verdict, evaluate
from smartbft.core.inputs import Timer
from smartbft.core.records import regency_record, sync_record
from smartbft.core.recovery import RecoveredState
from smartbft.core.regency_changes import RegencyChanges
from smartbft.limits import SIGNATURE_BYTES
from smartbft.messages import (
    FetchSync,
    FetchValue,
    Message,
    ProposedValue,
    Stop,
    StopData,
    Sync,
    stop_data_statement,
)
from smartbft.protocols.mod_smart.collecting import Collecting
from smartbft.protocols.mod_smart.patience import Patience
from smartbft.protocols.mod_smart.stopping import Stopping

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart

_UNSIGNED = bytes(SIGNATURE_BYTES)


class Synchronization:
    """The regency changes of one replica."""

    def __init__(self, chassis: Chassis, ordering: ModSmart) -> None:
        self._chassis = chassis
        self._ordering = ordering
        self._patience = Patience(chassis.parameters)
        self._stopping = Stopping(chassis, ordering, self)
        self._collecting = Collecting(chassis, ordering, self)
        self._own: tuple[int, StopData] | None = None  # with the token of its record
        self._sync: Sync | None = None  # of the installed regency
        self._sync_token = 0  # of its record
        self._key_changes = 0
        self._postponed: Sync | None = None  # valid, but decisions that it proves are not here yet
        self._answered: dict[int, int] = {}  # when a peer last got our SYNC

    def handlers(self) -> dict[type[Message], Callable[[int, Any], None]]:
        """Who takes which message of this phase, with its sender."""
        return {
            Stop: self._stopping.on_stop,
            StopData: self._on_stop_data,
            Sync: lambda _, message: self._on_sync(message),
            FetchSync: lambda sender, _: self._answer_with_sync(sender),
            FetchValue: self._collecting.on_fetch_value,
            ProposedValue: self._collecting.on_proposed_value,
        }

    @property
    def regency(self) -> int:
        """The installed regency (`creg` in the paper)."""
        return self._chassis.guard.regency

    @property
    def timeout(self) -> int:
        """Microseconds that a leader has."""
        return self._patience.timeout

    @property
    def changes(self) -> RegencyChanges:
        """What is remembered of the regency changes."""
        return self._stopping.changes

    def suspect(self, why: str, data: bytes) -> None:
        """The leader fails or is too slow (`why`, in words): ask for the next regency. `data`: the requests it has left
        out.
        """
        self._stopping.suspect(why, data)

    def heard(self, sender: int, regency: int) -> None:
        """`sender` is in another regency than we are: follow `f + 1`, and help one who is behind."""
        if regency < self.regency:
            self._answer_with_sync(sender)
        else:
            self._stopping.heard(sender, regency)

    # Installing a regency, and STOPDATA

    def install(self, regency: int) -> None:
        """Lines 19-23: the promise is on disk before the new leader gets it."""
        chassis = self._chassis
        failed = not chassis.guard.ended  # else a key was replaced, and the leader is not to blame
        if not chassis.guard.install(regency):
            return
        if failed:
            self._patience.installed()
        self._leave_regency(failed)
        if chassis.guard.suspended:
            return  # a learner follows, and has nothing to promise
        stop_data = self._make_stop_data()
        leader = chassis.view.leader(regency)
        then = () if leader == chassis.id else (Send(leader, stop_data),)
        token = chassis.persist_promise(regency_record(stop_data.instance, stop_data), then)
        self._own = (token, stop_data)
        chassis.set_timer(Timer.REGENCY, self.timeout)
        if leader == chassis.id:
            self._collecting.put_own(stop_data)
            self._collecting.try_sync()

    def _leave_regency(self, failed: bool) -> None:
        """Another regency is installed: forget the old one. `failed`: its leader may have been at fault."""
        self._stopping.installed(self.regency)
        self._sync = self._postponed = None
        self._answered.clear()
        self._collecting.leave_regency()
        self._ordering.leave_regency(failed)

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
        payload = chassis.domains.stop_data_payload(stop_data_statement(unsigned))
        return replace(unsigned, signature=chassis.signer.sign(payload))

    def _on_stop_data(self, _: int, message: StopData) -> None:
        """Lines 24-27, at the leader; who says so after the regency has begun has missed its SYNC."""
        if self._collecting.add(message) and message.regency == self.regency:
            if self._sync is None:
                self._collecting.try_sync()
            else:
                self._answer_with_sync(message.signer)

    # SYNC

    def _on_sync(self, message: Sync) -> None:
        """Lines 30-35; validation has repeated the leader's checks."""
        if message.regency > self.regency:
            # `n - f` replicas have installed it, and signed so.
            self._stopping.because(f"a SYNC shows that the others are in regency {message.regency}")
            self.install(message.regency)
        if message.regency != self.regency or self._sync is not None:
            # Of an old regency, known already (perhaps over already), or we may not install anything yet.
            return
        if not self.prove(message.stop_data) or self._sync is not None:
            return  # asked for again, and checked with the keys of now
        outcome = evaluate(message.stop_data, self._chassis.view.n, self._chassis.view.f)
        if self.is_up_to(message.stop_data, outcome):
            self.take_up(message, outcome, None)
        else:
            self._postponed = message

    def prove(self, collected: Sequence[StopData]) -> bool:
        """A proof may decide the running instance, and that may already begin the regency.

        Returns False if it has changed keys: what was checked with those before counts no more.
        """
        changes = self._key_changes
        for stop_data in collected:
            if stop_data.proof is not None:
                self._ordering.prove(stop_data.proof)
        return changes == self._key_changes

    def is_up_to(self, collected: Sequence[StopData], outcome: Outcome) -> bool:
        """Whether all decisions proven in the set are here; if not, fetch them from who proved them."""
        if outcome.instance <= self._chassis.decided + 1:
            return True
        for stop_data in collected:
            if stop_data.signer != self._chassis.id:
                self._chassis.note_progress(stop_data.signer, stop_data.instance - 1)
        return False

    def take_up(self, sync: Sync, outcome: Outcome, data: bytes | None) -> None:
        """Lines 36-44: the regency begins: only now anything may be written in it, and in that instance only that
        value.

        Args:
            sync: of the installed regency, checked.
            outcome: what its STOPDATA say.
            data: the requests of its value, where they are at hand: at the leader that has just formed it.
        """
        chassis = self._chassis
        digest = chassis.domains.value_digest(sync.value) if sync.value else b""
        if not chassis.guard.synchronize(sync.regency, outcome.instance, digest):
            return
        self._sync, self._postponed = sync, None
        self._collecting.began()
        leads = chassis.view.leader(sync.regency) == chassis.id
        if not chassis.guard.suspended:
            then = (Broadcast(sync),) if leads else ()
            self._sync_token = chassis.persist_promise(sync_record(chassis.decided + 1, sync), then)
        self._begin(sync, outcome, data)

    def _begin(self, sync: Sync, outcome: Outcome, data: bytes | None) -> None:
        chassis = self._chassis
        self._stopping.began()
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

        That holds for a SYNC that was taken up, too: a replica that lost its key may vote below the regency that it had
        promised, so what is decided there need not bind in a set with that promise. The regency is over, and the next
        one begins with promises that are kept (ARCHITECTURE.md, "New consensus keys").
        """
        self._key_changes += 1
        self._collecting.on_keys_changed(members)
        self._postponed = None
        if self._sync is not None and not self._chassis.in_force(self._sync):
            self._chassis.guard.end_regency()

    def _ask_for_next(self) -> None:
        """The installed regency is over: ask for the next one at once."""
        chassis = self._chassis
        if not chassis.guard.ended or chassis.guard.suspended:
            return
        chassis.set_timer(Timer.REGENCY, self.timeout)
        why = f"a consensus key was replaced that a promise of regency {self.regency} was signed with"
        self._stopping.stop(self.regency + 1, chassis.overdue(), why)

    def promise_anew(self) -> None:
        """Promise a regency with our new key: the one we follow, or that of the last decision.

        A forgotten promise may be for a higher one. A replica that has made the last decision takes up no SYNC with it,
        because it does not verify, and has left a regency that began with it. So nobody votes for the next instance
        in a regency that rests on it (the argument is in ARCHITECTURE.md, "New consensus keys").
        """
        chassis = self._chassis
        proof = chassis.last_proof()
        if proof is not None and proof.regency > self.regency:
            self._stopping.because(f"instance {proof.instance} was decided in regency {proof.regency}")
            chassis.guard.install(proof.regency)
            self._leave_regency(failed=True)
        self._collecting.drop_own()
        if not self.regency:
            return  # nobody promises regency 0
        stop_data = self._make_stop_data()
        token = chassis.persist_promise(regency_record(stop_data.instance, stop_data))
        self._own = (token, stop_data)
        if self._sync is not None:
            self._sync_token = chassis.persist_promise(sync_record(stop_data.instance, self._sync))
            return
        if chassis.view.leader(self.regency) == chassis.id:
            self._collecting.put_own(stop_data)
        chassis.set_timer(Timer.REGENCY, self.timeout)

    # Progress, time, repetition

    def on_decided(self) -> None:
        """A decision may be what a SYNC waited for; many in a row shorten the timeout again."""
        self._patience.decided()
        if self._postponed is not None:
            postponed, self._postponed = self._postponed, None
            self._on_sync(postponed)
        elif self._chassis.guard.ended:
            self._ask_for_next()
        else:
            self._collecting.try_sync()

    def on_timer(self, timer: Timer) -> None:
        """REGENCY: no SYNC came in time: suspect this leader too, even with an empty pool. VALUE: ask the next."""
        if timer == Timer.VALUE:
            self._collecting.ask_for_value()
        elif self._chassis.guard.suspended:
            self._chassis.set_timer(Timer.REGENCY, self.timeout)  # we may not ask for anything yet
        elif not self._chassis.guard.synchronized:
            why = f"no SYNC of regency {self.regency} came within {self.timeout / 1e6:g} s"
            self._stopping.stop(self.regency + 1, self._chassis.overdue(), why)

    def resend(self, to: int | None) -> None:
        """STOP as long as it is meant, STOPDATA and the question for the SYNC as long as it is missing."""
        chassis = self._chassis
        if not chassis.guard.suspended:
            self._stopping.resend(to)
        if not chassis.guard.awaits_sync:
            return
        if not chassis.guard.suspended:
            self._resend_stop_data(to)
        chassis.tell(to, FetchSync(chassis.view.number, self.regency))

    def _resend_stop_data(self, to: int | None) -> None:
        chassis = self._chassis
        leader = chassis.view.leader(self.regency)
        if self._own is not None and self._own[0] <= chassis.durable and leader != chassis.id and to in (None, leader):
            chassis.send(leader, self._own[1])

    def _answer_with_sync(self, to: int) -> None:
        """Any holder passes the SYNC on, at most once per resend interval and peer; the leader when it is durable: else
        it might make another one after a crash.
        """
        chassis = self._chassis
        interval = chassis.parameters.resend_interval
        if self._sync is None or chassis.guard.ended or self._sync_token > chassis.durable:
            return
        if chassis.guard.suspended and chassis.view.leader(self._sync.regency) == chassis.id:
            return  # it is one of an earlier life of ours, and not on record here
        if abs(chassis.now - self._answered.get(to, -interval)) >= interval and chassis.may_answer(to, Sync):
            self._answered[to] = chassis.now
            chassis.answer(to, self._sync)

    def running(self) -> bool:
        """Whether a regency change is under way."""
        return self._stopping.asks or not self._chassis.guard.synchronized

    def waiting_for(self) -> str:
        """What the change waits for, and from whom, in words."""
        if stops := self._stopping.waiting_for():
            return stops
        chassis = self._chassis
        leader = chassis.view.leader(self.regency)
        if max(self._collecting.proven, self._postponed_until()) > chassis.decided:
            return f"the decision of instance {chassis.decided + 1}, which others have proven"
        if leader != chassis.id:
            return f"the SYNC of regency {self.regency} from its leader, replica {leader}"
        return self._collecting.waiting_for()

    def _postponed_until(self) -> int:
        """The highest decision that a postponed SYNC proves."""
        stop_data = self._postponed.stop_data if self._postponed is not None else ()
        return max((known.instance - 1 for known in stop_data), default=0)

    # Restarts

    def standing_records(self) -> tuple[Record, ...]:
        """The promise of the installed regency, and its SYNC if it has come, as they are in the log already.

        A replica that learns follows regencies which it has not promised: these are not in the log.
        """
        if self._own is None:
            return ()
        instance, promise = self._chassis.decided + 1, self._own[1]
        records = [regency_record(instance, promise)]
        if self._sync is not None and self._sync.regency == promise.regency:
            records.append(sync_record(instance, self._sync))
        return tuple(records)

    def recover(self, recovered: RecoveredState) -> None:
        """Take up the regency that was promised, and its SYNC if it had come."""
        stop_data, chassis = recovered.stop_data, self._chassis
        if stop_data is None:
            return
        chassis.guard.restore_regency(stop_data.regency)
        self._stopping.installed(stop_data.regency)
        self._own = (0, stop_data)
        if chassis.view.leader(stop_data.regency) == chassis.id:
            self._collecting.put_own(stop_data)
        if recovered.sync is None:
            chassis.set_timer(Timer.REGENCY, self.timeout)
            return
        self._sync = recovered.sync
        if not chassis.in_force(recovered.sync):
            chassis.guard.end_regency()
            return
        outcome = evaluate(recovered.sync.stop_data, chassis.view.n, chassis.view.f)
        digest = chassis.domains.value_digest(recovered.sync.value) if recovered.sync.value else b""
        chassis.guard.restore_sync(outcome.instance, digest)

    def take_part(self) -> None:
        """The start is over: follow what was heard meanwhile, and write what the SYNC says."""
        self._stopping.count()
        self._stopping.follow()
        self.resume()
        self._ask_for_next()

    def resume(self) -> None:
        """After a restart: the value of the SYNC may not have been written yet."""
        current = self._ordering.current
        if self._sync is None or self._chassis.guard.ended or not self._sync.value or current.proposal is not None:
            return
        outcome = evaluate(self._sync.stop_data, self._chassis.view.n, self._chassis.view.f)
        if outcome.instance == current.instance:
            current.resume(self._sync.value, binds=outcome.verdict is Verdict.BOUND)
