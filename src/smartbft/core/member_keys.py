"""Which consensus key of a member is in force in which instance (protocols.md section 3).

A replica that has lost the record of its votes has a new key ordered: the statement is part of a decided value, and
the key takes effect with the next instance. So the table is a pure fold of the decided values: equal on all replicas
that have decided the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from smartbft.errors import MalformedMessage, invariant
from smartbft.limits import MAX_KEYS_PER_MEMBER
from smartbft.types import KeyStatement, View


@dataclass(frozen=True, slots=True)
class KeyInForce:
    """A consensus key.

    Attributes:
        first: the first instance in which the member votes with it.
        key: 32 bytes.
        statement: by which it came into force; None: the view names it.
    """

    first: int
    key: bytes
    statement: KeyStatement | None = None


class MemberKeys:
    """The consensus keys of one view's members, over the instances.

    Args:
        view: names the keys at the beginning.

    Attributes:
        known: the instance after the last decided one: what is in force later nobody can say yet.
    """

    __slots__ = ("_history", "_latest", "_view", "known")

    def __init__(self, view: View) -> None:
        self.known = view.first_instance
        self._view = view
        self._latest = self._at_the_beginning()
        self._history: dict[int, list[KeyInForce]] = {}  # of members that had more than one, the oldest first

    def latest(self, member: int) -> bytes | None:
        """The key in force in instance `known`; None: not a member."""
        entry = self._latest.get(member)
        return entry.key if entry is not None else None

    def key_at(self, member: int, instance: int) -> bytes | None:
        """The key in force in an instance; beyond `known` it may turn out to be another. None: not a member, or so
        long ago that it is forgotten.
        """
        entry = self.entry_at(member, instance)
        return entry.key if entry is not None else None

    def entry_at(self, member: int, instance: int) -> KeyInForce | None:
        """As `key_at`, with where the key comes from."""
        entry = self._latest.get(member)
        if entry is None or entry.first <= instance:
            return entry
        earlier = self._history.get(member)
        if earlier is None:
            return entry  # its only key; instances before the view's first one do not exist
        return next((one for one in reversed(earlier) if one.first <= instance), None)

    def changed(self, member: int) -> bool:
        """Whether the member had another key before."""
        return member in self._history

    def replaced(self, member: int) -> int:
        """How many keys of the member were replaced, as far as they are remembered."""
        return max(0, len(self._history.get(member, ())) - 1)

    def any_changed(self) -> bool:
        """Whether any member had."""
        return bool(self._history)

    def admits(self, statement: KeyStatement) -> bool:
        """Whether the statement can come into force now: it replaces the member's key in force, by one that nobody has
        used.
        """
        entries = [*self._latest.values(), *(one for history in self._history.values() for one in history)]
        return statement.replaces == self.latest(statement.member) and all(one.key != statement.key for one in entries)

    def admitted(self, statements: Iterable[KeyStatement]) -> tuple[KeyStatement, ...]:
        """Those of the statements, in the order of members, that one value may hold together."""
        chosen: dict[bytes, KeyStatement] = {}
        for statement in sorted(statements, key=lambda one: one.member):
            if self.admits(statement):
                chosen.setdefault(statement.key, statement)
        return tuple(chosen.values())

    def decided(self, instance: int, statements: Sequence[KeyStatement]) -> tuple[int, ...]:
        """The next instance is decided, with these statements; returns the members whose key is another from now on.

        One that does not fit is passed over: where a value binds, nobody looks at its statements again.
        """
        invariant(instance == self.known, f"the keys of instance {instance} follow those of {self.known - 1}")
        self.known = instance + 1
        if not statements:
            return ()
        changes = self.admitted(statements)
        for statement in changes:
            history = self._history.setdefault(statement.member, [self._latest[statement.member]])
            self._latest[statement.member] = KeyInForce(self.known, statement.key, statement)
            history.append(self._latest[statement.member])
            del history[:-MAX_KEYS_PER_MEMBER]
        return tuple(statement.member for statement in changes)

    # Snapshots

    def encode(self) -> bytes:
        """Canonical bytes of the table: equal wherever the same instances are decided."""
        rows = [
            (member, [(one.first, one.key, one.statement.encode() if one.statement else b"") for one in history])
            for member, history in sorted(self._history.items())
        ]
        return msgspec.msgpack.encode((self.known, rows))

    def restore(self, data: bytes) -> tuple[int, ...]:
        """Become the table that `encode` wrote, for the same view; returns the members whose key in force is another.

        Raises:
            MalformedMessage: it is no such table; this one stays as it is.
        """
        before = self._latest, self._history, self.known
        latest = self._at_the_beginning()
        history: dict[int, list[KeyInForce]] = {}
        try:
            known, rows = _decoder.decode(data)
            for member, row in rows:
                history[member] = [_entry(latest[member], *fields) for fields in row]
                latest[member] = history[member][-1]
        except (msgspec.DecodeError, ValueError, IndexError, KeyError, RecursionError) as error:
            raise MalformedMessage(f"these are no keys of members: {error}") from None
        self._latest, self._history, self.known = latest, history, known
        if self.encode() != data:
            self._latest, self._history, self.known = before
            raise MalformedMessage("a table of keys that is not in canonical form")
        return tuple(member for member, entry in latest.items() if entry.key != before[0][member].key)

    def _at_the_beginning(self) -> dict[int, KeyInForce]:
        first = self._view.first_instance
        return {member.id: KeyInForce(first, member.consensus_key) for member in self._view.members}


_Row = list[tuple[int, bytes, bytes]]
_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[int, _Row]]])


def _entry(genesis: KeyInForce, first: int, key: bytes, statement: bytes) -> KeyInForce:
    """One key of a member; what a statement does not vouch for must be the view's own."""
    if not statement and (first, key) != (genesis.first, genesis.key):
        raise ValueError("a key that nobody stated")
    return KeyInForce(first, key, KeyStatement.decode(statement) if statement else None)
