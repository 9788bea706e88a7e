"""Copies in processes of their own: another hash seed, another time zone, another clock, another environment.

``python -m smartbft.testing.determinism.processes`` is the other process: a task comes in as JSON, differences go out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbft.errors import LocalProtocolError
from smartbft.testing.determinism.compare import Difference, Reference, first_difference
from smartbft.testing.determinism.copies import from_the_start, restored
from smartbft.testing.determinism.script import Batch, from_json, to_json
from smartbft.testing.determinism.target import Target

# The local date differs between any two of them at any time.
_TIME_ZONES = ("<+14>-14", "<-11>+11", "UTC0")
_DAY_SECONDS = 86_400
_RESTORE_EVERY = (7, 3, 13)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is different in a process.

    Attributes:
        hash_seed: PYTHONHASHSEED.
        time_zone: TZ.
        days_ahead: of the real clock.
        restore_every: the second copy in the process is restored after so many calls.
    """

    hash_seed: int
    time_zone: str
    days_ahead: int
    restore_every: int

    @classmethod
    def numbered(cls, number: int, hash_seed: int) -> Surroundings:
        """Those of the process with a number, from 0."""
        return cls(
            hash_seed,
            _TIME_ZONES[number % len(_TIME_ZONES)],
            400 * (number + 1),
            _RESTORE_EVERY[number % len(_RESTORE_EVERY)],
        )

    def environment(self) -> dict[str, str]:
        """The process's environment."""
        name = f"checked-{self.hash_seed}"
        return {
            **os.environ,
            "PYTHONHASHSEED": str(self.hash_seed),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TZ": self.time_zone,
            "USER": name,
            "LOGNAME": name,
            "HOSTNAME": name,
        }

    def __str__(self) -> str:
        where = f"PYTHONHASHSEED={self.hash_seed}, TZ={self.time_zone}, clock {self.days_ahead} days ahead"
        return f"another process ({where})"


#: What a process found: the copy executed from the start, and the one restored now and then.
Found = tuple[Surroundings, Difference | None, Difference | None]


def run_processes(
    target: Mapping[str, Any], batches: Sequence[Batch], reference: Reference, whole: bool, hash_seeds: Sequence[int]
) -> list[Found]:
    """Compare copies in one process per hash seed with the first copy; all processes run at once.

    Raises:
        LocalProtocolError: a process could not be made to run the application.
    """
    task = {
        "target": target,
        "batches": to_json(batches),
        "results": [result.hex() for result in reference.results],
        "digests": {str(index): digest.hex() for index, digest in reference.digests().items()},
        "whole": whole,
    }
    started = []
    for number, hash_seed in enumerate(hash_seeds):
        surroundings = Surroundings.numbered(number, hash_seed)
        started.append((surroundings, _start(task, surroundings)))
    return [(surroundings, *_collect(process, surroundings)) for surroundings, process in started]


def _start(task: dict[str, Any], surroundings: Surroundings) -> subprocess.Popen[str]:
    own = {"days_ahead": surroundings.days_ahead, "restore_every": surroundings.restore_every}
    process = subprocess.Popen(  # noqa: S603 - this interpreter, this module
        [sys.executable, "-m", __spec__.name],
        env=surroundings.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if process.stdin is not None:
        try:
            process.stdin.write(json.dumps({**task, **own}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once: what it wrote to stderr says why
    return process


def _collect(process: subprocess.Popen[str], surroundings: Surroundings) -> tuple[Difference | None, Difference | None]:
    out, errors = process.communicate()
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise LocalProtocolError(f"{surroundings} cannot run the application: {last[0]}")
    executed, taken_over = (None if found is None else _difference(found) for found in json.loads(out))
    return executed, taken_over


def _difference(data: Mapping[str, Any]) -> Difference:
    return Difference(data["index"], data["what"], bytes.fromhex(data["found"]), data["origin"])


# In the other process


def _set_clock_ahead(seconds: int) -> None:
    """Before the application is imported, so that what it imports from `time` is ours."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + seconds * 1_000_000_000


def main() -> None:
    """Do one task."""
    task = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the application prints is none of the answer
    _set_clock_ahead(task["days_ahead"] * _DAY_SECONDS)
    batches = from_json(task["batches"])
    results = [bytes.fromhex(text) for text in task["results"]]
    digests = {int(index): bytes.fromhex(text) for index, text in task["digests"].items()}
    with tempfile.TemporaryDirectory(prefix="smartbft-check-") as folder:
        make = Target.from_json(task["target"], Path(folder)).make
        copies = (
            from_the_start(make, batches, task["whole"]),
            restored(make, batches, task["whole"], task["restore_every"]),
        )
        found = [first_difference(copy, results, digests) for copy in copies]
    answer = [
        None if one is None else {"index": one.index, "what": one.what, "found": one.found.hex(), "origin": one.origin}
        for one in found
    ]
    out.write(json.dumps(answer))
    out.flush()


if __name__ == "__main__":
    main()
