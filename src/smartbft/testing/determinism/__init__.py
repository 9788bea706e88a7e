"""The detector of applications that are not deterministic: run one in several copies, name the first difference."""

from smartbft.testing.determinism.check import ApplicationReport, check_application
from smartbft.testing.determinism.divergence import Divergence, Mistake, NotDeterministic
from smartbft.testing.determinism.suspects import Suspect, find_suspects

__all__ = [
    "ApplicationReport",
    "Divergence",
    "Mistake",
    "NotDeterministic",
    "Suspect",
    "check_application",
    "find_suspects",
]
