"""``smartbft status``: the cluster table."""

from __future__ import annotations

from pathlib import Path

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import examples, json_option, print_json, print_table
from smartbft.cli.parameters import profile_option, timeout_option
from smartbft.cli.run import run
from smartbft.config import ClientProfile
from smartbft.errors import NotEnoughReplies
from smartbft.measurement.status import Facts

_COLUMNS = (
    "replica",
    "state",
    "decided",
    "executed",
    "regency",
    "leader",
    "peers",
    "clients",
    "pending",
    "persistence",
)


@click.command(epilog=examples("smartbft status --profile net/client.toml", "smartbft status --digest --json"))
@profile_option
@timeout_option("2s")
@click.option("--digest", is_flag=True, help="Compare the replicas' application states as well.")
@json_option
def status(profile: Path, timeout: int, digest: bool, as_json: bool) -> None:
    """Ask every replica where it stands.

    Exit code 4 when fewer than a quorum answer; with --digest, 7 when two replicas have different states after the same
    instance.
    """
    loaded = ClientProfile.load(profile)
    facts = run(_ask(loaded, timeout / 1_000_000, digest))
    members = [member.id for member in loaded.genesis.members]
    if as_json:
        print_json({"chain": loaded.genesis.chain_id, "replicas": [facts.get(id, {"replica": id}) for id in members]})
    else:
        columns = (*_COLUMNS, "digest") if digest else _COLUMNS
        rows = [_row(replica, facts.get(replica), digest) for replica in members]
        print_table(columns, rows, f"chain {loaded.genesis.chain_id.hex()}")
    different = differing(facts)
    if different:
        raise CheckFailed(f"replicas have different states after the same instance: {different}")
    quorum = loaded.genesis.view.quorum
    if len(facts) < quorum:
        raise NotEnoughReplies(
            f"{len(facts)} of {len(members)} replicas answered; {quorum} are needed to make progress"
        )


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


async def _ask(profile: ClientProfile, within: float, digest: bool) -> dict[int, Facts]:
    from smartbft.measurement.status import ask_all, connect_to_any
    from smartbft.runtime.client import AsyncClient

    client = AsyncClient.from_profile(profile)
    try:
        await connect_to_any(client, within)
        return await ask_all(client, digest=digest, within=within)
    finally:
        await client.aclose()


def _row(replica: int, facts: Facts | None, digest: bool) -> tuple[object, ...]:
    if facts is None:
        return (replica, "unreachable", *("",) * (len(_COLUMNS) - 2 + digest))
    numbers = (facts[name] for name in ("decided", "executed", "regency", "leader"))
    row = (
        replica,
        "up",
        *numbers,
        len(facts["peers"]),
        facts["clients"],
        facts["pool"]["pending"],
        facts["persistence"],
    )
    return (*row, f"{facts['digest'][:16]} @{facts['digest_instance']}") if digest else row
