"""The detector: correct applications pass, and each planted mistake is found, named and explained."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from kit.planted_applications import MALFORMED, PLANTED, Planted, WordBatches, Words, operation

from smartbft import ExecutionContext, Rejected
from smartbft.cli.entry import run
from smartbft.errors import ConfigError, LocalProtocolError
from smartbft.testing import AppendLog, Mistake, NotDeterministic, check_application, find_suspects
from smartbft.testing.application import random_operation
from smartbft.testing.determinism.builtin import BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_applications_of_the_package_pass(name: str):
    known = BUILT_IN[name]
    report = check_application(name, known.operations(), parameters=known.parameters)
    assert (report.operations, report.hash_seeds) == (201, (0, 1, 2))  # the last one is the empty operation
    assert len(report.copies) == 9
    assert report.refused == 0
    if name in ("counter", "key_value"):
        assert report.rejected > 0


@pytest.mark.parametrize("application", [Words, WordBatches])
def test_correct_applications_pass(application: type):
    assert check_application(application, operation, seed=5).hash_seeds == (0, 1, 2)
    assert check_application(AppendLog, random_operation, hash_seeds=()).operations == 201


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.application.__name__)
def test_a_planted_mistake_is_found(planted: Planted):
    # Other processes take time; what is a matter of this one alone is found without them.
    elsewhere = (0, 1, 2) if planted.kinds[0] in (Mistake.RESULT, Mistake.STATE) else ()
    with pytest.raises(NotDeterministic) as found:
        check_application(planted.application, operation, hash_seeds=elsewhere)
    divergence = found.value.divergence
    assert divergence.kind in planted.kinds, divergence.describe()
    assert planted.word in divergence.describe()
    assert f"operation {divergence.index} of client {divergence.client}" in str(found.value)


FOUND_HERE = [
    planted for planted in PLANTED if planted.kinds[0] in (Mistake.RESTORE, Mistake.SNAPSHOT, Mistake.REJECTED)
]


@pytest.mark.parametrize("planted", FOUND_HERE, ids=lambda planted: planted.application.__name__)
def test_nothing_is_wrong_before_the_operation_that_is_named(planted: Planted):
    """Without the operation that is named and those after it, only the empty one at the end can show the mistake."""
    recorded = [operation(random.Random(number), 0, number) for number in range(120)]
    with pytest.raises(NotDeterministic) as found:
        check_application(planted.application, recorded, hash_seeds=())
    index = found.value.divergence.index
    assert found.value.divergence.operation == recorded[index]
    if index:
        assert first_mistake(planted, recorded[:index]) in (None, index)


def first_mistake(planted: Planted, recorded: list[bytes]) -> int | None:
    try:
        check_application(planted.application, recorded, hash_seeds=())
    except NotDeterministic as error:
        return error.divergence.index
    return None


def test_the_first_of_two_mistakes_is_named():
    class Late(Words):
        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            if operation == b"get a":
                self.values["z"] = str(random.random())
            if operation == b"keys":
                self.values["x"] = "1"
                raise Rejected("after the change", MALFORMED)
            return super().execute(operation, context)

    with pytest.raises(NotDeterministic) as found:
        check_application(Late, [b"put a 1", b"get a", b"keys"])
    assert (found.value.divergence.index, found.value.divergence.kind) == (1, Mistake.STATE)
    with pytest.raises(NotDeterministic) as found:
        check_application(Late, [b"put a 1", b"keys", b"get a"])
    assert (found.value.divergence.index, found.value.divergence.kind) == (1, Mistake.REJECTED)
    assert "rejected with code 1" in found.value.divergence.first
    assert '"x"' in found.value.divergence.second


def test_what_check_refuses_is_left_out_and_numbers_stay_those_of_the_list():
    class Picky(Words):
        def check(self, operation: bytes) -> None:
            if operation.startswith(b"bad"):
                raise Rejected("bad", MALFORMED)

        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            if operation == b"keys":
                return str(id(self)).encode()
            return super().execute(operation, context)

    report = check_application(Picky, [b"bad", b"get a", b"bad", b"bad", b"get b"])
    assert (report.operations, report.refused) == (3, 3)
    with pytest.raises(NotDeterministic) as found:
        check_application(Picky, [b"bad", b"get a", b"bad", b"bad", b"keys"])
    assert (found.value.divergence.index, found.value.divergence.operation) == (4, b"keys")


def test_batches_need_not_be_split():
    class Bounds(WordBatches):
        """Gives the first operation of a batch another meaning: agreed, so replicas stay equal."""

        def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
            if len(data) > 200:
                self.words.append("long")
            return super().execute_batch(data, context)

    check_application(Bounds, operation, split_batches=False)
    with pytest.raises(NotDeterministic) as found:
        check_application(Bounds, operation)
    assert found.value.divergence.kind is Mistake.BATCHES


def test_an_application_that_cannot_be_imported_runs_here_only():
    class Local(Words):
        pass

    assert check_application(Local, operation).hash_seeds == ()
    assert check_application(lambda: Words(), operation).hash_seeds == ()


def test_wrong_use_is_told():
    with pytest.raises(LocalProtocolError, match="nothing to execute"):
        check_application("counter", [b"nonsense"])
    with pytest.raises(LocalProtocolError, match="parameters go with"):
        check_application(Words, operation, parameters={"a": 1})
    with pytest.raises(ConfigError, match="no application"):
        check_application("unknown", operation)


def test_suspects_are_named_with_their_lines():
    source = """
import time, random
class A:
    shared = []
    def __init__(self):
        self.names: set[str] = set()
    def snapshot(self):
        when = time.time()
        for name in sorted(self.names):
            pass
        return [*self.names], {1: 2}.pop(1), self.names.pop(), 1 / 2
    def draw(self, seed):
        return random.Random(seed).random() + random.random()
"""
    found = [(suspect.line, suspect.why.split(":")[0].split(" of ")[0]) for suspect in find_suspects(source, "a.py", 1)]
    assert found == [
        (4, "state shared by all instances"),
        (8, "a clock"),
        (11, "the order"),
        (13, "random numbers"),
    ]


def test_the_command_passes_a_correct_application(capsys: pytest.CaptureFixture[str]):
    assert run(["check-application", "counter", "--count", "50", "--hash-seed", "7"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("counter: 51 operations in ")
    assert "PYTHONHASHSEED=7" in out
    assert run(["check-application", "key_value", "--json", "--hash-seed", "7"]) == 0
    assert json.loads(capsys.readouterr().out)["operations"] == 201


def test_the_command_names_what_differs(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    recorded = tmp_path / "operations.txt"
    recorded.write_text("get a\nhex:6b657973\nput a 1\ndelete a\n")
    line = ["check-application", "kit.planted_applications:RejectedChanges"]
    assert run([*line, "--operation", "kit.planted_applications:operation"]) == 7
    assert "a rejected operation changed the state at operation " in capsys.readouterr().err
    assert run([*line, "--recorded", str(recorded)]) == 0
    assert run(["check-application", "kit.planted_applications:Raises", "--recorded", str(recorded), "--json"]) == 7
    found = json.loads(capsys.readouterr().out.partition("{")[2].join(("{", "")))
    assert (found["index"], bytes.fromhex(found["operation"])) == (0, b"get a")


def test_a_recorded_operation_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    recorded = tmp_path / "operations.txt"
    recorded.write_text("get a\nhex:6b6\n")
    assert run(["check-application", "key_value", "--recorded", str(recorded)]) == 2
    assert f"{recorded}, line 2: 'hex:6b6' is not hexadecimal" in capsys.readouterr().err


def test_a_maker_that_makes_no_bytes_is_told():
    with pytest.raises(LocalProtocolError, match="returned str, not bytes"):
        check_application(Words, lambda draw, client, number: "text")  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("line", "message", "code"),
    [
        ("locks:Locks", "say which operations", 2),
        ("counter --recorded nowhere.txt", "cannot read nowhere.txt", 2),
        ("counter --operation nowhere:at_all", "cannot find", 2),
        ("counter --operation kit.planted_applications:MALFORMED", "is no function", 2),
        ("counter --operation kit.planted_applications:Words", "function(random, client=0, number=1), raised", 2),
        ("counter --parameters [1]", "no JSON object", 2),
        ("counter --parameters {", "no JSON", 2),
        ('counter --parameters {"stop":1}', "does not take these parameters", 3),
    ],
)
def test_wrong_usage_of_the_command(capsys: pytest.CaptureFixture[str], line: str, message: str, code: int):
    assert run(["check-application", *line.split()]) == code
    assert message in capsys.readouterr().err
