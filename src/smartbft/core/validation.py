"""Stateless checks of messages: everything about a message that does not depend on how far this replica is.

Only `Validator` makes `Verified` objects, and only they enter the step function. Signatures are verified here, on
receipt, so that a proof never holds one that does not verify (field notes B6), and a proof is bound to its view,
instance and regency (B1).
"""

from __future__ import annotations

from smartbft._fastpath.pool import request_digests
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import MemberVerifier
from smartbft.errors import InvalidSignature, MalformedMessage, RemoteProtocolError, invariant
from smartbft.limits import DIGEST_BYTES
from smartbft.messages import Accept, Decision, FetchRequests, Message, Proof, Propose
from smartbft.types import Parameters, Value, View


class Verified:
    """A message that passed validation, and the member who sent it. Made by `Validator` only."""

    __slots__ = ("message", "sender")

    def __init__(self, sender: int, message: Message, token: object) -> None:
        invariant(token is _TOKEN, "only the validator may call a message verified")
        self.sender = sender
        self.message = message


_TOKEN = object()


class Validator:
    """Checks messages of the members of one view.

    Args:
        view: the view in force.
        domains: the chain's hash and signature domains.
        verifier: checks members' signatures.
        parameters: the chain's limits on batches.
    """

    def __init__(self, view: View, domains: Domains, verifier: MemberVerifier, parameters: Parameters) -> None:
        self._view = view
        self._domains = domains
        self._verifier = verifier
        self._parameters = parameters

    def validate(self, sender: int, message: Message) -> Verified:
        """Pass a decoded message from `sender` (the id the channel has authenticated).

        Raises:
            RemoteProtocolError: the sender is no member, the message is for another view, or its content is invalid in
                itself (a bad signature, a wrong leader, a malformed value, a proof that proves nothing).
        """
        if sender not in self._view.ids:
            raise RemoteProtocolError(f"replica {sender} is not a member of view {self._view.number}")
        if message.view != self._view.number:
            raise RemoteProtocolError(
                f"a message for view {message.view}, but the view in force is {self._view.number}"
            )
        if type(message) is Propose:
            self._check_propose(sender, message)
        elif type(message) is Accept:
            self._check_accept(sender, message)
        elif type(message) is Decision:
            self._check_decision(message)
        elif type(message) is FetchRequests and len(message.digests) % DIGEST_BYTES:
            raise MalformedMessage("FETCH-REQUESTS holds a partial digest")
        return Verified(sender, message, _TOKEN)

    def _check_propose(self, sender: int, message: Propose) -> None:
        leader = self._view.leader(message.regency)
        if sender != leader:
            raise RemoteProtocolError(
                f"PROPOSE from replica {sender}, but replica {leader} leads regency {message.regency}"
            )
        count = Value.decode(message.value).count
        if not 1 <= count <= self._parameters.max_batch_requests:
            raise MalformedMessage(
                f"a proposal of {count} requests; the genesis allows 1 to {self._parameters.max_batch_requests}"
            )

    def _check_accept(self, sender: int, message: Accept) -> None:
        payload = self._domains.accept_payload(message.view, message.regency, message.instance, message.digest)
        if not self._verifier.verify(sender, message.signature, payload):
            raise InvalidSignature(f"ACCEPT of replica {sender} for instance {message.instance} has a bad signature")

    def _check_decision(self, message: Decision) -> None:
        value = Value.decode(message.value)
        if message.proof.instance != message.instance:
            raise MalformedMessage(
                f"a decision of instance {message.instance} with a proof for instance {message.proof.instance}"
            )
        if self._domains.value_digest(message.value) != message.proof.digest:
            raise MalformedMessage(f"the proof of instance {message.instance} is for another value")
        self.check_proof(message.proof)
        # The proof says that Q replicas checked the requests; here it must only be the same requests.
        if request_digests(self._domains.chain_id, message.data) != value.digests:
            raise MalformedMessage(f"the requests of instance {message.instance} are not those of its value")

    def check_proof(self, proof: Proof) -> None:
        """Check a decision proof (External Provability).

        Raises:
            RemoteProtocolError: another view, fewer than `Q` distinct members, not in order, or a bad signature.
        """
        if proof.view != self._view.number:
            raise RemoteProtocolError(f"a proof for view {proof.view}, but the view in force is {self._view.number}")
        signers = [signer for signer, _ in proof.signatures]
        if signers != sorted(set(signers)):
            raise MalformedMessage("the signers of a proof are not distinct and in order")
        if len(signers) < self._view.quorum:
            raise RemoteProtocolError(f"a proof with {len(signers)} signatures; {self._view.quorum} are needed")
        payload = self._domains.accept_payload(proof.view, proof.regency, proof.instance, proof.digest)
        for signer, signature in proof.signatures:
            if not self._verifier.verify(signer, signature, payload):
                raise InvalidSignature(f"the signature of replica {signer} in a proof does not verify")
