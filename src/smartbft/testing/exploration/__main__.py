"""The command: `python -m smartbft.testing.exploration`."""

from __future__ import annotations

import argparse
import sys
import time

from smartbft.testing.exploration.search import Report, Search
from smartbft.testing.exploration.setting import N

BROKEN = 7  # as `smartbft sim` ends when a promise is broken
UNFINISHED = 1
ROLES = {0: "never leads", 1: "leads regency 0", 2: "leads regency 1", 3: "leads regency 2"}


def main(arguments: list[str] | None = None) -> int:
    """Explore for each place of the Byzantine replica; print what was seen.

    Returns 0 if everything within the bounds was explored and holds, 7 if a promise is broken, 1 if time ran out.
    """
    options = _parser().parse_args(arguments)
    deadline = None if options.budget is None else time.monotonic() + options.budget
    reports = []
    for byzantine, lost in _worlds(options):
        began = time.monotonic()
        budget = None if deadline is None else max(deadline - began, 0.0)
        search = Search(byzantine, options.changes, budget, lost=lost)
        report = search.run()
        reports.append(report)
        _tell(report, time.monotonic() - began)
        if report.broken is not None:
            print(f"BROKEN: {report.broken.promise}")
            for line in search.told(report.broken.steps):
                print(f"  {line}")
            return BROKEN
    complete = all(report.complete for report in reports)
    print(
        f"{sum(map(_states, reports))} states, {sum(sum(report.transitions) for report in reports)} transitions, "
        f"explored completely: {'yes' if complete else 'no'}; nothing broken"
    )
    return 0 if complete else UNFINISHED


def _worlds(options: argparse.Namespace) -> list[tuple[int, int | None]]:
    """Each place of the Byzantine replica and, after a key change, of the one that had lost its votes."""
    liars = range(N) if options.byzantine is None else [options.byzantine]
    if options.lost is not None:
        return [(liar, options.lost) for liar in liars if liar != options.lost]
    if options.key_change:
        return [(liar, lost) for liar in liars for lost in range(N) if lost != liar]
    return [(liar, None) for liar in liars]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m smartbft.testing.exploration",
        description="Explore every reachable state of a regency change of four replicas, one of them Byzantine.",
    )
    parser.add_argument("--changes", type=int, default=2, help="regency changes at most (default: 2)")
    parser.add_argument("--byzantine", type=int, choices=range(N), help="the Byzantine replica (default: each in turn)")
    parser.add_argument(
        "--key-change",
        action="store_true",
        help="search the instance after one that gives a new key to a replica that lost its votes, each in turn; the "
        "Byzantine replica is honest until then",
    )
    parser.add_argument("--lost", type=int, choices=range(N), help="as --key-change, for this replica alone")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after this time (default: no limit)")
    return parser


def _states(report: Report) -> int:
    return sum(report.states)


def _tell(report: Report, seconds: float) -> None:
    changes = "1 change" if report.changes == 1 else f"{report.changes} changes"
    after = "" if report.lost is None else f" after replica {report.lost} got a new key"
    print(
        f"Byzantine replica {report.byzantine} ({ROLES[report.byzantine]}){after}, up to {changes}: "
        f"{_states(report)} states (by regency {report.states}), {sum(report.transitions)} transitions, "
        f"regencies start in {report.starts} different states, {report.local_states} local states; "
        f"in {report.decisions} states a decision can be proven; "
        f"in {report.rivals} starts a lying leader can choose between two values that bind; "
        f"{seconds:.1f} s, explored completely: {'yes' if report.complete else 'no'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
