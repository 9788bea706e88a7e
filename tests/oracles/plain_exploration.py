"""The exploration without its reductions: every replica moves when it likes, in whatever regency the others are.

Far more states for the same outcomes: what the replicas accept, and what can be proven. That is what the reduced
search is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator

from smartbft.messages import Accept, Proof, Propose, Stop, Write
from smartbft.testing.exploration.bench import VALUES, A, B
from smartbft.testing.exploration.machine import Requests, SyncEffect
from smartbft.testing.exploration.search import ORIGIN, Move, Search, State, Three
from smartbft.testing.exploration.setting import N

Outcome = tuple[frozenset[int], ...]  # what each correct replica has accepted: 2 * regency + value


class PlainSearch(Search):
    """All interleavings of installing, voting and deciding; late proposals, late bodies, SYNCs without a value."""

    def states(self) -> set[State]:
        seen = {ORIGIN}
        stack = [ORIGIN]
        while stack:
            state = stack.pop()
            facts = self._facts(state)
            for position in range(3):
                for name, deliveries in self._everything(position, facts):
                    after = self._machines[position].step(state[position], name, deliveries)
                    reached = (*state[:position], after, *state[position + 1 :])
                    if reached not in seen:
                        seen.add(reached)  # type: ignore[arg-type]
                        stack.append(reached)  # type: ignore[arg-type]
        return seen

    def outcomes(self) -> set[Outcome]:
        return {tuple(each.accepts for each in self._facts(state)) for state in self.states()}

    def _everything(self, position: int, facts: Three) -> Iterator[Move]:
        own = facts[position]
        yield from self._install_any(position, facts)
        if own.decided is None:
            for vote in range(2 * (self.report.changes + 1)):
                yield self._votes(Write, vote, position, facts)
                yield self._votes(Accept, vote, position, facts)
                yield self._proof(vote, facts)
            yield ("bodies",), (Requests(None, False),)
        for regency in range(self.report.changes + 1):
            yield from self._lead_any(regency, position, facts)

    def _install_any(self, position: int, facts: Three) -> Iterator[Move]:
        for regency in range(facts[position].regency + 1, self.report.changes + 1):
            if regency == 1 or any(each.regency >= regency - 1 for each in facts):
                me = self._correct[position]
                stops = tuple((sender, Stop(0, regency - 1, regency, b"")) for sender in range(N) if sender != me)
                yield ("install", regency), stops

    def _lead_any(self, regency: int, position: int, facts: Three) -> Iterator[Move]:
        own, leader = facts[position], self._view.leader(regency)
        if own.decided is None and own.regency == regency:
            if leader == self._correct[position]:
                yield from ((("propose", value), (Requests(value),)) for value in (A, B))
            yield from self._proposed(regency, leader, facts)
        if regency == 0 or own.regency > regency:
            return
        statements = [each.stop_data[regency] for each in facts if regency in each.stop_data]
        provable = self._proofs(facts)
        if leader == self._correct[position]:
            if own.regency == regency and not own.synchronized:
                yield from self._collect(regency, position, facts, provable)
        elif leader == self._byzantine:
            effects = self._adversary.syncs(regency, statements, provable)
            for effect in effects:
                yield from self._sync(leader, effect, position, facts)
        else:
            effect = facts[self._correct.index(leader)].syncs.get(regency)
            if effect is not None:
                yield from self._sync(leader, effect, position, facts)

    def _proposed(self, regency: int, leader: int, facts: Three) -> Iterator[Move]:
        if leader == self._byzantine:
            values = [VALUES[A], VALUES[B]]
        else:
            proposals = facts[self._correct.index(leader)].proposed
            values = [proposals[regency].value] if regency in proposals else []
        for value in values:
            yield ("PROPOSE", regency, value), ((leader, Propose(0, regency, 1, value)),)

    def _sync(self, leader: int, effect: SyncEffect, position: int, facts: Three) -> Iterator[Move]:
        """The SYNC, alone or overtaken by the votes it allows."""
        sync = self._representatives[effect]
        for missing in (False, True):
            deliveries = (Requests(None, missing), (leader, sync))
            yield ("sync", effect, missing), deliveries
            for vote in (2 * effect.regency, 2 * effect.regency + 1):
                for kind in (Write, Accept):
                    name, votes = self._votes(kind, vote, position, facts)
                    yield ("overtaken", effect, missing, name), (*votes, *deliveries)

    def _collect(self, regency: int, position: int, facts: Three, provable: tuple[Proof, ...]) -> Iterator[Move]:
        own = facts[position].stop_data[regency]
        others = [
            each.stop_data[regency]
            for other, each in enumerate(facts)
            if other != position and regency in each.stop_data
        ]
        for outcome, arriving in self._adversary.collections(regency, own, others, provable).items():
            for pending in (A, B, None) if facts[position].decided is None else (None,):
                deliveries = (Requests(pending, ready=False), *((each.signer, each) for each in arriving))
                yield ("collect", regency, outcome, pending, arriving), deliveries
