"""The naive durable coin: the application itself writes each batch to a ledger before it answers.

This is how SMaRtCoin stood at first (SMaRtChain paper, section IV-B, left columns of Table I), kept for comparison with
the durability layer: one blocking write per batch, followed by a blocking sync where the mode says so. The ledger is a
record of this run only: it is begun anew at every start, and recovery does not read it.

A ledger is a sequence of blocks (little-endian):
``u64 instance | u64 timestamp | u32 data length | u32 results length | data | results``.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smartbft.apps.coin import CoinApplication
from smartbft.errors import ConfigError, CorruptLog, DurabilityLost
from smartbft.smr.application import ExecutionContext, LocalOptions

#: The ledger's name in the replica's folder.
FILE_NAME = "coin-ledger"
_HEADER = struct.Struct("<QQII")


@dataclass(frozen=True, slots=True)
class LedgerBlock:
    """One batch in a ledger: its instance, agreed time (microseconds), request list and result list."""

    instance: int
    timestamp: int
    data: bytes
    results: bytes


class CoinLedgerApplication(CoinApplication):
    """A coin that keeps its own ledger.

    Args:
        chain_id, minters, receipts: as for `CoinApplication`; `receipts` are its other keyword arguments.
        folder: where the ledger goes; an old one there is replaced.
        synchronous: sync after each block (else the operating system writes it when it likes).
        sync_floor_seconds: added to each sync.

    Raises:
        ValueError: see `CoinApplication`.
        OSError: the ledger cannot be created.
    """

    def __init__(
        self,
        chain_id: bytes,
        minters: Sequence[bytes],
        *,
        folder: Path,
        synchronous: bool,
        sync_floor_seconds: float = 0.0,
        **receipts: Any,
    ) -> None:
        super().__init__(chain_id, minters, **receipts)
        self._synchronous = synchronous
        self._sync_floor_seconds = sync_floor_seconds
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(folder / FILE_NAME, flags, 0o600)

    @classmethod
    def from_genesis(cls, chain_id: bytes, parameters: Mapping[str, Any], local: LocalOptions) -> Self:
        """As `CoinApplication.from_genesis`; `local` must name a folder."""
        if local.folder is None:
            raise ConfigError('"coin_ledger" writes files and needs a replica with a folder', field="application.name")
        return cls(
            chain_id,
            **cls.parameters_from_genesis(parameters),
            verify_signatures=local.verify_signatures,
            folder=local.folder,
            synchronous=local.synchronous,
            sync_floor_seconds=local.sync_floor_seconds,
        )

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """Execute a request list, write it with its results, and only then return the results. Releases the GIL.

        Raises:
            DurabilityLost: the write or the sync failed.
        """
        results = super().execute_batch(data, context)
        header = _HEADER.pack(context.instance, context.timestamp, len(data), len(results))
        try:
            written = os.writev(self._descriptor, (header, data, results))
            if self._synchronous:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise DurabilityLost(f"the ledger cannot be written: {error}") from error
        if written != len(header) + len(data) + len(results):
            raise DurabilityLost("the ledger took only a part of a block: the disk is full")
        if self._synchronous and self._sync_floor_seconds > 0:
            time.sleep(self._sync_floor_seconds)
        return results

    def close(self) -> None:
        """Close the ledger; the application cannot execute any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def read_ledger(path: Path) -> Iterator[LedgerBlock]:
    """The blocks of a ledger, in order.

    Raises:
        CorruptLog: the file breaks off inside a block; `offset` is where that block begins.
    """
    content = path.read_bytes()
    at = 0
    while at < len(content):
        body = at + _HEADER.size
        if body > len(content):
            raise CorruptLog("the ledger breaks off inside a block", at, path.name)
        instance, timestamp, data_bytes, results_bytes = _HEADER.unpack_from(content, at)
        end = body + data_bytes + results_bytes
        if end > len(content):
            raise CorruptLog("the ledger breaks off inside a block", at, path.name)
        middle = body + data_bytes
        yield LedgerBlock(instance, timestamp, content[body:middle], content[middle:end])
        at = end
