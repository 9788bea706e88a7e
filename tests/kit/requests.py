"""Signed requests for tests."""

from __future__ import annotations

from nacl.signing import SigningKey

from smartbft._fastpath.hashing import derive_key
from smartbft._fastpath.pool import encode_request, join_requests

CHAIN = bytes(range(32))
NOW = 1_700_000_000_000_000  # microseconds


class TestClient:
    """A client identity that signs requests in sequence."""

    __test__ = False

    def __init__(self, number: int = 1, session: int = NOW, chain_id: bytes = CHAIN) -> None:
        self.key = SigningKey(number.to_bytes(32, "little"))
        self.public_key = bytes(self.key.verify_key)
        self.session = session
        self.sequence = 0
        self._prefix = derive_key("smartbft v1 request signature", chain_id)

    def request(self, operation: bytes, sequence: int | None = None, *, good: bool = True) -> bytes:
        """The next request (or the one with the given number); with a bad signature unless `good`."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        unsigned = encode_request(self.public_key, self.session, sequence, operation, bytes(64))[:-64]
        signature = self.key.sign(self._prefix + unsigned).signature
        return unsigned + (signature if good else bytes(64))

    def requests(self, *operations: bytes) -> bytes:
        """A request list."""
        return join_requests([self.request(operation) for operation in operations])
