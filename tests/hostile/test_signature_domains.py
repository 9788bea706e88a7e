"""Every signed statement against every other: no signature is worth anything in another place (promise H4).

The statements are those that the product signs: each signer here notes what it is given.
"""

from __future__ import annotations

import inspect
import itertools
from typing import get_type_hints

from kit.requests import CHAIN
from msgspec.structs import replace

from smartbft._fastpath.pool import RequestPool, encode_request, join_requests
from smartbft._fastpath.verify import verify
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Accepted, StopData, Sync, Written, stop_data_statement, sync_statement
from smartbft.net.handshake import Acceptor, Identity, ReplicaDialer
from smartbft.runtime.requests import RequestBuilder

SECRET = bytes(31) + b"\7"
OTHER_CHAIN = bytes(32)
DIGESTS = [bytes(range(32)), bytes(32)]


class NotingSigner(Ed25519Signer):
    """A signer that remembers the last statement."""

    def sign(self, payload: bytes) -> bytes:
        self.noted = payload
        return super().sign(payload)


SIGNER = NotingSigner(SECRET)


def request_statement(chain: bytes, session: int, sequence: int, operation: bytes) -> bytes:
    RequestBuilder(chain, SIGNER).build(session, sequence, operation)
    return SIGNER.noted


def handshake_statements(
    chain: bytes, nonces: tuple[bytes, bytes], channel: bytes, view: int, level: int
) -> tuple[bytes, bytes]:
    """What the dialer and what the acceptor sign in one handshake; both have the same key, to make it harder."""
    dialer = ReplicaDialer(chain, Identity(0, SIGNER, view, level), 1, SIGNER.public_key, nonces[0], channel)
    acceptor = Acceptor(chain, Identity(1, SIGNER, view, level), {0: SIGNER.public_key}, nonces[1], channel)
    welcome = acceptor.receive(dialer.start())
    acceptors = SIGNER.noted
    dialer.receive(welcome)
    return SIGNER.noted, acceptors


def vote_statements(domains: Domains) -> dict[str, bytes]:
    """Whatever `Domains` offers to sign, with each argument changed in turn: new kinds are taken in by themselves."""
    found: dict[str, bytes] = {}
    for name, method in inspect.getmembers(domains, inspect.ismethod):
        if name.endswith("_payload"):
            kinds = {argument: of for argument, of in get_type_hints(method).items() if argument != "return"}
            plain = {argument: 0 if of is int else DIGESTS[0] for argument, of in kinds.items()}
            kind = name.removesuffix("_payload")
            found[kind] = method(**plain)
            for argument, value in plain.items():
                changed = 1 if value == 0 else DIGESTS[1]
                found[f"{kind}, other {argument}"] = method(**{**plain, argument: changed})
    return found


def regency_statements(domains: Domains) -> dict[str, bytes]:
    """STOPDATA and SYNC as they are on the wire, with one field changed at a time."""
    lock, write = Accepted(0, DIGESTS[0]), (Written(DIGESTS[0], 0),)
    promise = StopData(0, 1, 0, 1, None, (), None, bytes(64))
    sync = Sync(0, 1, (promise,), b"", bytes(64))
    found: dict[str, bytes] = {}
    for what, changes in {
        "": {},
        ", other view": {"view": 1},
        ", other regency": {"regency": 2},
        ", other signer": {"signer": 1},
        ", other instance": {"instance": 2},
        ", a lock": {"accepted": lock},
        ", another lock": {"accepted": replace(lock, digest=DIGESTS[1])},
        ", a write": {"write_set": write},
    }.items():
        found[f"STOPDATA{what}"] = domains.stop_data_payload(stop_data_statement(replace(promise, **changes)))
    for what, changes in {
        "": {},
        ", other view": {"view": 1},
        ", other regency": {"regency": 2},
        ", other STOPDATA": {"stop_data": (replace(promise, signer=1),)},
        ", other signature of a STOPDATA": {"stop_data": (replace(promise, signature=b"x" * 64),)},
        ", no STOPDATA": {"stop_data": ()},
        ", a value": {"value": bytes(40)},
    }.items():
        found[f"SYNC{what}"] = domains.sync_payload(sync_statement(replace(sync, **changes)))
    return found


def statements() -> dict[str, bytes]:
    """Each kind of statement, and each with one thing changed at a time."""
    found: dict[str, bytes] = {}
    for chain_name, chain in (("", CHAIN), (", other chain", OTHER_CHAIN)):
        domains = Domains(chain)
        for name, statement in (vote_statements(domains) | regency_statements(domains)).items():
            found[name + chain_name] = statement
        # An operation that is a whole ACCEPT statement, and one that begins like a handshake.
        for what, session, sequence, operation in (
            ("", 1, 1, b"operation"),
            (", other session", 2, 1, b"operation"),
            (", other number", 1, 2, b"operation"),
            (", other operation", 1, 1, domains.accept_payload(0, 0, 1, DIGESTS[0])),
        ):
            found[f"request{what}{chain_name}"] = request_statement(chain, session, sequence, operation)
        for what, nonces, channel, view, level in (
            ("", (b"a" * 32, b"b" * 32), bytes(32), 0, 2),
            (", other dialer's nonce", (b"c" * 32, b"b" * 32), bytes(32), 0, 2),
            (", other acceptor's nonce", (b"a" * 32, b"c" * 32), bytes(32), 0, 2),
            (", nonces swapped", (b"b" * 32, b"a" * 32), bytes(32), 0, 2),
            (", other channel", (b"a" * 32, b"b" * 32), b"c" * 32, 0, 2),
            (", other view", (b"a" * 32, b"b" * 32), bytes(32), 1, 2),
            (", other level", (b"a" * 32, b"b" * 32), bytes(32), 0, 1),
        ):
            dialers, acceptors = handshake_statements(chain, nonces, channel, view, level)
            found[f"dialer's proof{what}{chain_name}"] = dialers
            found[f"acceptor's proof{what}{chain_name}"] = acceptors
    return found


def interchangeable(found: dict[str, bytes]) -> list[str]:
    """The pairs of which one's signature passes as the other's."""
    signatures = {name: SIGNER.sign(statement) for name, statement in found.items()}
    return [
        f"{one} passes as {other}"
        for (one, _), (other, statement) in itertools.permutations(found.items(), 2)
        if verify(SIGNER.public_key, signatures[one], statement)
    ]


def test_no_signature_means_anything_elsewhere() -> None:
    found = statements()
    assert len(found) >= 84
    assert len(set(found.values())) == len(found)
    assert not interchangeable(found)
    for name, statement in found.items():
        assert verify(SIGNER.public_key, SIGNER.sign(statement), statement), name


def test_planted_bug_without_domains_a_vote_passes_on_another_chain() -> None:
    bare = {name: statement[32:] for name, statement in statements().items()}
    found = interchangeable(bare)
    for kind in ("accept", "STOPDATA", "SYNC"):
        assert f"{kind} passes as {kind}, other chain" in found


def test_no_statement_begins_with_another() -> None:
    """Whatever is appended to a statement that may be chosen (an operation), it never becomes another kind."""
    prefixes: dict[str, set[bytes]] = {}
    for name, statement in statements().items():
        kind = name.split(",")[0].split("'")[0].replace("acceptor", "dialer").replace("STOPDATA", "stop_data").lower()
        prefixes.setdefault(kind, set()).add(statement[:32])
    assert {"accept", "stop_data", "sync", "request", "dialer"} <= set(prefixes)
    assert all(len(found) == len({"this chain", "the other"}) for found in prefixes.values())
    assert len(set.union(*prefixes.values())) == 2 * len(prefixes)


def test_the_pool_refuses_every_other_signature_on_a_request() -> None:
    """The native verifier of requests, fed with the member's signatures of everything else."""
    domains = Domains(CHAIN)
    unsigned = request_statement(CHAIN, 1_000_000, 1, b"operation")[32:]
    for name, statement in statements().items():
        pool = RequestPool(
            CHAIN,
            window=8,
            max_requests=8,
            max_bytes=65536,
            max_operation_bytes=1024,
            max_sessions=8,
            max_sessions_per_key=8,
            max_unverified_per_source=8,
            lease=1_000_000,
            skew=1_000_000,
        )
        request = encode_request(SIGNER.public_key, 1_000_000, 1, b"operation", SIGNER.sign(statement))
        assert request[:-64] == unsigned
        assert pool.admit(join_requests([request]), 1, 1_000_000) == 1, name
        job = pool.take_unverified(1)
        assert job is not None
        assert job.run() == bytes([statement == domains.request_prefix + unsigned]), name
