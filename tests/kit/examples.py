"""One valid message of each kind, for round trips and as seeds of the fuzz tests."""

from __future__ import annotations

from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    FetchRequests,
    Forward,
    Message,
    Progress,
    Proof,
    Propose,
    RequestBodies,
    Write,
)

DIGEST = bytes(range(32))
PROOF = Proof(0, 1, 2, DIGEST, ((0, bytes(64)), (3, bytes([7]) * 64)))
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
]
