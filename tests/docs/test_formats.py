"""Takes real bytes apart with nothing but the tables of docs/wire-format.md and docs/log-format.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from blake3 import blake3
from kit.documents import ROOT, table
from kit.requests import TestClient

from smartbft import limits, messages
from smartbft._fastpath.pool import RequestPool, join_requests, join_results, request_digests
from smartbft.core import records
from smartbft.core.answer_rates import RATES
from smartbft.core.evidence import make_evidence
from smartbft.core.inputs import PeerConnected
from smartbft.crypto.domains import Domains
from smartbft.messages import Proof, encode_proof
from smartbft.storage import ReplicaLog
from smartbft.types import KeyStatement, Value

WIRE = (ROOT / "docs" / "wire-format.md").read_text()
LOG = (ROOT / "docs" / "log-format.md").read_text()
SNAPSHOT = (ROOT / "docs" / "snapshot-format.md").read_text()
CHAIN = bytes(range(32))
REPLICA = 2
SEGMENT = 64 * 1024


def take(rows: list[tuple[str, str]], data: bytes, rest: int | None = None) -> dict[str, bytes]:
    """Cut `data` into the fields of `(name, width)`; a field without a width has `rest` bytes, or what is left."""
    found, at = {}, 0
    for name, width in rows:
        size = int(width) if width.isdigit() else len(data) - at if rest is None else rest
        found[name] = data[at : at + size]
        assert len(found[name]) == size, name
        at += size
    assert at == len(data)
    return found


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


# --- the network ---


def test_a_request() -> None:
    request = TestClient(session=77, chain_id=CHAIN).request(b"operation", sequence=3)
    rows = [(row[0], row[1]) for row in table(WIRE, "Requests")]
    found = take(rows, request, rest=len(b"operation"))
    assert number(found["session"]) == 77
    assert number(found["sequence number"]) == 3
    assert number(found["operation length"]) == len(b"operation")
    assert found["operation"] == b"operation"
    assert found["client key"] == request[:32]
    assert found["signature"] == request[-64:]


def test_a_reply() -> None:
    reply = executed_reply(result=b"result", instance=9, timestamp=10**15, view=0, level=2)
    found = take([(row[0], row[1]) for row in table(WIRE, "Replies")], reply)
    assert number(found["replica"]) == REPLICA
    assert number(found["status"]) == 0
    assert number(found["level"]) == 2
    assert number(found["view"]) == 0
    assert number(found["instance"]) == 9
    assert number(found["agreed time"]) == 10**15
    assert found["result"] == b"result"


def executed_reply(*, result: bytes, instance: int, timestamp: int, view: int, level: int) -> bytes:
    """The reply that a pool keeps for a request that was ordered and executed."""
    pool, request, digests = executed_request(
        result=result, instance=instance, timestamp=timestamp, view=view, level=level
    )
    reply = pool.cached_reply(request[:32], timestamp, 1)
    assert reply is not None
    assert digests in reply
    return reply


def executed_request(
    *, result: bytes, instance: int, timestamp: int, view: int, level: int
) -> tuple[RequestPool, bytes, bytes]:
    """A pool that has executed one request, the request and its digest."""
    pool = RequestPool(
        CHAIN,
        replica=REPLICA,
        window=4,
        max_requests=16,
        max_bytes=1 << 20,
        max_operation_bytes=1024,
        max_sessions=4,
        max_sessions_per_key=4,
        max_unverified_per_source=16,
        lease=10**9,
        skew=10**9,
    )
    request = TestClient(session=timestamp, chain_id=CHAIN).request(b"x")
    data = join_requests([request])
    digests = request_digests(CHAIN, data)
    pool.decide(digests, data, instance, timestamp)
    pool.executed(digests, data, join_results([result]), instance, view, timestamp, level)
    return pool, request, digests


def test_a_session_table() -> None:
    pool, request, digest = executed_request(result=b"result", instance=9, timestamp=10**15, view=3, level=2)
    session = [(row[0], row[1]) for row in table(SNAPSHOT, "A session")]
    reply = [(row[0], row[1]) for row in table(SNAPSHOT, "A kept reply")]
    found = take([("sessions", "4"), *session, *reply], pool.export_sessions(9))
    assert number(found["sessions"]) == number(found["executed"]) == number(found["replies"]) == 1
    assert found["client key"] == request[:32]
    assert number(found["session"]) == number(found["agreed time"]) == 10**15
    assert (number(found["view"]), number(found["instance"])) == (3, 9)
    assert found["request digest"] == digest
    assert number(found["result length"]) == len(found["result"])
    assert found["result"] == b"result"


STOP_DATA = (
    *(0, 1, 3, 2),
    messages.Accepted(0, bytes(32)),
    (messages.Written(bytes(32), 0), messages.Written(bytes([1] * 32), 0)),
    None,
    bytes(64),
)
EXAMPLES: dict[type[Any], tuple[Any, ...]] = {
    messages.Propose: (0, 0, 1, bytes(40)),
    messages.Write: (0, 0, 1, bytes(32)),
    messages.Accept: (0, 0, 1, bytes(32), bytes(64)),
    messages.Decision: (0, 0, 1, bytes(40), b"data", Proof(0, 0, 1, bytes(32), ((0, bytes(64)), (2, bytes(64))))),
    messages.FetchRequests: (0, 0, 1, bytes(64)),
    messages.RequestBodies: (0, 0, 1, b"data"),
    messages.Forward: (0, 0, b"data"),
    messages.FetchDecisions: (0, 0, 1, 16),
    messages.Progress: (0, 0, 2**62),
    messages.Stop: (0, 0, 1, b"data"),
    messages.StopData: STOP_DATA,
    messages.Sync: (0, 1, (messages.StopData(*STOP_DATA),), b"", bytes(64)),
    messages.FetchSync: (0, 1),
    messages.FetchValue: (0, 1, 2, bytes(32)),
    messages.ProposedValue: (0, 1, 2, bytes(40)),
    messages.Hold: (0, 1, bytes(64)),
    messages.FetchHeld: (0, 1, bytes(32)),
    messages.HeldRequests: (0, 1, b"data"),
    messages.Checkpoint: (0, 1, 8, 300_000, bytes(32), bytes(64)),
    messages.FetchCheckpoints: (0, 1),
    messages.Gone: (0, 1, 9),
    messages.FetchManifest: (0, 1, 8, bytes(32)),
    messages.SnapshotManifest: (0, 1, 8, 300_000, bytes(32), bytes(64), Proof(0, 0, 8, bytes(32), ((0, bytes(64)),))),
    messages.FetchChunk: (0, 1, 8, bytes(32), 1),
    messages.SnapshotChunk: (0, 1, 8, bytes(32), 1, b"chunk"),
    messages.FetchStanding: (0, 1, 77),
    messages.Standing: (0, 1, 77, None, messages.Vote(3, 1), messages.Accept(0, 1, 3, bytes(32), bytes(64))),
    messages.KeyAnnouncement: (0, 1, bytes(limits.KEY_STATEMENT_BYTES)),
}


def test_the_table_of_messages() -> None:
    rows = table(WIRE, "Protocol messages")
    assert [(row[0], row[1]) for row in rows] == [
        (str(kind.__struct_config__.tag), kind.__name__) for kind in get_args(messages.Message)
    ]
    for tag, name, fields, _ in rows:
        kind = getattr(messages, name)
        assert fields.split(", ") == list(kind.__struct_fields__)
        # The shortest forms are what MessagePack libraries write of a plain array.
        plain = [spelled_out(value) for value in EXAMPLES[kind]]
        assert messages.encode(kind(*EXAMPLES[kind])) == msgspec.msgpack.encode([int(tag), *plain])


def spelled_out(value: Any) -> Any:
    """A field as the document describes it: arrays of arrays; only a whole message in another has its tag."""
    if isinstance(value, tuple):
        return [spelled_out(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    tag = value.__struct_config__.tag
    return [*([] if tag is None else [tag]), *(spelled_out(item) for item in msgspec.structs.astuple(value))]


def test_the_bounds_of_messages() -> None:
    found = {row[0]: row[2] for row in table(WIRE, "Bounds of the fields")}
    assert f"8 to {limits.MAX_VALUE_BYTES:,}:" in found["value"]
    assert found["digests"] == f"a digest list of 32 to {32 * limits.MAX_BATCH_REQUESTS:,}"
    assert found["view, regency, instance, first, last, decided, target, token"] == "0 to 2^62"
    assert f"to {limits.MAX_MEMBERS} signatures" in found["proof"]
    assert found["size"] == f"1 to {limits.MAX_SNAPSHOT_BYTES}"
    assert found["index"] == f"0 to {limits.MAX_SNAPSHOT_CHUNKS - 1:,}"
    assert f"at most {limits.MAX_SNAPSHOT_CHUNKS:,};" in found["hashes"]
    assert f"at most {limits.MAX_WRITE_SET_ENTRIES}," in found["write_set"]
    assert limits.MAX_BATCH_BYTES == 4 << 20
    assert limits.MAX_FORWARD_BYTES == 1 << 20
    assert f"at most {limits.FETCH_DECISIONS_AT_ONCE} are served" in WIRE
    assert f"announced; at most {limits.MAX_FETCH_HELD_DIGESTS} |" in WIRE


def test_how_much_is_answered() -> None:
    names = {PeerConnected: "what is said on a new channel"}
    assert [row[:4] for row in table(WIRE, "How much is answered")] == [
        [
            names.get(answer, answer.__name__),
            f"{rate.at_once:,}",
            f"{rate.refill:,} {rate.unit.value}",
            rate.reason.replace("`", ""),
        ]
        for answer, rate in RATES.items()
    ]
    assert f"at least {limits.ANSWER_COST_BYTES:,} for each answer" in WIRE


def test_values_votes_and_seeds() -> None:
    contexts = {row[0]: row[1] for row in table(WIRE, "Values, votes and proofs")}
    keys = {what: blake3(CHAIN, derive_key_context=context).digest() for what, context in contexts.items()}
    domains = Domains(CHAIN)
    value = Value(123, bytes(64)).encode()
    assert value == (123).to_bytes(8, "little") + bytes(64)
    digest = blake3(value, key=keys["value digest"]).digest()
    assert domains.value_digest(value) == digest
    numbers = b"".join(number.to_bytes(8, "little") for number in (4, 5, 6))
    assert domains.accept_payload(4, 5, 6, digest) == keys["signed by an ACCEPT"] + numbers + digest
    unsigned = messages.StopData(*STOP_DATA)
    assert domains.stop_data_payload(messages.stop_data_statement(unsigned)) == keys[
        "signed by a STOPDATA"
    ] + messages.encode(unsigned)
    sync = messages.Sync(*EXAMPLES[messages.Sync])
    assert domains.sync_payload(messages.sync_statement(sync)) == keys["signed by a SYNC"] + messages.encode(sync)
    keyed = b"".join(number.to_bytes(8, "little") for number in (4, 2)) + bytes(32) + digest
    payloads = (domains.key_payload(4, 2, bytes(32), digest), domains.possession_payload(4, 2, bytes(32), digest))
    names = ("signed by the permanent key of a key statement", "signed by the new key of a key statement")
    assert payloads == tuple(keys[name] + keyed for name in names)
    seed = blake3((6).to_bytes(8, "little") + digest, key=keys["seed of the application"]).digest()
    assert domains.seed(6, digest) == seed


def test_a_key_statement() -> None:
    statement = KeyStatement(3, b"r" * 32, b"k" * 32, b"p" * 64, b"s" * 64)
    found = take([(row[0], row[1]) for row in table(WIRE, "Key statements")], statement.encode())
    assert number(found.pop("member")) == 3
    assert [found[name] for name in found] == [b"r" * 32, b"k" * 32, b"p" * 64, b"s" * 64]
    assert limits.KEY_STATEMENT_BYTES == len(statement.encode()) == 194
    value = Value(123, bytes(32), (statement,)).encode()
    assert value == (123).to_bytes(8, "little") + bytes(32) + statement.encode() + b"\1"


def test_evidence() -> None:
    votes = [messages.Accept(0, 0, 1, bytes([number]) * 32, bytes(64)) for number in (2, 1)]
    made = make_evidence(CHAIN, 3, *votes)
    fields = [name for row in table(WIRE, "Evidence") for name in row[0].split(", ")]
    assert fields == list(made.__struct_fields__)
    plain = ["smartbft evidence", 2, CHAIN, 3, spelled_out(votes[1]), spelled_out(votes[0]), b""]
    assert made.encode() == msgspec.msgpack.encode(plain)
    digest = blake3(made.encode(), derive_key_context="smartbft v1 evidence file").hexdigest()
    assert made.name() == f"3-{digest[:16]}"
    assert limits.MAX_EVIDENCE_BYTES >= 2 * limits.MAX_SYNC_BYTES


# --- the log ---


@pytest.fixture
def segment(tmp_path: Path) -> bytes:
    log = ReplicaLog(tmp_path, CHAIN, REPLICA, mode="sync", segment_bytes=SEGMENT)
    log.wait(log.append([records.accept_record(7, 1, 2, bytes(range(32)))]))
    log.close()
    (file,) = tmp_path.rglob("segment-*0.log")
    return file.read_bytes()


def rows_with_offsets(heading: str) -> list[tuple[str, str]]:
    """`(field, bytes)` of a table with offsets, which must follow from the widths."""
    rows, at = [], 0
    for offset, width, field, *_ in table(LOG, heading):
        assert int(offset) == at, field
        name = re.match(r"magic|[\w ]+", field.replace("*", ""))
        assert name is not None, field
        rows.append((name[0].strip(), width))
        at += int(width) if width.isdigit() else 0
    return rows


def test_a_segment_header(segment: bytes) -> None:
    heading = "Segment header: 512 bytes, a sector of its own"
    found = take(rows_with_offsets(heading), segment[:512])
    assert found["magic"] == b"SBFTSEG\n"
    assert number(found["format version"]) == 1
    assert number(found["replica id"]) == REPLICA
    assert number(found["segment number"]) == 0
    assert number(found["bytes of the file"]) == SEGMENT == len(segment)
    assert found["chain id"] == CHAIN
    assert found["zero"] == bytes(400)
    assert found["checksum of bytes 0 to 495"] == blake3(segment[:496]).digest()[:16]


def test_a_record(segment: bytes) -> None:
    rows = rows_with_offsets("Record: 72 bytes of header, body, zeros up to a multiple of 8")
    body = records.accept_record(7, 1, 2, bytes(range(32))).parts[0]
    found = take(rows, segment[512 : 512 + 72 + len(body)], rest=len(body))
    assert found["magic"] == b"SbRc"
    assert number(found["kind"]) == records.ACCEPT
    assert found["zero"] == bytes(2)
    assert number(found["length of the body"]) == len(body)
    assert number(found["instance"]) == 7
    assert found["checksum of the body"] == blake3(body).digest()[:16]
    key = blake3(segment[:496], derive_key_context="smartbft v1 log segment key").digest()
    assert found["header checksum"] == blake3(segment[512 : 512 + 56], key=key).digest()[:16]
    assert found["body"] == body


PROOF = Proof(1, 2, 7, bytes(32), ((0, bytes(64)),))
BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "VALUE": (
        records.value_record(7, 1, 2, records.PROPOSED, b"v" * 8, b"requests"),
        {"view": 1, "regency": 2, "flags": 1, "value length": 8, "the value": b"v" * 8, "the requests": b"requests"},
    ),
    "ACCEPT": (
        records.accept_record(7, 1, 2, b"d" * 32),
        {"view": 1, "regency": 2, "value digest": b"d" * 32},
    ),
    "DECISION": (
        records.decision_record(7, PROOF, b"v" * 8, b"requests"),
        {
            "proof length": len(encode_proof(PROOF)),
            "value length": 8,
            "the proof": encode_proof(PROOF),
            "the value": b"v" * 8,
            "the requests": b"requests",
        },
    ),
    "REGENCY": (
        records.regency_record(7, messages.StopData(*STOP_DATA)),
        {"a StopData message": messages.encode(messages.StopData(*STOP_DATA))},
    ),
    "SYNC": (
        records.sync_record(7, messages.Sync(*EXAMPLES[messages.Sync])),
        {"a Sync message": messages.encode(messages.Sync(*EXAMPLES[messages.Sync]))},
    ),
}


def test_record_bodies() -> None:
    rows = table(LOG, "Record bodies")
    assert [row[1] for row in rows] == list(BODIES)
    for kind, name, layout in rows:
        record, expected = BODIES[name]
        assert record.kind == int(kind)
        body, at = b"".join(record.parts), 0
        fields = [re.fullmatch(r"(.+?)(?: \((\d+)\))?", field) for field in re.split(r"[,;] ", layout)]
        assert [field[1] for field in fields if field] == list(expected)
        for field in fields:
            assert field is not None
            value = expected[field[1]]
            size = int(field[2]) if field[2] else len(value)
            found = body[at : at + size]
            assert (number(found) if isinstance(value, int) else found) == value, field[1]
            at += size
        assert at == len(body)


# --- this suite can fail ---


def test_a_missing_field_is_found(segment: bytes) -> None:
    rows = rows_with_offsets("Segment header: 512 bytes, a sector of its own")
    with pytest.raises(AssertionError):
        take(rows[:-1], segment[:512])


def test_a_wrong_offset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.LOG", LOG.replace("| 4 | 2 | kind", "| 4 | 4 | kind"))
    with pytest.raises(AssertionError):
        rows_with_offsets("Record: 72 bytes of header, body, zeros up to a multiple of 8")


def test_a_wrong_table_of_messages_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.WIRE", WIRE.replace("view, regency, first, last", "view, regency, last, first"))
    with pytest.raises(AssertionError):
        test_the_table_of_messages()
