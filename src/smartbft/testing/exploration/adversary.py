"""What the Byzantine replica can say: its statements are enumerated from a finite menu, and every one must pass the
product's own validation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from smartbft.core.epoch_change import Outcome, Verdict, evaluate
from smartbft.messages import Accepted, Proof, StopData, Sync, Written
from smartbft.testing.exploration.bench import DIGESTS, VALUES, make_validator, passes
from smartbft.testing.exploration.machine import SyncEffect, content, effect_of
from smartbft.testing.exploration.setting import N, Setting

F = (N - 1) // 3


class Adversary:
    """Replica `id` is Byzantine.

    Args:
        setting: what is searched.
        representatives: one real SYNC for each effect, shared with the machines.
    """

    def __init__(self, id: int, setting: Setting, representatives: dict[SyncEffect, Sync]) -> None:
        self.id = id
        self._setting = setting
        self._validator = make_validator(setting)
        self._representatives = representatives
        self._menus: dict[tuple[int, tuple[int, ...]], list[StopData]] = {}
        self._syncs: dict[object, tuple[SyncEffect, ...]] = {}
        self._sets: dict[object, dict[Outcome, tuple[StopData, ...]]] = {}

    def proof(self, regency: int, value: int, signers: Sequence[int]) -> Proof | None:
        """A decision proof of the instance, if these and the adversary's own ACCEPT make a valid one."""
        everybody = tuple((signer, self._setting.tag(signer)) for signer in sorted({*signers, self.id}))
        proof = Proof(0, regency, self._setting.instance, DIGESTS[value], everybody)
        return proof if passes(self._validator.check_proof, proof) else None

    def stop_data(self, regency: int, decided: tuple[Proof, ...]) -> list[StopData]:
        """Every STOPDATA for `regency` that validation lets pass: any accepted value, any write set, any proof."""
        key = (regency, tuple(proof.regency * 2 + DIGESTS.index(proof.digest) for proof in decided))
        if key not in self._menus:
            instance, signature, last = self._setting.instance, self._setting.tag(self.id), self._setting.last_proof
            claims = [
                StopData(0, regency, self.id, instance, accepted, write_set, last, signature)
                for accepted in _accepted(regency)
                for write_set in _write_sets(regency)
            ]
            if last is not None:
                claims.append(StopData(0, regency, self.id, instance - 1, None, (), None, signature))
            claims += [StopData(0, regency, self.id, instance + 1, None, (), proof, signature) for proof in decided]
            self._menus[key] = [claim for claim in claims if passes(self._validator.check_stop_data, claim)]
        return self._menus[key]

    def syncs(self, regency: int, honest: Sequence[StopData], decided: tuple[Proof, ...]) -> tuple[SyncEffect, ...]:
        """The effects of all valid SYNCs the adversary can sign as the leader of `regency`."""
        key = (regency, tuple((each.signer, content(each)) for each in honest), decided)
        if key not in self._syncs:
            found: dict[SyncEffect, None] = {}
            for statements in self._all_sets(regency, honest, decided):
                for value in (*VALUES, b""):
                    sync = Sync(
                        0,
                        regency,
                        tuple(sorted(statements, key=lambda each: each.signer)),
                        value,
                        self._setting.tag(self.id),
                    )
                    effect = effect_of(sync)
                    if effect not in found and passes(self._validator.check_sync, sync):
                        self._representatives.setdefault(effect, sync)
                        found[effect] = None
            self._syncs[key] = tuple(found)
        return self._syncs[key]

    def _all_sets(
        self, regency: int, honest: Sequence[StopData], decided: tuple[Proof, ...]
    ) -> Iterator[tuple[StopData, ...]]:
        menu = self.stop_data(regency, decided)
        for count in range(N - F - 1, len(honest) + 1):
            for chosen in itertools.combinations(honest, count):
                if count >= N - F:
                    yield chosen
                yield from (tuple(sorted((*chosen, own), key=lambda each: each.signer)) for own in menu)

    def collections(
        self, regency: int, leader: StopData, others: Sequence[StopData], decided: tuple[Proof, ...]
    ) -> dict[Outcome, tuple[StopData, ...]]:
        """What can reach a correct leader, in which order, before its first sound set: one for each outcome."""
        key = (regency, content(leader), tuple((each.signer, content(each)) for each in others), decided)
        if key not in self._sets:
            found: dict[Outcome, tuple[StopData, ...]] = {}
            for arriving in self._arrivals(regency, others, decided):
                first = evaluate((leader, *arriving[: N - F - 1]), N, F)
                used = arriving[: N - F - 1] if first.verdict is not Verdict.UNSOUND else arriving
                outcome = evaluate((leader, *used), N, F)
                if outcome.verdict is not Verdict.UNSOUND:
                    found.setdefault(outcome, used)
            self._sets[key] = found
        return self._sets[key]

    def _arrivals(
        self, regency: int, others: Sequence[StopData], decided: tuple[Proof, ...]
    ) -> Iterator[tuple[StopData, ...]]:
        for own in (None, *self.stop_data(regency, decided)):
            available = [*others] if own is None else [*others, own]
            for pair in itertools.combinations(available, N - F - 1):
                rest = tuple(each for each in available if each not in pair)
                yield (*pair, *rest)


def _accepted(regency: int) -> list[Accepted | None]:
    return [None, *(Accepted(ts, digest) for ts in range(regency) for digest in DIGESTS)]


def _write_sets(regency: int) -> list[tuple[Written, ...]]:
    """Any newest regency for each value, or none; and one value twice, which validation must refuse."""
    choices = [[None, *range(regency)] for _ in DIGESTS]
    sets = [
        tuple(Written(digest, ts) for digest, ts in sorted(zip(DIGESTS, chosen, strict=True)) if ts is not None)
        for chosen in itertools.product(*choices)
    ]
    return sets + [(Written(digest, ts), Written(digest, ts)) for ts in range(regency) for digest in DIGESTS]
