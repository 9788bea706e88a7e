from __future__ import annotations

import pytest
from apps.determinism import assert_replicas_agree
from hypothesis import given
from hypothesis import strategies as st

from smartbft.apps import counter
from smartbft.apps.counter import Counter
from smartbft.errors import LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import ExecutionContext

CONTEXT = ExecutionContext(1, 1, bytes(32))
MOST = 2**63 - 1


def value_after(machine: Counter, operation: bytes) -> int:
    return counter.decode_value(b"\0" + machine.execute(operation, CONTEXT))


def test_counts() -> None:
    machine = Counter(start=5)
    assert [value_after(machine, operation) for operation in (counter.add(), counter.add(-10), counter.read())] == [
        6,
        -4,
        -4,
    ]


def test_overflow_is_rejected_and_changes_nothing() -> None:
    machine = Counter(start=MOST)
    with pytest.raises(Rejected) as rejection:
        machine.execute(counter.add(), CONTEXT)
    assert rejection.value.code == counter.OVERFLOW
    assert value_after(machine, counter.read()) == MOST


@pytest.mark.parametrize("operation", [b"\0", b"\1", b"\2\0", b"\3", counter.add(1)[:-1], counter.add(1) + b"\0"])
def test_malformed_operations_are_refused(operation: bytes) -> None:
    for call in (Counter().check, lambda it: Counter().execute(it, CONTEXT)):
        with pytest.raises(Rejected) as rejection:
            call(operation)
        assert rejection.value.code == counter.MALFORMED


def test_arguments_out_of_bounds() -> None:
    with pytest.raises(LocalProtocolError, match="64 bits"):
        counter.add(2**63)
    with pytest.raises(MalformedMessage):
        counter.decode_value(b"\0abc")
    with pytest.raises(ValueError, match="8 bytes"):
        Counter().restore(b"abc")


operations = st.one_of(
    st.integers(-(2**63), MOST).map(counter.add),
    st.integers(-5, 5).map(counter.add),
    st.just(b"\2"),
    st.binary(max_size=10),
)


@given(st.lists(st.lists(operations, max_size=6), max_size=6))
def test_replicas_agree(batches: list[list[bytes]]) -> None:
    assert_replicas_agree(Counter, batches)
