"""SMaRtCoin (SMaRtChain paper, section IV-A): the UTXO state and batch execution in native code, the GIL released.

Operations (little-endian), inside a request's operation field:

- ``1 MINT  | u8 count | count * u64 value | u16 memo length | memo``
- ``2 SPEND | u8 inputs | inputs * coin id 32 | u8 outputs | outputs * (address 32, u64 amount) | u16 memo length | memo``
- ``3 BALANCE | address 32``
- ``4 COINS | address 32 | u16 most``   (lists coins in the order of their ids)
- ``4 COINS | address 32 | u16 most | coin id 32``   (the same, only coins whose ids come after this one: the next page)

A MINT has at least one value, a SPEND at least one input and one output; a memo has at most 512 bytes; `most` is 1 to 1024.
The coins of a MINT belong to the client that sent it.

Results: ``u8 code`` then, for OK: MINT and SPEND: ``u8 count | count * (coin id 32)``; BALANCE: ``u128 amount | u64 coins``;
COINS: ``u16 count | count * (coin id 32, u64 value)``. A result shorter than `receipt_bytes` is padded with zeros, whatever
its code, according to the first byte of the operation (queries are not padded).

The code of a rejection is the first of these checks that fails; a rejected transaction changes nothing:

1. BAD_SIGNATURE, where signatures are checked during execution
2. MALFORMED: kind, counts, lengths
3. ZERO_AMOUNT; then (SPEND) BAD_ADDRESS: an output to a key of small order, for which anybody can sign under ZIP-215 (bytes
   that are no point at all are taken: nobody can spend from there); then (SPEND) DUPLICATE_INPUT; then OVERFLOW: the values
   or outputs add up to more than 64 bits. These need no state; `check_batch` makes 2 and 3.
4. MINT: NOT_AUTHORISED. SPEND: input by input UNKNOWN_COIN and NOT_OWNER (the client is not the coin's owner), then
   UNBALANCED (the inputs do not add up to the outputs)
5. COIN_EXISTS: the request was executed before; the request pool never lets that happen

Snapshot: ``"SBCOIN" 0 1 | chain id 32 | u128 minted | u64 count | count * (coin id 32, owner 32, u64 value)``, by coin id.
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
COIN_EXISTS: int

class CoinCapture:
    """The coins as they were when `CoinState.capture` was called. Any thread may use it, with the GIL released; while it
    lives, chunks of coins of which one is replaced are copied first."""

    def snapshot(self) -> bytes:
        """What `CoinState.snapshot` would have returned at the time of the capture."""
    def digest(self) -> bytes:
        """BLAKE3-256 of that."""

class CoinState:
    def __init__(
        self, chain_id: bytes, minters: Buffer, *, receipt_bytes_mint: int = 0, receipt_bytes_spend: int = 0
    ) -> None:
        """`minters`: 32 bytes per authorised issuer. `receipt_bytes_*`: least size of the result of each kind.

        Raises:
            ValueError: a chain id that is not 32 bytes, or a minter's key that is of small order or cut short.
        """
    def check_batch(self, data: Buffer) -> bytes:
        """Stateless check of the operations of a request list: one byte each, 1 or 0. An empty operation passes.

        Raises:
            MalformedMessage: not a request list.
        """
    def execute_batch(self, data: Buffer, *, verify_signatures: bool = False) -> bytes:
        """Execute a request list in order; returns the results (``u32 length | result`` each).

        With `verify_signatures` each signature is checked here, one after the other (the paper's sequential columns); a
        bad one is the ordered result BAD_SIGNATURE. An empty operation is a no-op with an empty result.

        Raises:
            MalformedMessage: not a request list; nothing was executed.
        """
    def read(self, query: Buffer) -> bytes | None:
        """The result that a BALANCE or COINS would have if it were ordered next; None: the bytes are no such operation.
        Nothing changes."""
    def coins(self) -> int:
        """How many unspent coins there are."""
    def supply(self) -> int:
        """Sum of all values, added up coin by coin."""
    def minted(self) -> int:
        """Sum of all values ever minted. Money is conserved: equal to `supply()`."""
    def capture(self) -> CoinCapture:
        """The state as of now, in a moment: one pointer for every 64 coins is copied, nothing is sorted."""
    def snapshot(self) -> bytes:
        """Canonical: same state, same bytes (coins in the order of their ids). Batches may be executed meanwhile: it is
        the state between two of them."""
    def restore(self, snapshot: Buffer) -> None:
        """Raises ValueError: not a canonical snapshot of this chain; the state stays as it was."""
    def digest(self) -> bytes:
        """BLAKE3-256 of the snapshot."""

def coin_id(chain_id: bytes, key: bytes, session: int, sequence: int, index: int) -> bytes:
    """H(client key, session, sequence number, output index), in the domain of the chain."""
