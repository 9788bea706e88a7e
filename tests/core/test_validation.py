"""Stateless checks: forged, replayed and cross-domain material is refused; a good message afterwards still works."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec
import pytest
from kit.cluster import make_view, secret
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import request_digests
from smartbft.core.validation import Validator, Verified
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer
from smartbft.errors import InvalidSignature, InvariantViolation, RemoteProtocolError
from smartbft.messages import Accept, Decision, FetchRequests, Message, Progress, Proof, Propose
from smartbft.types import Parameters, Value

VIEW = make_view()
DOMAINS = Domains(CHAIN)
SIGNERS = [Ed25519Signer(secret(replica)) for replica in range(4)]
DATA = TestClient().requests(b"a", b"b")
VALUE = Value(NOW, request_digests(CHAIN, DATA))
DIGEST = DOMAINS.value_digest(VALUE.encode())


def validator(domains: Domains = DOMAINS) -> Validator:
    return Validator(VIEW, domains, Ed25519KeyVerifier(), Parameters(max_batch_requests=8))


def accept(signer: int = 0, view: int = 0, regency: int = 0, instance: int = 1, digest: bytes = DIGEST) -> Accept:
    payload = DOMAINS.accept_payload(view, regency, instance, digest)
    return Accept(view, regency, instance, digest, SIGNERS[signer].sign(payload))


def proof(signers: tuple[int, ...] = (0, 1, 2), instance: int = 1) -> Proof:
    return Proof(0, 0, instance, DIGEST, tuple((s, accept(s, instance=instance).signature) for s in signers))


def decision(**changes: object) -> Decision:
    return msgspec.structs.replace(Decision(0, 0, 1, VALUE.encode(), DATA, proof()), **changes)


def test_good_messages_pass() -> None:
    for sender, message in [
        (0, accept(0)),
        (1, Propose(0, 0, 1, VALUE.encode())),
        (3, decision()),
        (2, Progress(0, 0, 7)),
    ]:
        assert validator().validate(sender, message).message is message


def test_only_the_validator_makes_verified_messages() -> None:
    with pytest.raises(InvariantViolation):
        Verified(0, Progress(0, 0, 1), object())


def test_every_class_of_messages_has_its_check() -> None:
    assert set(validator()._checks) == set(get_args(Message))


def test_a_class_without_a_check_is_refused() -> None:
    """As if somebody had added it to the wire, and not to the table."""
    careless = validator()
    del careless._checks[Progress]
    with pytest.raises(RemoteProtocolError, match="a Progress, which nobody here can check"):
        careless.validate(2, Progress(0, 0, 7))


FORGERIES = {
    "sender outside the view": (9, accept(0)),
    "another view": (0, accept(0, view=1)),
    "proposal of a follower": (0, Propose(0, 0, 1, VALUE.encode())),
    "proposal of the leader of another regency": (1, Propose(0, 1, 1, VALUE.encode())),
    "empty proposal": (1, Propose(0, 0, 1, Value(NOW, b"").encode())),
    "oversize proposal": (1, Propose(0, 0, 1, Value(NOW, bytes(32 * 9)).encode())),
    "partial digest": (1, Propose(0, 0, 1, VALUE.encode()[:-1])),
    "partial digest in a fetch": (1, FetchRequests(0, 0, 1, bytes(33))),
    "signature of another member": (1, accept(0)),
    "ACCEPT replayed in another instance": (0, msgspec.structs.replace(accept(0), instance=2)),
    "ACCEPT replayed in another regency": (0, msgspec.structs.replace(accept(0), regency=1)),
    "ACCEPT with another digest": (0, msgspec.structs.replace(accept(0), digest=bytes(32))),
    "proof too small": (3, decision(proof=proof((0, 1)))),
    "signer twice": (3, decision(proof=Proof(0, 0, 1, DIGEST, (proof().signatures[0],) * 3))),
    "signers out of order": (3, decision(proof=Proof(0, 0, 1, DIGEST, proof().signatures[::-1]))),
    "proof of another instance": (3, decision(proof=proof(instance=2))),
    "instance changed in the proof only": (3, decision(proof=msgspec.structs.replace(proof(), instance=2))),
    "proof with a non-member": (
        3,
        decision(proof=Proof(0, 0, 1, DIGEST, (*proof((0, 1)).signatures, (9, accept(2).signature)))),
    ),
    "proof of another regency": (3, decision(proof=msgspec.structs.replace(proof(), regency=1))),
    "another value under the proof": (3, decision(value=Value(NOW + 1, VALUE.digests).encode())),
    "other requests under the value": (3, decision(data=TestClient(2).requests(b"a", b"b"))),
    "malformed requests": (3, decision(data=DATA[:-1])),
}


def accepted(check: Validator, forgeries: dict[str, tuple[int, object]]) -> list[str]:
    """The names of the forgeries that pass; all others must raise from the one allowed family."""
    passed = []
    for name, (sender, message) in forgeries.items():
        try:
            check.validate(sender, message)  # type: ignore[arg-type]
        except RemoteProtocolError:
            continue
        passed.append(name)
    return passed


def test_no_forgery_passes_and_the_next_good_message_does() -> None:
    check = validator()
    assert not accepted(check, FORGERIES)
    assert check.validate(0, accept(0))


class CountsTwice(Validator):
    """Planted bug: a signer may count twice."""

    def check_proof(self, proof: Proof) -> None:
        if len(proof.signatures) < VIEW.quorum:
            raise RemoteProtocolError("too small")


def test_planted_bug_a_signer_counted_twice_is_seen() -> None:
    check = CountsTwice(VIEW, DOMAINS, Ed25519KeyVerifier(), Parameters(max_batch_requests=8))
    assert "signer twice" in accepted(check, FORGERIES)


def test_signatures_do_not_cross_chains_types_or_statements() -> None:
    other_chain = Domains(bytes(32))
    statements = {
        "accept": DOMAINS.accept_payload(0, 0, 1, DIGEST),
        "accept, other chain": other_chain.accept_payload(0, 0, 1, DIGEST),
        "accept, other view": DOMAINS.accept_payload(1, 0, 1, DIGEST),
        "accept, other regency": DOMAINS.accept_payload(0, 1, 1, DIGEST),
        "accept, other instance": DOMAINS.accept_payload(0, 0, 2, DIGEST),
        "request": DOMAINS.request_prefix + DATA[4:120],
        "request, other chain": other_chain.request_prefix + DATA[4:120],
    }
    assert len(set(statements.values())) == len(statements)
    verifier = Ed25519KeyVerifier()
    for (one, signed), (other, read) in itertools.permutations(statements.items(), 2):
        assert not verifier.verify(SIGNERS[0].public_key, SIGNERS[0].sign(signed), read), f"{one} passes as {other}"


def test_the_error_says_what_is_wrong() -> None:
    with pytest.raises(InvalidSignature, match="ACCEPT of replica 1 for instance 1"):
        validator().validate(1, accept(0))
    with pytest.raises(RemoteProtocolError, match="2 signatures; 3 are needed"):
        validator().validate(3, decision(proof=proof((0, 1))))
