from __future__ import annotations

import pytest
from apps.determinism import assert_replicas_agree
from hypothesis import given, settings
from hypothesis import strategies as st

from smartbft.apps import key_value
from smartbft.apps.key_value import KeyValueStore
from smartbft.errors import LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import ExecutionContext

CONTEXT = ExecutionContext(1, 1, bytes(32))


@pytest.fixture
def store() -> KeyValueStore:
    return KeyValueStore(max_bytes=100)


def answer(store: KeyValueStore, operation: bytes) -> bytes:
    store.check(operation)
    return b"\0" + store.execute(operation, CONTEXT)


def test_put_get_delete_count(store: KeyValueStore) -> None:
    value = key_value.decode_value
    assert value(answer(store, key_value.put(b"a", b"1"))) is None
    assert value(answer(store, key_value.put(b"a", b""))) == b"1"
    assert value(answer(store, key_value.get(b"a"))) == b""
    assert value(answer(store, key_value.get(b"b"))) is None
    assert key_value.decode_count(answer(store, key_value.count())) == 1
    assert value(answer(store, key_value.delete(b"a"))) == b""
    assert value(answer(store, key_value.delete(b"a"))) is None
    assert store.size == 0


def test_a_full_store_rejects_and_changes_nothing(store: KeyValueStore) -> None:
    answer(store, key_value.put(b"a", bytes(99)))
    before = store.snapshot()
    for operation in (key_value.put(b"b", b""), key_value.put(b"a", bytes(100))):
        with pytest.raises(Rejected) as rejection:
            store.execute(operation, CONTEXT)
        assert rejection.value.code == key_value.FULL
        assert store.snapshot() == before
    answer(store, key_value.put(b"a", bytes(98)))
    answer(store, key_value.put(b"b", b""))
    assert store.size == 100


@pytest.mark.parametrize(
    "operation",
    [b"\0", b"\1", b"\1\0\0", b"\1\2\0a", b"\2", b"\3", b"\4a", b"\5a", b"\2" + bytes(1025), b"\1\1\0a" + bytes(32769)],
)
def test_malformed_operations_are_refused(store: KeyValueStore, operation: bytes) -> None:
    for call in (store.check, lambda it: store.execute(it, CONTEXT)):
        with pytest.raises(Rejected) as rejection:
            call(operation)
        assert rejection.value.code == key_value.MALFORMED


def test_arguments_out_of_bounds() -> None:
    for make in (lambda: key_value.get(b""), lambda: key_value.put(bytes(1025), b""), lambda: key_value.delete(b"")):
        with pytest.raises(LocalProtocolError, match="1 to 1024"):
            make()
    with pytest.raises(LocalProtocolError, match="32768"):
        key_value.put(b"a", bytes(32769))
    with pytest.raises(MalformedMessage):
        key_value.decode_value(b"\0\2")
    with pytest.raises(MalformedMessage):
        key_value.decode_count(b"\0\2")


def test_restore_refuses_what_is_not_canonical(store: KeyValueStore) -> None:
    for key in (b"a", b"b"):
        answer(store, key_value.put(key, b"v"))
    good = store.snapshot()
    half = len(good) // 2
    for spoilt in (good[:-1], good[:3], good[half:] + good[:half], good[:half] * 2, b"\0" * 6):
        with pytest.raises(ValueError, match="snapshot"):
            store.restore(spoilt)
        assert store.snapshot() == good


keys = st.sampled_from([b"a", b"b", b"ab", b"c"])
operations = st.one_of(
    st.builds(key_value.put, keys, st.binary(max_size=40)),
    keys.map(key_value.get),
    keys.map(key_value.delete),
    st.just(key_value.count()),
    st.binary(max_size=8),
)


@settings(max_examples=60)
@given(st.lists(st.lists(operations, max_size=6), max_size=6))
def test_replicas_agree(batches: list[list[bytes]]) -> None:
    assert_replicas_agree(lambda: KeyValueStore(max_bytes=100), batches)


class SnapshotInOrderOfArrival(KeyValueStore):
    """A planted bug: the snapshot shows the order in which keys came, which a restored replica does not know."""

    def snapshot(self) -> bytes:
        return b"".join(key_value._ENTRY.pack(len(key), len(value)) + key + value for key, value in self.values.items())


class DeletesWhenFull(KeyValueStore):
    """A planted bug: a rejected operation leaves traces."""

    def _put(self, key: bytes, value: bytes) -> None:
        self.values.pop(key, None)
        super()._put(key, value)


@pytest.mark.parametrize("mutant", [SnapshotInOrderOfArrival, DeletesWhenFull])
def test_planted_bugs_are_found(mutant: type[KeyValueStore]) -> None:
    fill = [key_value.put(b"b", bytes(40)), key_value.put(b"a", bytes(40))]
    overflow = [key_value.put(b"a", bytes(90)), key_value.delete(b"b"), key_value.put(b"b", b"")]
    assert_replicas_agree(lambda: KeyValueStore(max_bytes=100), [fill, overflow])
    with pytest.raises((AssertionError, ValueError)):
        assert_replicas_agree(lambda: mutant(max_bytes=100), [fill, overflow])
