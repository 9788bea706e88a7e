"""The search: every reachable state of three correct replicas and a Byzantine one, regency by regency.

What is reduced, without losing an outcome (docs/simulator.md, "Exhaustive search", says why for each):

- Messages are never removed, so "late" and "lost" need no states: what was sent may arrive at any time, or not.
- What has no effect on arrival is not delivered yet. Votes arrive together: only their number matters.
- Votes of a regency depend on nothing said in a later one, so all that can happen in regency r happens before anybody
  installs r + 1; then all install it (one that stays behind is one whose messages are lost), and each has decided
  before, or has not, what can be decided.
- A replica that ever writes in a regency writes at once when its value comes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from smartbft.messages import Accept, Message, Proof, Propose, Stop, StopData, Sync, Write
from smartbft.testing.exploration.adversary import Adversary
from smartbft.testing.exploration.bench import DIGESTS, VALUES, A, B
from smartbft.testing.exploration.machine import Facts, Input, Machine, Name, Requests, SyncEffect
from smartbft.testing.exploration.setting import N, Setting

State = tuple[int, int, int]  # a local state of each correct replica
Three = tuple[Facts, Facts, Facts]
Move = tuple[Name, Input]
Step = tuple[int, Name]  # position of the replica among the correct ones, name of its input
Parents = dict[State, tuple[State, Step] | None]
Starts = dict[
    State, tuple[State, State, tuple[Step, ...]]
]  # a start -> the start before it, its end, the steps between
ORIGIN: State = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken promise and how it came about: `(replica, input)` in order."""

    promise: str
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Report:
    """What a search has seen.

    Attributes:
        complete: whether every state within the bounds was explored.
        states, transitions: by regency.
        starts: different states in which a regency can begin, by regency.
        local_states: of all correct replicas together.
        rivals: starts from which a lying leader can choose between two values that bind (nothing is decided there).
        decisions: states in which a value can be proven decided.
    """

    byzantine: int
    changes: int
    lost: int | None = None
    complete: bool = True
    states: list[int] = field(default_factory=list)
    transitions: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    local_states: int = 0
    rivals: int = 0
    decisions: int = 0
    broken: Broken | None = None


class _OutOfTime(Exception):
    """The budget is spent."""


class _Found(Exception):
    """A broken promise was found."""


class Search:
    """One exploration.

    Args:
        byzantine: id of the Byzantine replica; with four members, replica 1 leads regency 0, 2 leads 1 and 3 leads 2.
        changes: regency changes at most.
        budget: seconds, or None.
        lost: the member that the instance before gave a new key, because it lost its votes; the Byzantine replica was
            honest until then. None: the first instance is searched.
    """

    def __init__(
        self,
        byzantine: int,
        changes: int,
        budget: float | None = None,
        *,
        lost: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report = Report(byzantine, changes, lost)
        self._setting = Setting(lost)
        self._view = self._setting.view
        self._representatives: dict[SyncEffect, Sync] = {}
        self._correct = tuple(id for id in range(N) if id != byzantine)
        self._machines = [Machine(id, self._setting, self._representatives) for id in self._correct]
        self._adversary = Adversary(byzantine, self._setting, self._representatives)
        self._byzantine = byzantine
        self._clock = clock
        self._deadline = None if budget is None else clock() + budget
        self._starts: list[Starts] = []
        self._provable: dict[tuple[frozenset[int], ...], tuple[Proof, ...]] = {}
        self._transitions = 0
        self._vote_moves: dict[Name, Move] = {}

    def run(self) -> Report:
        """Explore; stops at the first broken promise, or when the budget is spent."""
        report = self.report
        starts = self._beginnings()
        try:
            for regency in range(report.changes + 1):
                self._starts.append(starts)
                report.states.append(0)
                report.transitions.append(0)
                report.starts.append(len(starts))
                starts = self._explore_regency(regency, starts)
        except _OutOfTime:
            report.complete = False
        except _Found:
            pass
        report.local_states = sum(len(machine.facts) for machine in self._machines)
        return report

    def _beginnings(self) -> Starts:
        """Where the instance can begin: each replica has a past of its own."""
        if self._setting.lost is None:
            return {ORIGIN: (ORIGIN, ORIGIN, ())}
        starts: Starts = {}
        named = list(enumerate(self._setting.pasts()))
        for chosen in itertools.product(named, repeat=3):
            if self._setting.together(dict(zip(self._correct, (past for _, past in chosen), strict=True))):
                steps = [(position, ("past", number)) for position, (number, _) in enumerate(chosen)]
                one, two, three = (
                    machine.step(0, name, (past,))
                    for machine, (_, name), (_, past) in zip(self._machines, steps, chosen, strict=True)
                )
                starts.setdefault((one, two, three), (ORIGIN, ORIGIN, tuple(steps)))
        return starts

    def _explore_regency(self, regency: int, starts: Starts) -> Starts:
        """Explore from each start; returns where the next regency can start."""
        following: Starts = {}
        last = regency == self.report.changes
        for start in starts:
            if self._deadline is not None and self._clock() > self._deadline:
                raise _OutOfTime
            reached = self._explore(regency, start)
            self.report.states[regency] += len(reached)
            self.report.transitions[regency] += self._transitions
            self._check_restarts()
            for state in reached:
                if not last:
                    for after, steps in self._next_regency(state, regency + 1):
                        following.setdefault(after, (start, state, steps))
        return following

    def _explore(self, regency: int, start: State) -> Parents:
        """All states of one regency that are reached from one in which everybody has installed it."""
        parents: Parents = {start: None}
        stack = [start]
        leading = self._leading(regency, start)
        transitions = 0
        while stack:
            state = stack.pop()
            self._check(regency, start, parents, state)
            facts = self._facts(state)
            for position in range(3):
                machine, local = self._machines[position], state[position]
                for name, deliveries in self._moves(regency, position, facts, leading):
                    after = machine.step(local, name, deliveries)
                    if after != local:
                        transitions += 1
                        reached = _replaced(state, position, after)
                        if reached not in parents:
                            parents[reached] = state, (position, name)
                            stack.append(reached)
        self._transitions = transitions
        return parents

    def _facts(self, state: State) -> Three:
        one, two, three = self._machines
        return one.facts[state[0]], two.facts[state[1]], three.facts[state[2]]

    # From one regency to the next

    def _next_regency(self, state: State, regency: int) -> Iterator[tuple[State, tuple[Step, ...]]]:
        """Each replica has decided or not, then all install the regency."""
        facts = self._facts(state)
        choices: list[list[tuple[int, tuple[Step, ...]]]] = []
        for position, local in enumerate(state):
            options: list[tuple[int, tuple[Step, ...]]] = [(local, ())]
            options += [
                (decided, ((position, name),)) for decided, name in self._decisions(position, local, facts, regency)
            ]
            choices.append([self._install(position, *option, regency) for option in options])
        for chosen in itertools.product(*choices):
            yield (
                (chosen[0][0], chosen[1][0], chosen[2][0]),
                tuple(step for _, steps in chosen for step in steps),
            )

    def _install(
        self, position: int, local: int, steps: tuple[Step, ...], regency: int
    ) -> tuple[int, tuple[Step, ...]]:
        me = self._correct[position]
        name = ("install", regency)
        stops = tuple((sender, Stop(0, regency - 1, regency, b"")) for sender in range(N) if sender != me)
        return self._machines[position].step(local, name, stops), (*steps, (position, name))

    def _decisions(self, position: int, local: int, facts: Three, regency: int) -> Iterator[tuple[int, Name]]:
        """What ACCEPTs, or a proof for one that lacks the value, make this replica decide."""
        machine = self._machines[position]
        if facts[position].decided is not None:
            return
        for vote in range(2 * regency):
            for name, deliveries in (self._votes(Accept, vote, position, facts), self._proof(vote, facts)):
                after = machine.step(local, name, deliveries)
                if machine.facts[after].decided is not None:
                    yield after, name
                    break

    def _proof(self, vote: int, facts: Three) -> Move:
        proofs = tuple(proof for proof in self._proofs(facts) if _bit(proof) == vote)
        return ("proof", vote, len(proofs)), proofs

    # What can happen inside a regency

    def _leading(self, regency: int, start: State) -> dict[int, list[Move]]:
        """What the leader of a regency can say to (or, if it is correct, be told by) each of the correct replicas."""
        facts = self._facts(start)
        leader = self._view.leader(regency)
        if regency == 0:
            return self._proposals(leader)
        statements = [each.stop_data[regency] for each in facts]
        provable = self._proofs(facts)
        if leader != self._byzantine:
            position = self._correct.index(leader)
            return {position: self._arrivals(regency, position, facts, statements, provable, start)}
        effects = self._adversary.syncs(regency, statements, provable)
        self._check_effects(regency, start, provable, {(each.instance, each.bound, each.value) for each in effects})
        self.report.rivals += len({effect.value for effect in effects if effect.bound}) > 1
        moves = self._taking_up(effects)
        return dict.fromkeys(range(3), moves)

    def _proposals(self, leader: int) -> dict[int, list[Move]]:
        if leader != self._byzantine:
            own: list[Move] = [(("propose", value), (Requests(value),)) for value in (A, B)]
            return {self._correct.index(leader): own}
        instance = self._setting.instance
        offers: list[Move] = [
            (("PROPOSE", value), ((leader, Propose(0, 0, instance, VALUES[value])),)) for value in (A, B)
        ]
        return dict.fromkeys(range(3), offers)

    def _taking_up(self, effects: tuple[SyncEffect, ...]) -> list[Move]:
        """A SYNC that proves the instance decided lets nobody vote in it; of one with a value the bodies may be lost.

        Who lacks the bodies writes nothing, so it does not matter which value that is.
        """
        moves: list[Move] = []
        useful = [effect for effect in effects if effect.instance == self._setting.instance]
        useful += [effect for effect in effects if effect.instance < self._setting.instance][:1]  # all alike
        for missing, chosen in ((False, useful), (True, [effect for effect in useful if effect.value][:1])):
            for effect in chosen:
                sync = self._representatives[effect]
                leader = self._view.leader(sync.regency)
                name = ("SYNC", sync.regency, effect.bound, effect.value, missing)
                moves.append((name, (Requests(None, missing), (leader, sync))))
        return moves

    def _arrivals(
        self,
        regency: int,
        position: int,
        facts: Three,
        statements: list[StopData],
        provable: tuple[Proof, ...],
        start: State,
    ) -> list[Move]:
        """STOPDATA reach a correct leader; the SYNC it makes of them begins the regency."""
        own = statements[position]
        others = [each for each in statements if each is not own]
        collections = self._adversary.collections(regency, own, others, provable)
        outcomes = {
            (outcome.instance, outcome.digest != b"", VALUES[DIGESTS.index(outcome.digest)] if outcome.digest else b"")
            for outcome in collections
        }
        self._check_effects(regency, start, provable, outcomes)
        if facts[position].decided is not None:
            return []
        return [
            (
                ("STOPDATA", regency, outcome.instance, outcome.digest, pending, arriving),
                (Requests(pending, ready=False), *((each.signer, each) for each in arriving)),
            )
            for outcome, arriving in collections.items()
            for pending in ((None,) if outcome.digest else (A, B))
        ]

    def _moves(self, regency: int, position: int, facts: Three, leading: dict[int, list[Move]]) -> Iterator[Move]:
        own = facts[position]
        if own.decided is not None:
            return
        leader = self._view.leader(regency)
        if not regency or not own.synchronized:
            if position in leading:
                yield from leading[position]
            elif regency == 0:
                at = facts[self._correct.index(leader)].proposed.get(0)
                if at is not None:
                    yield ("PROPOSE", VALUES.index(at.value)), ((leader, at),)
            else:
                yield from self._taking_up(tuple(facts[self._correct.index(leader)].syncs.values()))
        elif self._setting.lost is not None:
            yield from self._later_proposals(regency, position, facts)
        # Votes of the regency before it must not matter any more.
        for vote in range(2 * max(regency - 1, 0), 2 * regency + 2):
            yield self._votes(Write, vote, position, facts)

    def _later_proposals(self, regency: int, position: int, facts: Three) -> Iterator[Move]:
        """In a regency that began before the instance, or with a SYNC of the one before, values come in a PROPOSE."""
        leader, instance = self._view.leader(regency), self._setting.instance
        if leader == self._byzantine:
            for value in (A, B):
                yield ("PROPOSE", regency, value), ((leader, Propose(0, regency, instance, VALUES[value])),)
        elif leader == self._correct[position]:
            yield from ((("propose", value), (Requests(value),)) for value in (A, B))
        elif (at := facts[self._correct.index(leader)].proposed.get(regency)) is not None:
            yield ("PROPOSE", regency, VALUES.index(at.value)), ((leader, at),)

    def _votes(self, kind: type[Write | Accept], vote: int, position: int, facts: Three) -> Move:
        senders = [self._byzantine]
        for other, each in enumerate(facts):
            if other != position and vote in (each.writes if kind is Write else each.accepts):
                senders.append(self._correct[other])
        name = (kind.__name__, vote, *senders)
        if name not in self._vote_moves:
            self._vote_moves[name] = name, tuple((sender, self._vote(kind, sender, vote)) for sender in senders)
        return self._vote_moves[name]

    def _vote(self, kind: type[Write | Accept], sender: int, vote: int) -> Message:
        regency, digest, instance = vote // 2, DIGESTS[vote % 2], self._setting.instance
        if kind is Write:
            return Write(0, regency, instance, digest)
        return Accept(0, regency, instance, digest, self._setting.tag(sender))

    # What must hold

    def _proofs(self, facts: Three) -> tuple[Proof, ...]:
        """The decisions that can be proven now: one proof for each value and regency."""
        key = tuple(each.accepts for each in facts)
        if key not in self._provable:
            proofs = []
            for vote in range(2 * (self.report.changes + 1)):
                signers = [self._correct[position] for position, accepts in enumerate(key) if vote in accepts]
                if signers and (proof := self._adversary.proof(vote // 2, vote % 2, signers)) is not None:
                    proofs.append(proof)
            self._provable[key] = tuple(proofs)
        return self._provable[key]

    def _check(self, regency: int, start: State, parents: Parents, state: State) -> None:
        facts = self._facts(state)
        decided = {each.decided for each in facts if each.decided is not None}
        decided |= {_bit(proof) % 2 for proof in self._proofs(facts)}
        self.report.decisions += bool(decided)
        if len(decided) > 1:
            self._fail("agreement: both values are decided", regency, start, parents, state)

    def _check_effects(
        self, regency: int, start: State, provable: tuple[Proof, ...], outcomes: set[tuple[int, bool, bytes]]
    ) -> None:
        """What is decided binds, whatever set a leader chooses; and nothing binds where nobody has voted."""
        decided = {VALUES[_bit(proof) % 2] for proof in provable}
        for instance, bound, value in outcomes:
            if instance > self._setting.instance and bound:
                self._fail("a value binds in an instance in which nobody voted", regency, start, {start: None}, start)
            if instance <= self._setting.instance and decided and (not bound or value not in decided):
                verdict = f"binds {_letter(value)}" if bound else f"lets the leader propose {_letter(value)}"
                self._fail(
                    f"a decided value does not bind: a set of STOPDATA {verdict}", regency, start, {start: None}, start
                )

    def _check_restarts(self) -> None:
        for position, machine in enumerate(self._machines):
            if machine.forgetful is not None:
                steps = tuple((position, name) for name in machine.facts[machine.forgetful].inputs)
                self.report.broken = Broken("a restart forgets a promise", steps)
                raise _Found

    def _fail(
        self,
        promise: str,
        regency: int,
        start: State,
        parents: Parents,
        state: State,
    ) -> None:
        self.report.broken = Broken(promise, tuple(self._path(regency, start, parents, state)))
        raise _Found

    def _path(
        self,
        regency: int,
        start: State,
        parents: Parents | None,
        state: State,
    ) -> list[Step]:
        """The steps that lead to a state; those inside earlier regencies are found by exploring them again."""
        if parents is None:
            parents = self._explore(regency, start)
        inside: list[Step] = []
        while (before := parents[state]) is not None:
            state, step = before
            inside.append(step)
        earlier, end, steps = self._starts[regency][start]
        if regency == 0:
            return [*steps, *inside[::-1]]
        return [*self._path(regency - 1, earlier, None, end), *steps, *inside[::-1]]

    def replayed(self, steps: tuple[Step, ...]) -> Three:
        """What the replicas have said when exactly these inputs are handed to objects made anew."""
        one, two, three = (
            machine.replay(name for at, name in steps if at == position)
            for position, machine in enumerate(self._machines)
        )
        return one, two, three

    def told(self, steps: Iterable[Step]) -> list[str]:
        """The steps in words."""
        return [f"replica {self._correct[position]} gets {_words(name)}" for position, name in steps]


def _replaced(state: State, position: int, local: int) -> State:
    one, two, three = state
    return ((local, two, three), (one, local, three), (one, two, local))[position]


def _bit(proof: Proof) -> int:
    return 2 * proof.regency + DIGESTS.index(proof.digest)


def _words(name: Name) -> str:
    return ", ".join(_word(part) for part in name if part not in ("", None))


def _word(part: object) -> str:
    if isinstance(part, tuple) and part and isinstance(part[0], StopData):
        return " and ".join(_word(each) for each in part)
    if isinstance(part, StopData):
        accepted = part.accepted and f"({part.accepted.regency}, {_letter(part.accepted.digest)})"
        written = [f"{_letter(entry.digest)} in {entry.regency}" for entry in part.write_set]
        return f"[{part.signer}: instance {part.instance}, accepted {accepted}, written {written}]"
    return _letter(part) if isinstance(part, bytes) else str(part)


def _letter(part: bytes) -> str:
    """A or B, for a value or its digest."""
    if not part:
        return "nothing"
    return "AB"[(VALUES if part in VALUES else DIGESTS).index(part)]
