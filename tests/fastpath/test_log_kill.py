"""Promise D1 for the log: what was acknowledged survives ``kill -9`` of the process at any instant."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kit.log_runs import quick_folder, recover

WRITER = """
import sys
from kit.log_runs import make_records, open_log
from pathlib import Path

log = open_log(Path(sys.argv[1]))
first = len(log.recovered())
for start in range(first, first + 100_000, 3):
    for kind, instance, body in make_records(3, first=start):
        sequence = log.append(kind, instance, [body])
    log.wait(sequence)
    print(start + 3, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_being_killed() -> None:
    with quick_folder() as folder:
        acknowledged = 0
        for cycle in range(6):
            command = [sys.executable, "-c", WRITER, str(folder)]
            path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path) as writer:
                assert writer.stdout is not None
                for _ in range(5 + 37 * cycle):
                    acknowledged = int(writer.stdout.readline())
                writer.kill()
                # What it printed before the signal arrived was acknowledged too.
                rest = writer.stdout.read().split("\n")[:-1]
                acknowledged = int(rest[-1]) if rest else acknowledged
            found = recover(folder)
            assert len(found) >= acknowledged
            assert [instance for _, instance, _ in found] == list(range(len(found)))
            assert len(found) <= acknowledged + 3
