"""Runs of the durable log whose power fails between any two of its calls (promise D2, the log's part)."""

from __future__ import annotations

from pathlib import Path

from kit.log_runs import CHAIN, REPLICA, FaultPlan, RawRecord, Run, run
from kit.power_loss import Entry, SimulatedDisk, read_journal
from smartbft._fastpath import log as native
from smartbft.storage import parse_segments

Image = dict[str, bytes]


def record_run(
    folder: Path, records: list[RawRecord], image: Image | None = None, plan: FaultPlan = (), mode: int = native.SYNC
) -> tuple[Run, list[Entry]]:
    """A run that starts from an image, and its journal."""
    data = folder / "data"
    data.mkdir()
    for name, content in (image or {}).items():
        (data / name).write_bytes(content)
    result = run(data, records, [*plan, ("journal", 0, str(folder / "journal"))], mode=mode)
    return result, read_journal(folder / "journal")


def parsed(image: Image) -> list[RawRecord]:
    """What the sans-IO parser finds in an image."""
    segments = [image[name] for name in sorted(image) if name.endswith(".log")]
    return parse_segments(segments, CHAIN, REPLICA).records


def check_recovered(result: Run, found: list[RawRecord], acknowledged: int) -> None:
    assert found == result.appended[: len(found)], "wrong data"
    assert len(found) >= acknowledged, f"{acknowledged} records were acknowledged, {len(found)} came back"


def crash_everywhere(
    result: Run, entries: list[Entry], image: Image | None = None, seeds: int = 2, acknowledges: bool = True
) -> list[tuple[int, Image]]:
    """Check every image that a power loss between two calls may leave; returns those with their journal positions."""
    disk = SimulatedDisk(image)
    images = []
    for number, entry in enumerate(entries):
        disk.apply(entry)
        acknowledged = result.acknowledged_at(entry.end) if acknowledges else 0
        for left in disk.images(range(number * seeds, (number + 1) * seeds)):
            check_recovered(result, parsed(left), acknowledged)
            images.append((entry.end, left))
    return images
