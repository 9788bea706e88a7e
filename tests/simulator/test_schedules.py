"""Schedules as files: what was drawn is written out, runs again just so, and can be edited; bad files are refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartbft.cli.entry import run
from smartbft.errors import LocalProtocolError
from smartbft.testing import Simulation, SimulationOptions
from smartbft.testing.schedule import MAX_SCHEDULE_BYTES, Schedule, decode_schedule, load_schedule

KINDS = {
    "honest": SimulationOptions(seed=4, instances=6),
    "byzantine": SimulationOptions(seed=4, instances=6, byzantine="any"),
    "twins": SimulationOptions(seed=4, instances=6, twins=True),
    "memory": SimulationOptions(seed=6, instances=6, persistence="memory", authentication="channel"),
}


def schedule_of(options: SimulationOptions) -> Schedule:
    return Schedule(options, Simulation(options).scenario)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_schedule_runs_as_its_seed_does(options: SimulationOptions):
    schedule = schedule_of(options)
    again = decode_schedule(schedule.encode())
    assert again == schedule
    assert Simulation(again.options, scenario=again.scenario).run() == Simulation(options).run()


def test_every_drawn_scenario_can_be_written_and_read():
    for seed in range(200):
        for byzantine in ("", "any"):
            schedule = schedule_of(SimulationOptions(seed=seed, n=7 if seed % 2 else 4, byzantine=byzantine))
            assert decode_schedule(schedule.encode()) == schedule


def command(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = run(["sim", *shlex.split(line)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_saves_and_replays(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "run.json"
    code, first, err = command(capsys, f"--seed 5 --instances 6 --byzantine equivocate --save-schedule {file}")
    assert code == 0
    assert f"'smartbft sim --schedule {file}' runs it again" in " ".join(err.split())
    code, second, _ = command(capsys, f"--schedule {file} --trace {tmp_path / 'trace'}")
    assert (code, second) == (0, first)
    assert (tmp_path / "trace").stat().st_size > 0


@pytest.mark.parametrize("how", ["--seeds 20", "--seeds 20 --shrink"])
def test_a_failing_run_is_saved_and_fails_again(how: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "run.json"
    planted = "--mutant votes-forgotten"
    code, _, _ = command(capsys, f"{how} --persistence sync --instances 12 {planted} --save-schedule {file}")
    assert code == 7
    promise = load_schedule(file).fails.split(":")[0]
    code, _, err = command(capsys, f"--schedule {file} {planted}")
    assert code == 7
    assert promise in err
    code, _, _ = command(capsys, f"--schedule {file}")
    assert code == 0


def test_a_schedule_can_be_edited(tmp_path: Path):
    content = json.loads(schedule_of(SimulationOptions(seed=3, instances=6, faults="none")).encode())
    crash = {"replicas": [0, 1, 2, 3], "after_instance": 2, "delay": 0, "downtime": [500] * 4, "power": True}
    content["scenario"]["crashes"] = [crash]
    content["scenario"]["persistence"] = "sync"
    edited = decode_schedule(json.dumps(content).encode())
    assert Simulation(edited.options, scenario=edited.scenario).run().crashes == 4


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content.pop("format"), 'it must say "format": "smartbft schedule 1"'),
        (lambda content: content["scenario"].pop("disk"), "missing required field `disk`"),
        (lambda content: content.update(more=1), "has no more: is it misspelt"),
        (lambda content: content["scenario"]["network"].update(los=0.1), "has no scenario.network.los"),
        (lambda content: content["scenario"]["network"].update(loss=1.5), "loss: 1.5 is not between 0 and 1"),
        (lambda content: content["scenario"]["network"].update(loss="much"), "Expected `float`"),
        (lambda content: content["scenario"]["disk"].update(segment_bytes=2**40), "segment_bytes: "),
        (lambda content: content["scenario"].update(persistence="disk"), "persistence 'disk' is none of memory"),
        (
            lambda content: content["scenario"].update(
                deafness=[{"replicas": [1], "after_instance": 1, "phase": "STOP", "duration": 9}]
            ),
            "phase 'STOP' is none of PROPOSE, WRITE, ACCEPT, SYNC",
        ),
        (lambda content: content["scenario"].update(clock_offsets=[0]), "clock_offsets has 1 entries for 4"),
        (lambda content: content["scenario"].update(left_out=[4]), "left_out names replica 4 of 4"),
        (lambda content: content["scenario"].update(left_out=[2, 3]), "2 replicas are faulty or left out for good"),
        (lambda content: content["options"].update(n=0), "n: 0 is not between 1 and"),
        (
            lambda content: content["scenario"].update(
                crashes=[{"replicas": [1, 2], "after_instance": 0, "delay": 0, "downtime": [1], "power": True}]
            ),
            "one downtime for each",
        ),
        (
            lambda content: content["scenario"].update(
                attackers=[{"replica": 1, "attack": "loud", "rate": 1, "victim": 0}]
            ),
            "attack 'loud' is none of silent",
        ),
        (
            lambda content: content["scenario"].update(
                disk_failures=[{"replica": 1, "after_instance": 0, "operation": "fire", "downtime": 9}]
            ),
            "operation 'fire' is none of write",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_schedules_are_refused(edit: Edit, words: str):
    content = json.loads(schedule_of(SimulationOptions(seed=3, faults="none")).encode())
    edit(content)
    with pytest.raises(LocalProtocolError, match="schedule") as caught:
        decode_schedule(json.dumps(content).encode())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=["empty", "cut", "list", "bytes", "deep"]
)
def test_what_is_no_schedule_is_refused(data: bytes):
    with pytest.raises(LocalProtocolError, match="this is no schedule"):
        decode_schedule(data)


def test_reading_is_bounded_and_names_the_file(tmp_path: Path):
    long = tmp_path / "long.json"
    long.write_bytes(b" " * (MAX_SCHEDULE_BYTES + 2))
    with pytest.raises(LocalProtocolError, match=r"long\.json: a schedule has at most"):
        load_schedule(long)
    with pytest.raises(LocalProtocolError, match="No such file"):
        load_schedule(tmp_path / "missing.json")


def test_settings_beside_a_schedule_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, _, err = command(capsys, f"--schedule {tmp_path / 'run.json'} --n 7")
    assert code == 2
    assert "--n does not go with --schedule" in err
    code, _, err = command(capsys, f"--schedule {tmp_path / 'run.json'}")
    assert code != 0
    assert "cannot read the schedule" in " ".join(err.split())
