"""``smartbft status``: the cluster table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from smartbft.cli.digests import Digests
from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import clear_screen, examples, json_option, print_json, print_json_line, print_table, say
from smartbft.cli.parameters import DURATION, profile_option, timeout_option
from smartbft.cli.patience import patience
from smartbft.cli.run import beside, run
from smartbft.config import PERSISTENCE_MODES, ClientProfile
from smartbft.core.divergence import TOOL, name_states
from smartbft.core.naming import name_members
from smartbft.errors import HandshakeError, NotEnoughReplies
from smartbft.measurement.status import Facts, all_well, ask_all, connect_to_any, level
from smartbft.runtime.problems import name_problems, problem_lines

if TYPE_CHECKING:
    from smartbft.runtime.client import AsyncClient

_COLUMNS = (
    "replica",
    "state",
    "regency",
    "leader",
    "decided",
    "executed",
    "behind",
    "pending",
    "evidence",
    "sync ms",
)
_WATCH_SECONDS = 1.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Answers:
    """What came of asking every replica.

    Attributes:
        facts: what each replica that answered says of itself, by id.
        problems: why the others did not, in words, by id.
        refusal: why so many refuse this client that the others are no quorum; None if they do not.
    """

    facts: dict[int, Facts]
    problems: dict[int, str]
    refusal: HandshakeError | None = None


@click.command(
    epilog=examples(
        "smartbft status --profile net/client.toml",
        "smartbft status --digest --json",
        "smartbft status --watch",
        "smartbft status --wait 30s",
    )
)
@profile_option
@timeout_option("2s")
@click.option("--digest", is_flag=True, help="Compare the replicas' application states as well.")
@click.option(
    "--digest-timeout",
    type=DURATION,
    default="1min",
    show_default=True,
    help="How long to wait for digests: large states take longer than other answers.",
)
@click.option("--watch", is_flag=True, help="Ask every second until interrupted; with --json one line each time.")
@click.option(
    "--wait",
    type=DURATION,
    help="First wait, at most so long, until every replica answers, takes part, and is level with the others.",
)
@json_option
def status(
    profile: Path, timeout: int, digest: bool, digest_timeout: int, watch: bool, wait: int | None, as_json: bool
) -> None:
    """Ask every replica where it stands, and what it is waiting for.

    A replica that does not answer is shown as unreachable. Exit code 4 when fewer than a quorum answer, or not all are
    well after --wait; 9 when they refuse this client, being on another chain; 7 when replicas have diverged: when one
    says that correct replicas do not agree on a checkpoint, or, with --digest, when two have different states after the
    same instance. A replica whose digest takes longer than the other answers is shown without it meanwhile.
    """
    loaded = ClientProfile.load(profile)
    within, digest_within = timeout / 1_000_000, digest_timeout / 1_000_000 if digest else None
    if watch:
        run(_watch(loaded, within, digest_within, as_json))
        return
    answers, well = run(_ask(loaded, within, digest_within, None if wait is None else wait / 1_000_000))
    _print(loaded, answers, digest, as_json)
    if digest and (late := [replica for replica, facts in answers.facts.items() if "digest" not in facts]):
        say(f"no digest from {name_members(late)} within {digest_timeout / 1_000_000:g} seconds: try --digest-timeout")
    if weaker := loaded.weaker_than(_levels(answers)):
        say(f"warning: {weaker}")
    different = differing(answers.facts)
    if different:
        raise CheckFailed(f"replicas have different states after the same instance: {different}; run '{TOOL}'")
    if diverged := _diverged(loaded, answers):
        raise CheckFailed(diverged)
    if answers.refusal is not None:
        raise answers.refusal
    few = _too_few(loaded, answers)
    if few:
        raise NotEnoughReplies(few)
    if not well:
        raise NotEnoughReplies(_not_well(loaded, answers))


def _levels(answers: Answers) -> list[int]:
    """Of the persistence modes that the replicas name."""
    named = [facts.get("persistence") for facts in answers.facts.values()]
    return [PERSISTENCE_MODES.index(mode) for mode in named if mode in PERSISTENCE_MODES]


def _too_few(profile: ClientProfile, answers: Answers) -> str:
    """What to say when no quorum answers; empty if one does."""
    members, quorum = profile.genesis.members, profile.genesis.view.quorum
    if len(answers.facts) >= quorum:
        return ""
    return f"{len(answers.facts)} of {len(members)} replicas answered; {quorum} are needed to make progress"


def _not_well(profile: ClientProfile, answers: Answers) -> str:
    """Who keeps the cluster from being well, and why."""
    most = _most_decided(answers)
    problems = dict(answers.problems)
    for replica, facts in answers.facts.items():
        if not facts["takes_part"]:
            problems[replica] = f"{_state(facts)} ({facts['waiting_for']})" if facts["waiting_for"] else _state(facts)
        elif not level(facts, most):
            problems[replica] = f"{most - facts['executed']:,} behind"
    named = name_problems(problems) or "some have only just been connected"
    return f"not every replica answers, takes part and is level with the others ({named})"


def differing(facts: dict[int, Facts]) -> str:
    """Replicas whose digests differ after the same instance, for people; empty if there are none."""
    by_instance: dict[int, dict[int, str]] = {}
    for replica, answer in facts.items():
        if "digest" in answer:
            by_instance.setdefault(answer["digest_instance"], {})[replica] = answer["digest"]
    return "; ".join(
        f"instance {instance}: " + ", ".join(f"{replica}={digest[:16]}" for replica, digest in sorted(found.items()))
        for instance, found in sorted(by_instance.items())
        if len(set(found.values())) > 1
    )


def _diverged(profile: ClientProfile, answers: Answers) -> str:
    """What to say when replicas report that correct ones have diverged; empty if none does."""
    said = {replica: _divergence(facts) for replica, facts in answers.facts.items()}
    found = {replica: one for replica, one in said.items() if one is not None and one.certain}
    if not found:
        return ""
    instance = max(one.instance for one in found.values())
    doubt = "" if len(found) > profile.genesis.view.f else " (no more than f say so: they may be wrong)"
    return (
        f"{name_members(found)} {'says' if len(found) == 1 else 'say'} that correct replicas have different states "
        f"after instance {instance}{doubt}: the application is not deterministic, or not the same everywhere; "
        f"run '{TOOL}'"
    )


class _Divergence(msgspec.Struct, frozen=True):
    """What a replica says about states that differ."""

    instance: int
    certain: bool
    digests: dict[str, list[int]]


def _divergence(facts: Facts) -> _Divergence | None:
    """What a replica says about states that differ; None: nothing, or what no correct replica says."""
    try:
        return msgspec.convert(facts.get("divergence"), _Divergence | None)
    except msgspec.ValidationError:
        return None


def _is_diverged(facts: Facts) -> bool:
    found = _divergence(facts)
    return found is not None and found.certain


async def _ask(
    profile: ClientProfile, within: float, digest_within: float | None, wait: float | None
) -> tuple[Answers, bool]:
    """What each replica says, and whether all is well (True if nobody asked to wait for it).

    Args:
        digest_within: seconds for digests; None: they are not asked for.
    """
    from smartbft.runtime.client import AsyncClient

    client = AsyncClient.from_profile(profile)
    digests = Digests(client, digest_within or 0.0)
    deadline = asyncio.get_running_loop().time() + (wait or 0.0)
    members = [member.id for member in profile.genesis.members]
    missing = ""

    def waiting_for() -> str:
        if digests.waiting:
            return f"still waiting for {digests.missing()}"
        return "" if wait is None else f"still waiting: {missing or _unheard(client)}"

    try:
        async with patience(waiting_for):
            await connect_to_any(client, max(within, wait or 0.0))
            while True:
                answers = await _look(client, within)
                well = all_well(answers.facts, members)
                if wait is None or well or asyncio.get_running_loop().time() >= deadline:
                    if digest_within is not None:
                        await digests.ask(answers.facts)
                        answers = replace(answers, facts=digests.add_to(answers.facts))
                    return answers, well or wait is None
                missing = _not_well(profile, answers)
                await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await client.aclose()


def _unheard(client: AsyncClient) -> str:
    """What there is to say before the first look is over."""
    problems = name_problems(client.problems)
    connected = f"no answer yet from {name_members(client.connected)}" if client.connected else ""
    return "; ".join(filter(None, (connected, problems))) or "for connections to the replicas"


async def _look(client: AsyncClient, within: float) -> Answers:
    """Ask all once."""
    facts = await ask_all(client, within=within)
    silent = f"connected, but no answer within {within:g} seconds: frozen, or overloaded"
    problems = {replica: silent for replica in client.connected if replica not in facts} | client.problems
    try:
        await client.connect(0.0)
    except HandshakeError as error:
        return Answers(facts, problems, error)
    except NotEnoughReplies:
        pass
    return Answers(facts, problems)


async def _watch(profile: ClientProfile, within: float, digest_within: float | None, as_json: bool) -> None:
    """Ask and print until cancelled. Digests come when they come, on connections of their own: the answers of one
    connection wait for each other.
    """
    from smartbft.runtime.client import AsyncClient

    client, beside_it = AsyncClient.from_profile(profile), AsyncClient.from_profile(profile)
    digests = Digests(beside_it, digest_within or 0.0)
    try:
        async with AsyncExitStack() as stack:
            await connect_to_any(client, within)
            if digest_within is not None:
                await connect_to_any(beside_it, within)
                members = [member.id for member in profile.genesis.members]
                await stack.enter_async_context(beside(digests.watch(members, _WATCH_SECONDS)))
            while True:
                answers = await _look(client, within)
                answers = replace(answers, facts=digests.add_to(answers.facts))
                if not as_json:
                    clear_screen()
                _print(profile, answers, digest_within is not None, as_json, watched=True)
                await asyncio.sleep(_WATCH_SECONDS)
    finally:
        await client.aclose()
        await beside_it.aclose()


def _print(profile: ClientProfile, answers: Answers, digest: bool, as_json: bool, watched: bool = False) -> None:
    members = [member.id for member in profile.genesis.members]
    most = _most_decided(answers)
    if as_json:
        replicas = [_as_json(replica, answers, most) for replica in members]
        (print_json_line if watched else print_json)({"chain": profile.genesis.chain_id, "replicas": replicas})
        return
    columns = (*_COLUMNS, "digest") if digest else _COLUMNS
    rows = [_row(replica, answers.facts.get(replica), most, digest) for replica in members]
    now = f" at {datetime.now(UTC):%H:%M:%S} UTC" if watched else ""
    print_table(columns, rows, f"chain {profile.genesis.chain_id.hex()}{now}")
    for line in explanations(answers):
        click.echo(line)
    if watched and _too_few(profile, answers):
        click.echo(_too_few(profile, answers))


def explanations(answers: Answers) -> list[str]:
    """One line for whatever replicas wait for, and for each reason why some do not answer."""
    waiting = {replica: facts["waiting_for"] for replica, facts in answers.facts.items() if facts["waiting_for"]}
    together: dict[str, list[int]] = {}
    for replica, what in sorted(waiting.items()):
        together.setdefault(what, []).append(replica)
    lines = [
        f"{name_members(replicas)} {'waits' if len(replicas) == 1 else 'wait'} for {what}"
        for what, replicas in together.items()
    ]
    return lines + _suspicions(answers) + problem_lines(answers.problems)


def _suspicions(answers: Answers) -> list[str]:
    """One line for each state that so few replicas have that they may lie about it."""
    found = [_divergence(facts) for facts in answers.facts.values()]
    lines = [
        f"different states after instance {one.instance} ({name_states(one.digests)}): those that differ from most lie "
        f"or are damaged, unless the application is not deterministic ('{TOOL}' tells)"
        for one in found
        if one is not None and not one.certain
    ]
    return list(dict.fromkeys(lines))


def _most_decided(answers: Answers) -> int:
    return max((facts["decided"] for facts in answers.facts.values()), default=0)


def _as_json(replica: int, answers: Answers, most: int) -> dict[str, Any]:
    facts = answers.facts.get(replica)
    if facts is None:
        return {"replica": replica, "state": "unreachable", "problem": answers.problems.get(replica, "")}
    return {**facts, "state": _state(facts), "behind": most - facts["executed"]}


def _row(replica: int, facts: Facts | None, most: int, digest: bool) -> Sequence[object]:
    if facts is None:
        return (replica, "unreachable", *("",) * (len(_COLUMNS) - 2 + digest))
    row = (
        replica,
        _state(facts),
        facts["regency"],
        facts["leader"],
        facts["decided"],
        facts["executed"],
        most - facts["executed"],
        facts["pool"]["pending"],
        facts["evidence"],
        _milliseconds(facts["log"]["sync_recent_seconds"]) if facts["log"].get("syncs") else "",
    )
    return (*row, _digest(facts)) if digest else row


def _digest(facts: Facts) -> str:
    if "digest" not in facts:
        return "not yet"
    return f"{facts['digest'][:16]} @{facts['digest_instance']}" if facts["digest"] else "none"


def _milliseconds(seconds: float) -> str:
    """In four characters: a row of the table stays on one line of 80 columns, also where a state is a long word."""
    shown = f"{1000 * seconds:.2f}"
    return shown[:4].rstrip(".") if len(shown) < 8 else f"{1000 * seconds:.0f}"


def _state(facts: Facts) -> str:
    """Up, diverged (correct replicas have other states than it), starting (asks the others what it may have forgotten),
    or learning (takes part, but does not vote).
    """
    if _is_diverged(facts):
        return "diverged"
    if facts["takes_part"]:
        return "up"
    return "learns" if facts["learns"] else "starting"
