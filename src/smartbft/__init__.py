"""Byzantine fault-tolerant state machine replication, from BFT-SMaRt's line of protocols.

The parts a program needs; everything is imported when it is first used:

`StateMachine`, `BatchStateMachine`, `ExecutionContext`, `LocalOptions`
    what is replicated (`smartbft.smr.application`)
`open_result`, `split_requests`, `join_results`
    results and request lists, for clients of a `StateMachine` and for a `BatchStateMachine` in Python
`Replica`
    one replica inside an asyncio program (`smartbft.runtime.node`)
`AsyncClient`, `Client`, `Outcome`
    invoke operations, from asyncio or blocking, and what comes of it (`smartbft.runtime`)
`Ed25519Signer`
    a client's key, where no profile names one (`smartbft.crypto.signatures`)
`LocalCluster`
    a whole cluster in one process, for tests and notebooks (`smartbft.runtime.local`)
`Genesis`, `Parameters`, `ReplicaConfig`, `ClientProfile`
    configuration (`smartbft.config`)
`SmartBFTError` and its children
    every error this package raises (`smartbft.errors`)

Example:
    >>> from smartbft import LocalCluster
    >>> from smartbft.apps.counter import Counter, add, decode_value
    >>> async def main() -> None:
    ...     async with LocalCluster(4, Counter) as cluster, cluster.client() as client:
    ...         print(decode_value(await client.invoke(add(2))))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartbft._fastpath.pool import join_results, split_requests
    from smartbft.config import ClientProfile, Genesis, ReplicaConfig
    from smartbft.crypto.signatures import Ed25519Signer
    from smartbft.errors import (
        ApplicationFailed,
        ClientError,
        ConfigError,
        CorruptLog,
        DurabilityLost,
        HandshakeError,
        Indeterminate,
        InvariantViolation,
        LocalProtocolError,
        NotEnoughReplies,
        Overloaded,
        Rejected,
        RemoteProtocolError,
        ResultTooLarge,
        SmartBFTError,
        StateDiverged,
        StorageError,
    )
    from smartbft.runtime.blocking import Client
    from smartbft.runtime.client import AsyncClient
    from smartbft.runtime.local import LocalCluster
    from smartbft.runtime.node import Replica
    from smartbft.runtime.requests import Outcome
    from smartbft.smr.application import (
        BatchStateMachine,
        ExecutionContext,
        LocalOptions,
        StateMachine,
        open_result,
    )
    from smartbft.types import Parameters

__all__ = [
    "ApplicationFailed",
    "AsyncClient",
    "BatchStateMachine",
    "Client",
    "ClientError",
    "ClientProfile",
    "ConfigError",
    "CorruptLog",
    "DurabilityLost",
    "Ed25519Signer",
    "ExecutionContext",
    "Genesis",
    "HandshakeError",
    "Indeterminate",
    "InvariantViolation",
    "LocalCluster",
    "LocalOptions",
    "LocalProtocolError",
    "NotEnoughReplies",
    "Outcome",
    "Overloaded",
    "Parameters",
    "Rejected",
    "RemoteProtocolError",
    "Replica",
    "ReplicaConfig",
    "ResultTooLarge",
    "SmartBFTError",
    "StateDiverged",
    "StateMachine",
    "StorageError",
    "join_results",
    "open_result",
    "split_requests",
]

_HOMES = {
    "AsyncClient": "smartbft.runtime.client",
    "BatchStateMachine": "smartbft.smr.application",
    "Client": "smartbft.runtime.blocking",
    "ClientProfile": "smartbft.config",
    "Ed25519Signer": "smartbft.crypto.signatures",
    "ExecutionContext": "smartbft.smr.application",
    "Genesis": "smartbft.config",
    "LocalCluster": "smartbft.runtime.local",
    "LocalOptions": "smartbft.smr.application",
    "Outcome": "smartbft.runtime.requests",
    "Parameters": "smartbft.types",
    "Replica": "smartbft.runtime.node",
    "ReplicaConfig": "smartbft.config",
    "StateMachine": "smartbft.smr.application",
    "join_results": "smartbft._fastpath.pool",
    "open_result": "smartbft.smr.application",
    "split_requests": "smartbft._fastpath.pool",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'smartbft' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "smartbft.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
