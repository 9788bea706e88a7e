"""Every error this package raises. The class says whose fault it is (ARCHITECTURE.md, "Errors").

``SmartBFTError``
    ``ConfigError``            a configuration or genesis file is wrong; found at start
    ``LocalProtocolError``     the caller misused the API (``ArgumentTypeError``: which is also a ``TypeError``)
    ``RemoteProtocolError``    bytes from a peer or client are wrong: the only family that network input can raise
    ``StorageError``           the log or the disk: ``CorruptLog``, ``CorruptSnapshot``, ``DurabilityLost``
    ``ClientError``            an outcome: ``Indeterminate``, ``Rejected``, ``ResultTooLarge``, ``Overloaded``,
                               ``NotEnoughReplies``
    ``InvariantViolation``     a bug of ours (``StateDiverged``: or of the application); never caught
        ``ApplicationFailed``  a bug of the application
"""

from __future__ import annotations


class SmartBFTError(Exception):
    """Root of every error of this package."""


class ConfigError(SmartBFTError):
    """A configuration is wrong: names the file and the field, and says what to do."""

    def __init__(self, message: str, *, file: str | None = None, field: str | None = None) -> None:
        self.file = file
        self.field = field
        where = ": ".join(part for part in (file, field) if part)
        super().__init__(f"{where}: {message}" if where else message)


class LocalProtocolError(SmartBFTError):
    """The caller misused the API: a wrong argument, or a call in the wrong state."""


class ArgumentTypeError(LocalProtocolError, TypeError):
    """An argument has a type that the function does not take."""


class RemoteProtocolError(SmartBFTError):
    """Bytes from a peer or a client break the protocol. The connection is penalised, the replica lives."""


class FrameError(RemoteProtocolError):
    """A frame with an unknown kind, a length of zero or a length over its limit."""


class MalformedMessage(RemoteProtocolError):
    """A payload that does not decode, is not canonical, or has a field out of its bounds."""


class HandshakeError(RemoteProtocolError):
    """The other side is on another chain, speaks another protocol version, or is not who it claims to be."""


class InvalidSignature(RemoteProtocolError):
    """A signature in a protocol message does not verify for the statement it should bind."""


class UnknownKey(InvalidSignature):
    """A signature that another consensus key of its member may have made: one that is not known here yet, or not in
    force any more. The message is dropped, and nothing is held against its sender.
    """


class StorageError(SmartBFTError):
    """The log or the data folder cannot be used."""


class CorruptLog(StorageError):
    """The log is damaged other than by a torn tail. The replica refuses to start; nothing is truncated.

    Attributes:
        offset: byte offset in the segment where the damage begins.
        segment: name of the segment file, where one is known.
    """

    def __init__(self, message: str, offset: int = 0, segment: str = "") -> None:
        self.offset = offset
        self.segment = segment
        super().__init__(message)


class CorruptSnapshot(StorageError):
    """A snapshot file is damaged, or of another chain: it is set aside and the one before is used."""


class DurabilityLost(StorageError):
    """A write or a sync failed: the process stops, nothing more is acknowledged, nothing is retried."""


class ClientError(SmartBFTError):
    """The outcome of an invocation is not a result."""


class Indeterminate(ClientError):
    """The request was sent and no result came: it may have been executed, may be executed later, or never.

    `AsyncClient.ask` and `Client.ask` take this error and ask the replicas for this very request again. It is executed
    once at most, however often it is asked for: so ask, and do not invoke the operation a second time.

    Attributes:
        session: number of the session that the request belongs to; None where the error is about no single request.
        sequence: number of the request in its session, from 1; None likewise.
        request: the request as it was sent, signature included (docs/wire-format.md); empty likewise.
    """

    def __init__(
        self, message: str, *, session: int | None = None, sequence: int | None = None, request: bytes = b""
    ) -> None:
        self.session = session
        self.sequence = sequence
        self.request = request
        super().__init__(message)


class Rejected(ClientError):
    """The request was refused: it was not executed, or changed nothing.

    Attributes:
        code: the application's own, 1 to 255; 0 where its `execute` or its `check` gave none, and where the signature
            is bad.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        self.code = code
        super().__init__(message)


class ResultTooLarge(ClientError):
    """The operation was executed and its effects are in the state, but its result was too long to be sent.

    Attributes:
        length: of the result, in bytes.
    """

    def __init__(self, message: str, length: int = 0) -> None:
        self.length = length
        super().__init__(message)


class Overloaded(ClientError):
    """Too many requests of this client are in flight; this one was not sent. Try again later."""


class NotEnoughReplies(ClientError):
    """Fewer replicas could be reached than an answer needs; nothing was sent."""


class InvariantViolation(SmartBFTError):
    """What cannot be has happened: a bug of ours. Never caught."""


class StateDiverged(InvariantViolation):
    """The state of this replica differs from that of `f + 1` others at the same instance: the application is not
    deterministic, or memory or disk is damaged. The replica stops: its answers would be wrong.

    Attributes:
        instance: of the checkpoint.
        ours, theirs: the digests, 32 bytes each.
    """

    def __init__(self, message: str, instance: int = 0, ours: bytes = b"", theirs: bytes = b"") -> None:
        self.instance = instance
        self.ours = ours
        self.theirs = theirs
        super().__init__(message)


#: What to do about an application that cannot execute what is decided; docs/operations.md has more.
POISON_ADVICE = (
    "every replica that runs this code fails here, also when it is started again: install corrected code on all of "
    "them, start them, and they execute it from their logs (docs/operations.md, 'An application that fails')"
)


class ApplicationFailed(InvariantViolation):
    """The application raised something other than `Rejected`, or returned what is no result: its state is not known any
    more, and the replica stops. The cause is chained.

    Every replica that runs the same code fails at the same operation, also when it is started again, because the
    operation is decided: corrected code on all of them executes it from the logs.

    Attributes:
        instance: the instance that was being executed; 0: none was.
        operation: what `StateMachine.execute` was given; empty where that is not known.
    """

    def __init__(self, message: str, instance: int = 0, operation: bytes = b"") -> None:
        self.instance = instance
        self.operation = operation
        super().__init__(message)


def invariant(condition: bool, message: str) -> None:
    """Raise InvariantViolation unless `condition` holds. Stays on under ``python -O``, unlike ``assert``."""
    if not condition:
        raise InvariantViolation(message)
