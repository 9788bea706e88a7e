"""An attack with true proofs: of decisions that only the liar's ACCEPT completes, shown to those it wants to stop."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from smartbft.limits import DIGEST_BYTES, SIGNATURE_BYTES
from smartbft.messages import (
    Accept,
    Decision,
    Message,
    Progress,
    Proof,
    Propose,
    ProposedValue,
    Standing,
    Stop,
    StopData,
    Sync,
    Write,
)
from smartbft.testing.byzantine.base import Attack, OncePer, Powers

_KEPT = 64  # ACCEPT quorums in the making that it remembers


class HideAccepts(Attack):
    """Says another ACCEPT to all, or none, and shows proofs that hold the true one to new leaders and to replicas that
    start. What it has decided it passes on to nobody.
    """

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._accepts: dict[tuple[int, int, bytes], dict[int, bytes]] = {}
        self._contradicts = OncePer(powers)

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note who accepts what."""
        if isinstance(message, Accept):
            key = (message.instance, message.regency, message.digest)
            self._accepts.setdefault(key, {})[sender] = message.signature
            if len(self._accepts) > _KEPT:
                del self._accepts[next(iter(self._accepts))]
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Its own votes are hidden; proofs go where they may do harm."""
        powers = self.powers
        if isinstance(message, (Decision, Sync, ProposedValue)):
            return ()
        if isinstance(message, Accept):
            contradicts = self._contradicts(message.instance)
            return (powers.signed(replace(message, digest=bytes(DIGEST_BYTES))),) if contradicts else ()
        if isinstance(message, Standing):
            return (replace(message, proof=self._proof()),)
        if isinstance(message, (Propose, Write)) and to == powers.peers[powers.victim % len(powers.peers)]:
            return ()  # one of them never has the value from here
        if isinstance(message, StopData):
            return self._promise(message.regency)
        if isinstance(message, (Progress, Stop, Write)):
            return (message, *self._promise(self._next_regency(to, message.regency)))
        return (message,)

    def _proof(self) -> Proof | None:
        """Of the newest instance that its ACCEPT decides."""
        view = self.powers.view
        complete = [key for key, accepts in self._accepts.items() if len(accepts) == view.quorum - 1]
        if not complete:
            return None
        instance, regency, digest = key = max(complete)
        own = self.powers.signed(Accept(view.number, regency, instance, digest, bytes(SIGNATURE_BYTES)))
        signatures = {**self._accepts[key], self.powers.id: own.signature}
        return Proof(view.number, regency, instance, digest, tuple(sorted(signatures.items())))

    def _next_regency(self, leader: int, after: int) -> int:
        """The first regency after this one which that replica leads."""
        view = self.powers.view
        return next(regency for regency in range(after + 1, after + 1 + view.n) if view.leader(regency) == leader)

    def _promise(self, regency: int) -> tuple[Message, ...]:
        proof = self._proof()
        if proof is None or proof.regency >= regency:
            return ()
        view, id = self.powers.view, self.powers.id
        unsigned = StopData(view.number, regency, id, proof.instance + 1, None, (), proof, bytes(SIGNATURE_BYTES))
        return (self.powers.signed(unsigned),)
