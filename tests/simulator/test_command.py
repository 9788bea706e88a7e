"""``smartbft sim``: campaigns, one seed again, its trace, planted bugs, exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from smartbft.cli.entry import run
from smartbft.testing import SimulationOptions

SMALL = "--instances 4 --clients 2"


def sim(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = run(["sim", *shlex.split(line)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_campaign_prints_its_rate(capsys: pytest.CaptureFixture[str]):
    code, out, _ = sim(capsys, f"--seeds 3 --first-seed 5 {SMALL}")
    assert code == 0
    assert out.startswith("3 seeds from 5: 0 failed; ")
    assert re.search(r"^\d+\.\d seeds per second; \d+\.\d per second of processor time$", out, re.MULTILINE)


def test_a_campaign_with_attackers_says_what_came_of_them(capsys: pytest.CaptureFixture[str]):
    code, out, _ = sim(capsys, f"--seeds 4 --byzantine equivocate --faults none --signatures keyed-hash {SMALL}")
    assert code == 0
    found = re.search(r"evidence against a faulty replica in (\d) of 4 seeds", out)
    assert found is not None
    assert int(found[1]) > 0
    code, out, _ = sim(capsys, f"--seeds 2 --faults none {SMALL}")
    assert code == 0
    assert " 0 leaders replaced" in out
    assert "evidence" not in out


def test_a_campaign_in_json(capsys: pytest.CaptureFixture[str]):
    code, out, _ = sim(capsys, f"--seeds 2 {SMALL} --json")
    assert code == 0
    found = json.loads(out)
    assert (found["seeds"], found["failures"]) == (2, [])
    assert found["seeds_per_second"] > 0


def test_one_seed_again_gives_the_same_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    _, first, _ = sim(capsys, f"--seed 7 {SMALL}")
    code, second, _ = sim(capsys, f"--seed 7 {SMALL} --trace {tmp_path / 'trace'}")
    assert code == 0
    assert first == second
    assert re.search(r"^trace [0-9a-f]{32}$", first, re.MULTILINE)
    _, as_json, _ = sim(capsys, f"--seed 7 {SMALL} --json")
    assert json.loads(as_json)["trace_hash"] in first
    lines = (tmp_path / "trace").read_text().splitlines()
    assert "started" in lines[0]
    assert any("message" in line for line in lines)


def test_a_failure_is_repeated_by_the_line_that_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out, err = sim(capsys, f"--mutant reply-before-durable {SMALL}")
    assert code == 7
    assert "1 of 1 seed failed" in err
    command = re.search(r"repeat with: smartbft sim (.*)", out)
    assert command is not None
    code, _, err = sim(capsys, f"{command[1]} --trace {tmp_path / 'trace'}")
    assert code == 7
    assert "seed 0: durability: " in err
    assert (tmp_path / "trace").stat().st_size > 0


def test_mutants_are_listed(capsys: pytest.CaptureFixture[str]):
    code, out, _ = sim(capsys, "--mutant list")
    assert code == 0
    assert "vote-before-durable" in out
    _, out, _ = sim(capsys, "--mutant list --json")
    assert {"name", "rule", "seeds"} == set(json.loads(out)[0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--trace somewhere", "--trace goes with --seed"),
        ("--mutant unknown", "no mutant is called 'unknown'"),
        ("--mutant votes-forgotten --jobs 2", "without --jobs"),
        ("--n 0", "0 is not in the range"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], line: str, message: str):
    code, _, err = sim(capsys, line)
    assert code == 2
    assert message in err


# A value other than the default for every field, so that `command` prints all of them.
EVERYTHING = SimulationOptions(
    seed=9,
    n=7,
    instances=5,
    clients=2,
    in_flight=3,
    signatures="keyed-hash",
    persistence="sync",
    authentication="channel",
    checkpoints="sequential",
    faults="crashes",
    patience=99,
    byzantine="silent,censor",
    twins=True,
    mutations=True,
    late_liars=True,
    greedy=2,
    faulty=1,
    without="loss",
)


@pytest.mark.parametrize("field", dataclasses.fields(SimulationOptions), ids=lambda field: field.name)
def test_a_printed_command_can_be_run(field: dataclasses.Field[object], monkeypatch: pytest.MonkeyPatch):
    """Field by field and all together: what `command` prints gives these options again."""
    got: list[SimulationOptions] = []
    monkeypatch.setattr("smartbft.cli.sim._repeat", lambda options, *_: got.append(options))
    value = getattr(EVERYTHING, field.name)
    assert value != field.default
    needed = {"byzantine": "silent"} if field.name == "late_liars" else {}
    alone = SimulationOptions(**{field.name: value, **needed})
    for options in (alone, EVERYTHING):
        assert f"--{field.name.replace('_', '-')}" in options.command()
        assert run(shlex.split(options.command())[1:]) == 0
    assert got == [alone, EVERYTHING]


@pytest.mark.slow
def test_several_processes(capsys: pytest.CaptureFixture[str]):
    code, out, _ = sim(capsys, f"--seeds 8 --jobs 2 {SMALL}")
    assert code == 0
    assert out.startswith("8 seeds from 0: 0 failed; ")


def test_help():
    from smartbft.cli.sim import sim as command

    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "--keep-going" in result.output
