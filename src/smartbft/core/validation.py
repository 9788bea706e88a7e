"""Checks of messages that do not depend on how far this replica is, but for the consensus keys of the members.

Only `Validator` makes `Verified` objects, and only they enter the step function. Signatures are verified here, on
receipt, so that a proof never holds one that does not verify (field notes B6), and a proof is bound to its view,
instance and regency (B1).

Keys change with decided instances (`smartbft.core.member_keys`). An ACCEPT, and so each signature in a proof, counts
with the key in force in its instance. The synchronization phase counts with the keys in force here and now, which are
those of the instance after the last decided one: what a member promised under a key that it has lost, it has forgotten,
and may since have voted otherwise. A signature that fails where another key may be the right one proves nothing against
anybody (`UnknownKey`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smartbft._fastpath.pool import request_digests
from smartbft.core.checkpoint_schedule import CheckpointSchedule
from smartbft.core.epoch_change import Verdict, evaluate
from smartbft.core.member_keys import MemberKeys
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import KeyVerifier
from smartbft.errors import InvalidSignature, MalformedMessage, RemoteProtocolError, UnknownKey, invariant
from smartbft.limits import DIGEST_BYTES
from smartbft.messages import (
    Accept,
    Checkpoint,
    Decision,
    FetchCheckpoints,
    FetchChunk,
    FetchDecisions,
    FetchHeld,
    FetchManifest,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Forward,
    Gone,
    HeldRequests,
    Hold,
    KeyAnnouncement,
    Message,
    Progress,
    Proof,
    Propose,
    ProposedValue,
    RequestBodies,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
    Stop,
    StopData,
    Sync,
    Write,
    decode_proof,
    stop_data_statement,
    sync_statement,
)
from smartbft.snapshots import Manifest, Snapshot, chunk_count, snapshot_digest
from smartbft.types import CHANNEL, KeyStatement, Parameters, Value, View

Check = Callable[[int, Any], None]  # of a message of the class it stands for in the table, from a sender


class Verified:
    """A message that passed validation, and the member who sent it. Made by `Validator` only."""

    __slots__ = ("message", "sender")

    def __init__(self, sender: int, message: Message, token: object) -> None:
        invariant(token is _TOKEN, "only the validator may call a message verified")
        self.sender = sender
        self.message = message


class Rehearsed(Verified):
    """A decision for a rehearsal: all of it was checked but the proof, which counts with other keys than those here. It
    is good for nothing else.
    """

    __slots__ = ()


_TOKEN = object()

# Nothing in them can be wrong that their schema allows: votes without a signature, questions, hints, and answers whose
# content is compared with what was asked for.
_COMPLETE_IN_THEMSELVES = (
    Write,
    RequestBodies,
    Forward,
    FetchDecisions,
    Progress,
    FetchSync,
    FetchValue,
    ProposedValue,
    FetchCheckpoints,
    Gone,
    FetchManifest,
    FetchChunk,
    SnapshotChunk,
    FetchStanding,
)


def _check_nothing(_: int, __: Message) -> None:
    return None


class Validator:
    """Checks messages of the members of one view.

    Args:
        view: the view in force.
        domains: the chain's hash and signature domains.
        verifier: checks signatures.
        parameters: the chain's limits on batches.
        keys: of the members, kept up to date by whoever decides; by default the ones that the view names.

    Attributes:
        rehearses: tells whether a rehearsal waits for the decision of an instance; None: there is none.
    """

    def __init__(
        self,
        view: View,
        domains: Domains,
        verifier: KeyVerifier,
        parameters: Parameters,
        keys: MemberKeys | None = None,
    ) -> None:
        self._view = view
        self._domains = domains
        self._verifier = verifier
        self._parameters = parameters
        self._keys = keys or MemberKeys(view)
        self._schedule = CheckpointSchedule(parameters, view)
        self.rehearses: Callable[[int], bool] | None = None
        self._checks = self._checks_by_class()

    def _checks_by_class(self) -> dict[type[Message], Check]:
        """What is checked beside the sender and the view; a class that is not here is refused."""
        return {
            Propose: self._check_propose,
            Accept: self._check_accept,
            Decision: self._check_decision,
            FetchRequests: self._check_fetch_requests,
            Stop: self._check_stop,
            StopData: self._check_stop_data_from,
            Sync: lambda _, message: self.check_sync(message),
            **dict.fromkeys((Hold, FetchHeld, HeldRequests), self._check_hold),
            Checkpoint: self._check_checkpoint,
            SnapshotManifest: self._check_manifest,
            Standing: self._check_standing,
            KeyAnnouncement: self._check_key_announcement,
            **dict.fromkeys(_COMPLETE_IN_THEMSELVES, _check_nothing),
        }

    def validate(self, sender: int, message: Message) -> Verified:
        """Pass a decoded message from `sender` (the id the channel has authenticated).

        Raises:
            UnknownKey: a signature cannot be judged here now; the message is to be dropped, and its sender not blamed.
            RemoteProtocolError: the sender is no member, the message is for another view, or its content is invalid in
                itself (a bad signature, a wrong leader, a malformed value, a proof that proves nothing).
        """
        if sender not in self._view.ids:
            raise RemoteProtocolError(f"replica {sender} is not a member of view {self._view.number}")
        if message.view != self._view.number:
            raise RemoteProtocolError(
                f"a message for view {message.view}, but the view in force is {self._view.number}"
            )
        if self.rehearses is not None and type(message) is Decision and self.rehearses(message.instance):
            self._check_decided(message)
            return Rehearsed(sender, message, _TOKEN)
        check = self._checks.get(type(message))
        if check is None:
            raise RemoteProtocolError(f"a {type(message).__name__}, which nobody here can check")
        check(sender, message)
        return Verified(sender, message, _TOKEN)

    def _check_stop(self, _: int, message: Stop) -> None:
        if message.target <= message.regency:
            raise MalformedMessage(f"a STOP for regency {message.target} from one who is in {message.regency}")

    def _check_fetch_requests(self, _: int, message: FetchRequests) -> None:
        if len(message.digests) % DIGEST_BYTES:
            raise MalformedMessage("FETCH-REQUESTS holds a partial digest")

    def _check_key_announcement(self, _: int, message: KeyAnnouncement) -> None:
        self.check_statement(KeyStatement.decode(message.statement))

    def _check_hold(self, _: int, message: Hold | FetchHeld | HeldRequests) -> None:
        if self._parameters.request_authentication != CHANNEL:
            raise RemoteProtocolError(f"a {type(message).__name__}, but the requests of this chain are signed")
        if isinstance(message, (Hold, FetchHeld)) and len(message.digests) % DIGEST_BYTES:
            raise MalformedMessage(f"a {type(message).__name__} holds a partial digest")

    def _check_propose(self, sender: int, message: Propose) -> None:
        leader = self._view.leader(message.regency)
        if sender != leader:
            raise RemoteProtocolError(
                f"PROPOSE from replica {sender}, but replica {leader} leads regency {message.regency}"
            )
        self._check_value(Value.decode(message.value))

    def _check_accept(self, sender: int, message: Accept) -> None:
        payload = self._domains.accept_payload(message.view, message.regency, message.instance, message.digest)
        self._check_vote(sender, message.instance, message.signature, payload, "ACCEPT")

    def with_keys(self, keys: MemberKeys) -> Validator:
        """The same checks with other keys."""
        return Validator(self._view, self._domains, self._verifier, self._parameters, keys)

    def _check_decision(self, _: int, message: Decision) -> None:
        self._check_decided(message)
        self.check_proof(message.proof)

    def _check_decided(self, message: Decision) -> None:
        value = Value.decode(message.value)
        if message.proof.instance != message.instance:
            raise MalformedMessage(
                f"a decision of instance {message.instance} with a proof for instance {message.proof.instance}"
            )
        if self._domains.value_digest(message.value) != message.proof.digest:
            raise MalformedMessage(f"the proof of instance {message.instance} is for another value")
        # The proof says that Q replicas checked the requests; here it must only be the same requests.
        if request_digests(self._domains.chain_id, message.data) != value.digests:
            raise MalformedMessage(f"the requests of instance {message.instance} are not those of its value")

    def _check_stop_data_from(self, sender: int, message: StopData) -> None:
        if message.signer != sender:
            raise RemoteProtocolError(f"replica {sender} sent the STOPDATA of replica {message.signer}")
        self.check_stop_data(message)

    def check_stop_data(self, message: StopData) -> None:
        """Check a STOPDATA, wherever it comes from (field notes B1, B4, B5).

        Raises:
            RemoteProtocolError: not signed by a member for exactly this view and regency, a timestamp that is not below
                the regency, a write set with an entry twice or out of order, or a decision without its proof.
        """
        who = f"the STOPDATA of replica {message.signer} for regency {message.regency}"
        if message.view != self._view.number or message.signer not in self._view.ids:
            raise RemoteProtocolError(f"{who} is for another view, or its signer is no member")
        timestamps = [entry.regency for entry in message.write_set]
        if message.accepted is not None:
            timestamps.append(message.accepted.regency)
        if any(timestamp >= message.regency for timestamp in timestamps):
            raise MalformedMessage(f"{who} holds a vote of that regency or later")
        digests = [entry.digest for entry in message.write_set]
        if digests != sorted(set(digests)):
            raise MalformedMessage(f"the write set of {who} is not sorted, or names a value twice")
        payload = self._promise_payload(message)
        self._check_promise(message.signer, message.instance, message.signature, payload, who)
        self._check_last_decision(who, message)

    def _check_last_decision(self, who: str, message: StopData) -> None:
        """A claim to have decided is worth nothing without the proof (B5)."""
        if message.proof is None:
            if message.instance != self._view.first_instance:
                raise MalformedMessage(f"{who} claims decisions without a proof")
            return
        if message.proof.instance != message.instance - 1:
            raise MalformedMessage(f"{who} has a proof for instance {message.proof.instance}")
        self.check_proof(message.proof)

    def check_sync(self, message: Sync) -> None:
        """Check a SYNC: every replica repeats the checks of the leader, whoever passes it on.

        Raises:
            RemoteProtocolError: the leader of the regency did not sign it, a STOPDATA in it is invalid or of another
                regency, there are fewer than `n - f`, they are not sound, or the value is not the one that binds.
        """
        view = self._view
        leader = view.leader(message.regency)
        instance = max((stop_data.instance for stop_data in message.stop_data), default=0)
        payload = self._domains.sync_payload(sync_statement(message))
        who = f"the SYNC of regency {message.regency}, which is for its leader, replica {leader}, to sign,"
        self._check_promise(leader, instance, message.signature, payload, who)
        signers = [stop_data.signer for stop_data in message.stop_data]
        if signers != sorted(set(signers)) or len(signers) < view.n - view.f:
            raise MalformedMessage(f"a SYNC needs {view.n - view.f} distinct signers in order, not {signers}")
        for stop_data in message.stop_data:
            if stop_data.regency != message.regency:
                raise MalformedMessage(f"a SYNC of regency {message.regency} with STOPDATA of {stop_data.regency}")
            self._check_in_sync(stop_data, instance)
        self._check_sync_value(message)

    def in_force(self, message: Sync) -> bool:
        """Whether a SYNC that was valid when it came still is: all that signed it did so with their keys of now.

        One of them may have lost its key since, and with it the memory of what it promised.
        """
        statements = [(one.signer, one.signature, self._promise_payload(one)) for one in message.stop_data]
        payload = self._domains.sync_payload(sync_statement(message))
        statements.append((self._view.leader(message.regency), message.signature, payload))
        return all(self._is_promise(*statement) for statement in statements)

    def _check_in_sync(self, stop_data: StopData, instance: int) -> None:
        """A STOPDATA for a SYNC of this instance, with the keys of which its leader has checked it."""
        try:
            self.check_stop_data(stop_data)
        except InvalidSignature as error:
            # Its signer may have claimed less than it had decided; with which key, others cannot know yet.
            raise UnknownKey(str(error)) if instance > self._keys.known else error from None

    def _check_sync_value(self, message: Sync) -> None:
        outcome = evaluate(message.stop_data, self._view.n, self._view.f)
        if outcome.verdict is Verdict.UNSOUND:
            raise MalformedMessage(f"the STOPDATA in a SYNC of regency {message.regency} are not sound")
        if outcome.verdict is Verdict.BOUND and self._domains.value_digest(message.value) != outcome.digest:
            raise MalformedMessage(f"a SYNC of regency {message.regency} with a value other than the one that binds")
        if message.value:
            self._check_value(Value.decode(message.value))

    def _check_checkpoint(self, sender: int, message: Checkpoint) -> None:
        """Nobody passes a CHECKPOINT on: where the key that signed it cannot be known, the channel says whose it is.

        A member signs with its newest key, for old instances too: one that fails here may be signed with a key to come.
        """
        if self._schedule.sequential and not self._schedule.is_due(sender, message.instance):
            raise MalformedMessage(f"a CHECKPOINT for instance {message.instance}, which is not replica {sender}'s")
        if message.instance >= self._keys.known or self._keys.changed(sender):
            return
        key = self._keys.latest(sender)
        payload = self._domains.checkpoint_payload(message.view, message.instance, message.size, message.digest)
        if key is None or not self._verifier.verify(key, message.signature, payload):
            raise UnknownKey(f"CHECKPOINT of replica {sender} for {message.instance} has a bad signature")

    def _check_manifest(self, _: int, message: SnapshotManifest) -> None:
        """The list of hashes is what its digest says; whether anybody vouches for the digest is the core's business.

        The proof is judged together with the snapshot, which tells the keys in force (`check_snapshot`).
        """
        if len(message.hashes) != chunk_count(message.size) * DIGEST_BYTES:
            raise MalformedMessage(f"a list of chunk hashes that does not fit a snapshot of {message.size} bytes")
        if snapshot_digest(message.hashes) != message.digest:
            raise MalformedMessage("a list of chunk hashes with another digest than it claims")
        if message.proof.instance != message.instance:
            raise MalformedMessage(
                f"a snapshot of instance {message.instance} with a proof for instance {message.proof.instance}"
            )
        try:
            self.check_proof(message.proof)
        except UnknownKey:
            return

    def check_snapshot(self, manifest: Manifest, snapshot: Snapshot) -> None:
        """Check that a snapshot which others vouch for came with a proof of its instance, by the keys that it tells.

        Raises:
            RemoteProtocolError: it has no table of keys as of its instance, or the proof does not hold.
        """
        keys = MemberKeys(self._view)
        keys.restore(snapshot.core)
        proof = decode_proof(manifest.proof)
        if keys.known != snapshot.instance + 1 or (proof.instance, proof.digest) != (
            snapshot.instance,
            snapshot.value_digest,
        ):
            raise MalformedMessage(f"a snapshot of instance {snapshot.instance} with a proof of something else")
        self.with_keys(keys).check_proof(proof)

    def _check_value(self, value: Value) -> None:
        least, most = 0 if value.statements else 1, self._parameters.max_batch_requests
        if not least <= value.count <= most:
            raise MalformedMessage(f"a proposal of {value.count} requests; the genesis allows 1 to {most}")
        for statement in value.statements:
            self.check_statement(statement)

    def check_statement(self, statement: KeyStatement) -> None:
        """Check what can be seen of a key statement alone; whether it fits the keys in force is for the core to say.

        Raises:
            RemoteProtocolError: of no member, with a key that nobody may vote with, or with a bad signature.
        """
        member = self._view.member(statement.member)
        if member is None:
            raise RemoteProtocolError(f"a key statement of replica {statement.member}, which is no member")
        if not self._verifier.acceptable(statement.key):
            raise RemoteProtocolError(f"the new key of replica {statement.member} is of small order, or no key at all")
        content = (self._view.number, statement.member, statement.replaces, statement.key)
        payload = self._domains.key_payload(*content)
        if not self._verifier.verify(member.permanent_key, statement.signature, payload):
            raise InvalidSignature(f"a key statement that replica {statement.member} did not sign")
        payload = self._domains.possession_payload(*content)
        if not self._verifier.verify(statement.key, statement.possession, payload):
            raise InvalidSignature(f"a key statement of replica {statement.member} for a key that it does not have")

    def _check_standing(self, _: int, message: Standing) -> None:
        """Whose ACCEPT it is only the asker knows: the core compares it with its own signature."""
        if message.proof is not None:
            self.check_proof(message.proof)

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
            self._check_vote(signer, proof.instance, signature, payload, "ACCEPT in a proof")

    # Signatures

    def _check_vote(self, signer: int, instance: int, signature: bytes, payload: bytes, kind: str) -> None:
        """An ACCEPT counts with the key in force in its instance."""
        key = self._keys.key_at(signer, instance)
        if key is not None and self._verifier.verify(key, signature, payload):
            return
        what = f"{kind} of replica {signer} for instance {instance} has a bad signature"
        forgotten = key is None and self._keys.changed(signer)
        raise UnknownKey(what) if instance > self._keys.known or forgotten else InvalidSignature(what)

    def _promise_payload(self, message: StopData) -> bytes:
        return self._domains.stop_data_payload(stop_data_statement(message))

    def _is_promise(self, signer: int, signature: bytes, payload: bytes) -> bool:
        key = self._keys.latest(signer)
        return key is not None and self._verifier.verify(key, signature, payload)

    def _check_promise(self, signer: int, instance: int, signature: bytes, payload: bytes, who: str) -> None:
        """A promise about regencies counts with the key in force now, whatever instance it was made in."""
        if self._is_promise(signer, signature, payload):
            return
        what = f"{who} has a bad signature"
        blameless = instance > self._keys.known or self._keys.changed(signer)
        raise UnknownKey(what) if blameless else InvalidSignature(what)
