"""A liar that has its key replaced as often as it can, sees to it that it is in every SYNC, and leads nobody."""

from __future__ import annotations

from collections.abc import Sequence

from smartbft.crypto.signatures import Signer
from smartbft.messages import KeyAnnouncement, Message, Progress, Propose, Stop, StopData, Sync, Write
from smartbft.testing.byzantine import Powers
from smartbft.testing.byzantine.base import Attack
from smartbft.types import KeyStatement


class KeyStorm(Attack):
    """Each new key of it ends the regency in whose SYNC it is.

    Attributes:
        changes_keys: else it only leads badly.
        is_silent: it proposes nothing and makes no SYNC.
    """

    changes_keys = True
    is_silent = True

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._announced: KeyStatement | None = None
        self._used: list[Signer] = []  # the keys that were in force, the newest last
        self._next: list[Signer] = []  # the key that it has announced
        self._promised = 0

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Promise the next regency as soon as somebody asks for it."""
        if isinstance(message, Stop) and self.changes_keys and self.powers.key_of(self.powers.id) is not None:
            self._promise(message.view, message.target)
        return message

    def _promise(self, view: int, regency: int) -> None:
        """Before anybody else's, with every key that the leader may know: it claims to have decided nothing."""
        powers = self.powers
        leader = powers.view.leader(regency)
        if leader == powers.id or regency <= self._promised:
            return
        self._promised = regency
        self._note_key()
        promise = StopData(view, regency, powers.id, 1, None, (), None, bytes(64))
        for delay in range(1, 60_000, 400):
            for signer in [*self._used[-2:], *self._next]:
                powers.send(leader, powers.signed(promise, signer), delay)

    def _note_key(self) -> None:
        signer = self.powers.signer
        if not self._used or self._used[-1].public_key != signer.public_key:
            self._used.append(signer)

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A statement beside what it says, until it is in force; then the next one."""
        powers = self.powers
        if self.is_silent and isinstance(message, (Propose, Sync)):
            return ()
        key = powers.key_of(powers.id)
        if not self.changes_keys or not isinstance(message, (Write, Progress)) or key is None:
            return (message,)
        self._note_key()
        if self._announced is None or self._announced.replaces != key:
            one = powers.ring.make()
            powers.ring.adopt(one)
            self._next = [one]
            self._announced = powers.key_statement(one, key)
        return (message, KeyAnnouncement(message.view, message.regency, self._announced.encode()))
