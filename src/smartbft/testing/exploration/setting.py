"""What is searched: the first instance, or the second one, after the first has given a member a new key."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from smartbft.core.member_keys import MemberKeys
from smartbft.crypto.domains import Domains
from smartbft.messages import Proof, StopData, Sync
from smartbft.types import KeyStatement, Member, Value, View

N = 4
NOW = 1_000_000
DOMAINS = Domains(bytes(32))
_RENEWED = 100  # tags of new keys are those of no member


def make_view() -> View:
    """Four members; made anew for each exploration, because a planted bug may change the quorum."""
    return View(0, tuple(Member(id, key_of(id), key_of(id)) for id in range(N)))


def key_of(number: int) -> bytes:
    """The key whose signatures are the tags of this number."""
    return bytes([number]) * 32


def tag(number: int) -> bytes:
    """What stands for any signature with this key."""
    return bytes([number]) * 64


@dataclass(frozen=True, slots=True)
class Past:
    """What a replica went through before it decided the first instance.

    Attributes:
        regency: the one that it has installed.
        sync: the SYNC of it that it has taken up; None: it came too late, or the regency is 0.
    """

    regency: int
    sync: Sync | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One world.

    Attributes:
        lost: the member that has lost its votes and gets a new key by the first instance; None: nobody, and the first
            instance is the one that is searched.
    """

    lost: int | None = None
    view: View = field(default_factory=make_view)

    @property
    def instance(self) -> int:
        """The one that is searched."""
        return 1 if self.lost is None else 2

    def number(self, member: int) -> int:
        """Of the key with which a member votes in the instance that is searched."""
        return member + _RENEWED if member == self.lost else member

    def tag(self, member: int) -> bytes:
        """What a member signs with that key."""
        return tag(self.number(member))

    @property
    def statements(self) -> tuple[KeyStatement, ...]:
        """What the first instance decided beside requests."""
        if self.lost is None:
            return ()
        return (KeyStatement(self.lost, key_of(self.lost), key_of(self.number(self.lost)), tag(0), tag(0)),)

    @property
    def decided(self) -> tuple[bytes, Proof]:
        """The decision of the first instance: everybody's, at its time."""
        value = Value(NOW - 1, b"", self.statements).encode()
        signatures = tuple((id, tag(id)) for id in range(N - 1))
        return value, Proof(0, 0, 1, DOMAINS.value_digest(value), signatures)

    @property
    def last_proof(self) -> Proof | None:
        """Of the decision before the instance that is searched."""
        return None if self.lost is None else self.decided[1]

    def keys(self) -> MemberKeys:
        """The table as of the instance that is searched."""
        keys = MemberKeys(self.view)
        if self.lost is not None:
            keys.decided(1, self.statements)
        return keys

    def old_promise(self, member: int) -> StopData:
        """What a member promised for regency 1 before the first instance was decided."""
        return StopData(0, 1, member, 1, None, (), None, tag(member))

    def pasts(self) -> list[Past]:
        """All that makes a difference: where it was, and whether it is there with the promise that was lost."""
        if self.lost is None:
            return [Past(0)]
        leader = self.view.leader(1)
        sets = [signers for count in (N - 1, N) for signers in itertools.combinations(range(N), count)]
        syncs = [Sync(0, 1, tuple(self.old_promise(id) for id in signers), b"", tag(leader)) for signers in sets]
        return [Past(0), Past(1), *(Past(1, sync) for sync in syncs)]

    def together(self, pasts: Mapping[int, Past]) -> bool:
        """Whether these pasts of members can have been: who has promised a regency remembers it, unless it is the one
        that has lost its votes.
        """
        promised = [one.signer for past in pasts.values() if past.sync for one in past.sync.stop_data]
        return all(pasts[signer].regency for signer in promised if signer in pasts and signer != self.lost)
