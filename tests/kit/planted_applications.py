"""Applications with one mistake each, for the detector; and the one without, from which they are made."""

from __future__ import annotations

import datetime
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from smartbft import BatchStateMachine, ExecutionContext, Rejected, StateMachine, join_results, split_requests
from smartbft.testing.determinism import Mistake

MALFORMED, ABSENT = 1, 2


class Words(StateMachine):
    """``put KEY VALUE``, ``get KEY``, ``delete KEY``, ``keys``: text, and correct."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        match operation.decode().split():
            case ["put", key, value]:
                self.values[key] = value
                return b"done"
            case ["get", key]:
                return self.values.get(key, "-").encode()
            case ["delete", key]:
                if key not in self.values:
                    raise Rejected("no such key", ABSENT)
                del self.values[key]
                return b"gone"
            case ["keys"]:
                return " ".join(sorted(self.values)).encode()
        raise Rejected("not an operation", MALFORMED)

    def snapshot(self) -> bytes:
        return json.dumps(self.values, sort_keys=True).encode()

    def restore(self, snapshot: bytes) -> None:
        self.values = json.loads(snapshot)


def operation(draw: random.Random, client: int, number: int) -> bytes:
    key = f"key{draw.randrange(8)}"
    return draw.choice([f"put {key} {draw.randrange(1000)}", f"get {key}", f"delete {key}", "keys"]).encode()


def is_keys(operation: bytes) -> bool:
    return operation == b"keys"


class SetOrderInResult(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if is_keys(operation):
            return " ".join(set(self.values)).encode()
        return super().execute(operation, context)


class SetOrderInSnapshot(Words):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.seen.add(operation.decode())
        return b"seen"

    def snapshot(self) -> bytes:
        return json.dumps(list(self.seen)).encode()

    def restore(self, snapshot: bytes) -> None:
        self.seen = set(json.loads(snapshot))


class Clock(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + str(time.time_ns()).encode()


class CoarseClock(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        super().execute(operation, context)
        return str(int(time.time()) // 864_000).encode()


class LocalDate(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation.startswith(b"put"):
            self.values["last"] = datetime.date.today().isoformat()
        return super().execute(operation, context)


class Dice(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + bytes([random.randrange(6)])


class SharedDice(Words):
    """Seeded, but one generator for all instances of the process."""

    dice = random.Random(1)

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + bytes([self.dice.randrange(256)])


class Address(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + str(id(self.values) % 4093).encode()


class HashValue(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + str(hash(operation) % 16).encode()


class Environment(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + os.environ.get("HOSTNAME", "").encode()


class SharedState(Words):
    log: list[bytes] = []

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.log.append(operation)
        return super().execute(operation, context) + str(len(self.log)).encode()


class RoundedFloats(Words):
    def __init__(self) -> None:
        super().__init__()
        self.mean = 0.0

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.mean = self.mean * 0.9 + len(operation) / 7
        return repr(self.mean).encode()

    def snapshot(self) -> bytes:
        return f"{self.mean:.6f}".encode()

    def restore(self, snapshot: bytes) -> None:
        self.mean = float(snapshot)


class RestoreForgets(Words):
    """How often something was put is in no snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.puts += operation.startswith(b"put")
        return super().execute(operation, context) + (str(self.puts).encode() if is_keys(operation) else b"")


class RestoreMerges(Words):
    def restore(self, snapshot: bytes) -> None:
        self.values.update(json.loads(snapshot))


class RestoreReorders(Words):
    """The order of insertion is state and in the snapshot, but a restore sorts it."""

    def snapshot(self) -> bytes:
        return json.dumps(self.values).encode()

    def restore(self, snapshot: bytes) -> None:
        self.values = dict(sorted(json.loads(snapshot).items()))


class RestoreRaises(Words):
    def restore(self, snapshot: bytes) -> None:
        if len(snapshot) > 60:
            raise ValueError("too long")
        super().restore(snapshot)


class SnapshotCounts(Words):
    taken = 0

    def snapshot(self) -> bytes:
        self.taken += 1
        return super().snapshot() + b" " * (self.taken % 3)


class SnapshotClears(Words):
    """What was read since the last snapshot is forgotten by it."""

    def __init__(self) -> None:
        super().__init__()
        self.recent: list[bytes] = []

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.recent.append(operation)
        return super().execute(operation, context) + str(len(self.recent)).encode()

    def snapshot(self) -> bytes:
        self.recent.clear()
        return super().snapshot()


class RejectedChanges(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation.startswith(b"delete"):
            self.values["deletes"] = self.values.get("deletes", "") + "x"
        return super().execute(operation, context)


class CheckRemembers(Words):
    def check(self, operation: bytes) -> None:
        if operation.startswith(b"get") and len(self.values) > 2:
            raise Rejected("too full to read", MALFORMED)


class Raises(Words):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation.startswith(b"get"):
            return self.values[operation.decode().split()[1]].encode()
        return super().execute(operation, context)


class WordBatches(BatchStateMachine):
    """`Words` by batches, and correct."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return join_results([self.one(operation) for _, _, _, operation, _ in split_requests(data)])

    def one(self, operation: bytes) -> bytes:
        if not operation:
            return b""
        self.words.append(operation.decode())
        return str(len(self.words)).encode()

    def check_batch(self, data: bytes) -> bytes:
        return b"\1" * len(split_requests(data))

    def snapshot(self) -> bytes:
        return "\n".join(self.words).encode()

    def restore(self, snapshot: bytes) -> None:
        self.words = snapshot.decode().split("\n") if snapshot else []


class LiveCapture(WordBatches):
    def capture(self) -> Callable[[], bytes]:
        return self.snapshot


class PlaceInBatch(WordBatches):
    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        requests = split_requests(data)
        return join_results(
            [self.one(operation) + b"%d" % place for place, (_, _, _, operation, _) in enumerate(requests) if operation]
            + [b"" for *_, operation, _ in requests if not operation]
        )


class EmptyCounts(WordBatches):
    def one(self, operation: bytes) -> bytes:
        self.words.append(operation.decode())
        return str(len(self.words)).encode()


class WrongDigest(WordBatches):
    def digest(self) -> bytes:
        return len(self.words).to_bytes(32, "little")


class TooFewResults(WordBatches):
    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return join_results([self.one(operation) for _, _, _, operation, _ in split_requests(data)][1:])


@dataclass(frozen=True)
class Planted:
    """A mistake and what the detector must say of it: one of `kinds`, and `word` among suspects or advice."""

    application: Callable[[], StateMachine | BatchStateMachine]
    kinds: tuple[Mistake, ...]
    word: str


PLANTED = (
    Planted(SetOrderInResult, (Mistake.RESULT,), "order of a set"),
    Planted(SetOrderInSnapshot, (Mistake.STATE,), "order of a set"),
    Planted(Clock, (Mistake.RESULT,), "a clock"),
    Planted(CoarseClock, (Mistake.RESULT,), "a clock"),
    Planted(LocalDate, (Mistake.STATE,), "a clock"),
    Planted(Dice, (Mistake.RESULT,), "random numbers of this process"),
    Planted(SharedDice, (Mistake.RESULT,), "state shared by all instances"),
    Planted(Address, (Mistake.RESULT,), "an address"),
    Planted(HashValue, (Mistake.RESULT,), "hash(): differs"),
    Planted(Environment, (Mistake.RESULT,), "something of this machine"),
    Planted(SharedState, (Mistake.RESULT,), "state shared by all instances"),
    Planted(RoundedFloats, (Mistake.RESTORE,), "floats"),
    Planted(RestoreForgets, (Mistake.RESTORE,), "snapshot must hold everything"),
    Planted(RestoreMerges, (Mistake.RESTORE,), "drop what was there before"),
    Planted(RestoreReorders, (Mistake.RESTORE,), "reorder"),
    Planted(RestoreRaises, (Mistake.RESTORE,), "too long"),
    Planted(SnapshotCounts, (Mistake.SNAPSHOT,), "must only read"),
    Planted(SnapshotClears, (Mistake.SNAPSHOT,), "must only read"),
    Planted(RejectedChanges, (Mistake.REJECTED,), "before it changes anything"),
    Planted(CheckRemembers, (Mistake.CHECK,), "the bytes of the operation alone"),
    Planted(Raises, (Mistake.FAILED,), "KeyError"),
    Planted(LiveCapture, (Mistake.CAPTURE,), "must not change with later operations"),
    Planted(PlaceInBatch, (Mistake.BATCHES,), "neighbours"),
    Planted(EmptyCounts, (Mistake.EMPTY,), "change nothing"),
    Planted(WrongDigest, (Mistake.DIGEST,), "the inherited one is right"),
    Planted(TooFewResults, (Mistake.FAILED,), "0 results for 1 requests"),
)
