"""Long campaigns of the simulator: one command with a time budget, that resumes where the last one ended.

    python ci/campaign.py --suite byzantine --minutes 10

Adds to ci/totals.json: per suite the seeds run so far (over all commits), the commit of the last run, and the command
that repeats each failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from smartbft.testing import SimulationOptions
from smartbft.testing.campaign import Failure, run_seed

TOTALS = Path(__file__).parent / "totals.json"
SUITES = {
    "honest": SimulationOptions(instances=25),
    "honest-7": SimulationOptions(n=7, instances=15),
    "byzantine": SimulationOptions(instances=10, byzantine="any"),
    "byzantine-7": SimulationOptions(n=7, instances=8, byzantine="any"),
    "twins": SimulationOptions(instances=6, clients=2, twins=True),
    "mutations": SimulationOptions(instances=8, mutations=True),
}


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        cwd=TOTALS.parent,
    ).stdout.strip()


def run(suite: str, seconds: float, totals: dict[str, Any]) -> list[Failure]:
    """Run seeds of a suite from where the totals end, until the time is over; returns what failed."""
    entry = totals.setdefault(suite, {"seeds": 0, "virtual_seconds": 0, "most_regency_changes": 0, "failures": []})
    failures: list[Failure] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outcome = run_seed(replace(SUITES[suite], seed=entry["seeds"]))
        entry["seeds"] += 1
        if isinstance(outcome, Failure):
            failures.append(outcome)
            entry["failures"].append({"commit": commit(), "promise": outcome.promise, "command": outcome.command})
        else:
            entry["virtual_seconds"] = round(entry["virtual_seconds"] + outcome.virtual_seconds, 3)
            entry["most_regency_changes"] = max(entry["most_regency_changes"], outcome.regency_changes)
    entry["commit"] = commit()
    return failures


def main() -> int:
    """Exit with 1 if a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--totals", type=Path, default=TOTALS)
    arguments = parser.parse_args()
    totals = json.loads(arguments.totals.read_text()) if arguments.totals.exists() else {}
    failures = run(arguments.suite, 60 * arguments.minutes, totals)
    arguments.totals.write_text(json.dumps(totals, indent=2, sort_keys=True) + "\n")
    entry = totals[arguments.suite]
    print(f"{arguments.suite}: {entry['seeds']} seeds in all, {len(entry['failures'])} failures")
    for failure in failures:
        print(f"FAILED {failure.promise}: {failure.message}\n  repeat with: {failure.command}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
