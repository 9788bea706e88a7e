"""The batch interface of applications written per operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from kit.requests import TestClient

from smartbft import limits
from smartbft._fastpath.pool import encode_request, join_requests, join_results
from smartbft.errors import (
    InvariantViolation,
    LocalProtocolError,
    MalformedMessage,
    Rejected,
    RemoteProtocolError,
    ResultTooLarge,
)
from smartbft.smr.application import ExecutionContext, StateMachine, is_rejection, open_result, too_large
from smartbft.smr.per_operation import PerOperation, as_batch
from smartbft.testing.determinism.copies import split_results

CONTEXT = ExecutionContext(instance=4, timestamp=1_000_000, seed=bytes(32))


def batch(*operations: bytes) -> bytes:
    return join_requests(
        [encode_request(bytes(32), 1, number, operation, bytes(64)) for number, operation in enumerate(operations, 1)]
    )


class Echo(StateMachine):
    """Answers with the operation, and does odd things when told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, ExecutionContext]] = []

    def check(self, operation: bytes) -> None:
        if operation == b"refuse":
            raise Rejected("refused", 3)
        if operation == b"stumble":
            raise IndexError("a careless check")
        if operation == b"broken":
            raise InvariantViolation("broken")

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.seen.append((operation, context))
        if operation == b"reject":
            raise Rejected("rejected", 7)
        if operation == b"reject without code":
            raise Rejected("rejected")
        if operation == b"reject with a code too large":
            raise Rejected("rejected", 256)
        if operation == b"reject with a word":
            raise Rejected("rejected", "full")  # type: ignore[arg-type]
        if operation == b"raise":
            raise KeyError("a bug")
        if operation == b"text":
            return "text"  # type: ignore[return-value]
        if operation == b"long":
            return bytes(limits.MAX_RESULT_BYTES + 1)
        return operation

    def snapshot(self) -> bytes:
        return b"".join(operation for operation, _ in self.seen)

    def restore(self, snapshot: bytes) -> None:
        self.seen = [(snapshot, CONTEXT)]


@pytest.fixture
def echo() -> PerOperation:
    return PerOperation(Echo())


def test_results_come_in_order_with_their_codes(echo: PerOperation) -> None:
    results = echo.execute_batch(batch(b"one", b"reject", b"", b"reject without code", b"long", b"two"), CONTEXT)
    assert results == join_results([b"\0one", b"\7", b"", b"\xff\0", too_large(limits.MAX_RESULT_BYTES + 1), b"\0two"])


def test_the_application_sees_the_agreed_context_and_never_the_empty_operation(echo: PerOperation) -> None:
    clients = TestClient(1), TestClient(2)
    requests = [client.request(operation) for operation in (b"", b"one") for client in clients]
    echo.execute_batch(join_requests(requests), CONTEXT)
    assert echo.machine.seen == [(b"one", replace(CONTEXT, client=client.public_key)) for client in clients]


def test_slices_give_way_after_each_operation(echo: PerOperation) -> None:
    steps = echo.slices(batch(b"one", b"two", b"three"), CONTEXT)
    assert next(steps) == b"\0one"
    assert [operation for operation, _ in echo.machine.seen] == [b"one"]
    assert [*steps] == [b"\0two", b"\0three"]


@pytest.mark.parametrize("operation", [b"raise", b"text", b"reject with a code too large", b"reject with a word"])
def test_a_bug_of_the_application_stops_the_replica(echo: PerOperation, operation: bytes) -> None:
    with pytest.raises(InvariantViolation):
        echo.execute_batch(batch(b"one", operation), CONTEXT)


def test_the_message_says_where_the_application_failed(echo: PerOperation) -> None:
    with pytest.raises(InvariantViolation, match=r"request 1 of instance 4: KeyError\('a bug'\)"):
        echo.execute_batch(batch(b"one", b"raise"), CONTEXT)


def test_a_snapshot_that_is_no_bytes_stops_the_replica(echo: PerOperation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo.machine, "snapshot", lambda: {"a": 1})
    with pytest.raises(InvariantViolation, match="snapshot is dict, not bytes"):
        echo.snapshot()


def test_a_malformed_list_reaches_nobody(echo: PerOperation) -> None:
    with pytest.raises(RemoteProtocolError):
        echo.execute_batch(batch(b"one")[:-1], CONTEXT)
    assert echo.machine.seen == []


def test_checks_make_a_mask_and_survive_a_careless_check(echo: PerOperation) -> None:
    assert echo.check_batch(batch(b"one", b"refuse", b"", b"stumble", b"two")) == bytes([1, 0, 1, 0, 1])
    with pytest.raises(InvariantViolation):
        echo.check_batch(batch(b"broken"))


def test_snapshots_go_through(echo: PerOperation) -> None:
    echo.execute_batch(batch(b"one", b"two"), CONTEXT)
    other = PerOperation(Echo())
    other.restore(echo.snapshot())
    assert other.snapshot() == b"onetwo"
    assert other.digest() == echo.digest()
    assert len(echo.digest()) == 32


def assert_capture_is_of_its_moment(machine: PerOperation) -> None:
    machine.execute_batch(batch(b"one"), CONTEXT)
    captured = machine.capture()
    machine.execute_batch(batch(b"two"), CONTEXT)
    assert captured() == b"one"


def test_a_capture_is_of_its_moment(echo: PerOperation) -> None:
    assert_capture_is_of_its_moment(echo)


def test_planted_bug_a_capture_that_waits_is_found() -> None:
    class Late(PerOperation):
        def capture(self) -> Callable[[], bytes]:
            return self.snapshot

    with pytest.raises(AssertionError):
        assert_capture_is_of_its_moment(Late(Echo()))


def test_open_result() -> None:
    assert open_result(b"") == b""
    assert open_result(b"\0answer") == b"answer"
    with pytest.raises(Rejected) as rejection:
        open_result(b"\7")
    assert rejection.value.code == 7
    for malformed in (b"\7more", b"\xff\1", b"\xff\0\0", b"\xff\1\0\0\0\0\0", b"\xff\2"):
        with pytest.raises(MalformedMessage):
            open_result(malformed)


class Answers(StateMachine):
    """Rejects with the code that an operation names, or answers with as many bytes; counts the answers."""

    def __init__(self) -> None:
        self.answers = 0

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        kind, number = operation[:1], int.from_bytes(operation[1:], "little")
        if kind == b"r":
            raise Rejected("rejected", number)
        self.answers += 1
        return bytes(number)

    def snapshot(self) -> bytes:
        return bytes([self.answers])

    def restore(self, snapshot: bytes) -> None:
        self.answers = snapshot[0]


def answer(kind: bytes, number: int) -> bytes:
    """The result of one operation of `Answers`."""
    machine = PerOperation(Answers())
    before = machine.snapshot()
    (result,) = split_results(machine.execute_batch(batch(kind + number.to_bytes(4, "little")), CONTEXT), 1)
    assert is_rejection(result) == (machine.snapshot() == before)
    return result


def test_every_code_is_the_applications() -> None:
    """None stands for anything else: not for a result that is too long, nor for a rejection without a code."""
    for code in range(256):
        with pytest.raises(Rejected) as rejection:
            open_result(answer(b"r", code))
        assert rejection.value.code == code
    assert len({answer(b"r", code) for code in range(256)}) == 256


@pytest.mark.parametrize("length", [0, 1, 2, limits.MAX_OPERATION_BYTES - 1, limits.MAX_OPERATION_BYTES])
def test_a_result_may_be_as_long_as_an_operation(length: int) -> None:
    result = answer(b"a", length)
    assert open_result(result) == bytes(length)
    assert len(result) <= limits.MAX_CODED_RESULT_BYTES


@pytest.mark.parametrize("length", [limits.MAX_OPERATION_BYTES + 1, 1_000_000])
def test_an_operation_whose_result_is_too_long_was_executed_and_never_rejected(length: int) -> None:
    with pytest.raises(
        ResultTooLarge, match=f"was executed; its result of {length} bytes is longer than the 65536"
    ) as told:
        open_result(answer(b"a", length))
    assert told.value.length == length
    assert not isinstance(told.value, Rejected)


@pytest.mark.parametrize("like", [bytes, bytearray, memoryview])
def test_whatever_is_bytes_like_will_do(like: Callable[[bytes], bytes]) -> None:
    class Likes(Answers):
        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            return like(operation)

        def snapshot(self) -> bytes:
            return like(b"state")

    machine = PerOperation(Likes())
    assert machine.execute_batch(batch(b"one"), CONTEXT) == join_results([b"\0one"])
    assert machine.snapshot() == b"state"
    assert open_result(like(b"\0one")) == b"one"


def test_a_check_says_why(echo: PerOperation) -> None:
    assert echo.why_refused(b"refuse") == (3, "refused")
    assert echo.why_refused(b"stumble") == (0, "the check raised IndexError")
    assert echo.why_refused(b"fine") == (0, "")


def test_as_batch_wraps_only_what_needs_it(echo: PerOperation) -> None:
    assert as_batch(echo) is echo
    assert isinstance(as_batch(Echo()), PerOperation)


def test_what_is_no_application_is_told() -> None:
    with pytest.raises(LocalProtocolError, match=r"Echo is a class: the application is an object, Echo\(\.\.\.\)"):
        as_batch(Echo)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="'dict' is no application: derive it from StateMachine"):
        as_batch({})  # type: ignore[arg-type]
