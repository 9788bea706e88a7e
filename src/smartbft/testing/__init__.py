"""The deterministic simulator: run a whole cluster in virtual time, from one seed, with every promise checked.

Made for this package's own protocols and for yours: `Simulation` takes any `StateMachine` (docs/simulator.md).
"""

from smartbft.testing.application import AppendLog
from smartbft.testing.campaign import CampaignResult, Failure, run_campaign, run_seed
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.determinism import (
    ApplicationReport,
    Divergence,
    Mistake,
    NotDeterministic,
    Suspect,
    check_application,
    find_suspects,
)
from smartbft.testing.history import History, Operation
from smartbft.testing.linearizability import (
    ApplicationModel,
    KeyValueModel,
    LinearizabilityReport,
    NotLinearizable,
    SequentialModel,
    check_linearizable,
)
from smartbft.testing.options import SimulationOptions
from smartbft.testing.simulation import Simulation, SimulationReport, simulate

__all__ = [
    "AppendLog",
    "ApplicationModel",
    "ApplicationReport",
    "CampaignResult",
    "Divergence",
    "Failure",
    "History",
    "KeyValueModel",
    "LinearizabilityReport",
    "Mistake",
    "NotDeterministic",
    "NotLinearizable",
    "Operation",
    "PropertyViolation",
    "SequentialModel",
    "Simulation",
    "SimulationOptions",
    "SimulationReport",
    "Suspect",
    "check_application",
    "check_linearizable",
    "find_suspects",
    "run_campaign",
    "run_seed",
    "simulate",
]
