"""What an application is: a deterministic state machine, written per operation or per batch.

The promise an application makes: its results and its state depend on the operations, their order and the
`ExecutionContext`, and on nothing else. No clock, no randomness of its own, no iteration over sets, no environment, no
floating point that differs between machines. Two replicas at the same point have equal snapshots, byte for byte.

The empty operation is a no-op with an empty result: it never reaches a `StateMachine`, and a `BatchStateMachine`
answers it so itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from blake3 import blake3

from smartbft.arguments import bytes_of
from smartbft.errors import MalformedMessage, Rejected, ResultTooLarge
from smartbft.limits import MAX_CODED_RESULT_BYTES, MAX_RESULT_BYTES

#: First byte of a result: the operation was carried out.
OK = 0
# First byte of what is neither a result nor a rejection with a code: more follows it, so that every code from 1 to 255,
# which stands alone, is the application's.
_MARK = 255
#: Result of an operation that an application rejected without giving a code.
NO_CODE = bytes([_MARK, 0])
# What `too_large` begins with.
_TOO_LARGE = bytes([_MARK, 1])
_SHOWN_OPERATION_BYTES = 64


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """An application's only sources of time and randomness: the same on all replicas.

    Attributes:
        instance: number of the consensus instance that decided the batch.
        timestamp: agreed time of the batch, microseconds since the epoch; grows from batch to batch.
        seed: 32 bytes, ``H(chain id, instance, value digest)``. Nobody but the leader of the instance could know it
            beforehand, who could also try several: good enough to spread load, not to draw lots for money.
        client: public key (32 bytes) of the client that signed the operation, for `StateMachine.execute`; empty for
            `BatchStateMachine.execute_batch`, where each request names its own.
    """

    instance: int
    timestamp: int
    seed: bytes
    client: bytes = b""


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What one replica's configuration tells an application, besides what the genesis tells all of them.

    Attributes:
        folder: where the application may keep files, or None.
        synchronous: whether what the application writes must be on disk before it answers.
        sync_floor_seconds: added to each sync, to show how a slower disk would do; benchmarks only.
        verify_signatures: whether the application must check the signatures of requests itself (benchmarks only).
    """

    folder: Path | None = None
    synchronous: bool = False
    sync_floor_seconds: float = 0.0
    verify_signatures: bool = False


class StateMachine(ABC):
    """Base class of an application written in plain Python, one operation at a time.

    A result travels as ``0 | what execute returned``, or as the code of the `Rejected` that `execute` raised, alone
    (docs/wire-format.md). `open_result` takes it apart.
    """

    #: Whether a third party must be able to check who asked for what: then requests have to be signed.
    needs_signatures: bool = False

    @classmethod
    def from_genesis(cls, chain_id: bytes, parameters: Mapping[str, Any], local: LocalOptions) -> Self:
        """Make the application in its initial state.

        Unless overridden, calls the class with the genesis's application parameters as keyword arguments.

        Args:
            chain_id: 32 bytes.
            parameters: ``application.parameters`` of the genesis.
            local: this replica's configuration.

        Raises:
            ConfigError: a parameter is missing, unknown or out of bounds.
        """
        return cls(**parameters)

    @abstractmethod
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        """Carry out one operation and return its result, bytes or bytes-like, at most `limits.MAX_RESULT_BYTES`.

        The effects of an operation with a longer result stay; its client gets `ResultTooLarge`.

        Raises:
            Rejected: the operation is refused, with a code from 1 to 255, or none. That is an ordered result like any
                other and must leave the state as it was. Any other exception is a bug of the application, which every
                replica would meet at the same operation: the replica stops, for its state is no longer known.
        """

    def check(self, operation: bytes) -> None:  # noqa: B027 - may be left out: then everything passes
        """Refuse an operation before it is ordered, by its bytes alone (no state: the verdict must be the same on all
        replicas at all times). What passes may still be rejected by `execute`.

        Raises:
            Rejected: not an operation of this application. Its code and its text reach the client, so they, too, must
                follow from the operation alone.
        """

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state, canonical: same state, same bytes, on every replica and machine.

        May be called on another thread than `execute`, never while that runs.
        """

    @abstractmethod
    def restore(self, snapshot: bytes) -> None:
        """Replace the state by that of a snapshot.

        Raises:
            ValueError: not a snapshot of this application; the state stays as it was.
        """


class BatchStateMachine(Protocol):
    """An application that executes whole batches: what the runtime runs. `PerOperation` makes one of a `StateMachine`.

    Request lists and result lists are ``u32 length | item`` repeated (docs/wire-format.md). Subclass it to inherit
    `capture` and `digest`.
    """

    #: Whether a third party must be able to check who asked for what: then requests have to be signed.
    needs_signatures: bool = False
    #: Whether `execute_batch` releases the GIL: it then runs on a thread of its own, else on the event loop.
    native: bool = False

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """Execute a request list in order; returns the result list, one result per request.

        A result has at most `limits.MAX_RESULT_BYTES` and one byte, for a code; instead of a longer one its client gets
        what `too_large` returns.

        Raises:
            Exception: a bug of the application; the replica stops.
        """
        ...

    def check_batch(self, data: bytes) -> bytes:
        """The stateless check of a request list: one byte per request, 1 where the operation passes, else 0.

        May be called from another thread while a batch executes.
        """
        ...

    def why_refused(self, operation: bytes) -> tuple[int, str]:
        """Why `check_batch` refuses an operation, for its client: a code from 1 to 255, or 0 for none, and a text; by
        the operation's bytes alone.
        """
        return 0, ""

    def snapshot(self) -> bytes:
        """As `StateMachine.snapshot`."""
        ...

    def capture(self) -> Callable[[], bytes]:
        """The state as of now, for a snapshot that is made while batches go on.

        Called between two batches, and must take a moment only. What it returns is called perhaps on another thread and
        while later batches execute, and gives what `snapshot` would have returned. Unless overridden, the snapshot is
        taken here and now.
        """
        snapshot = self.snapshot()
        return lambda: snapshot

    def restore(self, snapshot: bytes) -> None:
        """As `StateMachine.restore`."""
        ...

    def digest(self) -> bytes:
        """32 bytes that name the state: BLAKE3-256 of the snapshot."""
        return blake3(self.snapshot()).digest()

    def capture_digest(self) -> Callable[[], bytes]:
        """As `capture`, for `digest`: what it returns gives the digest of the state as of now, and may take long."""
        snapshot = self.capture()
        return lambda: blake3(snapshot()).digest()

    def read(self, query: bytes) -> bytes | None:
        """What `query` would give if it were executed next, where that changes nothing; None: it has to be ordered.

        Asked between two batches, by anybody, so it must be cheap. A client believes an answer only if `Q` replicas
        give the same after the same instance (`smartbft.runtime.reading`).
        """
        return None

    def facts(self) -> dict[str, int]:
        """Figures about the state that an operator may want to see; asked between two batches."""
        return {}


def name_operation(operation: bytes) -> str:
    """An operation in a message: its first bytes in hexadecimal, and how long it is.

    Example:
        >>> name_operation(b"put")
        '0x707574 (3 bytes)'
    """
    shown = operation[:_SHOWN_OPERATION_BYTES].hex()
    return f"0x{shown}{'...' if len(operation) > _SHOWN_OPERATION_BYTES else ''} ({len(operation)} bytes)"


def execute_decided(application: BatchStateMachine, data: bytes, context: ExecutionContext) -> bytes:
    """Execute what an instance decided. An instance may decide key statements and no requests: the application does not
    hear of it.
    """
    return application.execute_batch(data, context) if data else b""


def open_result(result: bytes) -> bytes:
    """What `StateMachine.execute` returned, from the result that a client got (b"" for the empty operation).

    Raises:
        Rejected: the operation was refused; `code` is the application's code, 0 if it gave none.
        ResultTooLarge: the operation was executed, and its result was too long to be sent.
    """
    result = bytes_of(result, "a result")
    if not result:
        return b""
    if result[0] == OK:
        return result[1:]
    if result == NO_CODE:
        raise Rejected("the application rejected the operation, without a code")
    if len(result) == 1:
        raise Rejected(f"the application rejected the operation with code {result[0]}", result[0])
    if result.startswith(_TOO_LARGE) and len(result) == len(too_large(0)):
        length = int.from_bytes(result[len(_TOO_LARGE) :], "little")
        raise ResultTooLarge(
            f"the operation was executed; its result of {length} bytes is longer than the {MAX_RESULT_BYTES} that can "
            "be sent",
            length,
        )
    raise MalformedMessage("not the result of a StateMachine: neither accepted, nor rejected with a code alone")


def is_rejection(result: bytes) -> bool:
    """Whether a `StateMachine` rejected the operation that has this result."""
    return result == NO_CODE or (len(result) == 1 and result[0] != OK)


def too_large(length: int) -> bytes:
    """What stands for a result of so many bytes that is too long to be kept and sent."""
    return _TOO_LARGE + min(length, 2**32 - 1).to_bytes(4, "little")


def fitting(result: bytes) -> bytes:
    """The result of a request as it is kept and sent: itself, or that it is too long."""
    return result if len(result) <= MAX_CODED_RESULT_BYTES else too_large(len(result))
