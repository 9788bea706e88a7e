"""What to measure: the load, the clients and the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from smartbft.apps import coin
from smartbft.config.replica import Persistence, SignatureCheck, Transport
from smartbft.errors import LocalProtocolError
from smartbft.limits import DEFAULT_WINDOW, FRAME_HEADER_BYTES, REPLY_HEADER_BYTES, REQUEST_OVERHEAD_BYTES
from smartbft.measurement.requests import MINT, SPEND, UNSIGNED
from smartbft.quorum import quorum, weak_quorum
from smartbft.runtime.load import CLOSED_LOOP, MULTIPLEXED
from smartbft.types import Parameters

ECHO = "smartbft.measurement.echo:Echo"
USUAL_WINDOW = 2048


def usual_window(clients: int) -> int:
    """How many requests are outstanding if nobody says: as many as a batch holds, or as so few clients may have."""
    return min(USUAL_WINDOW, clients * DEFAULT_WINDOW)


@dataclass(frozen=True)
class Scenario:
    """One run of a cluster under load.

    Attributes:
        load: ``spend`` or ``mint`` (signed transactions of the coin), or ``unsigned`` (payloads alone).
        request_bytes, reply_bytes: as they travel: a whole request, and a reply with its frame header. For an unsigned
            load: bytes of the operation and of the result.
        clients: client keys.
        model: ``multiplexed`` or ``closed-loop`` (see `smartbft.runtime.load`).
        window: requests outstanding at once over all clients; 1 per client in a closed loop.
        outputs: of a SPEND: 2 is a payment with change, 1 returns the coin (then the state does not grow).
        seconds, warm_up: length of the measured interval and of what is cut off before it.
        transactions: if not 0, the load ends after about so many (rounded up to whole rounds of all clients), or with
            the time.
        n: replicas.
        application: ``coin``, ``coin_ledger``, or `ECHO` for an unsigned load.
        application_sync: whether ``coin_ledger`` syncs its file.
        record_votes: as in `ReplicaConfig`.
        sync_floor_seconds: added to each sync.
        verify_threads: 0 chooses.
        parameters: protocol parameters.
        probe_seconds: how long each measurement of the machine's verification rate takes.
        name: for people.
    """

    load: str = SPEND
    request_bytes: int = coin.PAPER_SPEND_REQUEST_BYTES
    reply_bytes: int = coin.PAPER_SPEND_REPLY_BYTES
    clients: int = 1024
    model: str = MULTIPLEXED
    window: int = USUAL_WINDOW
    outputs: int = 2
    seconds: float = 10.0
    warm_up: float = 2.0
    transactions: int = 0
    n: int = 4
    persistence: Persistence = "sync"
    transport: Transport = "plain"
    signature_check: SignatureCheck = "parallel"
    application: str = "coin"
    application_sync: bool = True
    record_votes: bool = True
    sync_floor_seconds: float = 0.0
    verify_threads: int = 0
    parameters: Parameters = field(default_factory=Parameters)
    probe_seconds: float = 0.25
    name: str = ""

    def __post_init__(self) -> None:
        """Raises LocalProtocolError: values that do not go together."""
        if self.load not in (SPEND, MINT, UNSIGNED):
            raise LocalProtocolError(f"unknown load '{self.load}': use {SPEND}, {MINT} or {UNSIGNED}")
        if self.model not in (MULTIPLEXED, CLOSED_LOOP):
            raise LocalProtocolError(f"unknown client model '{self.model}': use {MULTIPLEXED} or {CLOSED_LOOP}")
        if self.load == UNSIGNED and self.signature_check != "sequential":
            raise LocalProtocolError("an unsigned load needs a cluster that admits unverified requests")
        if self.model == MULTIPLEXED and self.window > self.clients * self.parameters.window:
            most = self.clients * self.parameters.window
            raise LocalProtocolError(
                f"{self.clients} clients may have {most} requests outstanding, not {self.window}: use more clients, or "
                "a smaller window"
            )

    @property
    def lane_window(self) -> int:
        """Requests outstanding on one set of connections."""
        return self.window if self.model == MULTIPLEXED else 1

    @property
    def replies_needed(self) -> int:
        """Equal replies that a client waits for: `Q` where anything is promised to be durable, else ``f + 1``."""
        durable = self.persistence == "sync" or self.application == "coin_ledger"
        return quorum(self.n) if durable else weak_quorum(self.n)

    @property
    def operation_bytes(self) -> int:
        """Size of the operation in each request."""
        return self.request_bytes if self.load == UNSIGNED else self.request_bytes - REQUEST_OVERHEAD_BYTES

    def application_parameters(self, minters: list[str]) -> dict[str, Any]:
        """The genesis's parameters of the application."""
        if self.load == UNSIGNED:
            return {"result_bytes": self.reply_bytes}
        receipt = max(0, self.reply_bytes - FRAME_HEADER_BYTES - REPLY_HEADER_BYTES)
        return {"minters": minters, "receipt_bytes_mint": receipt, "receipt_bytes_spend": receipt}

    def describe(self) -> dict[str, str]:
        """What every printed result must name."""
        sizes = f"{self.request_bytes}/{self.reply_bytes}"
        signatures = {"parallel": "parallel, before ordering", "sequential": "sequential, in the application"}
        return {
            "load": f"{self.load} {sizes} bytes",
            "clients": f"{self.clients} ({self.model})",
            "window": str(self.window if self.model == MULTIPLEXED else self.clients),
            "n": str(self.n),
            "signatures": "none" if self.load == UNSIGNED else signatures[self.signature_check],
            "persistence": self._persistence(),
            "transport": "TLS 1.3" if self.transport == "tls" else "plain TCP",
        }

    def _persistence(self) -> str:
        floor = f", sync floor {self.sync_floor_seconds * 1000:g} ms" if self.sync_floor_seconds else ""
        if self.application == "coin_ledger":
            return ("sync" if self.application_sync else "async") + " in the application" + floor
        votes = "" if self.record_votes or self.persistence == "memory" else ", without vote records"
        return self.persistence + votes + floor


def unsigned(operation_bytes: int, result_bytes: int, **changes: Any) -> Scenario:
    """Payloads without client authentication against an echo in memory: for orientation beside other systems."""
    base = Scenario(
        load=UNSIGNED,
        request_bytes=operation_bytes,
        reply_bytes=result_bytes,
        persistence="memory",
        signature_check="sequential",
        application=ECHO,
        name=f"unsigned {operation_bytes}/{result_bytes}",
    )
    return replace(base, **changes)


def paper_mint(**changes: Any) -> Scenario:
    """The MINT load of the SMaRtChain paper."""
    base = Scenario(load=MINT, request_bytes=coin.PAPER_MINT_REQUEST_BYTES, reply_bytes=coin.PAPER_MINT_REPLY_BYTES)
    return replace(base, **changes)
