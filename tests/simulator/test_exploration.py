"""The exhaustive search of the regency change, also after a key change: complete within its bounds, equal to a search
without reductions, and not blind: planted bugs are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import pytest
from oracles.plain_exploration import Outcome, PlainSearch

from smartbft import types
from smartbft.core import epoch_change, validation
from smartbft.core.epoch_change import Collect
from smartbft.core.records import accept_record
from smartbft.core.safety import VoteGuard
from smartbft.core.validation import Validator
from smartbft.messages import StopData, Sync
from smartbft.protocols.mod_smart import collecting, synchronization
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.quorum import quorum
from smartbft.testing.exploration import Search, adversary, machine
from smartbft.testing.exploration.__main__ import BROKEN, UNFINISHED, main
from smartbft.testing.exploration.search import Parents, Starts, State


@pytest.mark.parametrize("byzantine", range(4))
def test_one_regency_change_is_explored_completely_and_holds(byzantine: int) -> None:
    report = Search(byzantine, 1).run()
    assert report.complete
    assert report.broken is None
    # It saw something: both regencies, and decisions. (How many states depends on what the protocol's objects keep.)
    assert report.states[0] >= 50
    assert report.states[1] >= 2000
    assert report.decisions >= 1000


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("byzantine", range(4))
def test_two_regency_changes_are_explored_completely_and_hold(byzantine: int) -> None:
    report = Search(byzantine, 2).run()
    assert report.complete
    assert report.broken is None


LIARS_AND_LOST = [(liar, lost) for liar in range(4) for lost in range(4) if lost != liar]


@pytest.mark.parametrize(
    ("byzantine", "lost"),
    [pair if pair == (1, 0) else pytest.param(*pair, marks=pytest.mark.campaign) for pair in LIARS_AND_LOST],
)
def test_after_a_key_change_one_regency_change_is_explored_completely_and_holds(byzantine: int, lost: int) -> None:
    report = Search(byzantine, 1, lost=lost).run()
    assert report.complete
    assert report.broken is None
    assert report.starts[0] >= 20, "in these pasts others can have been"
    assert report.states[1] >= 2000


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("byzantine", "lost"), LIARS_AND_LOST)
def test_after_a_key_change_two_regency_changes_are_explored_completely_and_hold(byzantine: int, lost: int) -> None:
    report = Search(byzantine, 2, lost=lost).run()
    assert report.complete
    assert report.broken is None


class OneStayed(Search):
    """Of the pasts before the key change those in which one replica alone has left regency 0, with a SYNC."""

    def _beginnings(self) -> Starts:
        left = {1}  # its position
        return {
            start: way
            for start, way in super()._beginnings().items()
            if {position for position, (_, number) in way[2] if number} == left and way[2][1][1][1] == FIRST_SYNC
        }


FIRST_SYNC = 2  # the number of that past


def test_planted_bug_a_sync_outlives_a_promise_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An honest WRITE in a regency that began with a lost promise certifies what a liar invents."""
    assert OneStayed(1, 2, lost=0).run().broken is None
    monkeypatch.setattr(Validator, "in_force", lambda validator, sync: True)
    search = OneStayed(1, 2, lost=0)
    broken = search.run().broken
    assert broken is not None
    assert broken.promise.startswith(("a decided value does not bind", "agreement"))
    assert search.told(broken.steps)[0] == "replica 0 gets past, 0"


class Recorded(Search):
    """Keeps what the replicas have accepted in each state."""

    outcomes: set[Outcome]

    def _check(self, regency: int, start: State, parents: Parents, state: State) -> None:
        self.outcomes.add(tuple(each.accepts for each in self._facts(state)))
        super()._check(regency, start, parents, state)


@pytest.mark.parametrize("byzantine", [0, *(pytest.param(id, marks=pytest.mark.campaign) for id in (1, 2, 3))])
def test_the_reductions_lose_no_outcome(byzantine: int) -> None:
    search = Recorded(byzantine, 1)
    search.outcomes = set()
    search.run()
    assert search.outcomes == PlainSearch(byzantine, 1).outcomes()


def test_a_spent_budget_is_admitted() -> None:
    ticks = iter(range(10_000))
    report = Search(1, 2, budget=5, clock=lambda: float(next(ticks))).run()
    assert not report.complete
    assert report.broken is None


def test_the_command_says_how_much_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--changes", "0"]) == 0
    printed = capsys.readouterr().out
    assert " states, " in printed
    assert "explored completely: yes; nothing broken" in printed
    assert main(["--changes", "1", "--budget", "0"]) == UNFINISHED
    assert "explored completely: no" in capsys.readouterr().out


# Planted bugs


def lock_released(patch: pytest.MonkeyPatch) -> None:
    """What was accepted is forgotten when a new regency is installed."""
    enter = VPConsensus.enter

    def enter_without_lock(consensus: VPConsensus, regency: int) -> None:
        enter(consensus, regency)
        consensus.accepted = None

    patch.setattr(VPConsensus, "enter", enter_without_lock)


def quorum_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(types, "quorum", lambda n: quorum(n) - 1)


def entries_counted(patch: pytest.MonkeyPatch) -> None:
    """Field note B4: entries of write sets are counted instead of replicas, and one may name a value twice."""
    check = Validator.check_stop_data

    def check_unless_double(validator: Validator, message: StopData) -> None:
        if len({entry.digest for entry in message.write_set}) == len(message.write_set):
            check(validator, message)

    def certified(regency: int, digest: bytes, collects: list[Collect], f: int) -> bool:
        return sum(len(each.written.get(digest, [])) for each in collects) > f  # type: ignore[arg-type]

    def collect(statement: StopData) -> Collect:
        entries: dict[bytes, list[int]] = {}
        for entry in statement.write_set:
            entries.setdefault(entry.digest, []).append(entry.regency)
        return Collect(statement.accepted, entries)  # type: ignore[arg-type]

    patch.setattr(Validator, "check_stop_data", check_unless_double)
    patch.setattr(epoch_change, "_certified", certified)
    patch.setattr(epoch_change, "_collect", collect)


def votes_in_an_old_regency(patch: pytest.MonkeyPatch) -> None:
    """Installing a regency ends nothing: late WRITEs of the one before still turn into ACCEPTs."""

    def try_accept(consensus: VPConsensus, regency: int, digest: bytes) -> None:
        chassis, writes = consensus._chassis, len(consensus._writes[regency, digest])
        if not chassis.guard.approve_accept(consensus.instance, regency, digest, writes, chassis.view.quorum):
            return
        consensus.accepted = (regency, digest)
        vote = consensus._signed_accept(regency, digest)
        consensus._speak(accept_record(consensus.instance, 0, regency, digest), [vote])
        consensus.on_accept(chassis.id, vote)

    patch.setattr(VoteGuard, "_may_vote", lambda guard, instance, regency: instance > guard._decided)
    patch.setattr(VPConsensus, "_try_accept", try_accept)


def settled_collects_count(patch: pytest.MonkeyPatch) -> None:
    """A collect for an instance that is proven decided counts for the one after it."""
    evaluate = epoch_change.evaluate

    def evaluate_all(stop_data: Iterable[StopData], n: int, f: int) -> epoch_change.Outcome:
        statements = list(stop_data)
        instance = max(statement.instance for statement in statements)
        return evaluate([msgspec.structs.replace(each, instance=instance) for each in statements], n, f)

    for module in (epoch_change, validation, collecting, synchronization, machine, adversary):
        patch.setattr(module, "evaluate", evaluate_all)


def older_values_win(patch: pytest.MonkeyPatch) -> None:
    """A certified value binds whatever newer one others have accepted."""
    patch.setattr(epoch_change, "_quorum_highest", lambda *_: True)


def any_value_in_a_sync(patch: pytest.MonkeyPatch) -> None:
    """Nobody repeats the leader's evaluation of the collects."""

    def check_nothing(validator: Validator, message: Sync) -> None:
        return None

    patch.setattr(Validator, "_check_sync_value", check_nothing)


def votes_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A restart does not take up the votes in the log."""
    patch.setattr(VPConsensus, "recover", lambda consensus, votes: None)


def regency_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A restart begins in regency 0 again."""
    patch.setattr(synchronization.Synchronization, "recover", lambda phase, recovered: None)


# With the Byzantine replica and the number of regency changes that show it soonest.
PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int, int]] = {
    "lock released at a regency change": (lock_released, 1, 1),
    "quorum off by one": (quorum_off_by_one, 1, 0),
    "certified counts entries": (entries_counted, 0, 2),
    "votes in a regency that is over": (votes_in_an_old_regency, 1, 1),
    "collects of decided instances count": (settled_collects_count, 1, 1),
    "an older value displaces a newer one": (older_values_win, 1, 1),
    "a SYNC with any value is taken up": (any_value_in_a_sync, 2, 1),
    "votes forgotten in a restart": (votes_forgotten, 0, 0),
    "regency forgotten in a restart": (regency_forgotten, 0, 1),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, byzantine, changes = PLANTED[name]
    plant(monkeypatch)
    search = Search(byzantine, changes)
    broken = search.run().broken
    assert broken is not None
    assert all(line.startswith("replica ") for line in search.told(broken.steps))
    # The trace is real: objects made anew that get exactly these inputs end in the same state.
    facts = search.replayed(broken.steps)
    if broken.promise.startswith("agreement"):
        assert len({vote % 2 for each in facts for vote in each.accepts}) == 2


def test_a_broken_promise_ends_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    quorum_off_by_one(monkeypatch)
    assert main(["--changes", "0"]) == BROKEN
    assert "BROKEN: agreement" in capsys.readouterr().out
