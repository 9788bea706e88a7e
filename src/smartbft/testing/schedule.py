"""Schedules as files: everything that goes wrong in one run, written out, to be kept, edited and run again.

A command line repeats a run as long as the seed is drawn from in the same way. A schedule does not depend on that: it
holds what was drawn. It is JSON, with a field for each attribute of `SimulationOptions` and `Scenario`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from smartbft.errors import LocalProtocolError
from smartbft.limits import (
    MAX_BATCH_BYTES,
    MAX_BATCH_REQUESTS,
    MAX_CHECKPOINT_INTERVAL,
    MAX_POOL_BYTES,
    MAX_POOL_REQUESTS,
    MAX_REQUEST_BYTES,
    MAX_WINDOW,
)
from smartbft.quorum import max_faulty
from smartbft.testing.byzantine import ATTACKS
from smartbft.testing.disk import FAILURES
from smartbft.testing.options import PERSISTENCE_LEVELS, SimulationOptions
from smartbft.testing.scenario import PHASES, Scenario

FORMAT = "smartbft schedule 1"
MAX_SCHEDULE_BYTES = 1024 * 1024
_MOST = 2**48  # microseconds, instances: nothing sensible is as long
_BOUNDS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("loss", "duplication", "straggling", "stall_rate", "tell_one", "rate"), (0, 1)),
    **dict.fromkeys(("offset", "clock_offsets"), (-_MOST, _MOST)),
    **dict.fromkeys(("verify_delay", "execute_delay", "think_time", "mischief_pause"), (1, _MOST)),
    **dict.fromkeys(("write_delay", "sync_delay"), (1, _MOST)),
    # Shorter ones would keep the run from getting anywhere.
    **dict.fromkeys(("request_timeout", "max_request_timeout", "resend_interval", "progress_interval"), (1_000, _MOST)),
    "max_batch_requests": (1, MAX_BATCH_REQUESTS),
    "max_batch_bytes": (1, MAX_BATCH_BYTES),
    "window": (1, MAX_WINDOW),
    "segment_bytes": (4 * 1024, 16 * 1024 * 1024),
    "troublemakers": (0, 1_000),
    "greedy": (0, 1_000),
    "pool_requests": (1, MAX_POOL_REQUESTS),
    # A pool has room for the largest request.
    "pool_bytes": (MAX_REQUEST_BYTES, MAX_POOL_BYTES),
    "checkpoint_interval": (1, MAX_CHECKPOINT_INTERVAL),
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run.

    Attributes:
        options: what was asked for; the seed decides what the scenario leaves open (delays, the clients' operations).
        scenario: everything that goes wrong.
        fails: the promise that the run broke when it was written, and how; for people.
    """

    options: SimulationOptions
    scenario: Scenario
    fails: str = ""

    def encode(self) -> bytes:
        """The content of a schedule file."""
        content = {"format": FORMAT, **msgspec.to_builtins(self, order="deterministic")}
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def decode_schedule(data: bytes) -> Schedule:
    """Read the content of a schedule file.

    Raises:
        LocalProtocolError: it is too long, not a schedule, of another version, or asks for something impossible.
    """
    if len(data) > MAX_SCHEDULE_BYTES:
        raise LocalProtocolError(f"a schedule has at most {MAX_SCHEDULE_BYTES} bytes")
    try:
        content = msgspec.json.decode(data)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise LocalProtocolError(f'this is no schedule: it must say "format": "{FORMAT}"')
        del content["format"]
        schedule = _convert(content)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"this is no schedule: {error}") from None
    for unknown in _unknown(content, schedule, ""):
        raise LocalProtocolError(f"a schedule has no {unknown}: is it misspelt?")
    for wrong in _wrong(schedule):
        raise LocalProtocolError(f"this schedule is impossible: {wrong}")
    return schedule


def _convert(content: dict[str, Any]) -> Schedule:
    try:
        return msgspec.convert(content, Schedule)
    except LocalProtocolError as error:  # of the options
        raise LocalProtocolError(f"this schedule is impossible: {error}") from None


def load_schedule(path: Path) -> Schedule:
    """Read a schedule file. Raises as `decode_schedule`, and `LocalProtocolError` if the file cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCHEDULE_BYTES + 1)
    except OSError as error:
        raise LocalProtocolError(f"cannot read the schedule {path}: {error.strerror}") from None
    try:
        return decode_schedule(data)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"{path}: {error}") from None


def _unknown(content: Any, decoded: Any, where: str) -> Iterator[str]:
    """Names in the file that mean nothing."""
    if is_dataclass(decoded):
        known = {field.name for field in fields(decoded)}
        for name, value in content.items():
            if name not in known:
                yield f"{where}{name}"
            else:
                yield from _unknown(value, getattr(decoded, name), f"{where}{name}.")
    elif isinstance(decoded, tuple):
        for number, (one, other) in enumerate(zip(content, decoded, strict=True)):
            yield from _unknown(one, other, f"{where}{number}.")


def _wrong(schedule: Schedule) -> Iterator[str]:
    """What no run can do."""
    options, scenario = schedule.options, schedule.scenario
    yield from _out_of_range(scenario, "scenario")
    machines = options.n + len(scenario.twins)
    who: list[tuple[str, Sequence[int], int]] = [
        ("twins", scenario.twins, options.n),
        ("left_out", scenario.left_out, options.n),
        ("forgetful", sorted(scenario.forgetful), options.n),
        *(("crashes", crash.replicas, options.n) for crash in scenario.crashes),
        *(("deafness", deaf.replicas, options.n) for deaf in scenario.deafness),
        *(("cuts", (cut.sender, cut.to), options.n) for cut in scenario.cuts),
        *(("rounds", group, machines) for one in scenario.rounds for group in one.groups),
    ]
    for kind in ("isolations", "clock_steps", "disk_failures", "rot", "wipes", "attackers"):
        who += [(kind, (fault.replica,), options.n) for fault in getattr(scenario, kind)]
    who.append(("attackers", [one.after for one in scenario.attackers if one.after is not None], options.n))
    for kind, replicas, most in who:
        if any(not 0 <= replica < most for replica in replicas):
            yield f"{kind} names replica {next(id for id in replicas if not 0 <= id < most)} of {most}"
    yield from _senseless(options, scenario)


def _senseless(options: SimulationOptions, scenario: Scenario) -> Iterator[str]:
    if scenario.persistence not in PERSISTENCE_LEVELS:
        yield f"persistence '{scenario.persistence}' is none of {', '.join(PERSISTENCE_LEVELS)}"
    if len(scenario.clock_offsets) != options.n:
        yield f"clock_offsets has {len(scenario.clock_offsets)} entries for {options.n} replicas"
    for crash in scenario.crashes:
        if len(crash.downtime) != len(crash.replicas):
            yield "a crash needs one downtime for each of its replicas"
    for attacker in scenario.attackers:
        if attacker.attack not in ATTACKS:
            yield f"attack '{attacker.attack}' is none of {', '.join(ATTACKS)}"
    for deaf in scenario.deafness:
        if deaf.phase not in PHASES:
            yield f"phase '{deaf.phase}' is none of {', '.join(PHASES)}"
    for failure in scenario.disk_failures:
        if failure.operation not in FAILURES:
            yield f"operation '{failure.operation}' is none of {', '.join(FAILURES)}"
    yield from _too_many_faulty(options, scenario)


def _too_many_faulty(options: SimulationOptions, scenario: Scenario) -> Iterator[str]:
    """At each moment at most `f` are faulty: one that lost its disk is not any more when a late liar follows it."""
    wiped = [one.replica for one in scenario.wipes]
    follows = {one.replica: one.after for one in scenario.attackers if one.after is not None}
    if any(one.after != follows.get(one.replica) for one in scenario.attackers):
        yield "attacks of one replica begin at different times"
    for liar, before in follows.items():
        if wiped.count(before) != 1 or list(follows.values()).count(before) != 1:
            yield f"attacker {liar} follows replica {before}, which must lose its disk once and have one follower"
    lost = {*(one.replica for one in scenario.rot), *wiped}
    faulty = (scenario.byzantine - {*follows}) | scenario.forgetful | lost | {*scenario.left_out}
    if len(faulty) > max_faulty(options.n):
        yield f"{len(faulty)} replicas are faulty or left out for good; {options.n} tolerate {max_faulty(options.n)}"


def _out_of_range(value: Any, where: str) -> Iterator[str]:
    """Numbers that are too small or too large for what they say."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _out_of_range(getattr(value, field.name), field.name)
    elif isinstance(value, tuple):
        for one in value:
            yield from _out_of_range(one, where)
    elif isinstance(value, (int, float)):
        low, most = _BOUNDS.get(where, (0, _MOST))
        if not low <= value <= most:
            yield f"{where}: {value} is not between {low} and {most}"
