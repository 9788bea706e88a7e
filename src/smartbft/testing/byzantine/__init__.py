"""Byzantine replicas for simulations: an attacker is a wrapper round rules of one replica.

Attacks can be combined on one replica; `ATTACKS` names them all, and what the command line knows is this table. An
attack of one's own is a subclass of `Attack`, added to the table.
"""

from __future__ import annotations

from smartbft.testing.byzantine.base import Attack, KeyRing, Late, Powers, attacked
from smartbft.testing.byzantine.hidden_accepts import HideAccepts
from smartbft.testing.byzantine.keys import ChangeKeys, LieAboutKeys, OldKeys, ProposeKeys
from smartbft.testing.byzantine.mutations import Mutate
from smartbft.testing.byzantine.normal_phase import (
    Censor,
    DoubleVotes,
    Equivocate,
    FloodEarly,
    LieAboutDecisions,
    LieAboutProgress,
    LieToClients,
    PartWay,
    Replay,
    Silent,
    Slow,
    Stingy,
    TinyBatches,
    WithholdAccept,
    WrongDigest,
)
from smartbft.testing.byzantine.questions import AskAllTheTime
from smartbft.testing.byzantine.synchronization import BadSync, ForgedCollects, StaleCollects, StopStorm, TwoSyncs
from smartbft.testing.byzantine.transfer import LieAboutSnapshots

ANY = "any"
KEYS = "keys"

ATTACKS: dict[str, type[Attack]] = {
    "silent": Silent,
    "slow": Slow,
    "part-way": PartWay,
    "tiny-batches": TinyBatches,
    "stingy": Stingy,
    "equivocate": Equivocate,
    "double-votes": DoubleVotes,
    "wrong-digest": WrongDigest,
    "withhold-accept": WithholdAccept,
    "hide-accepts": HideAccepts,
    "forged-collects": ForgedCollects,
    "stale-collects": StaleCollects,
    "two-syncs": TwoSyncs,
    "bad-sync": BadSync,
    "stop-storm": StopStorm,
    "replay": Replay,
    "censor": Censor,
    "lie-progress": LieAboutProgress,
    "lie-decisions": LieAboutDecisions,
    "lie-clients": LieToClients,
    "lie-snapshots": LieAboutSnapshots,
    "flood-early": FloodEarly,
    "ask-all-the-time": AskAllTheTime,
    "change-keys": ChangeKeys,
    "lie-keys": LieAboutKeys,
    "propose-keys": ProposeKeys,
    "old-keys": OldKeys,
    "mutate": Mutate,
}

KEY_ATTACKS = ("change-keys", "lie-keys", "propose-keys", "old-keys")

__all__ = ["ANY", "ATTACKS", "KEYS", "KEY_ATTACKS", "Attack", "KeyRing", "Late", "Powers", "attacked"]
