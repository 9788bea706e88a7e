"""The application's check: whatever a client's bytes make of it, the operation is refused and the replica goes on."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from kit.requests import TestClient

from smartbft._fastpath.pool import split_requests
from smartbft.errors import InvariantViolation, Rejected
from smartbft.limits import CHECK_FAILURE_FACTOR
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.runtime.operation_checks import OperationChecks
from smartbft.smr.application import BatchStateMachine, ExecutionContext, StateMachine
from smartbft.smr.per_operation import as_batch


class Careless(StateMachine):
    """Its check fails in several ways."""

    def check(self, operation: bytes) -> None:
        if operation == b"refuse":
            raise Rejected("refused", 3)
        if operation == b"stumble":
            raise IndexError("a careless check")
        if operation == b"exit":
            sys.exit(0)
        if operation == b"broken":
            raise InvariantViolation("broken")

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return operation

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


class CarelessBatches(BatchStateMachine):
    """The same, for whole batches: one bad operation spoils the check of all that come with it."""

    def check_batch(self, data: bytes) -> bytes:
        verdicts = bytearray()
        for _, _, _, operation, _ in split_requests(data):
            if operation == b"text":
                return "text"  # type: ignore[return-value]
            try:
                Careless().check(operation)
            except Rejected:
                verdicts.append(0)
            else:
                verdicts.append(1)
        return bytes(verdicts)


def checks(kind: Any) -> OperationChecks:
    return OperationChecks(as_batch(kind()))


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", [Careless, CarelessBatches])
@pytest.mark.parametrize("bad", [b"stumble", b"exit"])
def test_a_check_that_raises_refuses_and_is_logged_with_its_traceback(
    kind: Any, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts = checks(kind)(TestClient().requests(b"one", b"refuse", bad, b"two"))
    assert verdicts == bytes([1, 0, 0, 1])
    (told,) = tracebacks(caplog)
    assert f"operation 0x{bad.hex()}" in told
    assert "check" in caplog.text
    assert "Traceback" in caplog.text


def test_verdicts_that_are_none_refuse_only_what_brings_them_about(caplog: pytest.LogCaptureFixture) -> None:
    assert checks(CarelessBatches)(TestClient().requests(b"one", b"text", b"two")) == bytes([1, 0, 1])
    assert len(tracebacks(caplog)) == 1


def test_a_refusal_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    assert checks(Careless)(TestClient().requests(b"refuse")) == b"\0"
    assert tracebacks(caplog) == []


@pytest.mark.parametrize("kind", [Careless, CarelessBatches])
def test_nobody_fills_the_log_with_it(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    check = checks(kind)
    for _ in range(CHECK_FAILURE_FACTOR**2):
        check(TestClient().requests(b"stumble"))
    assert len(tracebacks(caplog)) == 3


@pytest.mark.parametrize("kind", [Careless, CarelessBatches])
def test_a_slow_check_is_named(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    check = OperationChecks(as_batch(kind()), ApplicationWatch(0.0))
    check(TestClient().requests(b"one", b"two"))
    check.close()
    (line,) = [record.getMessage() for record in caplog.records if "is slow" in record.getMessage()]
    assert "the check of 2 requests took" in line


@pytest.mark.parametrize("kind", [Careless, CarelessBatches])
def test_an_invariant_that_does_not_hold_comes_through(kind: Any) -> None:
    with pytest.raises(InvariantViolation):
        checks(kind)(TestClient().requests(b"broken"))
