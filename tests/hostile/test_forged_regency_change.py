"""Forged leader-change material: nothing of it is taken up, its sender is to blame, and the real thing still works
afterwards (promise H5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from kit.cluster import Cluster, Node
from kit.hostile import peer_of
from kit.requests import NOW
from kit.statements import (
    VALUES,
    V,
    W,
    accept,
    proof,
    signed,
    signed_sync,
    stop_data,
    sync,
    unbound,
)
from msgspec.structs import replace

from smartbft import LocalCluster
from smartbft.apps.counter import Counter
from smartbft.core import validation
from smartbft.core.epoch_change import Outcome, Verdict
from smartbft.core.validation import Validator
from smartbft.crypto.domains import Domains
from smartbft.errors import RemoteProtocolError
from smartbft.messages import Accepted, Decision, Message, StopData, Sync, Written
from smartbft.types import Value

Run = Callable[[Callable[[], Awaitable[None]]], None]

OTHER_CHAIN = Domains(bytes(32))
BIND = tuple(stop_data(signer, 1, 1, (0, V), ((V, 0),)) for signer in range(3))
UNSOUND = (stop_data(0, 1, 1, (0, V)), stop_data(1, 1, 1, (0, W)), stop_data(2))
GOOD_STOP_DATA = stop_data(3, 1, 2)
GOOD_SYNC = sync(BIND, VALUES[0])


def forged_stop_data() -> dict[str, StopData]:
    """STOPDATA that replica 3 sends to the leader of regency 1."""
    two = proof(1, (0, 1))
    doubled = replace(proof(1), signatures=(proof(1).signatures[0],) * 3)
    outsider = replace(proof(1), signatures=(*two.signatures, (9, accept(4).signature)))
    votes = (Written(W, 0), Written(W, 0))
    plain = stop_data(3)
    return {
        "of an old regency, replayed": replace(stop_data(3, 1), regency=2),
        "of a later regency, replayed": replace(stop_data(3, 2), regency=1),
        "of another instance, replayed": replace(plain, instance=2, proof=proof(1)),
        "of another view": stop_data(3, view=1),
        "of another view, relabelled": replace(stop_data(3, view=1), view=0),
        "of another chain": stop_data(3, domains=OTHER_CHAIN),
        "of another member, passed on": stop_data(1),
        "of another member, in our name": replace(stop_data(1), signer=3),
        "in the name of another member": signed(replace(plain, signer=1), by=3),
        "of a member of some other view": signed(replace(plain, signer=4)),
        "not signed": replace(plain, signature=bytes(64)),
        "the lock taken out after signing": replace(stop_data(3, accepted=(0, V)), accepted=None),
        "a lock put in after signing": replace(plain, accepted=Accepted(0, V)),
        "a write put in after signing": replace(plain, write_set=(Written(V, 0),)),
        "an ACCEPT's signature": replace(plain, signature=accept(3).signature),
        "a SYNC's signature": replace(plain, signature=signed_sync(GOOD_SYNC, by=3).signature),
        "timestamp equal to the regency": stop_data(3, 1, 1, (1, V)),
        "timestamp above the regency": stop_data(3, 1, 1, (7, V)),
        "write of the regency itself": stop_data(3, 1, 1, None, ((V, 1),)),
        "write of a later regency": stop_data(3, 1, 1, None, ((V, 0), (W, 5))),
        "write-set entry doubled": signed(replace(plain, write_set=votes)),
        "one value with two regencies": signed(replace(plain, regency=9, write_set=(Written(V, 5), Written(V, 6)))),
        "write set not sorted": signed(
            replace(plain, write_set=tuple(sorted((Written(V, 0), Written(W, 0)), key=_down)))
        ),
        "decisions without a proof": replace(stop_data(3, 1, 2), proof=None),
        "proof of another instance": stop_data(3, 1, 3, last=proof(1)),
        "proof of another instance, relabelled": stop_data(3, 1, 3, last=replace(proof(1), instance=2)),
        "proof of another regency, relabelled": stop_data(3, 1, 2, last=replace(proof(1), regency=1)),
        "proof of another value": stop_data(3, 1, 2, last=replace(proof(1), digest=W)),
        "proof of another view": stop_data(3, 1, 2, last=proof(1, view=1)),
        "proof of another view, relabelled": stop_data(3, 1, 2, last=replace(proof(1, view=1), view=0)),
        "proof with fewer than Q": stop_data(3, 1, 2, last=two),
        "proof with no signature": stop_data(3, 1, 2, last=replace(two, signatures=())),
        "proof with a signer counted twice": stop_data(3, 1, 2, last=doubled),
        "proof with a non-member": stop_data(3, 1, 2, last=outsider),
        "proof with signers out of order": stop_data(
            3, 1, 2, last=replace(proof(1), signatures=proof(1).signatures[::-1])
        ),
        "proof with a signature under another's name": stop_data(
            3, 1, 2, last=replace(proof(1), signatures=((0, accept(1).signature), *proof(1).signatures[1:]))
        ),
        "proof made of STOPDATA signatures": stop_data(
            3, 1, 2, last=replace(proof(1), signatures=tuple((s, stop_data(s).signature) for s in range(3)))
        ),
    }


def _down(entry: Written) -> bytes:
    return bytes(255 - byte for byte in entry.digest)


def forged_syncs() -> dict[str, Sync]:
    """SYNCs of regency 1, whose leader is replica 2; sent by that leader."""
    free = unbound()
    return {
        "signed by somebody else": signed_sync(sync(free, VALUES[0]), by=1),
        "not signed": replace(sync(free, VALUES[0]), signature=bytes(64)),
        "of the leader of another regency": signed_sync(sync(free, VALUES[0]), by=3),
        "of an old regency, relabelled": replace(sync(free, VALUES[0]), regency=2),
        "of another chain": sync(free, VALUES[0], domains=OTHER_CHAIN),
        "of another view": sync(free, VALUES[0], view=1),
        "value swapped after signing": replace(sync(free, VALUES[0]), value=VALUES[1]),
        "value taken out after signing": replace(GOOD_SYNC, value=b""),
        "another value than the one that binds": sync(BIND, VALUES[1]),
        "no value where one binds": sync(BIND),
        "fewer than n - f": sync(free[:2], VALUES[0]),
        "nobody's STOPDATA": sync((), VALUES[0]),
        "a signer twice": sync((free[0], free[1], free[1]), VALUES[0]),
        "a signer twice, in different words": sync((free[0], free[1], stop_data(1, 1, 1, (0, V))), VALUES[0]),
        "signers out of order": sync(free[::-1], VALUES[0]),
        "a non-member's": sync((*free[:2], signed(replace(stop_data(3), signer=4))), VALUES[0]),
        "STOPDATA of an old regency": sync((*unbound(2)[:2], stop_data(2, 1)), VALUES[0], 2),
        "STOPDATA of a later regency": sync((*free[:2], stop_data(2, 2)), VALUES[0]),
        "STOPDATA of another view": sync((*free[:2], stop_data(2, view=1)), VALUES[0]),
        "STOPDATA changed by the leader": sync((*BIND[:2], replace(BIND[2], accepted=None)), VALUES[1]),
        "STOPDATA made up by the leader": sync((*free[:2], signed(stop_data(3), by=2)), VALUES[0]),
        "a decision without its proof": sync((*free[:2], replace(stop_data(2, 1, 2), proof=None)), VALUES[0]),
        "a proof with fewer than Q": sync((*free[:2], stop_data(2, 1, 2, last=proof(1, (0, 1)))), VALUES[0]),
        "a lock of the regency itself": sync((*free[:2], stop_data(2, 1, 1, (1, V))), VALUES[0]),
        "a doubled write-set entry": sync(
            (*free[:2], signed(replace(stop_data(2), write_set=(Written(V, 0), Written(V, 0))))), VALUES[0]
        ),
        "an unsound set": sync(UNSOUND, VALUES[0]),
        "an empty batch": sync(free, Value(NOW, b"").encode()),
        "half a digest": sync(free, VALUES[0] + b"x"),
    }


def forgeries() -> dict[str, tuple[int, Message]]:
    found: dict[str, tuple[int, Message]] = {}
    found.update({f"STOPDATA {name}": (3, message) for name, message in forged_stop_data().items()})
    found.update({f"SYNC {name}": (2, message) for name, message in forged_syncs().items()})
    lie = Decision(0, 1, 1, VALUES[0], b"", replace(proof(1), regency=1))
    found["DECISION with a proof of another regency"] = (3, lie)
    return found


def make_nodes() -> tuple[Node, Node]:
    """The leader of regency 1, and a follower."""
    cluster = Cluster()
    return cluster.nodes[2], cluster.nodes[0]


def state(node: Node) -> tuple[object, ...]:
    """What forged material must not change."""
    guard = node.replica.guard
    synchronization = node.ordering._synchronization
    promises = (guard._written, guard._accepted, guard._bound)
    collected = (synchronization._collecting._stop_data, synchronization._sync, synchronization._postponed)
    return (guard.regency, guard.synchronized, node.replica.decided, *map(repr, promises), *map(repr, collected))


def accepted() -> list[str]:
    """The names of the forgeries that pass or change something, at the new leader or at a follower."""
    found = []
    for name, (sender, message) in forgeries().items():
        for node in make_nodes():
            if node.id == sender:
                continue
            before = state(node)
            try:
                node.receive(sender, message)
            except RemoteProtocolError:
                if state(node) == before:
                    continue
            except Exception as error:
                found.append(f"{name}, with {error!r}")
                continue
            found.append(f"{name}, at replica {node.id}")
    return found


def test_there_are_enough_of_them() -> None:
    assert len(forged_stop_data()) >= 25
    assert len(forged_syncs()) >= 25


def test_no_forgery_is_accepted() -> None:
    assert accepted() == []


def test_the_real_thing_works_after_all_the_forgeries() -> None:
    leader, follower = make_nodes()
    for node in (leader, follower):
        for sender, message in forgeries().values():
            if node.id != sender:
                with pytest.raises(RemoteProtocolError):
                    node.receive(sender, message)
    leader.receive(3, GOOD_STOP_DATA)
    assert leader.ordering._synchronization._collecting._stop_data[3] == GOOD_STOP_DATA
    follower.receive(2, GOOD_SYNC)
    assert (follower.replica.regency, follower.replica.guard.synchronized) == (1, True)
    assert follower.ordering.current.proposal == VALUES[0]


def _without_domains(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Domains, "stop_data_payload", lambda self, statement: statement)


def _any_timestamp(patch: pytest.MonkeyPatch) -> None:
    """Field note B4: no upper bound on timestamps, and entries are not counted once."""
    original = Validator.check_stop_data

    def lenient(self: Validator, message: StopData) -> None:
        try:
            original(self, message)
        except RemoteProtocolError as error:
            if "holds a vote of that regency" not in str(error) and "names a value twice" not in str(error):
                raise

    patch.setattr(Validator, "check_stop_data", lenient)


def _believing(patch: pytest.MonkeyPatch) -> None:
    """Field note B5: a claim to have decided is believed without a proof."""
    patch.setattr(Validator, "_check_last_decision", lambda *_: None)


def _any_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(validation, "evaluate", lambda *_: Outcome(1, Verdict.UNBOUND))


def _no_proof_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Validator, "check_proof", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_without_domains, "STOPDATA of another chain"),
        (_any_timestamp, "STOPDATA timestamp above the regency"),
        (_any_timestamp, "STOPDATA write-set entry doubled"),
        (_believing, "STOPDATA decisions without a proof"),
        (_any_set, "SYNC an unsound set"),
        (_any_set, "SYNC another value than the one that binds"),
        (_no_proof_check, "STOPDATA proof with a signer counted twice"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_planted_bugs(plant, found: str, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    plant(monkeypatch)
    assert any(name.startswith(found) for name in accepted())


@pytest.mark.parametrize("name", ["a doubled write-set entry", "an unsound set"])
def test_whoever_sends_a_forgery_is_disconnected(run: Run, name: str) -> None:
    """On real connections: the penalty is the end of the channel."""
    message = forged_syncs()[name]

    async def scenario() -> None:
        async with LocalCluster(4, Counter, "memory", transport="plain") as cluster:
            await cluster.stop(2)
            async with peer_of(cluster, 3, own=2) as liar:
                await liar.say(message)
                await liar.closed()
            assert (await cluster.replicas[3].status())["regency"] == 0

    run(scenario)
