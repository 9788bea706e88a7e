"""``smartbft status``: the cluster table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import clear_screen, examples, json_option, print_json, print_json_line, print_table
from smartbft.cli.parameters import DURATION, profile_option, timeout_option
from smartbft.cli.run import run
from smartbft.config import ClientProfile
from smartbft.errors import NotEnoughReplies
from smartbft.measurement.status import Facts, all_well, connect_to_any

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
    "last sync",
    "waiting for",
)
_WATCH_SECONDS = 1.0
_LOOK_SECONDS = 0.2


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
@click.option("--watch", is_flag=True, help="Ask every second until interrupted; with --json one line each time.")
@click.option(
    "--wait",
    type=DURATION,
    help="First wait, at most so long, until every replica answers, takes part, and is level with the others.",
)
@json_option
def status(profile: Path, timeout: int, digest: bool, watch: bool, wait: int | None, as_json: bool) -> None:
    """Ask every replica where it stands, and what it is waiting for.

    A replica that does not answer is shown as unreachable. Exit code 4 when fewer than a quorum answer, or not all are
    well after --wait; with --digest, 7 when two replicas have different states after the same instance.
    """
    loaded = ClientProfile.load(profile)
    within = timeout / 1_000_000
    if watch:
        run(_watch(loaded, within, digest, as_json))
        return
    facts, well = run(_ask(loaded, within, digest, None if wait is None else wait / 1_000_000))
    _print(loaded, facts, digest, as_json)
    different = differing(facts)
    if different:
        raise CheckFailed(f"replicas have different states after the same instance: {different}")
    members, quorum = loaded.genesis.members, loaded.genesis.view.quorum
    if len(facts) < quorum:
        raise NotEnoughReplies(
            f"{len(facts)} of {len(members)} replicas answered; {quorum} are needed to make progress"
        )
    if not well:
        raise NotEnoughReplies("not every replica answers, takes part and is level with the others")


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


async def _ask(
    profile: ClientProfile, within: float, digest: bool, wait: float | None
) -> tuple[dict[int, Facts], bool]:
    """What each replica says, and whether all is well (True if nobody asked to wait for it)."""
    from smartbft.measurement.status import ask_all
    from smartbft.runtime.client import AsyncClient

    client = AsyncClient.from_profile(profile)
    deadline = asyncio.get_running_loop().time() + (wait or 0.0)
    members = [member.id for member in profile.genesis.members]
    try:
        await connect_to_any(client, max(within, wait or 0.0))
        while True:
            facts = await ask_all(client, digest=digest, within=within)
            well = all_well(facts, members)
            if wait is None or well or asyncio.get_running_loop().time() >= deadline:
                return facts, well or wait is None
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await client.aclose()


async def _watch(profile: ClientProfile, within: float, digest: bool, as_json: bool) -> None:
    """Ask and print until cancelled."""
    from smartbft.measurement.status import ask_all
    from smartbft.runtime.client import AsyncClient

    client: AsyncClient = AsyncClient.from_profile(profile)
    try:
        await connect_to_any(client, within)
        while True:
            facts = await ask_all(client, digest=digest, within=within)
            if not as_json:
                clear_screen()
            _print(profile, facts, digest, as_json, line=True)
            await asyncio.sleep(_WATCH_SECONDS)
    finally:
        await client.aclose()


def _print(profile: ClientProfile, facts: dict[int, Facts], digest: bool, as_json: bool, line: bool = False) -> None:
    members = [member.id for member in profile.genesis.members]
    most = max((answer["decided"] for answer in facts.values()), default=0)
    if as_json:
        replicas = [_as_json(replica, facts.get(replica), most) for replica in members]
        (print_json_line if line else print_json)({"chain": profile.genesis.chain_id, "replicas": replicas})
        return
    columns = (*_COLUMNS, "digest") if digest else _COLUMNS
    rows = [_row(replica, facts.get(replica), most, digest) for replica in members]
    print_table(columns, rows, f"chain {profile.genesis.chain_id.hex()}")


def _as_json(replica: int, facts: Facts | None, most: int) -> dict[str, Any]:
    if facts is None:
        return {"replica": replica, "state": "unreachable"}
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
        f"{1000 * facts['log']['sync_recent_seconds']:.2f} ms" if facts["log"].get("syncs") else "",
        facts["waiting_for"],
    )
    return (*row, f"{facts['digest'][:16]} @{facts['digest_instance']}") if digest else row


def _state(facts: Facts) -> str:
    """Up, starting (asks the others what it may have forgotten), or learning (takes part, but does not vote)."""
    if facts["takes_part"]:
        return "up"
    return "learns" if facts["learns"] else "starting"
