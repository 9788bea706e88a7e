"""SMaRtCoin (SMaRtChain paper, section IV-A): the UTXO state and batch execution in native code, the GIL released.

Operations (little-endian), inside a request's operation field:

- ``1 MINT  | u8 count | count * u64 value | u16 memo length | memo``
- ``2 SPEND | u8 inputs | inputs * coin id 32 | u8 outputs | outputs * (address 32, u64 amount) | u16 memo length | memo``
- ``3 BALANCE | address 32``
- ``4 COINS | address 32 | u16 most``   (lists coins in the order of their ids)

Results: ``u8 code`` then, for OK: MINT and SPEND: ``u8 count | count * (coin id 32)``; BALANCE: ``u128 amount | u64 coins``;
COINS: ``u16 count | count * (coin id 32, u64 value)``. A result shorter than `receipt_bytes` is padded with zeros (queries
are not padded).
"""

from typing_extensions import Buffer

OK: int
MALFORMED: int
NOT_AUTHORISED: int
UNKNOWN_COIN: int
NOT_OWNER: int
DUPLICATE_INPUT: int
UNBALANCED: int
OVERFLOW: int
ZERO_AMOUNT: int
BAD_SIGNATURE: int
BAD_ADDRESS: int

class CoinState:
    def __init__(self, chain_id: bytes, minters: Buffer, *, receipt_bytes_mint: int = 0, receipt_bytes_spend: int = 0) -> None:
        """`minters`: 32 bytes per authorised issuer. `receipt_bytes_*`: least size of the result of each kind."""
    def check_batch(self, data: Buffer) -> bytes:
        """Stateless check of the operations of a request list: one byte each, 1 or 0."""
    def execute_batch(self, data: Buffer, *, verify_signatures: bool = False) -> bytes:
        """Execute a request list in order; returns the results (``u32 length | result`` each).

        With `verify_signatures` each signature is checked here, one after the other (the paper's sequential columns); a
        bad one is the ordered result BAD_SIGNATURE. An empty operation is a no-op with an empty result.
        """
    def coins(self) -> int: ...
    def supply(self) -> int:
        """Sum of all values."""
    def minted(self) -> int:
        """Sum of all values ever minted. Money is conserved: equal to `supply()`."""
    def snapshot(self) -> bytes:
        """Canonical: same state, same bytes (coins in the order of their ids)."""
    def restore(self, snapshot: Buffer) -> None:
        """Raises ValueError: not a canonical snapshot."""
    def digest(self) -> bytes:
        """BLAKE3-256 of the snapshot."""

def coin_id(chain_id: bytes, key: bytes, session: int, sequence: int, index: int) -> bytes:
    """H(client key, session, sequence number, output index), in the domain of the chain."""
