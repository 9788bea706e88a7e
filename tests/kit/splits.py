"""A4: replicas that lie together split the honest ones; whoever sees both halves knows who did it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from unittest import mock

from msgspec.structs import replace as change

from smartbft.core import evidence
from smartbft.core.effects import Record
from smartbft.core.evidence import decode_evidence, make_evidence, verify
from smartbft.core.records import DECISION
from smartbft.core.witness import Witness
from smartbft.messages import Accept, Decision, Message, Proof, Propose, Stop, Sync, Write, decode_proof
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions
from smartbft.testing.byzantine import ATTACKS, Attack, Powers
from smartbft.testing.checkers import Checkers
from smartbft.testing.scenario import Attacker

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
    """A quiet cluster with a planned split; keeps what honest replicas decide, and with which proof.

    Args:
        liars: who lies; they share all that they know.
        others: the honest ones that get the other value.
        phase: the first one in which the halves are told different things.
        seed: makes the network, and all else.
        n: replicas.
    """

    def __init__(
        self, liars: tuple[int, ...], others: tuple[int, ...], phase: str, *, seed: int = 2, n: int = 4
    ) -> None:
        options = SimulationOptions(
            seed=seed, n=n, instances=4, faults="none", signatures="keyed-hash", persistence="sync", patience=10
        )
        attackers = tuple(Attacker(liar, "planned", 1.0, 0) for liar in liars)
        scenario = replace(Simulation(options).scenario, attackers=attackers)
        self.liars = frozenset(liars)
        with mock.patch.dict(ATTACKS, planned=partial(PlannedSplit, others=others, phase=phase)):
            super().__init__(options, scenario=scenario)
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

    def named(self) -> set[int]:
        """Who was accused by a replica."""
        return set(self._watched.accusations.named)

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


def random_split(number: int) -> Split:
    """One of all that `f` or `f + 1` liars of four or seven can plan, on some network."""
    draw = random.Random(f"smartbft split {number}")
    n = draw.choice((4, 7))
    phase = draw.choice(tuple(PHASES))
    liars = draw.sample(range(n), (n - 1) // 3 + draw.choice((0, 1, 1)))
    leader = 1 + int(phase == "SYNC")
    if leader not in liars and draw.random() < 0.5:
        liars[0] = leader  # who can begin it
    honest = [id for id in range(n) if id not in liars]
    others = draw.sample(honest, draw.choice((draw.randint(0, len(honest)), len(honest) // 2)))
    return Split(tuple(sorted(liars)), tuple(sorted(others)), phase, seed=number, n=n)


def check_culprits(split: Split) -> bool:
    """Run it; returns whether it has split the honest replicas.

    Raises:
        PropertyViolation: `f` liars have split or stopped them, or one more has done anything else.
        AssertionError: somebody honest is accused, or the two halves do not convict all liars.
    """
    few = len(split.liars) <= split.view.f
    if few:
        split.run()
    apart = not few and split.is_split()
    named = set(split.named())
    assert named <= split.liars, f"replicas {sorted(split.liars)} lie, and {sorted(named)} are accused"
    if apart:
        assert split.culprits() == split.liars, f"replicas {sorted(split.culprits())} are convicted, not all liars"
    return apart
