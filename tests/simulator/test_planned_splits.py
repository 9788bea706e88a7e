"""A4: the Byzantine replicas of four split the honest ones in every way, in every phase.

One alone (`f`) splits nothing. With an accomplice (`f + 1`) the cluster may stop or split: then the proofs of the two
halves name at least `f + 1` culprits to anybody who sees both, and nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, product

import pytest
from msgspec.structs import replace as change

from smartbft.core import evidence, witness
from smartbft.core.effects import Record
from smartbft.core.evidence import decode_evidence, make_evidence, verify
from smartbft.core.records import DECISION
from smartbft.core.witness import Witness
from smartbft.messages import Accept, Decision, Message, Proof, Propose, Stop, Sync, Write, decode_proof
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions
from smartbft.testing.byzantine import ATTACKS, Attack, Powers
from smartbft.testing.checkers import Checkers
from smartbft.testing.scenario import Attacker

N, F = 4, 1
FIRST_LEADER, SECOND_LEADER = 1, 2
# What differs between the halves; a phase of the regency change is made to come.
PHASES: dict[str, tuple[type, ...]] = {
    "PROPOSE": (Propose, Write, Accept),
    "WRITE": (Write, Accept),
    "ACCEPT": (Accept,),
    "SYNC": (Sync, Propose, Write, Accept),
}


class PlannedSplit(Attack):
    """Two values in one instance, with votes to match: one for `others`, one for everybody else."""

    def __init__(self, powers: Powers, others: tuple[int, ...], phase: str) -> None:
        super().__init__(powers)
        self._others = others
        self._kinds = PHASES[phase]
        self._regency = int(phase == "SYNC")
        self._values: dict[bytes, tuple[bytes, bytes]] = {}  # digest -> the other value and its digest

    def incoming(self, sender: int, message: Message) -> Message | None:
        self._note(message)
        return None if self._regency and isinstance(message, Write) and message.regency == 0 else message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        self._note(message)
        if self._regency and isinstance(message, (Write, Accept)) and message.regency == 0:
            # Nothing is accepted in regency 0, so that its successor is free to propose.
            return (Stop(message.view, 0, 1, b""),)
        if to not in self._others or not isinstance(message, self._kinds) or message.regency != self._regency:
            return (message,)
        if isinstance(message, (Propose, Sync)):
            known = self._values.get(self.powers.domains.value_digest(message.value))
            return (self.powers.signed(change(message, value=known[0])),) if known else (message,)
        known = self._values.get(message.digest)
        return (self.powers.signed(change(message, digest=known[1])),) if known else (message,)

    def _note(self, message: Message) -> None:
        if isinstance(message, (Propose, Sync)) and message.value:
            other = self.powers.other_value(message.value)
            digest = self.powers.domains.value_digest
            self._values[digest(message.value)] = (other, digest(other))


class Split(Simulation):
    """A quiet cluster with a planned split; keeps what honest replicas decide, and with which proof."""

    def __init__(self, liars: tuple[int, ...], others: tuple[int, ...], phase: str, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(ATTACKS, "planned", partial(PlannedSplit, others=others, phase=phase))
        options = SimulationOptions(
            seed=2, n=N, instances=4, faults="none", signatures="keyed-hash", persistence="sync", patience=10
        )
        attackers = tuple(Attacker(liar, "planned", 1.0, 0) for liar in liars)
        super().__init__(options, scenario=replace(Simulation(options).scenario, attackers=attackers))
        self.proofs: dict[int, dict[bytes, Proof]] = {}
        self._watched = self.checkers
        self.checkers = _Watched(self.checkers, self.proofs)  # type: ignore[assignment]

    def is_split(self) -> bool:
        """Whether honest replicas decided differently; anything but that and a standstill is wrong."""
        try:
            self.run()
        except PropertyViolation as violation:
            if violation.promise not in ("agreement", "liveness"):
                raise
        return any(len(proofs) > 1 for proofs in self.proofs.values())

    def culprits(self) -> set[int]:
        """Whom the proofs of both halves convict, by files of evidence that a third party checks."""
        convicted: set[int] = set()

        def report(accused: int, one: evidence.Statement, other: evidence.Statement) -> None:
            file = make_evidence(self.domains.chain_id, accused, one, other).encode()
            verdict = verify(decode_evidence(file), self.view, self.domains, self.scheme.key_verifier())
            assert verdict.holds, verdict.reason
            convicted.add(accused)

        auditor = Witness(self.view, report)
        for instance, proofs in self.proofs.items():
            for proof in proofs.values():
                auditor.saw(0, Decision(0, proof.regency, instance, b"", b"", proof), instance)
        return convicted


class _Watched:
    """The checkers of a run, and a note of each decision."""

    def __init__(self, checkers: Checkers, proofs: dict[int, dict[bytes, Proof]]) -> None:
        self._checkers = checkers
        self._proofs = proofs

    def __getattr__(self, name: str) -> object:
        return getattr(self._checkers, name)

    def recorded(self, replica: int, record: Record) -> None:
        if record.kind == DECISION:
            proof = decode_proof(record.parts[1])
            self._proofs.setdefault(record.instance, {}).setdefault(proof.digest, proof)
        self._checkers.recorded(replica, record)


def subsets(honest: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to split: who gets the other value."""
    for size in range(len(honest) + 1):
        yield from combinations(honest, size)


def leader_of(phase: str) -> int:
    return SECOND_LEADER if phase == "SYNC" else FIRST_LEADER


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("liar", range(N))
def test_one_splits_nothing(liar: int, phase: str, monkeypatch: pytest.MonkeyPatch):
    for others in subsets([id for id in range(N) if id != liar]):
        simulation = Split((liar,), others, phase, monkeypatch)
        assert simulation.run().instances >= simulation.options.instances
        assert set(simulation._watched.accusations.named) <= {liar}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pair", list(combinations(range(N), 2)), ids=lambda pair: f"{pair[0]}-and-{pair[1]}")
def test_f_plus_one_are_named_when_they_split_the_others(
    pair: tuple[int, int], phase: str, monkeypatch: pytest.MonkeyPatch
):
    honest = [id for id in range(N) if id not in pair]
    for others in subsets(honest):
        simulation = Split(pair, others, phase, monkeypatch)
        split = simulation.is_split()
        # With the leader among them, and the honest ones apart, nothing can keep these together.
        assert split or not (phase in ("PROPOSE", "SYNC") and leader_of(phase) in pair and len(others) == 1)
        assert set(simulation._watched.accusations.named) <= set(pair)
        if split:
            assert simulation.culprits() == set(pair)
            assert len(simulation.culprits()) >= F + 1


def test_every_split_was_planned():
    planned = [(pair, others) for pair in combinations(range(N), 2) for others in subsets(range(N - 2))]
    alone = [(liar, others) for liar in range(N) for others in subsets(range(N - 1))]
    assert len(list(product(PHASES, planned + alone))) == 4 * (6 * 4 + 4 * 8)


def test_planted_bug_two_accepts_are_no_contradiction(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(witness, "contradiction", lambda one, other: None)
    simulation = Split((FIRST_LEADER, 0), (2,), "PROPOSE", monkeypatch)
    assert simulation.is_split()
    assert simulation.culprits() == set()
