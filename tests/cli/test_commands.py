"""Commands that need no running replica."""

from __future__ import annotations

import json
import logging
import shlex
import stat
import sys
from pathlib import Path

import pytest

from smartbft.cli.logs import JsonFormatter, TextFormatter, configure_logging
from smartbft.cli.sim import ATTACK_NAMES
from smartbft.cli.status import differing
from smartbft.testnet import create_testnet, load_testnet


def test_testnet_says_what_it_wrote(cli, tmp_path: Path) -> None:
    outcome = cli("testnet", tmp_path / "net", "-n", 2, "--application", "counter", "--persistence", "async", "--json")
    assert outcome.code == 0
    network = load_testnet(tmp_path / "net")
    found = outcome.json()
    assert found["chain_id"] == network.genesis.chain_id.hex()
    assert found["profile"] == str(network.profile.path)
    assert [row["home"] for row in found["replicas"]] == [str(home) for home in network.homes]
    assert network.genesis.application == "counter"
    assert {config.persistence for config in network.replicas} == {"async"}


def test_testnet_as_a_table_tells_how_to_go_on(cli, tmp_path: Path) -> None:
    outcome = cli("testnet", tmp_path / "net", "-n", 1)
    assert outcome.code == 0
    assert "replica-0" in outcome.out
    assert "smartbft start --home" in outcome.err


def test_testnet_gives_parameters_to_the_application(cli, tmp_path: Path) -> None:
    given = ("--application-parameter", "receipt_bytes_spend=200")
    assert cli("testnet", tmp_path / "net", "-n", 1, *given).code == 0
    assert load_testnet(tmp_path / "net").genesis.application_parameters["receipt_bytes_spend"] == 200


@pytest.mark.parametrize("application", ["nobody_has_this:Thing", "nobody.has.this:Thing"])
def test_an_application_that_only_the_replicas_have_is_left_to_them(cli, tmp_path: Path, application: str) -> None:
    outcome = cli("testnet", tmp_path / "net", "-n", 1, "--application", application)
    assert outcome.code == 0
    assert f"there is no module '{application.partition(':')[0]}' here" in outcome.err


def test_an_application_in_the_working_folder_is_looked_at(cli, tmp_path: Path, monkeypatch) -> None:
    """Also by an installed command, on whose path the working folder is not."""
    (tmp_path / "own_locks.py").write_text(
        "from smartbft.apps.counter import Counter\n"
        "class Locks(Counter):\n"
        "    def __init__(self, limit=1):\n"
        "        super().__init__()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "own_locks", raising=False)
    made = cli("testnet", "net", "-n", 1, "--application", "own_locks:Locks", "--application-parameter", "limit=3")
    assert made.code == 0, made.err
    assert "note:" not in made.err
    wrong = cli("testnet", "other", "-n", 1, "--application", "own_locks:Locks", "--application-parameter", "size=3")
    assert wrong.code == 3
    assert "does not take these parameters" in wrong.err
    assert cli("testnet", "other", "--application", "own_locks:Keys").code == 3


GIVEN = [
    (("--application-parameter", "max_bytes=10"), {"max_bytes": 10}),
    (("--parameters", '{"max_bytes": 10}'), {"max_bytes": 10}),
    ((), {}),
]


@pytest.mark.parametrize(("options", "expected"), GIVEN)
def test_testnet_and_check_application_take_parameters_alike(cli, tmp_path: Path, options, expected) -> None:
    assert cli("testnet", tmp_path / "net", "-n", 1, "--application", "key_value", *options).code == 0
    assert load_testnet(tmp_path / "net").genesis.application_parameters == expected
    checked = cli("check-application", "key_value", "--count", 30, "--hash-seed", 1, *options, "--json")
    assert checked.code == 0, checked.err
    assert (checked.json()["rejected"] > 10) == bool(expected), "so small a store is soon full"


@pytest.mark.parametrize("command", [("testnet", "net", "--application"), ("check-application",)])
@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (("--application-parameter", "max_bytes=red"), 2, "is no TOML value"),
        (("--application-parameter", "max_bytes=1.5"), 2, "max_bytes is a float"),
        (("--application-parameter", "max_bytes=1", "--application-parameter", "max_bytes=2"), 2, "is given twice"),
        (("--application-parameter", "max_bytes=1", "--parameters", '{"max_bytes": 1}'), 2, "is given twice"),
        (("--parameters", "{"), 2, "is no JSON"),
        (("--parameters", "[1]"), 2, "is no JSON object"),
        (("--parameters", '{"max_bytes": null}'), 2, "max_bytes is a NoneType"),
        (("--parameters", '{"colour": 1}'), 3, "does not take these parameters"),
    ],
)
def test_wrong_parameters_are_refused_alike(cli, tmp_path: Path, monkeypatch, command, options, code, why) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli(*command, "key_value", *options)
    assert (outcome.code, why in outcome.err) == (code, True), outcome.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("coim",), "Did you mean 'smartbft coin'?"),
        (("statsu", "--profile", "x"), "Did you mean 'smartbft status'"),
        (("check_application",), "Did you mean 'smartbft check-application'?"),
        (("check",), "Did you mean 'smartbft check-application' or 'smartbft genesis check'?"),
        (("spend", "5"), "Did you mean 'smartbft coin spend'?"),
        (("coin", "balnce"), "Did you mean 'smartbft coin balance'?"),
        (("log", "verfy", "x"), "Did you mean 'smartbft log verify'?"),
        (("bench", "tabel1"), "Did you mean 'smartbft bench table1'?"),
        (("key", "shwo"), "Did you mean 'smartbft key show'?"),
        (("evidence", "lst"), "Did you mean 'smartbft evidence list'?"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_may_be_meant(cli, words: tuple[str, ...], meant: str) -> None:
    outcome = cli(*words)
    assert outcome.code == 2
    assert meant in outcome.err


def test_a_word_that_resembles_nothing_is_answered_with_no_guess(cli) -> None:
    outcome = cli("xyzzy")
    assert outcome.code == 2
    assert "No such command 'xyzzy'." in outcome.err
    assert "Did you mean" not in outcome.err


@pytest.mark.parametrize(
    ("own", "levels", "named"),
    [
        ("memory", [2, 2, 2, 2], "sync"),
        ("memory", [2, 0, 0, 0], ""),
        ("memory", [2, 1, 0, 0], "async"),
        ("async", [2, 2, 1, 1], "sync"),
        ("async", [1, 1, 0, 2], ""),
        ("sync", [0, 0, 0, 0], ""),
        ("sync", [2, 2, 2, 2], ""),
        ("memory", [], ""),
    ],
)
def test_a_profile_that_promises_less_than_its_chain(tmp_path: Path, own, levels: list[int], named: str) -> None:
    profile = create_testnet(tmp_path / "net", 4, persistence=own).profile
    found = profile.weaker_than(levels)
    assert bool(found) == bool(named)
    assert f'write persistence = "{named}"' in found or not named


@pytest.mark.parametrize(("n", "words"), [(3, "no replica may fail"), (7, "Up to 2 of the 7 replicas may fail")])
def test_testnet_says_what_the_network_tolerates(cli, tmp_path: Path, n: int, words: str) -> None:
    assert words in cli("testnet", tmp_path / "a net", "-n", n).err


def test_what_testnet_says_can_be_pasted(cli, tmp_path: Path) -> None:
    said = cli("testnet", tmp_path / "a net", "-n", 1).err
    lines = [shlex.split(line.partition(":")[2]) for line in said.splitlines() if "smartbft" in line]
    assert [line[-1] for line in lines] == [str(tmp_path / "a net/replica-0"), str(tmp_path / "a net/client.toml")]


def test_a_home_is_looked_for_where_it_is(cli, tmp_path: Path) -> None:
    create_testnet(tmp_path / "net", 2)
    assert "in this folder: replica-0, replica-1" in cli("start", "--home", tmp_path / "net").err
    assert f"there is no folder {tmp_path}/none" in cli("start", "--home", tmp_path / "none").err
    assert f"e.g. {tmp_path}/net/replica-0" in cli("log", "verify", tmp_path / "net").err
    assert "has never run" in cli("log", "inspect", tmp_path / "net" / "replica-1").err


def test_what_a_damaged_log_does_not_tell_is_left_out(cli, tmp_path: Path) -> None:
    (tmp_path / "segment-0000000000000000.log").write_bytes(b"x" * 4096)
    outcome = cli("log", "verify", tmp_path)
    assert outcome.code == 8
    assert "the segment header is damaged" in outcome.err
    assert "not readable" in outcome.out
    assert "None" not in outcome.out
    assert "-1" not in outcome.out


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (("--application", "smartbft.apps:Nothing"), 3, 'has no "Nothing"'),
        (("--application", "nothing"), 3, 'there is no application "nothing"'),
        (("--application-parameter", "colour=1"), 3, "the coin has no such parameter"),
        (("--application-parameter", "colour=red"), 2, "is no TOML value"),
        (("--application-parameter", "colour"), 2, "is not NAME=VALUE"),
        (("--application-parameter", "a=1\nb=2"), 2, "is no TOML value"),
    ],
)
def test_testnet_knows_what_the_application_takes_before_it_writes(cli, tmp_path: Path, options, code, why) -> None:
    outcome = cli("testnet", tmp_path / "net", *options)
    assert (outcome.code, why in outcome.err) == (code, True)
    assert not (tmp_path / "net").exists()


def test_testnet_refuses_a_used_folder(cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("testnet", tmp_path)
    assert outcome.code == 3
    assert "is not empty" in outcome.err


def test_keys(cli, tmp_path: Path) -> None:
    made = cli("key", "new", tmp_path / "a.key", "--json")
    assert made.code == 0
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    shown = cli("key", "show", tmp_path / "a.key")
    assert shown.out.strip() == made.json()["public_key"]
    secret = (tmp_path / "a.key").read_text().split("\n")[1]
    assert secret not in made.out + shown.out
    assert cli("key", "new", tmp_path / "a.key").code == 3
    (tmp_path / "a.key").chmod(0o644)
    assert cli("key", "show", tmp_path / "a.key").code == 3


def test_version_names_native_code(cli) -> None:
    found = cli("version", "--json").json()
    assert {"smartbft", "native", "python", "system"} <= found.keys()
    assert cli("version").out.startswith("smartbft")


def test_a_folder_in_use_or_a_wrong_replica_is_refused(cli, tmp_path: Path) -> None:
    network = create_testnet(tmp_path / "net", 1)
    config = network.replicas[0].config_path
    config.write_text(config.read_text().replace("replica = 0", "replica = 9"))
    outcome = cli("start", "--home", network.homes[0])
    assert outcome.code == 3
    assert "is not in the genesis" in outcome.err


def facts(digest: str, instance: int) -> dict[str, object]:
    return {"digest": digest, "digest_instance": instance}


def test_digests_are_compared_after_the_same_instance_only() -> None:
    assert differing({0: facts("aa", 5), 1: facts("bb", 6), 2: {}, 3: facts("aa", 5)}) == ""
    found = differing({0: facts("aa", 5), 1: facts("bb", 5), 2: facts("cc", 7)})
    assert found == "instance 5: 0=aa, 1=bb"


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "smartbft.x", "levelname": "INFO", "msg": message, "created": 0.0})
    vars(made).update(extra)
    return made


def test_text_logs_are_one_line_of_pairs() -> None:
    line = TextFormatter({"replica": 2}).format(record('a "b"\nc', peer=1, empty=""))
    assert line == (
        "time=1970-01-01T00:00:00.000000Z level=info logger=smartbft.x replica=2 "
        'message="a \\"b\\"\\nc" peer=1 empty=""'
    )


def test_json_logs_are_one_object_a_line() -> None:
    line = JsonFormatter({"replica": 2}).format(record("a\nb", path=Path("x")))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000000Z",
        "level": "info",
        "logger": "smartbft.x",
        "replica": 2,
        "message": "a\nb",
        "path": "x",
    }


def test_logging_is_configured_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure_logging("info")
        configure_logging("warning", "json", replica=1)
        logging.getLogger("smartbft.test").warning("once")
        logging.getLogger("smartbft.test").info("never")
        assert json.loads(capsys.readouterr().err)["message"] == "once"
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_every_attack_says_what_it_does(cli) -> None:
    found = {row["name"]: row["does"] for row in cli("sim", "--byzantine", "list", "--json").json()}
    assert list(found) == ["any", "keys", *ATTACK_NAMES]
    assert all(len(words) > 20 and words.endswith(".") for words in found.values())
    assert found["silent"] in cli("sim", "--byzantine", "list").out


def test_a_schedule_that_fails_only_with_a_planted_bug_is_repeated_with_it(cli, tmp_path: Path) -> None:
    file = tmp_path / "a file.json"
    planted = ("--mutant", "vote-before-durable")
    outcome = cli("sim", "--seed", 0, "--instances", 3, *planted, "--save-schedule", file)
    assert outcome.code == 7
    command = shlex.split(outcome.err.partition(": ")[2].partition(" runs it again")[0].strip('"'))
    assert command == ["smartbft", "sim", "--schedule", str(file), *planted]
    assert cli(*command[1:]).code == 7
