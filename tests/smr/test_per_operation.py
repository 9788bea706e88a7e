"""The batch interface of applications written per operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from kit.requests import TestClient

from smartbft import limits
from smartbft._fastpath.pool import encode_request, join_requests, join_results
from smartbft.errors import InvariantViolation, LocalProtocolError, MalformedMessage, Rejected, RemoteProtocolError
from smartbft.smr.application import ExecutionContext, StateMachine, open_result
from smartbft.smr.per_operation import PerOperation, as_batch

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
            return bytes(limits.MAX_RESULT_BYTES)
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
    assert results == join_results([b"\0one", b"\7", b"", b"\xff", b"\xfe", b"\0two"])


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
    with pytest.raises(MalformedMessage):
        open_result(b"\7more")


def test_as_batch_wraps_only_what_needs_it(echo: PerOperation) -> None:
    assert as_batch(echo) is echo
    assert isinstance(as_batch(Echo()), PerOperation)


def test_what_is_no_application_is_told() -> None:
    with pytest.raises(LocalProtocolError, match=r"Echo is a class: the application is an object, Echo\(\.\.\.\)"):
        as_batch(Echo)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="'dict' is no application: derive it from StateMachine"):
        as_batch({})  # type: ignore[arg-type]
