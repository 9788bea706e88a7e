"""One valid message of each kind, for round trips and as seeds of the fuzz tests."""

from __future__ import annotations

from smartbft.messages import (
    Accept,
    Accepted,
    Decision,
    FetchDecisions,
    FetchHeld,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Forward,
    HeldRequests,
    Hold,
    Message,
    Progress,
    Proof,
    Propose,
    ProposedValue,
    RequestBodies,
    Standing,
    Stop,
    StopData,
    Sync,
    Vote,
    Write,
    Written,
)

DIGEST = bytes(range(32))
PROOF = Proof(0, 1, 2, DIGEST, ((0, bytes(64)), (3, bytes([7]) * 64)))
STOP_DATA = StopData(0, 2, 1, 3, Accepted(1, DIGEST), (Written(DIGEST, 1),), PROOF, bytes(64))
SYNC = Sync(0, 2, (STOP_DATA,), bytes(8) + DIGEST, bytes(64))
MESSAGES: list[Message] = [
    Propose(0, 1, 2, bytes(8) + DIGEST),
    Write(0, 1, 2, DIGEST),
    Accept(0, 1, 2, DIGEST, bytes(64)),
    Decision(0, 1, 2, bytes(8) + DIGEST, b"data", PROOF),
    FetchRequests(0, 1, 2, DIGEST),
    RequestBodies(0, 1, 2, b"data"),
    Forward(0, 1, b"data"),
    FetchDecisions(0, 1, 2, 3),
    Progress(0, 1, 2),
    Stop(0, 1, 2, b"data"),
    STOP_DATA,
    StopData(0, 2, 2, 1, None, (), None, bytes(64)),
    SYNC,
    Sync(0, 2, (), b"", bytes(64)),
    FetchSync(0, 2),
    FetchValue(0, 2, 3, DIGEST),
    ProposedValue(0, 2, 3, bytes(8) + DIGEST),
    Hold(0, 1, DIGEST * 2),
    FetchHeld(0, 1, DIGEST),
    HeldRequests(0, 1, b"data"),
    FetchStanding(0, 2, 77),
    Standing(0, 2, 77, PROOF, Vote(3, 1), Accept(0, 1, 3, DIGEST, bytes(64))),
    Standing(0, 2, 77, None, None, None),
]
