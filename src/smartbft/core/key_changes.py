"""New consensus keys at one replica: statements of members that wait to be ordered, and its own when it needs one.

A replica that has lost the record of its votes has a new key made and announces it (protocols.md section 3). Everybody
keeps the statement, the leader proposes it, and a leader that does not is suspected as for a request. A statement
proves itself, so anybody may pass it on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from smartbft.core.effects import MakeConsensusKey
from smartbft.core.forwarding import Deadline, Due
from smartbft.core.inputs import Timer
from smartbft.crypto.signatures import Signer
from smartbft.limits import LOOKS_FOR_SYNC, MAX_KEY_REST_DOUBLINGS
from smartbft.messages import KeyAnnouncement
from smartbft.types import KeyStatement

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class KeyChanges:
    """The key statements that one replica knows of.

    Attributes:
        made: signs with the key that was made for this replica in this life; it has never signed a vote. None: it
            needs none, or the key is not here yet.
    """

    __slots__ = ("_asked", "_deadline", "_looks", "_own", "_pending", "_replica", "_resting", "made")

    def __init__(self, replica: Replica) -> None:
        self.made: Signer | None = None
        self._replica = replica
        self._asked = False
        self._looks = 0  # for the SYNC, since the key is here
        self._own: KeyStatement | None = None
        self._pending: dict[int, KeyStatement] = {}  # the newest of each member; who has waited longest comes first
        self._resting: dict[int, int] = {}  # members whose key is new -> when the next may replace it
        self._deadline = Deadline(replica)

    # Of any member

    def on_announcement(self, sender: int, message: KeyAnnouncement) -> None:
        """A verified statement, whoever passes it on; one that does not replace the key in force is out of date."""
        statement = KeyStatement.decode(message.statement)
        if self._replica.keys.admits(statement) and self._pending.get(statement.member) != statement:
            if not self._pending:
                self._deadline.begin(self._replica.now)
            self._pending[statement.member] = statement
            self._replica.ordering.on_requests()

    def statements(self) -> tuple[KeyStatement, ...]:
        """What one value may hold of them; not those of a member that had a new key a moment ago.

        Else one that lies, or that runs twice with the same permanent key, has keys replaced in every instance, and
        instances follow each other without end although nobody asks for anything.
        """
        if not self._pending:
            return ()
        return self._replica.keys.admitted(one for one in self._pending.values() if not self._rests(one.member))

    def _rests(self, member: int) -> bool:
        """Whether its key is too young to be replaced. (A clock that was set back ends the rest.)"""
        end = self._resting.get(member, 0)
        return end - self._time_to_rest(member) <= self._replica.now < end

    def _time_to_rest(self, member: int) -> int:
        """The chain's request timeout, twice as long with each key that the member had replaced: each new key may end a
        regency. It is the same for everybody, however patient they are with leaders.
        """
        doublings = min(max(0, self._replica.keys.replaced(member) - 1), MAX_KEY_REST_DOUBLINGS)
        return self._replica.parameters.request_timeout << doublings

    def _rest(self, members: Iterable[int]) -> None:
        self._resting |= {member: self._replica.now + self._time_to_rest(member) for member in members}
        self._watch_rest()

    def begin(self) -> None:
        """The replica has started: it does not know how old the keys are that are not the first ones."""
        self._rest(member for member in self._replica.view.ids if self._replica.keys.changed(member))

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """Statements were ordered: what replaced the same keys is void, and the others' time begins."""
        self._rest(members)
        first = next(iter(self._pending), None)
        for member in [member for member, one in self._pending.items() if not self._replica.keys.admits(one)]:
            del self._pending[member]
        if next(iter(self._pending), None) != first:
            self._deadline.begin(self._replica.now)

    @property
    def suspects(self) -> bool:
        """Whether a statement was passed on to everybody and is still not ordered."""
        return bool(self.statements()) and self._deadline.passed

    def watch_again(self) -> None:
        """A new regency: its leader has the whole timeout."""
        self._deadline.watch_again()

    def on_timer(self) -> None:
        """Look at the statement that has waited longest: the clock is that of requests."""
        replica = self._replica
        waiting = self.statements()
        if not waiting or not replica.may_propose():
            self._deadline.hold()
        due = self._deadline.look()
        if not waiting:
            return
        if due is Due.SUSPECT:
            replica.ordering.suspect(b"")
        elif due is Due.FORWARD:
            for statement in waiting:
                self._announce(statement)

    def on_rested(self) -> None:
        """Keys may be replaced again: propose what waited for that."""
        self._watch_rest()
        if self.statements():
            self._replica.ordering.on_requests()

    def _watch_rest(self) -> None:
        """Look again when the first rest is over."""
        self._resting = {member: end for member, end in self._resting.items() if self._rests(member)}
        if self._resting:
            self._replica.set_timer(Timer.KEYS, min(self._resting.values()) - self._replica.now)

    def _announce(self, statement: KeyStatement) -> None:
        replica = self._replica
        replica.broadcast(KeyAnnouncement(replica.view.number, replica.regency, statement.encode()))

    # Of this replica

    def need_key(self) -> None:
        """Our votes are lost: have a key made, a new one in each life, so that no earlier life has voted with it."""
        if not self._asked:
            self._asked = True
            self._replica.ask_for(MakeConsensusKey())

    def on_made(self, signer: Signer) -> None:
        """The key is here, and on disk."""
        self.made = signer
        self._looks = 0
        self.repeat()

    def forget_made(self) -> None:
        """The key that was made is in force; who loses the votes that it signs needs another one."""
        self.made = None
        self._asked = False

    def repeat(self) -> None:
        """Announce our statement until it is ordered; not before we know which key it replaces."""
        replica = self._replica
        if self.made is None or not replica.learns or replica.is_behind() or self._waits_for_sync():
            return
        replaced = replica.keys.latest(replica.id) or b""
        if self._own is None or self._own.replaces != replaced:
            self._own = self._sign(self.made, replaced)
        self._announce(self._own)

    def _waits_for_sync(self) -> bool:
        """For a while: the SYNC of the regency may hold a STOPDATA of ours, which nobody takes up after the change."""
        if self._replica.guard.synchronized:
            return False
        self._looks += 1
        return self._looks <= LOOKS_FOR_SYNC

    def _sign(self, made: Signer, replaced: bytes) -> KeyStatement:
        replica = self._replica
        content = (replica.id, replaced, made.public_key)
        possession = made.sign(replica.domains.possession_payload(replica.view.number, *content))
        signature = replica.permanent.sign(replica.domains.key_payload(replica.view.number, *content))
        return KeyStatement(*content, possession, signature)

    def waiting_for(self) -> str:
        """What a replica that learns waits for, in words; empty for one that votes."""
        if not self._replica.learns:
            return ""
        return (
            "a new consensus key of its own" if self.made is None else "its new consensus key, which is being ordered"
        )
