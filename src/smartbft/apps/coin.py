"""SMaRtCoin (SMaRtChain paper, section IV-A): coins are minted, spent and listed. Operations, results, application.

A coin belongs to an address, which is an Ed25519 public key; a client spends the coins of its own key. A coin's id
follows from the request that makes it (`predict_coin_ids`), so chains of transactions can be signed before the first is
sent. The state and its rules are native (`smartbft._fastpath.coin`); the layouts are documented there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from smartbft import limits
from smartbft._fastpath import coin as native
from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.arguments import bytes_of
from smartbft.errors import ConfigError, LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import BatchStateMachine, ExecutionContext, LocalOptions

MINT, SPEND, BALANCE, COINS = 1, 2, 3, 4

#: Most values, inputs or outputs of one transaction.
MAX_ITEMS = 255
MAX_MEMO_BYTES = 512
#: Most coins that one `coins` query lists.
MAX_LISTED = 1024
MAX_AMOUNT = 2**64 - 1

#: What each result code means, by code.
CODE_NAMES: Mapping[int, str] = MappingProxyType(
    {
        native.OK: "ok",
        native.MALFORMED: "malformed operation",
        native.NOT_AUTHORISED: "not authorised to mint",
        native.UNKNOWN_COIN: "unknown or spent coin",
        native.NOT_OWNER: "not the owner of the coin",
        native.DUPLICATE_INPUT: "the same coin twice",
        native.UNBALANCED: "inputs and outputs do not add up to the same",
        native.OVERFLOW: "amounts add up to more than 64 bits",
        native.ZERO_AMOUNT: "an amount of zero",
        native.BAD_SIGNATURE: "bad signature",
        native.BAD_ADDRESS: "an address for which anybody can sign",
        native.COIN_EXISTS: "executed before",
    }
)

# --- sizes of the SMaRtChain paper, section IV-B: whole requests, and reply frames as they travel

PAPER_MINT_REQUEST_BYTES = 180
PAPER_SPEND_REQUEST_BYTES = 310
PAPER_MINT_REPLY_BYTES = 270
PAPER_SPEND_REPLY_BYTES = 380
_REPLY_OVERHEAD_BYTES = limits.FRAME_HEADER_BYTES + limits.REPLY_HEADER_BYTES
#: `receipt_bytes_mint` and `receipt_bytes_spend` that make replies as long as the paper's.
PAPER_MINT_RECEIPT_BYTES = PAPER_MINT_REPLY_BYTES - _REPLY_OVERHEAD_BYTES
PAPER_SPEND_RECEIPT_BYTES = PAPER_SPEND_REPLY_BYTES - _REPLY_OVERHEAD_BYTES


_CODE_AT = 4  # in a result list, after the length of the first result

# --- operations


def mint(values: Sequence[int], memo: bytes = b"") -> bytes:
    """Make new coins, one for each of the 1 to 255 `values`, that belong to the client who asks.

    Args:
        values: amounts from 1 to 2**64 - 1, which also bounds their sum.
        memo: at most 512 bytes, not interpreted.

    Raises:
        LocalProtocolError: an argument is out of its bounds.
    """
    _check_items(values, "values")
    _check_amounts(values)
    return struct.pack(f"<BB{len(values)}Q", MINT, len(values), *values) + _memo(memo)


def spend(inputs: Sequence[bytes], outputs: Sequence[tuple[bytes, int]], memo: bytes = b"") -> bytes:
    """Turn coins of the client into new ones for others.

    Args:
        inputs: ids (32 bytes) of 1 to 255 different coins.
        outputs: 1 to 255 pairs of address (32 bytes) and amount; together exactly what the inputs are worth.
        memo: at most 512 bytes, not interpreted.

    Raises:
        LocalProtocolError: an argument is out of its bounds.
    """
    _check_items(inputs, "inputs")
    _check_items(outputs, "outputs")
    _check_amounts([amount for _, amount in outputs])
    ids = [_key(coin, "a coin id") for coin in inputs]
    if len(set(ids)) < len(ids):
        raise LocalProtocolError("the same coin is in the inputs twice")
    packed_inputs = b"".join(ids)
    packed_outputs = b"".join(_key(address, "an address") + struct.pack("<Q", amount) for address, amount in outputs)
    head = bytes([SPEND, len(inputs)]) + packed_inputs + bytes([len(outputs)]) + packed_outputs
    return head + _memo(memo)


def balance(address: bytes) -> bytes:
    """Ask what an address has. Raises LocalProtocolError: not 32 bytes."""
    return bytes([BALANCE]) + _key(address, "an address")


def coins(address: bytes, most: int = MAX_LISTED, after: bytes = b"") -> bytes:
    """List coins of an address in the order of their ids.

    Args:
        address: 32 bytes.
        most: 1 to 1024 coins.
        after: list only coins whose ids come after this one (32 bytes, the last of a page before), or all.

    Raises:
        LocalProtocolError: an argument is out of its bounds.
    """
    if not 1 <= most <= MAX_LISTED:
        raise LocalProtocolError(f"a query lists 1 to {MAX_LISTED} coins, not {most}")
    page = _key(after, "a coin id") if after else b""
    return bytes([COINS]) + _key(address, "an address") + struct.pack("<H", most) + page


def paper_mint(value: int) -> bytes:
    """A MINT of one coin, its memo such that the request has the paper's 180 bytes."""
    return mint([value], bytes(PAPER_MINT_REQUEST_BYTES - limits.REQUEST_OVERHEAD_BYTES - len(mint([value]))))


def paper_spend(coin: bytes, outputs: Sequence[tuple[bytes, int]]) -> bytes:
    """A SPEND of one coin to one or two outputs, its memo such that the request has the paper's 310 bytes.

    Raises:
        LocalProtocolError: there are more than two outputs.
    """
    bare = spend([coin], outputs)
    padding = PAPER_SPEND_REQUEST_BYTES - limits.REQUEST_OVERHEAD_BYTES - len(bare)
    if padding < 0:
        raise LocalProtocolError(f"a SPEND with {len(outputs)} outputs is longer than the paper's: use one or two")
    return spend([coin], outputs, bytes(padding))


def predict_coin_ids(chain_id: bytes, key: bytes, session: int, sequence: int, count: int) -> tuple[bytes, ...]:
    """The ids of the coins that a MINT or SPEND will make, from the request that carries it.

    Args:
        chain_id: 32 bytes.
        key: the client's public key, 32 bytes.
        session, sequence: of the request.
        count: how many values or outputs the transaction has.
    """
    chain, owner = _key(chain_id, "a chain id"), _key(key, "a client's key")
    return tuple(native.coin_id(chain, owner, session, sequence, index) for index in range(count))


# --- results


@dataclass(frozen=True, slots=True)
class Created:
    """Result of a MINT or SPEND: the ids of the new coins, in the order of values or outputs."""

    coin_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Balance:
    """Result of a balance query: the sum of an address's coins, and how many there are."""

    amount: int
    coins: int


@dataclass(frozen=True, slots=True)
class Coin:
    """A coin as a query lists it: its id (32 bytes) and what it is worth."""

    id: bytes
    value: int


def decode_created(result: bytes) -> Created:
    """The result of a MINT or SPEND.

    Raises:
        Rejected: the transaction was rejected; `code` says why (`CODE_NAMES`).
        MalformedMessage: not a result of this kind.
    """
    body = _accepted(result, padded=True)
    end = 1 + 32 * body[0] if body else 0
    if end <= 1 or len(body) < end or any(body[end:]):
        raise MalformedMessage("not the result of a MINT or SPEND")
    return Created(tuple(body[start : start + 32] for start in range(1, end, 32)))


def decode_balance(result: bytes) -> Balance:
    """The result of a balance query. Raises Rejected, MalformedMessage."""
    body = _accepted(result)
    if len(body) != 24:
        raise MalformedMessage("not the result of a balance query")
    return Balance(int.from_bytes(body[:16], "little"), int.from_bytes(body[16:], "little"))


def decode_coins(result: bytes) -> tuple[Coin, ...]:
    """The result of a coin listing. Raises Rejected, MalformedMessage."""
    body = _accepted(result)
    if len(body) < 2 or len(body) != 2 + 40 * int.from_bytes(body[:2], "little"):
        raise MalformedMessage("not the result of a coin listing")
    return tuple(Coin(*fields) for fields in struct.iter_unpack("<32sQ", body[2:]))


# --- the application


class CoinApplication(BatchStateMachine):
    """The coin as the runtime runs it.

    Args:
        chain_id: 32 bytes.
        minters: public keys of those who may mint, 32 bytes each.
        receipt_bytes_mint, receipt_bytes_spend: least size of the results of MINT and SPEND in bytes; shorter ones are
            padded with zeros (benchmarks use the paper's sizes).
        verify_signatures: check each request's signature during execution, one after the other: the paper's
            'sequential' columns. Only for a replica that admits unverified requests, and then on all of them.

    Raises:
        ValueError: a key that must not be used, or a wrong length.
    """

    needs_signatures = True
    native = True

    def __init__(
        self,
        chain_id: bytes,
        minters: Sequence[bytes],
        *,
        receipt_bytes_mint: int = 0,
        receipt_bytes_spend: int = 0,
        verify_signatures: bool = False,
    ) -> None:
        self.state = native.CoinState(
            chain_id,
            b"".join(_key(minter, "a minter's key") for minter in minters),
            receipt_bytes_mint=receipt_bytes_mint,
            receipt_bytes_spend=receipt_bytes_spend,
        )
        self._verify_signatures = verify_signatures

    @classmethod
    def from_genesis(cls, chain_id: bytes, parameters: Mapping[str, Any], local: LocalOptions) -> Self:
        """Make the coin of a chain.

        Args:
            chain_id: 32 bytes.
            parameters: ``minters``: public keys in hexadecimal; ``receipt_bytes_mint`` and ``receipt_bytes_spend``:
                whole numbers, 0 unless given.
            local: whether to check signatures here.

        Raises:
            ConfigError: a parameter is missing, unknown or out of bounds.
        """
        try:
            return cls(chain_id, **cls.parameters_from_genesis(parameters), verify_signatures=local.verify_signatures)
        except ValueError as error:
            raise ConfigError(str(error), field="application.parameters.minters") from error

    @staticmethod
    def parameters_from_genesis(parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments that a genesis gives. Raises ConfigError."""
        for name in parameters:
            if name not in ("minters", "receipt_bytes_mint", "receipt_bytes_spend"):
                raise ConfigError("the coin has no such parameter", field=f"application.parameters.{name}")
        return {
            "minters": _minters(parameters.get("minters")),
            "receipt_bytes_mint": _receipt_bytes(parameters, "receipt_bytes_mint"),
            "receipt_bytes_spend": _receipt_bytes(parameters, "receipt_bytes_spend"),
        }

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """Execute a request list in order; returns the result list. Releases the GIL."""
        return self.state.execute_batch(data, verify_signatures=self._verify_signatures)

    def check_batch(self, data: bytes) -> bytes:
        """One byte per request: 1 where the operation is well-formed and can be valid in some state, else 0."""
        return self.state.check_batch(data)

    def why_refused(self, operation: bytes) -> tuple[int, str]:
        """The code of an operation that can be valid in no state, and what it means."""
        request = encode_request(bytes(limits.KEY_BYTES), 1, 1, operation, bytes(limits.SIGNATURE_BYTES))
        # What the check refuses is rejected in every state, and before the state is looked at.
        code = native.CoinState(bytes(limits.DIGEST_BYTES), b"").execute_batch(join_requests([request]))[_CODE_AT]
        return code, CODE_NAMES[code]

    def snapshot(self) -> bytes:
        """The coins in the order of their ids."""
        return self.state.snapshot()

    def capture(self) -> Callable[[], bytes]:
        """The coins as of now; the snapshot is made without the GIL, and batches go on meanwhile."""
        return self.state.capture().snapshot

    def capture_digest(self) -> Callable[[], bytes]:
        """The coins as of now; their digest is made without the GIL and without building a snapshot."""
        return self.state.capture().digest

    def restore(self, snapshot: bytes) -> None:
        """Replace the coins by those of a snapshot. Raises ValueError."""
        self.state.restore(snapshot)

    def read(self, query: bytes) -> bytes | None:
        """The answer to a balance query or a coin listing as of now; None for other operations."""
        return self.state.read(query)

    def facts(self) -> dict[str, int]:
        """Unspent coins, their sum, and all that was ever minted."""
        return {"coins": self.state.coins(), "supply": self.state.supply(), "minted": self.state.minted()}

    def digest(self) -> bytes:
        """BLAKE3-256 of the snapshot, without building it."""
        return self.state.digest()


def _minters(value: object) -> list[bytes]:
    field = "application.parameters.minters"
    if not isinstance(value, list) or not value:
        raise ConfigError("must list at least one public key, 64 hexadecimal digits each", field=field)
    keys = []
    for item in value:
        if not isinstance(item, str) or not re.fullmatch("[0-9a-fA-F]{64}", item):
            raise ConfigError(f"{item!r} is not a public key: 64 hexadecimal digits", field=field)
        keys.append(bytes.fromhex(item))
    if len(set(keys)) < len(keys):
        raise ConfigError("names a key twice", field=field)
    return keys


def _receipt_bytes(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= limits.MAX_RESULT_BYTES:
        raise ConfigError(
            f"{value!r} is not a whole number from 0 to {limits.MAX_RESULT_BYTES}",
            field=f"application.parameters.{name}",
        )
    return value


def _accepted(result: bytes, *, padded: bool = False) -> bytes:
    """What follows the code of an accepted operation."""
    result = bytes_of(result, "a result")
    if not result:
        raise MalformedMessage("an empty result is no result of the coin")
    code = result[0]
    if code == native.OK:
        return result[1:]
    if code not in CODE_NAMES or (any(result[1:]) if padded else len(result) > 1):
        raise MalformedMessage(f"not a result of the coin: code {code}")
    raise Rejected(f"rejected by the coin: {CODE_NAMES[code]}", code)


def _memo(memo: bytes) -> bytes:
    memo = bytes_of(memo, "a memo")
    if len(memo) > MAX_MEMO_BYTES:
        raise LocalProtocolError(f"a memo has at most {MAX_MEMO_BYTES} bytes, not {len(memo)}")
    return struct.pack("<H", len(memo)) + memo


def _key(value: bytes, what: str) -> bytes:
    value = bytes_of(value, what)
    if len(value) != limits.KEY_BYTES:
        raise LocalProtocolError(f"{what} has {limits.KEY_BYTES} bytes, not {len(value)}")
    return value


def _check_items(items: Sequence[object], what: str) -> None:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise LocalProtocolError(f"a transaction has 1 to {MAX_ITEMS} {what}, not {len(items)}")


def _check_amounts(amounts: Sequence[int]) -> None:
    for amount in amounts:
        if not 1 <= amount <= MAX_AMOUNT:
            raise LocalProtocolError(f"an amount is a whole number from 1 to {MAX_AMOUNT}, not {amount}")
    if sum(amounts) > MAX_AMOUNT:
        raise LocalProtocolError(f"the amounts of a transaction add up to at most {MAX_AMOUNT}")
