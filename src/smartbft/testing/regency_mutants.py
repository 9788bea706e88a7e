"""Planted bugs in the regency change, most of them known from other implementations (`smartbft.testing.mutants`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from smartbft.core import epoch_change
from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.replica import Replica
from smartbft.core.safety import VoteGuard
from smartbft.core.validation import Validator
from smartbft.errors import RemoteProtocolError
from smartbft.messages import Accept, Proof
from smartbft.protocols.mod_smart.synchronization import Synchronization
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.testing.planting import replaced


def _lets_pass(method: str, *words: str) -> AbstractContextManager[None]:
    """A check of the validator lets pass what it would refuse with one of these words."""
    original: Callable[..., None] = getattr(Validator, method)

    def careless(validator: Validator, *arguments: object) -> None:
        try:
            original(validator, *arguments)
        except RemoteProtocolError as error:
            if not any(word in str(error) for word in words):
                raise

    return replaced(Validator, method, careless)


def regency_forgotten() -> AbstractContextManager[None]:
    """A restart begins in regency 0 again."""
    return replaced(Synchronization, "recover", lambda phase, recovered: None)


def promise_before_durable() -> AbstractContextManager[None]:
    """STOPDATA and SYNC leave at once."""

    def at_once(replica: Replica, record: Record, then: Sequence[Send | Broadcast] = ()) -> int:
        replica._effects.extend(then)
        return replica.persist((record,))

    return replaced(Replica, "persist_promise", at_once)


def proofs_before_durable() -> AbstractContextManager[None]:
    """Whoever starts is shown the proof of a decision that may hold an ACCEPT which is not on disk yet."""
    return replaced(Replica, "durable_proof", Replica.last_proof)


def old_collects_count() -> AbstractContextManager[None]:
    """B1: STOPDATA of an older regency are as good as new ones."""
    return _lets_pass("check_sync", "with STOPDATA of")


def future_votes_in_collects() -> AbstractContextManager[None]:
    """B4: a write set may name a value twice, and hold votes of regencies to come."""
    return _lets_pass("check_stop_data", "names a value twice", "that regency or later")


def decisions_without_proof() -> AbstractContextManager[None]:
    """B5: who claims to have decided more is believed."""
    return replaced(Validator, "_check_last_decision", lambda *_: None)


@contextmanager
def votes_in_old_regencies() -> Iterator[None]:
    """Installing a regency ends nothing: late WRITEs of the one before still turn into ACCEPTs."""
    try_accept = VPConsensus._try_accept

    def may_vote(guard: VoteGuard, instance: int, regency: int) -> bool:
        return instance > guard._decided and instance >= guard._first and not guard.suspended

    def accept_late(consensus: VPConsensus, regency: int, digest: bytes) -> None:
        now, consensus.regency = consensus.regency, regency
        try_accept(consensus, regency, digest)
        consensus.regency = now

    with ExitStack() as planted:
        planted.enter_context(replaced(VoteGuard, "_may_vote", may_vote))
        planted.enter_context(replaced(VPConsensus, "_try_accept", accept_late))
        yield


def any_value_in_a_sync() -> AbstractContextManager[None]:
    """Nobody repeats the leader's evaluation of the collects."""
    return replaced(Validator, "_check_sync_value", lambda *_: None)


def proofs_weighed_as_votes() -> AbstractContextManager[None]:
    """Of each signer of a proof only the first ACCEPT counts, as where ACCEPTs arrive one by one."""

    def weigh(consensus: VPConsensus, proof: Proof) -> None:
        if proof.instance != consensus.instance or consensus.decided:
            return
        for signer, signature in proof.signatures:
            vote = Accept(proof.view, proof.regency, proof.instance, proof.digest, signature)
            consensus.on_accept(signer, vote)

    return replaced(VPConsensus, "prove", weigh)


def older_values_win() -> AbstractContextManager[None]:
    """A certified value binds whatever newer one others have accepted."""
    return replaced(epoch_change, "_quorum_highest", lambda *_: True)
