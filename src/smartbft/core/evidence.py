"""Evidence: two statements that one member signed and that no correct replica signs both (promise A4).

A correct replica records what it promises before it says so, and finds its records again after a restart. So each pair
that `contradiction` names proves that its signer lies, or runs on a copy of its data or without its record of votes.
Evidence convinces anybody who has the genesis: the file holds the statements, the keys come from the verifier. Where
the member has had its consensus key replaced, the file holds its word for that too, under its permanent key.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Literal, Union

import msgspec
from msgspec.structs import replace

from smartbft._fastpath.hashing import derive_key
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, KeyVerifier
from smartbft.errors import MalformedMessage, RemoteProtocolError
from smartbft.limits import KEY_STATEMENT_BYTES, MAX_EVIDENCE_BYTES
from smartbft.messages import (
    Accept,
    Accepted,
    Digest,
    ReplicaId,
    StopData,
    Sync,
    stop_data_statement,
    sync_statement,
)
from smartbft.types import KeyStatement, View

FORMAT_VERSION = 2

KeyBytes = Annotated[bytes, msgspec.Meta(max_length=KEY_STATEMENT_BYTES)]
Statement = Union[Accept, StopData, Sync]  # noqa: UP007 - msgspec builds its decoder from this union


class Offence(enum.Enum):
    """In what way two statements of one member contradict each other."""

    TWO_ACCEPTS = "two ACCEPTs for different values in one instance and regency"
    TWO_STOP_DATA = "two different STOPDATA for one regency and instance"
    TWO_SYNCS = "two different SYNCs for one regency"
    FORGOTTEN_LOCK = "a STOPDATA that conceals what its signer had accepted"
    FORGOTTEN_DECISION = "a STOPDATA that conceals an instance its signer had decided"


class Evidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two signed statements and whom they accuse; `make_evidence` builds it in its one canonical form.

    Attributes:
        chain_id: the chain on which they were signed.
        accused: id of the member that signed them.
        first, second: ordered by their encoding, a STOPDATA without the proof, which its signature does not cover.
        key: encoded key statement of the accused, for the key that they are signed with; empty: the view names it.
    """

    format: Literal["smartbft evidence"]
    version: int
    chain_id: Digest
    accused: ReplicaId
    first: Statement
    second: Statement
    key: KeyBytes = b""

    def encode(self) -> bytes:
        """The bytes of an evidence file."""
        return _encoder.encode(self)

    def name(self) -> str:
        """``<accused>-<16 hexadecimal digits of the content's hash>``: what its file is called."""
        return f"{self.accused}-{derive_key('smartbft v1 evidence file', self.encode()).hex()[:16]}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether evidence holds; `offence` if so, else `reason` says what is wrong with it."""

    offence: Offence | None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the accused has signed a contradiction."""
        return self.offence is not None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Evidence)


def make_evidence(chain_id: bytes, accused: int, first: Statement, second: Statement, key: bytes = b"") -> Evidence:
    """Evidence in canonical form: the same for both orders of the statements."""
    ordered = sorted((_bare(first), _bare(second)), key=_encoder.encode)
    return Evidence("smartbft evidence", FORMAT_VERSION, chain_id, accused, ordered[0], ordered[1], key)


def decode_evidence(data: bytes) -> Evidence:
    """Read the content of an evidence file.

    Raises:
        MalformedMessage: too long, not an evidence file, of another version, or not in canonical form.
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        raise MalformedMessage(f"{len(data)} bytes are too many for evidence: at most {MAX_EVIDENCE_BYTES}")
    try:
        evidence = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"this is not evidence: {error}") from None
    if evidence.version != FORMAT_VERSION:
        raise MalformedMessage(f"evidence of format version {evidence.version}; this program reads {FORMAT_VERSION}")
    fields = (evidence.chain_id, evidence.accused, evidence.first, evidence.second, evidence.key)
    if make_evidence(*fields).encode() != data:
        raise MalformedMessage("evidence that is not in canonical form")
    return evidence


def verify(evidence: Evidence, view: View, domains: Domains, verifier: KeyVerifier | None = None) -> Verdict:
    """Check evidence against the membership of one view. Needs no running replica.

    Args:
        view: its members' consensus keys must have signed, or others that the accused's permanent key vouches for.
        domains: of the chain that is asked about.
        verifier: checks signatures; by default Ed25519.
    """
    try:
        return Verdict(_check(evidence, view, domains, verifier or Ed25519KeyVerifier()))
    except RemoteProtocolError as error:
        return Verdict(None, str(error))


def _check(evidence: Evidence, view: View, domains: Domains, verifier: KeyVerifier) -> Offence:
    accused = evidence.accused
    if evidence.chain_id != domains.chain_id:
        theirs, ours = evidence.chain_id.hex()[:16], domains.chain_id.hex()[:16]
        raise RemoteProtocolError(f"it is about chain {theirs}, and the genesis is that of chain {ours}")
    member = view.member(accused)
    if member is None:
        raise RemoteProtocolError(f"replica {accused} is not a member of view {view.number}")
    key = member.consensus_key
    if evidence.key:
        stated = KeyStatement.decode(evidence.key)
        payload = domains.key_payload(view.number, accused, stated.replaces, stated.key)
        if stated.member != accused or not verifier.verify(member.permanent_key, stated.signature, payload):
            raise RemoteProtocolError(f"replica {accused} has not said that the consensus key in it is its own")
        key = stated.key
    for statement in (evidence.first, evidence.second):
        if statement.view != view.number:
            raise RemoteProtocolError(f"a statement is about view {statement.view}; checked against {view.number}")
        if _signer(statement, accused, view) != accused:
            raise RemoteProtocolError(f"a {type(statement).__name__} in it is not for replica {accused} to sign")
        if not verifier.verify(key, statement.signature, signed_payload(statement, domains)):
            raise RemoteProtocolError(f"replica {accused} did not sign the {type(statement).__name__} in it")
    offence = contradiction(evidence.first, evidence.second)
    if offence is None:
        raise RemoteProtocolError("its statements do not contradict each other")
    return offence


def signed_payload(statement: Statement, domains: Domains) -> bytes:
    """The bytes under a statement's signature."""
    if isinstance(statement, Accept):
        return domains.accept_payload(statement.view, statement.regency, statement.instance, statement.digest)
    if isinstance(statement, StopData):
        return domains.stop_data_payload(stop_data_statement(statement))
    return domains.sync_payload(sync_statement(statement))


def contradiction(one: Statement, other: Statement) -> Offence | None:
    """What no correct replica signs both of; None for statements that go together.

    Both must be by one signer: an ACCEPT and a SYNC do not say by whom they are.
    """
    if one.view != other.view:
        return None
    if isinstance(one, Accept) and isinstance(other, Accept):
        return Offence.TWO_ACCEPTS if _place(one) == _place(other) and one.digest != other.digest else None
    if isinstance(one, Sync) and isinstance(other, Sync):
        differ = one.regency == other.regency and sync_statement(one) != sync_statement(other)
        return Offence.TWO_SYNCS if differ else None
    if isinstance(one, StopData) and isinstance(other, StopData):
        return _between_promises(*sorted((one, other), key=lambda stop_data: stop_data.regency))
    if isinstance(one, Accept) and isinstance(other, StopData):
        return _concealed(Accepted(one.regency, one.digest), one.instance, other)
    if isinstance(one, StopData) and isinstance(other, Accept):
        return _concealed(Accepted(other.regency, other.digest), other.instance, one)
    return None


def _between_promises(earlier: StopData, later: StopData) -> Offence | None:
    if earlier.signer != later.signer:
        return None
    if earlier.regency < later.regency:
        # What it said it had accepted or decided at the first regency change, it must know at the second.
        if later.instance < earlier.instance:
            return Offence.FORGOTTEN_DECISION
        return _concealed(earlier.accepted, earlier.instance, later) if earlier.accepted else None
    differ = earlier.instance == later.instance and stop_data_statement(earlier) != stop_data_statement(later)
    return Offence.TWO_STOP_DATA if differ else None


def _concealed(accepted: Accepted, instance: int, promise: StopData) -> Offence | None:
    """Whether who accepted this in `instance` may sign `promise`, which forbids to accept it any later."""
    if promise.regency <= accepted.regency or promise.instance > instance:
        return None
    if promise.instance < instance:
        # It votes in an instance only after it has decided the one before.
        return Offence.FORGOTTEN_DECISION
    admitted = promise.accepted
    remembers = admitted is not None and (admitted.regency > accepted.regency or admitted == accepted)
    return None if remembers else Offence.FORGOTTEN_LOCK


def _place(accept: Accept) -> tuple[int, int]:
    return accept.regency, accept.instance


def _signer(statement: Statement, accused: int, view: View) -> int:
    """Who must have signed: an ACCEPT does not say, so only the signature tells."""
    if isinstance(statement, StopData):
        return statement.signer
    return view.leader(statement.regency) if isinstance(statement, Sync) else accused


def _bare(statement: Statement) -> Statement:
    if isinstance(statement, StopData) and statement.proof is not None:
        return replace(statement, proof=None)
    return statement
