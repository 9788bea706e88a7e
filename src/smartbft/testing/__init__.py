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
from smartbft.testing.options import SimulationOptions
from smartbft.testing.simulation import Simulation, SimulationReport, simulate

__all__ = [
    "AppendLog",
    "ApplicationReport",
    "CampaignResult",
    "Divergence",
    "Failure",
    "History",
    "Mistake",
    "NotDeterministic",
    "Operation",
    "PropertyViolation",
    "Simulation",
    "SimulationOptions",
    "SimulationReport",
    "Suspect",
    "check_application",
    "find_suspects",
    "run_campaign",
    "run_seed",
    "simulate",
]
