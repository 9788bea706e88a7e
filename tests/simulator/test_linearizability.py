"""What clients see is linearizable (promise A6): the checker, histories, and planted bugs that show in them alone."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartbft.apps import counter, key_value
from smartbft.apps.counter import Counter
from smartbft.apps.key_value import KeyValueStore
from smartbft.cli.entry import run
from smartbft.testing.histories import LEAST_OPERATIONS, HistorySimulation, check_history, run_histories
from smartbft.testing.history import Operation
from smartbft.testing.history_mutants import HISTORY_MUTANTS, HistoryMutant, hunt_history
from smartbft.testing.linearizability import (
    ApplicationModel,
    KeyValueModel,
    NotLinearizable,
    SequentialModel,
    Undecided,
    check_linearizable,
)

HISTORIES = int(os.environ.get("SMARTBFT_HISTORIES", "50"))
NONE = b"\0\0"


def put(client: int, invoked: int, answered: int, value: bytes, before: bytes | None) -> Operation:
    return Operation(client, key_value.put(b"k", value), invoked, before, answered)


def get(client: int, invoked: int, answered: int, result: bytes | None) -> Operation:
    return Operation(client, key_value.get(b"k"), invoked, result, answered)


def shown(value: bytes) -> bytes:
    return b"\0\1" + value


def is_linearizable(operations: Sequence[Operation], model: SequentialModel | None = None) -> bool:
    try:
        check_linearizable(operations, model or KeyValueModel())
    except NotLinearizable:
        return False
    return True


# --- the checker ---


def test_a_read_may_overlap_a_write_and_see_either():
    for seen in (NONE, shown(b"1")):
        assert is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 5, 6, seen)])
    assert is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 5, 6, NONE), get(1, 7, 8, shown(b"1"))])
    assert not is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 5, 6, shown(b"1")), get(1, 7, 8, NONE)])


def test_a_read_after_a_write_sees_it():
    assert is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 11, 12, shown(b"1"))])
    assert not is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 11, 12, NONE)])
    assert is_linearizable([put(0, 0, 10, b"1", NONE), get(1, 10, 12, NONE)])  # the same moment: they overlap


def test_an_indeterminate_write_happens_at_any_time_or_never():
    write = put(0, 0, 5, b"1", None)
    assert is_linearizable([write, get(1, 10, 11, NONE), get(1, 20, 21, NONE)])
    assert is_linearizable([write, get(1, 10, 11, NONE), get(1, 20, 21, shown(b"1"))])
    assert not is_linearizable([write, get(1, 10, 11, shown(b"1")), get(1, 20, 21, NONE)])
    assert not is_linearizable([put(0, 15, 16, b"1", None), get(1, 10, 11, shown(b"1"))])


def test_keys_are_apart_and_the_first_impossible_answer_is_named():
    other = Operation(0, key_value.put(b"other", b"x"), 0, NONE, 1)
    bad = get(2, 30, 31, NONE)
    history = [other, put(0, 2, 3, b"1", NONE), get(1, 10, 20, shown(b"1")), bad, get(1, 40, 41, NONE)]
    with pytest.raises(NotLinearizable, match="b'k' explains this answer") as found:
        check_linearizable(history, KeyValueModel())
    assert (found.value.key, found.value.operation) == (b"k", bad)
    assert str(found.value).splitlines()[1:] == [
        "  client 2 [30 .. 31] GET b'k': no value",
        "after",
        "  client 0 [2 .. 3] PUT b'k' b'1': no value before",
        "  client 1 [10 .. 20] GET b'k': b'1'",
    ]
    report = check_linearizable(history[:3], KeyValueModel())
    assert (report.operations, report.indeterminate, report.keys) == (3, 0, 2)


def test_operations_are_shown_by_their_names_where_the_model_knows_them():
    words = KeyValueModel().describe
    assert words(key_value.put(b"k", b""), shown(b"x")) == "PUT b'k' b'': b'x' before"
    assert words(key_value.delete(b"k"), None) == "DELETE b'k': no answer, it may have happened"
    assert words(key_value.get(b"k"), b"\2") == "GET b'k': 0x02 (1 bytes)", "no answer of this application"
    words = ApplicationModel(Counter).describe
    assert words(counter.add(1), b"\0" + bytes(8)) == (
        f"0x{counter.add(1).hex()} ({len(counter.add(1))} bytes): result 0x{bytes(8).hex()} (8 bytes)"
    )
    assert words(b"text", None) == "b'text' (4 bytes): no answer, it may have happened"


def test_a_search_that_takes_too_long_says_so():
    history = [Operation(client, counter.add(1), 0, None, 0) for client in range(12)]
    history.append(Operation(20, counter.read(), 1, b"\0" + (99).to_bytes(8, "little"), 2))
    with pytest.raises(Undecided, match="gave up"):
        check_linearizable(history, ApplicationModel(Counter), most_configurations=500)


def by_brute_force(operations: Sequence[Operation], model: SequentialModel) -> bool:
    """Every subset of the indeterminate operations, in every order that respects time."""
    unknown = [one for one in operations if one.result is None]
    known = [one for one in operations if one.result is not None]
    for count in range(len(unknown) + 1):
        for happened in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *happened]):
                if respects_time(order) and explains(order, model):
                    return True
    return False


def respects_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.result is not None and later.answered < earlier.invoked
        for earlier, later in itertools.combinations(order, 2)
    )


def explains(order: Sequence[Operation], model: SequentialModel) -> bool:
    state = model.initial()
    for one in order:
        state, result = model.apply(state, one.operation)
        if one.result not in (None, result):
            return False
    return True


def draw_history(draw: random.Random, operations: Sequence[bytes], results: Sequence[bytes]) -> list[Operation]:
    history = []
    for client, operation in enumerate(operations):
        invoked = draw.randrange(12)
        result = None if draw.random() < 0.3 else draw.choice(results)
        history.append(Operation(client, operation, invoked, result, invoked + 1 + draw.randrange(6)))
    return history


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_the_checker_agrees_with_brute_force_on_registers(seed: int):
    draw = random.Random(seed)
    values = [b"a", b"b", b"c"]
    some = [key_value.put(b"k", value) for value in values[: draw.randrange(1, 4)]]
    some += [draw.choice([key_value.get(b"k"), key_value.delete(b"k")]) for _ in range(draw.randrange(1, 3))]
    history = draw_history(draw, some, [NONE, *map(shown, values)])
    assert is_linearizable(history) == by_brute_force(history, KeyValueModel())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_the_checker_agrees_with_brute_force_on_a_counter(seed: int):
    draw = random.Random(seed)
    some = [counter.add(draw.randint(1, 2)) if draw.random() < 0.7 else counter.read() for _ in range(5)]
    history = draw_history(draw, some, [b"\0" + value.to_bytes(8, "little") for value in range(5)])
    model = ApplicationModel(Counter)
    assert is_linearizable(history, model) == by_brute_force(history, model)


def test_the_store_and_its_model_agree():
    draw, model = random.Random(1), KeyValueModel()
    by_application = ApplicationModel(KeyValueStore, key=model.key)
    state, own = model.initial(), by_application.initial()
    for number in range(300):
        operation = draw.choice([key_value.put(b"k", b"%d" % number), key_value.get(b"k"), key_value.delete(b"k")])
        state, result = model.apply(state, operation)
        own, expected = by_application.apply(own, operation)
        assert result == expected


# --- histories ---


@pytest.mark.slow
def test_histories_under_attack_are_linearizable():
    campaign = run_histories(HISTORIES)
    assert campaign.failures == ()
    assert campaign.counted == campaign.histories == HISTORIES
    assert campaign.operations >= HISTORIES * LEAST_OPERATIONS
    assert campaign.replaced > HISTORIES // 2
    assert campaign.lies > campaign.operations // 2
    assert 0 < campaign.indeterminate < campaign.operations // 4
    assert campaign.crashes > HISTORIES


def test_a_history_can_be_repeated():
    assert check_history(3) == check_history(3)
    assert check_history(3).linearizability is not None


@pytest.mark.parametrize("mutant", HISTORY_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_shows_in_what_clients_see(mutant: HistoryMutant):
    found = hunt_history(mutant)
    assert found is not None, f"not found within {mutant.seeds} histories: {mutant.rule}"
    assert found[0] <= mutant.seeds
    assert check_history(found[1].seed).failure == ""


def test_every_answer_of_a_long_history_counts():
    """Changing any single answer to one that nobody can have got is found."""
    history = list(HistorySimulation(6).record())
    answered = [number for number, one in enumerate(history) if one.result is not None]
    for number in random.Random(2).sample(answered, 20):
        changed = list(history)
        one = changed[number]
        changed[number] = Operation(one.client, one.operation, one.invoked, shown(b"never put"), one.answered)
        assert not is_linearizable(changed)


# --- the command ---


def test_the_command(capsys: pytest.CaptureFixture[str]):
    assert run(["histories", "--seeds", "2", "--first-seed", "5"]) == 0
    assert capsys.readouterr().out.startswith("2 histories from 5: 0 failed; 2 of 200 operations or more; ")
    assert run(["histories", "--seeds", "100", "--seconds", "0"]) == 0
    assert "go on with --first-seed 1\n" in capsys.readouterr().out
    assert run(["histories", "--seeds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["histories"] == 1
    assert run(["histories", "--mutant", "list"]) == 0
    assert "read-from-one" in capsys.readouterr().out
    assert run(["histories", "--mutant", "list", "--json"]) == 0
    assert {"name", "rule", "seeds"} == set(json.loads(capsys.readouterr().out)[0])


def test_the_command_shows_a_planted_bug(capsys: pytest.CaptureFixture[str]):
    assert run(["histories", "--mutant", "reply-from-f"]) == 7
    captured = capsys.readouterr()
    assert "found in history 1, by what clients saw alone" in captured.out
    assert "no order of the operations on b'key-" in captured.err
    assert run(["histories", "--mutant", "unknown"]) == 2
