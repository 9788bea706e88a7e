"""No false accusation, as far as evidence goes: what replicas report must hold, and never be about an honest one."""

from __future__ import annotations

from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import Offence, decode_evidence, make_evidence, verify
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import KeyVerifier
from smartbft.types import View


class Accusations:
    """Judges each piece of evidence as a third party would: from the bytes of its file.

    Args:
        view, domains, verifier: what the third party knows.
        faulty: the members that may be accused.

    Attributes:
        named: who was rightly accused, and of what.
    """

    __slots__ = ("_domains", "_faulty", "_verifier", "_view", "named")

    def __init__(self, view: View, domains: Domains, verifier: KeyVerifier, faulty: frozenset[int]) -> None:
        self._view = view
        self._domains = domains
        self._verifier = verifier
        self._faulty = faulty
        self.named: dict[int, dict[Offence, None]] = {}

    def judge(self, effect: ReportEvidence) -> str:
        """What is wrong with a report; empty if it names a faulty member and holds."""
        made = make_evidence(self._domains.chain_id, effect.accused, effect.first, effect.second, effect.key)
        verdict = verify(decode_evidence(made.encode()), self._view, self._domains, self._verifier)
        if verdict.offence is None:
            return f"its evidence against replica {effect.accused} does not hold: {verdict.reason}"
        if effect.accused not in self._faulty:
            return f"it has evidence against replica {effect.accused}, which is honest: {verdict.offence.value}"
        self.named.setdefault(effect.accused, {})[verdict.offence] = None
        return ""
