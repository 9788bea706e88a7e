"""What the copies of an application execute: operations in batches, with all that an application may depend on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smartbft._fastpath.hashing import derive_key
from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.errors import LocalProtocolError
from smartbft.limits import SIGNATURE_BYTES
from smartbft.smr.application import ExecutionContext

#: The chain that applications under check believe to be on, and the session of each of their clients.
CHAIN_ID = derive_key("smartbft v1 checked application", b"chain")
SESSION = 1_700_000_000_000_000
#: Who sends generated operations, in turn.
CLIENTS = 3
#: As a simulation's: from the randomness, the client's index and its sequence number (from 1) to an operation.
OperationMaker = Callable[[random.Random, int, int], bytes]

_MOST_BATCH = 8
_DAY = 86_400_000_000


def client_key(client: int) -> bytes:
    """The public key (32 bytes) in whose name a client's operations come."""
    return derive_key("smartbft v1 checked application", b"client %d" % client)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the script.

    Attributes:
        index: its place in the whole script, from 0.
        number: its place among the operations that were given or made, of which the script may leave some out.
        client: who asks.
        sequence: its number in the client's session, from 1.
        operation: its bytes.
        context: of the batch it is in.
    """

    index: int
    number: int
    client: int
    sequence: int
    operation: bytes
    context: ExecutionContext

    def renumbered(self, index: int) -> Step:
        """The same step at another place of the script."""
        return replace(self, index=index)

    def request(self) -> bytes:
        """The request that carries it; nobody looks at its signature."""
        return encode_request(client_key(self.client), SESSION, self.sequence, self.operation, bytes(SIGNATURE_BYTES))


Batch = Sequence[Step]


def request_list(steps: Iterable[Step]) -> bytes:
    """The requests of some steps, as an application gets them."""
    return join_requests([step.request() for step in steps])


def generate(maker: OperationMaker, count: int, seed: int) -> list[tuple[int, bytes]]:
    """`count` operations of a maker, each with its client.

    Raises:
        LocalProtocolError: the maker fails, or makes something other than bytes.
    """
    draw = random.Random(f"smartbft operations {seed}")  # noqa: S311 - test data
    numbers = [0] * CLIENTS
    found = []
    for _ in range(count):
        client = draw.randrange(CLIENTS)
        numbers[client] += 1
        found.append((client, _make(maker, draw, client, numbers[client])))
    return found


def _make(maker: OperationMaker, draw: random.Random, client: int, number: int) -> bytes:
    called = f"the maker of operations, called as function(random, client={client}, number={number}),"
    try:
        made = maker(draw, client, number)
    except (Exception, SystemExit) as error:
        raise LocalProtocolError(f"{called} raised {error!r}") from error
    if not isinstance(made, bytes):
        raise LocalProtocolError(f"{called} returned {type(made).__name__}, not bytes")
    return made


def write_script(operations: Iterable[tuple[int, bytes]], seed: int) -> list[Batch]:
    """Spread operations over batches of 1 to 8, with agreed times some microseconds to a day apart."""
    draw = random.Random(f"smartbft batches {seed}")  # noqa: S311 - test data
    rest = list(enumerate(operations))
    sequences: dict[int, int] = {}
    timestamp = SESSION
    batches: list[Batch] = []
    while rest:
        size = draw.randint(1, _MOST_BATCH)
        timestamp += draw.choice((draw.randint(1, 1_000), draw.randint(1_000, 60_000_000), draw.randint(1, _DAY)))
        context = ExecutionContext(len(batches) + 1, timestamp, draw.randbytes(32))
        batch = []
        for index, (client, operation) in rest[:size]:
            sequences[client] = sequences.get(client, 0) + 1
            batch.append(Step(index, index, client, sequences[client], operation, context))
        batches.append(batch)
        rest = rest[size:]
    return batches


def to_json(batches: Sequence[Batch]) -> list[Any]:
    """A script for another process."""
    return [
        [
            (context := batch[0].context).instance,
            context.timestamp,
            context.seed.hex(),
            [[step.index, step.number, step.client, step.sequence, step.operation.hex()] for step in batch],
        ]
        for batch in batches
    ]


def from_json(data: Sequence[Any]) -> list[Batch]:
    """Inverse of `to_json`."""
    batches: list[Batch] = []
    for instance, timestamp, seed, steps in data:
        context = ExecutionContext(instance, timestamp, bytes.fromhex(seed))
        batches.append(
            [
                Step(index, number, client, sequence, bytes.fromhex(operation), context)
                for index, number, client, sequence, operation in steps
            ]
        )
    return batches
