"""Signing and hashing domains: every hash and signature is bound to its purpose and to one chain.

A signature or digest made for one message type, chain, view, instance or regency means nothing anywhere else
(protocols.md section 0). Purposes are separated by BLAKE3 key derivation from the chain id.
"""

from __future__ import annotations

import struct

from smartbft._fastpath.hashing import derive_key, keyed_hash

_STATEMENT = struct.Struct("<QQQ")
_REPLACEMENT = struct.Struct("<QQ")


class Domains:
    """The domain-separated hashes and signed payloads of one chain.

    Args:
        chain_id: 32 bytes, the hash of the genesis.
    """

    __slots__ = (
        "_accept",
        "_checkpoint",
        "_key",
        "_possession",
        "_seed",
        "_stop_data",
        "_sync",
        "_value",
        "chain_id",
        "request_prefix",
    )

    def __init__(self, chain_id: bytes) -> None:
        self.chain_id = chain_id
        self.request_prefix = derive_key("smartbft v1 request signature", chain_id)
        self._value = derive_key("smartbft v1 value digest", chain_id)
        self._accept = derive_key("smartbft v1 accept signature", chain_id)
        self._stop_data = derive_key("smartbft v1 stop-data signature", chain_id)
        self._sync = derive_key("smartbft v1 sync signature", chain_id)
        self._checkpoint = derive_key("smartbft v1 checkpoint signature", chain_id)
        self._key = derive_key("smartbft v1 consensus key signature", chain_id)
        self._possession = derive_key("smartbft v1 consensus key possession", chain_id)
        self._seed = derive_key("smartbft v1 application seed", chain_id)

    def value_digest(self, value: bytes) -> bytes:
        """`H(v)` of an encoded value."""
        return keyed_hash(self._value, value)

    def accept_payload(self, view: int, regency: int, instance: int, digest: bytes) -> bytes:
        """What an ACCEPT signs: chain, view, regency, instance and value digest."""
        return self._accept + _STATEMENT.pack(view, regency, instance) + digest

    def stop_data_payload(self, statement: bytes) -> bytes:
        """What a STOPDATA signs (`messages.stop_data_statement`: view, regency, signer, instance and the collect)."""
        return self._stop_data + statement

    def sync_payload(self, statement: bytes) -> bytes:
        """What a SYNC signs (`messages.sync_statement`: view, regency, all STOPDATA and the value)."""
        return self._sync + statement

    def checkpoint_payload(self, view: int, instance: int, size: int, digest: bytes) -> bytes:
        """What a CHECKPOINT signs: chain, view, instance, size and digest of the snapshot."""
        return self._checkpoint + _STATEMENT.pack(view, instance, size) + digest

    def key_payload(self, view: int, member: int, replaces: bytes, key: bytes) -> bytes:
        """What a member's permanent key signs of a key statement: chain, view, member and both keys."""
        return self._key + _REPLACEMENT.pack(view, member) + replaces + key

    def possession_payload(self, view: int, member: int, replaces: bytes, key: bytes) -> bytes:
        """What the new consensus key itself signs of a key statement."""
        return self._possession + _REPLACEMENT.pack(view, member) + replaces + key

    def seed(self, instance: int, digest: bytes) -> bytes:
        """``H(chain id, instance, H(v))``: the randomness an application gets with a batch (protocols.md 2.1)."""
        return keyed_hash(self._seed, instance.to_bytes(8, "little") + digest)
