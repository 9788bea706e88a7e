"""Consensus keys over the instances: a fold of what is decided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.cluster import make_view

from smartbft.core.member_keys import MemberKeys
from smartbft.errors import InvariantViolation, MalformedMessage
from smartbft.limits import KEY_STATEMENT_BYTES, MAX_KEYS_PER_MEMBER
from smartbft.types import KeyStatement, Value

VIEW = make_view()
GENESIS = VIEW.members[0].consensus_key


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def statement(member: int, replaces: bytes, new: bytes) -> KeyStatement:
    return KeyStatement(member, replaces, new, bytes(64), bytes(64))


def restored(data: bytes) -> MemberKeys:
    table = MemberKeys(VIEW)
    table.restore(data)
    return table


def test_a_key_counts_from_the_instance_after_the_one_that_orders_it() -> None:
    keys = MemberKeys(VIEW)
    assert keys.decided(1, ()) == ()
    assert keys.decided(2, (statement(0, GENESIS, key(7)),)) == (0,)
    assert [keys.key_at(0, instance) for instance in (1, 2, 3, 9)] == [GENESIS, GENESIS, key(7), key(7)]
    assert keys.latest(0) == key(7)
    assert keys.changed(0)
    assert not keys.changed(1)
    assert keys.key_at(1, 3) == VIEW.members[1].consensus_key
    assert keys.key_at(9, 1) is None


def test_an_old_statement_is_no_use_to_anybody() -> None:
    keys = MemberKeys(VIEW)
    old = statement(0, GENESIS, key(7))
    keys.decided(1, (old,))
    assert not keys.admits(old)
    assert keys.decided(2, (old,)) == ()
    assert keys.decided(3, (statement(0, key(7), key(8)),)) == (0,)
    assert not keys.admits(statement(0, key(8), key(7))), "a key that was lost does not come back"
    assert keys.key_at(0, 3) == key(7)


def test_nobody_takes_the_key_of_another_member() -> None:
    keys = MemberKeys(VIEW)
    assert not keys.admits(statement(0, GENESIS, VIEW.members[1].consensus_key))
    both = (statement(0, GENESIS, key(7)), statement(1, VIEW.members[1].consensus_key, key(7)))
    assert keys.admitted(both) == both[:1]
    assert not keys.admits(statement(9, GENESIS, key(7)))


def test_decisions_come_in_order() -> None:
    keys = MemberKeys(VIEW)
    with pytest.raises(InvariantViolation):
        keys.decided(2, ())


def test_the_history_is_bounded() -> None:
    keys = MemberKeys(VIEW)
    before = GENESIS
    for number in range(1, MAX_KEYS_PER_MEMBER + 5):
        assert keys.decided(number, (statement(0, before, key(number)),)) == (0,)
        before = key(number)
    assert keys.key_at(0, 1) is None, "too long ago to be remembered"
    assert keys.key_at(0, keys.known) == before
    assert restored(keys.encode()).encode() == keys.encode()


changes = st.lists(st.lists(st.integers(0, 3), unique=True, max_size=4).map(sorted), max_size=12)


@given(changes)
def test_a_table_survives_its_encoding(instances: list[list[int]]) -> None:
    keys, number = MemberKeys(VIEW), 0
    for instance, members in enumerate(instances, 1):
        statements = []
        for member in members:
            number += 1
            statements.append(statement(member, keys.latest(member) or b"", key(number)))
        assert keys.decided(instance, tuple(statements)) == tuple(members)
    again = restored(keys.encode())
    assert again.known == keys.known
    for member in VIEW.ids:
        assert [again.entry_at(member, at) for at in range(1, 14)] == [keys.entry_at(member, at) for at in range(1, 14)]


def test_what_is_no_table_is_refused() -> None:
    keys = MemberKeys(VIEW)
    keys.decided(1, (statement(0, GENESIS, key(7)),))
    good = keys.encode()
    for bad in (b"", good[:-1], good + b"x", b"\x93" + good[1:], good.replace(GENESIS, key(3))):
        with pytest.raises(MalformedMessage):
            restored(bad)


def test_a_value_with_statements() -> None:
    statements = (statement(0, GENESIS, key(7)), statement(2, key(1), key(2)))
    for digests in (b"", bytes(96)):
        value = Value(5, digests, statements)
        encoded = value.encode()
        assert len(encoded) == 8 + len(digests) + 2 * KEY_STATEMENT_BYTES + 1
        assert Value.decode(encoded) == value
    twice = Value(5, b"", (statements[0], statements[0])).encode()
    reverse = Value(5, b"", statements[::-1]).encode()
    for bad in (twice, reverse, encoded[:-1] + b"\x03", encoded[:-1] + b"\0", b"\x01" * 9, encoded[8:]):
        with pytest.raises(MalformedMessage):
            Value.decode(bad)
