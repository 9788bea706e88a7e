"""Remembers what the members have signed lately, and finds the statements that contradict each other.

Every verified message passes here before the protocol sees it, so that no path through the rules can miss one. The
memory is bounded, per signer: a member that floods pushes out only its own statements.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from smartbft.core.evidence import Statement, contradiction
from smartbft.limits import (
    EARLY_INSTANCES_AHEAD,
    WITNESSED_ACCEPTS_PER_MEMBER,
    WITNESSED_DECISIONS,
    WITNESSED_OFFENCES_PER_MEMBER,
    WITNESSED_STOP_DATA_PER_MEMBER,
    WITNESSED_SYNCS,
)
from smartbft.messages import Accept, Decision, Message, Proof, Standing, StopData, Sync
from smartbft.types import View

Report = Callable[[int, Statement, Statement], None]
KeyOf = Callable[[int, Statement], object]


class Witness:
    """What one replica has seen the members of a view sign.

    Args:
        view: its members sign; all messages have passed validation against it.
        report: called with the accused and two statements that contradict each other; a few times per member at most.
        key_of: under which key of the member a statement counts; None: nobody can say any more. Two keys of one member
            contradict each other in nothing: with the first one it may have lost what it had promised. By default
            everything is signed with one key.
    """

    __slots__ = ("_accepts", "_key_of", "_offences", "_proofs", "_report", "_stop_data", "_syncs", "_view")

    def __init__(self, view: View, report: Report, key_of: KeyOf | None = None) -> None:
        self._view = view
        self._report = report
        self._key_of = key_of or (lambda member, _: member)
        self._accepts: dict[int, dict[tuple[int, int], Accept]] = {member: {} for member in view.ids}
        self._stop_data: dict[int, dict[int, StopData]] = {member: {} for member in view.ids}
        self._syncs: dict[int, Sync] = {}  # by regency
        self._proofs: OrderedDict[int, Proof] = OrderedDict()  # of decisions here, by instance
        self._offences: dict[int, dict[tuple[object, int], None]] = {member: {} for member in view.ids}

    def forget(self, member: int) -> None:
        """The member votes with a new key from now on: what it signed before, it is allowed to have forgotten."""
        self._accepts[member].clear()
        self._stop_data[member].clear()
        self._syncs.clear()

    def saw(self, sender: int, message: Message, decided: int) -> None:
        """A verified message came; `decided` is the last instance decided here."""
        if type(message) is Accept:
            self._saw_accept(sender, message, decided)
        elif type(message) is StopData:
            self._saw_stop_data(message, decided)
        elif type(message) is Sync:
            self.saw_sync(message, decided)
        elif isinstance(message, (Decision, Standing)) and message.proof is not None:
            self._saw_proof(message.proof, decided)

    def decided(self, proof: Proof) -> None:
        """An instance was decided here, with this proof."""
        self._proofs[proof.instance] = proof
        if len(self._proofs) > WITNESSED_DECISIONS:
            self._proofs.popitem(last=False)

    def saw_sync(self, message: Sync, decided: int) -> None:
        """A SYNC, from the wire or from our own log after a restart."""
        known = self._syncs.get(message.regency)
        if known == message:
            return
        if known is None:
            self._syncs[message.regency] = message
            if len(self._syncs) > WITNESSED_SYNCS:
                del self._syncs[next(iter(self._syncs))]
        else:
            self._compare(self._view.leader(message.regency), known, message)
        for stop_data in message.stop_data:
            self._saw_stop_data(stop_data, decided)

    def _saw_accept(self, signer: int, accept: Accept, decided: int) -> None:
        if not decided - WITNESSED_DECISIONS < accept.instance <= decided + EARLY_INSTANCES_AHEAD:
            return
        share = self._accepts[signer]
        key = (accept.instance, accept.regency)
        known = share.get(key)
        if known is None:
            share[key] = accept
            if len(share) > WITNESSED_ACCEPTS_PER_MEMBER:
                del share[next(iter(share))]
        elif known.digest == accept.digest:
            return
        else:
            self._compare(signer, known, accept)
        proof = self._proofs.get(accept.instance)
        if proof is not None and proof.regency == accept.regency and proof.digest != accept.digest:
            self._compare_with_proof(signer, accept, proof)
        for stop_data in self._stop_data[signer].values():
            self._compare(signer, accept, stop_data)

    def _saw_stop_data(self, message: StopData, decided: int) -> None:
        if message.proof is not None:
            self._saw_proof(message.proof, decided)
        signer, share = message.signer, self._stop_data[message.signer]
        if share.get(message.regency) == message:
            return
        for known in share.values():
            self._compare(signer, known, message)
        for accept in self._accepts[signer].values():
            self._compare(signer, accept, message)
        for proof in self._proofs.values():
            if proof.regency < message.regency and proof.instance >= message.instance:
                self._compare_with_proof(signer, message, proof)
        if share.setdefault(message.regency, message) is message and len(share) > WITNESSED_STOP_DATA_PER_MEMBER:
            del share[next(iter(share))]

    def _saw_proof(self, proof: Proof, decided: int) -> None:
        """Each signature in a proof is an ACCEPT. One for our own decision says nothing new."""
        known = self._proofs.get(proof.instance)
        if known is not None and (known.regency, known.digest) == (proof.regency, proof.digest):
            return
        for signer, signature in proof.signatures:
            self._saw_accept(signer, _accept(proof, signature), decided)

    def _compare_with_proof(self, signer: int, statement: Statement, proof: Proof) -> None:
        for member, signature in proof.signatures:
            if member == signer:
                self._compare(signer, statement, _accept(proof, signature))

    def _compare(self, accused: int, one: Statement, other: Statement) -> None:
        offence = contradiction(one, other)
        if offence is None or not self._same_key(accused, one, other):
            return
        offences = self._offences[accused]
        key = (offence, max(one.regency, other.regency))
        if key not in offences and len(offences) < WITNESSED_OFFENCES_PER_MEMBER:
            offences[key] = None
            self._report(accused, one, other)

    def _same_key(self, signer: int, one: Statement, other: Statement) -> bool:
        key = self._key_of(signer, one)
        return key is not None and key == self._key_of(signer, other)


def _accept(proof: Proof, signature: bytes) -> Accept:
    return Accept(proof.view, proof.regency, proof.instance, proof.digest, signature)
