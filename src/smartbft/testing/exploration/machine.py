"""The local states of one correct replica, found on demand by driving the real objects, each step once.

A local state is known by a number. What has no effect (nothing is said, nothing the rules look at changes) is not
delivered: it can as well come later, when it has one. So a local state holds no half-counted votes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Union

from smartbft.core.epoch_change import Verdict, evaluate
from smartbft.messages import Accept, FetchValue, Message, Proof, Propose, ProposedValue, StopData, Sync, Write
from smartbft.testing.exploration.bench import DIGESTS, VALUES, Bench, make_validator, passes, picture
from smartbft.testing.exploration.setting import N, Past, Setting

VoteBit = int  # 2 * regency + value index


@dataclass(frozen=True, slots=True)
class SyncEffect:
    """All that a SYNC does to who takes it up: two with the same effect are one."""

    regency: int
    instance: int
    bound: bool
    value: bytes


def effect_of(sync: Sync) -> SyncEffect:
    """The effect of a valid SYNC."""
    outcome = evaluate(sync.stop_data, N, (N - 1) // 3)
    return SyncEffect(sync.regency, outcome.instance, outcome.verdict is Verdict.BOUND, sync.value)


@dataclass(frozen=True, slots=True)
class Requests:
    """The pool's view of the world: the next request to propose, and whether bodies are missing."""

    pending: int | None = None
    missing: bool = False
    ready: bool = True  # look at once


# What can be handed to a replica: a message of a sender, a proof with its value, a change of its pool, or its past.
Delivery = Union[tuple[int, Message], Proof, Requests, Past]  # noqa: UP007
Input = tuple[Delivery, ...]
Name = tuple[Hashable, ...]  # stands for an input


@dataclass(slots=True)
class Facts:
    """What the others, and the checks, see of a local state."""

    regency: int
    synchronized: bool
    writes: frozenset[VoteBit]
    accepts: frozenset[VoteBit]
    proposed: dict[int, Propose]  # by regency
    stop_data: dict[int, StopData]
    syncs: dict[int, SyncEffect]
    decided: int | None  # a value index
    inputs: tuple[Name, ...] = field(default=(), repr=False)


class Machine:
    """All local states of replica `id` met so far.

    Args:
        representatives: one real SYNC for each effect, shared by all machines.

    Attributes:
        facts: what is known about each local state, by its number.
        forgetful: a local state in which a restart forgets or invents a promise, if one was met. As long as there is
            none, restarts need no states of their own.
    """

    def __init__(self, id: int, setting: Setting, representatives: dict[SyncEffect, Sync]) -> None:
        self.id = id
        self.facts: list[Facts] = []
        self._setting = setting
        self._validator = make_validator(setting)
        self._representatives = representatives
        self._numbers: dict[object, int] = {}
        self._steps: dict[tuple[int, Name], int] = {}
        self._made: dict[Name, Input] = {}
        self.forgetful: int | None = None
        self._enter(Bench(id, setting), ())

    def step(self, state: int, name: Name, deliveries: Input) -> int:
        """The state after an input, which `name` stands for; the same state if the input has no effect."""
        key = (state, name)
        after = self._steps.get(key)
        if after is None:
            self._made[name] = deliveries
            after = self._steps[key] = self._drive(state, name, deliveries)
        return after

    def _drive(self, state: int, name: Name, deliveries: Input) -> int:
        history = self.facts[state].inputs
        bench = Bench(self.id, self._setting)
        for earlier in history:
            self._deliver(bench, self._made[earlier])
        self._deliver(bench, deliveries)
        return self._enter(bench, (*history, name))

    def replay(self, names: Iterable[Name]) -> Facts:
        """The facts after the inputs of these names, on objects made anew: the proof of a trace."""
        bench = Bench(self.id, self._setting)
        for name in names:
            self._deliver(bench, self._made[name])
        return self._look(bench, ())

    @staticmethod
    def _deliver(bench: Bench, deliveries: Input) -> None:
        for delivery in deliveries:
            said = len(bench.said)
            if isinstance(delivery, Requests):
                bench.give_requests(delivery.pending, delivery.missing, delivery.ready)
            elif isinstance(delivery, Proof):
                bench.learn(delivery)
            elif isinstance(delivery, Past):
                bench.go_through(delivery)
            else:
                bench.receive(*delivery)
            for question in bench.said[said:]:
                if isinstance(question, FetchValue):
                    value = VALUES[DIGESTS.index(question.digest)]
                    answer = ProposedValue(0, question.regency, question.instance, value)
                    bench.receive((bench.id + 1) % N, answer)

    def _enter(self, bench: Bench, history: tuple[Name, ...]) -> int:
        facts = self._look(bench, history)
        key = (
            picture(bench),
            facts.writes,
            facts.accepts,
            tuple(sorted((regency, propose.value) for regency, propose in facts.proposed.items())),
            tuple(sorted((regency, content(each)) for regency, each in facts.stop_data.items())),
            tuple(sorted(facts.syncs.items(), key=repr)),
        )
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.facts)
            self.facts.append(facts)
            if facts.decided is None and bench.restarted().promises() != bench.promises():
                self.forgetful = number
        return number

    def _look(self, bench: Bench, history: tuple[Name, ...]) -> Facts:
        writes: set[VoteBit] = set()
        accepts: set[VoteBit] = set()
        facts = Facts(bench.guard.regency, bench.guard.synchronized, frozenset(), frozenset(), {}, {}, {}, None)
        for message in bench.said:
            if isinstance(message, (Write, Accept)) and message.instance == self._setting.instance:
                (writes if isinstance(message, Write) else accepts).add(bit(message.regency, message.digest))
            elif isinstance(message, Propose) and message.instance == self._setting.instance:
                facts.proposed[message.regency] = message
            elif isinstance(message, Sync) and self._may_be_taken_up(message):
                facts.syncs[message.regency] = self._represent(message)
        self._own_stop_data(bench, facts)
        self._forget(facts)
        facts.writes, facts.accepts = frozenset(w for w in writes if w // 2 >= facts.regency - 1), frozenset(accepts)
        facts.decided = VALUES.index(bench.decision[0]) if bench.decision else None
        facts.inputs = history
        return facts

    def _may_be_taken_up(self, sync: Sync) -> bool:
        """Whether it is this leader's, and valid still: one of before a key change may not be."""
        own = self._setting.view.leader(sync.regency) == self.id
        return own and passes(self._validator.check_sync, sync)

    @staticmethod
    def _own_stop_data(bench: Bench, facts: Facts) -> None:
        """A leader keeps its own STOPDATA; all others send it."""
        own = bench.ordering._synchronization._own
        statements = [message for message in bench.said if isinstance(message, StopData)]
        if own is not None:
            statements.append(own[1])
        facts.stop_data.update({statement.regency: statement for statement in statements})

    @staticmethod
    def _forget(facts: Facts) -> None:
        """Statements of regencies that are over have done what they can: each regency is explored to its end."""
        for said in (facts.proposed, facts.stop_data, facts.syncs):
            for regency in [regency for regency in said if regency < facts.regency]:
                del said[regency]

    def _represent(self, sync: Sync) -> SyncEffect:
        effect = effect_of(sync)
        self._representatives.setdefault(effect, sync)
        return effect


def bit(regency: int, digest: bytes) -> VoteBit:
    """One number for a vote in the instance that is searched."""
    return 2 * regency + DIGESTS.index(digest)


def content(statement: StopData) -> object:
    """What a STOPDATA says; proofs of one decision are all alike."""
    accepted = statement.accepted and (statement.accepted.regency, statement.accepted.digest)
    entries = tuple((entry.digest, entry.regency) for entry in statement.write_set)
    return statement.instance, repr(accepted), entries, statement.proof.digest if statement.proof else b""
