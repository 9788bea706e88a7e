"""Planted bugs: each changes one rule of the product, and the simulator must find it within a stated number of seeds.

A checker that has never failed proves nothing. `smartbft sim --mutant NAME` shows one being found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from smartbft import types
from smartbft._fastpath.pool import VALID, RequestPool
from smartbft.core.answer_rates import AnswerRates
from smartbft.core.checkpoints import Checkpoints
from smartbft.core.divergence import Divergence
from smartbft.core.effects import Effect, Execute, Record, Reply
from smartbft.core.inputs import Input
from smartbft.core.records import ACCEPT
from smartbft.core.recovery import RecoveredVotes
from smartbft.core.replica import Replica
from smartbft.core.safety import VoteGuard
from smartbft.core.vouching import Vouching
from smartbft.messages import FetchHeld, HeldRequests, Hold, Message, Proof
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.quorum import quorum
from smartbft.testing import disk, greedy_mutants, key_mutants, regency_mutants
from smartbft.testing.campaign import Failure, run_seed
from smartbft.testing.options import SimulationOptions
from smartbft.testing.planting import replaced


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug.

    Attributes:
        name: short, for the command line.
        rule: the rule that is broken, and how.
        promises: the properties whose checkers may find it.
        seeds: within how many seeds, from 0, it is found (with `SimulationOptions.checkpoints` "together").
        plant: a context in which the bug is there.
        authentication: of requests, if the bug shows in one way only.
        byzantine: attacks that the bug lets through (`SimulationOptions.byzantine`).
        instances: of each run; 0: as many as usual.
        late_liars: the attacks begin when a replica that lost its disk votes again (`SimulationOptions.late_liars`).
        greedy: clients that use the bug (`SimulationOptions.greedy`), where nothing else goes wrong.
    """

    name: str
    rule: str
    promises: tuple[str, ...]
    seeds: int
    plant: Callable[[], AbstractContextManager[None]]
    authentication: str = "auto"
    byzantine: str = ""
    instances: int = 0
    late_liars: bool = False
    greedy: int = 0


def _quorum_off_by_one() -> AbstractContextManager[None]:
    return replaced(types, "quorum", lambda n: quorum(n) - 1)


def _accept_before_write_quorum() -> AbstractContextManager[None]:
    approve = VoteGuard.approve_accept

    def approve_at_once(guard: VoteGuard, instance: int, regency: int, digest: bytes, writes: int, needed: int) -> bool:
        return approve(guard, instance, regency, digest, needed, needed)

    return replaced(VoteGuard, "approve_accept", approve_at_once)


@contextmanager
def _execution_out_of_order() -> Iterator[None]:
    """Each replica hands every tenth batch to the application after the one that follows it."""
    step = Replica.step
    held: dict[int, Execute] = {}

    def step_out_of_order(replica: Replica, event: Input, now: int) -> list[Effect]:
        effects: list[Effect] = []
        for effect in step(replica, event, now):
            if isinstance(effect, Execute) and effect.instance % 10 == 9:
                held[id(replica)] = effect
                continue
            effects.append(effect)
            if isinstance(effect, Execute) and id(replica) in held:
                effects.append(held.pop(id(replica)))
        return effects

    with replaced(Replica, "step", step_out_of_order):
        yield


def _zeros_are_prepared() -> AbstractContextManager[None]:
    def count_begun(numbers: Sequence[int], blank: Callable[[int], bool]) -> int:
        return max((at for at, number in enumerate(numbers, 1) if not blank(number)), default=0)

    return replaced(disk, "count_begun", count_begun)


class _ForgetfulPool:
    """A pool that now and then offers the batch that was decided last once more, and finds nothing wrong with it."""

    def __init__(self, pool: RequestPool) -> None:
        self._pool = pool
        self._formed = 0
        self._last = (b"", b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        self._formed += 1
        if self._formed % 10 == 9:
            return self._last
        return self._pool.form_batch(max_requests, max_bytes, timestamp)

    def resolve(self, digests: bytes, bound: bool = False) -> tuple[bytes, bytes, int]:
        if digests == self._last[0]:
            return self._last[1], b"", 0
        return self._pool.resolve(digests, bound)

    def check(self, data: bytes, timestamp: int, max_requests: int, max_bytes: int) -> int:
        if data == self._last[1]:
            return VALID
        return self._pool.check(data, timestamp, max_requests, max_bytes)

    def decide(self, digests: bytes, data: bytes, instance: int, timestamp: int) -> None:
        if digests != self._last[0]:
            self._last = (digests, data)
            self._pool.decide(digests, data, instance, timestamp)


def _duplicate_executed() -> AbstractContextManager[None]:
    initialise = Replica.__init__

    def initialise_with_forgetful_pool(replica: Replica, *arguments: Any, **options: Any) -> None:
        positions = [number for number, argument in enumerate(arguments) if isinstance(argument, RequestPool)]
        wrapped = list(arguments)
        for number in positions:
            wrapped[number] = _ForgetfulPool(wrapped[number])
        initialise(replica, *wrapped, **options)

    return replaced(Replica, "__init__", initialise_with_forgetful_pool)


def _vote_before_durable() -> AbstractContextManager[None]:
    def speak_at_once(consensus: VPConsensus, record: Record, messages: list[Message]) -> None:
        chassis = consensus._chassis
        token = chassis.persist((record,))
        for message in messages:
            chassis.broadcast(message)
        consensus._sent.extend((token, message) for message in messages)

    return replaced(VPConsensus, "_speak", speak_at_once)


def _lock_not_persisted() -> AbstractContextManager[None]:
    speak = VPConsensus._speak

    def speak_without_lock(consensus: VPConsensus, record: Record, messages: list[Message]) -> None:
        if record.kind != ACCEPT:
            speak(consensus, record, messages)
            return
        for message in messages:
            consensus._chassis.broadcast(message)

    return replaced(VPConsensus, "_speak", speak_without_lock)


def _votes_forgotten() -> AbstractContextManager[None]:
    def recover_nothing(consensus: VPConsensus, votes: RecoveredVotes) -> None:
        return None

    return replaced(VPConsensus, "recover", recover_nothing)


def _reply_before_durable() -> AbstractContextManager[None]:
    step = Replica.step

    def step_with_early_replies(replica: Replica, event: Input, now: int) -> list[Effect]:
        return [
            Reply(effect.instance, effect.digests, effect.data, 0) if isinstance(effect, Reply) else effect
            for effect in step(replica, event, now)
        ]

    return replaced(Replica, "step", step_with_early_replies)


def _proposes_too_early() -> AbstractContextManager[None]:
    on_message = Vouching.on_message

    def count_for_all(vouching: Vouching, sender: int, message: Hold | FetchHeld | HeldRequests) -> None:
        if isinstance(message, Hold):
            for id in vouching._replica.view.ids:
                on_message(vouching, id, message)
        else:
            on_message(vouching, sender, message)

    return replaced(Vouching, "on_message", count_for_all)


def _votes_unvouched() -> AbstractContextManager[None]:
    return replaced(VPConsensus, "_has_quorum", lambda consensus: True)


def _announces_once() -> AbstractContextManager[None]:
    return replaced(Vouching, "repeat", lambda vouching, to: vouching.announce())


def _lock_released() -> AbstractContextManager[None]:
    return replaced(VPConsensus, "collect", lambda consensus: (None, ()))


class _NoSessions:
    """Stands for a capture of an empty session table."""

    def export(self) -> bytes:
        return bytes(4)


def _sessions_left_out() -> AbstractContextManager[None]:
    take = Checkpoints._take

    def take_without_sessions(checkpoints: Checkpoints, instance: int, agreed_time: int, proof: Proof) -> None:
        take(checkpoints, instance, agreed_time, proof)
        effects = checkpoints._replica._effects
        effects[-1] = structs.replace(effects[-1], sessions=_NoSessions())

    return replaced(Checkpoints, "_take", take_without_sessions)


def _captured_late() -> AbstractContextManager[None]:
    def execute_at_once(checkpoints: Checkpoints, batch: Execute) -> None:
        held, checkpoints._barrier = checkpoints._barrier, 0
        execute(checkpoints, batch)
        checkpoints._barrier = checkpoints._barrier or held

    execute = Checkpoints.execute
    return replaced(Checkpoints, "execute", execute_at_once)


def _one_liar_is_a_divergence() -> AbstractContextManager[None]:
    return replaced(Divergence, "certain", property(lambda divergence: bool(divergence.differing)))


def _answers_without_end() -> AbstractContextManager[None]:
    return replaced(AnswerRates, "may", lambda rates, peer, answer: True)


MUTANTS: Sequence[Mutant] = (
    Mutant(
        "lock-released",
        "a replica that installs a regency forgets what it wrote and accepted before",
        ("no contradiction",),
        20,
        _lock_released,
    ),
    Mutant(
        "quorum-off-by-one",
        "Q is one less than the dissemination quorum",
        ("provability", "write quorum"),
        1,
        _quorum_off_by_one,
    ),
    Mutant(
        "accept-before-write-quorum",
        "a replica accepts on the first WRITE it sees",
        ("write quorum",),
        1,
        _accept_before_write_quorum,
    ),
    Mutant(
        "execution-out-of-order",
        "every tenth decided batch is executed after the one that follows it",
        ("total order",),
        1,
        _execution_out_of_order,
    ),
    Mutant(
        "duplicate-executed",
        "now and then the batch that was decided last is proposed, accepted as valid and executed again",
        ("exactly once",),
        1,
        _duplicate_executed,
    ),
    Mutant(
        "vote-before-durable",
        "PROPOSE, WRITE and ACCEPT leave at once instead of after their record is durable",
        ("persist before speak",),
        1,
        _vote_before_durable,
    ),
    Mutant(
        "lock-not-persisted",
        "an ACCEPT leaves without a record of what was accepted",
        ("persist before speak",),
        1,
        _lock_not_persisted,
    ),
    Mutant(
        "votes-forgotten",
        "a restart does not take up the votes of the running instance",
        ("no contradiction",),
        20,
        _votes_forgotten,
    ),
    Mutant(
        "reply-before-durable",
        "replies leave when a batch is executed, whether or not its decision is stored",
        ("durability",),
        1,
        _reply_before_durable,
    ),
    Mutant(
        "proposes-too-early",
        "the leader proposes requests that one other replica holds",
        ("vouching",),
        1,
        _proposes_too_early,
        "channel",
    ),
    Mutant(
        "votes-unvouched",
        "a replica votes for requests that neither their clients nor f + 1 others have told it",
        ("vouching",),
        60,
        _votes_unvouched,
        "channel",
    ),
    Mutant(
        "announces-once",
        "what a replica holds is never announced again, not even to one that has restarted",
        ("liveness",),
        60,
        _announces_once,
        "channel",
    ),
    Mutant(
        "snapshot-without-sessions",
        "the session table is left out of snapshots",
        ("equal state", "exactly once", "external validity", "LocalProtocolError", "replies", "liveness"),
        20,
        _sessions_left_out,
    ),
    Mutant(
        "captured-late",
        "batches decided after a checkpoint are executed before the application is captured",
        ("equal state", "StateDiverged"),
        10,
        _captured_late,
    ),
    Mutant(
        "one-liar-is-a-divergence",
        "one member that tells another state makes a divergence certain (with --byzantine lie-snapshots)",
        ("equal state",),
        20,
        _one_liar_is_a_divergence,
        byzantine="lie-snapshots",
    ),
    Mutant(
        "zeros-are-prepared",
        "however many segments at the end of a log read as zeros, all of them count as prepared ahead",
        ("durability",),
        60,
        _zeros_are_prepared,
    ),
    Mutant(
        "first-keys-for-ever",
        "votes count with the consensus keys of the genesis, whatever has been ordered since",
        ("no false accusation",),
        30,
        key_mutants.first_keys_for_ever,
    ),
    Mutant(
        "newest-keys-for-all",
        "votes of old instances count with the consensus keys of now",
        ("no false accusation",),
        30,
        key_mutants.newest_keys_for_all,
    ),
    Mutant(
        "votes-before-its-key",
        "a replica that has lost its votes uses its new consensus key before it is ordered",
        ("no contradiction", "no false accusation"),
        30,
        key_mutants.votes_before_its_key,
    ),
    Mutant(
        "keys-of-anybody",
        "any member may state the keys of any other (with --byzantine lie-keys)",
        ("liveness",),
        60,
        key_mutants.keys_of_anybody,
        byzantine="lie-keys",
    ),
    Mutant(
        "any-key-replaced",
        "a key statement need not replace the key in force (with --byzantine propose-keys)",
        ("provability",),
        60,
        key_mutants.any_key_replaced,
        byzantine="propose-keys",
    ),
    Mutant(
        "proofs-before-durable",
        "a proof is shown with an ACCEPT that is not on disk yet (with --byzantine ask-all-the-time)",
        ("persist before speak",),
        60,
        regency_mutants.proofs_before_durable,
        byzantine="ask-all-the-time",
        instances=10,
    ),
    Mutant(
        "old-promises-count",
        "STOPDATA and SYNC count with any key of their signer (with --byzantine change-keys,old-keys,stop-storm)",
        ("justified SYNC", "no false accusation"),
        60,
        key_mutants.old_promises_count,
        byzantine="change-keys,old-keys,stop-storm",
    ),
    Mutant(
        "syncs-outlive-keys",
        "a SYNC stays in force after a key change that voids a promise in it (with --byzantine any --late-liars)",
        ("promises kept", "agreement"),
        30,
        key_mutants.syncs_outlive_keys,
        byzantine="any",
        instances=10,
        late_liars=True,
    ),
    Mutant(
        "regency-not-persisted",
        "a replica restarts in regency 0, whatever regency it has promised",
        ("regency goes on",),
        20,
        regency_mutants.regency_forgotten,
    ),
    Mutant(
        "promise-before-durable",
        "STOPDATA, SYNC and proposals leave at once instead of after their record is durable",
        ("persist before speak",),
        1,
        regency_mutants.promise_before_durable,
    ),
    Mutant(
        "old-collects-count",
        "STOPDATA of an older regency count in a SYNC (B1; with --byzantine stale-collects,stop-storm,slow)",
        ("justified SYNC",),
        60,
        regency_mutants.old_collects_count,
        byzantine="stale-collects,stop-storm,slow",
    ),
    Mutant(
        "future-votes-in-collects",
        "a STOPDATA may name values twice and votes to come (B4; with --byzantine forged-collects,stop-storm,censor)",
        ("justified SYNC",),
        80,
        regency_mutants.future_votes_in_collects,
        byzantine="forged-collects,stop-storm,censor",
    ),
    Mutant(
        "votes-in-old-regencies",
        "a replica that has installed a regency still votes in the one before",
        ("no contradiction",),
        30,
        regency_mutants.votes_in_old_regencies,
        byzantine="part-way",
    ),
    Mutant(
        "any-value-in-a-sync",
        "nobody checks that a SYNC has the value that binds (with --byzantine bad-sync)",
        ("justified SYNC",),
        60,
        regency_mutants.any_value_in_a_sync,
        byzantine="bad-sync",
        instances=10,
    ),
    Mutant(
        "older-values-win",
        "a certified value binds whatever newer one others have accepted (with --byzantine forged-collects)",
        ("justified SYNC",),
        60,
        regency_mutants.older_values_win,
        byzantine="forged-collects",
        instances=20,
    ),
    Mutant(
        "proofs-weighed-as-votes",
        "of each signer of a proof only the first ACCEPT counts (with --byzantine hide-accepts)",
        ("liveness", "progress after healing"),
        20,
        regency_mutants.proofs_weighed_as_votes,
        byzantine="hide-accepts",
        instances=8,
    ),
    Mutant(
        "decisions-without-proof",
        "whoever claims to have decided more is believed (B5; with --byzantine forged-collects,slow)",
        ("justified SYNC", "provability"),
        60,
        regency_mutants.decisions_without_proof,
        byzantine="forged-collects,slow",
    ),
    Mutant(
        "answers-without-end",
        "a replica answers its peers as often as they ask (with --byzantine ask-all-the-time)",
        ("bounded answers",),
        20,
        _answers_without_end,
        byzantine="ask-all-the-time",
        instances=20,
    ),
    Mutant(
        "gaps-keep-room",
        "what nobody can propose keeps its room in a full pool (with --greedy 4 --faults none)",
        ("liveness", "leaders stay"),
        20,
        greedy_mutants.gaps_keep_room,
        instances=15,
        greedy=4,
    ),
    Mutant(
        "gaps-hold-places",
        "sessions behind gaps hold the places of their key (with --greedy 4 --faults none)",
        ("leaders stay", "liveness"),
        20,
        greedy_mutants.gaps_hold_places,
        instances=15,
        greedy=4,
    ),
)


def hunt(mutant: Mutant, options: SimulationOptions) -> tuple[int, Failure] | None:
    """Run seeds from ``options.seed`` with the bug in place until one fails, at most `mutant.seeds`.

    Returns the number of seeds it took and the failure, or None: the bug was not found.
    """
    with mutant.plant():
        for number in range(mutant.seeds):
            seed = replace(options, seed=options.seed + number)
            if mutant.authentication != "auto":
                seed = replace(seed, authentication=mutant.authentication)
            if mutant.byzantine:
                seed = replace(seed, byzantine=mutant.byzantine, late_liars=mutant.late_liars)
            if mutant.instances:
                seed = replace(seed, instances=mutant.instances)
            if mutant.greedy:
                seed = replace(seed, greedy=mutant.greedy, faults="none")
            outcome = run_seed(seed)
            if isinstance(outcome, Failure):
                return number + 1, outcome
    return None
