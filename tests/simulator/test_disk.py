"""The simulated disk, and the log on it, through the product's encoder and parser."""

from __future__ import annotations

import random

import pytest

from smartbft.core.effects import Record
from smartbft.errors import CorruptLog
from smartbft.testing.disk import SECTOR_BYTES, DiskOptions, SimulatedDisk, read_log
from smartbft.testing.log import DiskLog, MemoryLog
from smartbft.testing.scheduler import Scheduler

CHAIN = bytes(range(32))


def test_a_sync_makes_writes_survive_and_nothing_else_does():
    disk = SimulatedDisk()
    file = disk.create(4 * SECTOR_BYTES)
    disk.write(file, 0, b"first")
    disk.sync()
    disk.write(file, 2 * SECTOR_BYTES, b"second")
    assert disk.files()[file][:5] == b"first"
    outcomes = set()
    for seed in range(50):
        copy = SimulatedDisk()
        copy.create(4 * SECTOR_BYTES)
        copy.write(0, 0, b"first")
        copy.sync()
        copy.write(0, 2 * SECTOR_BYTES, b"second")
        copy.lose_power(random.Random(seed))
        content = copy.files()[0]
        assert content[:5] == b"first"
        outcomes.add(bytes(content)[2 * SECTOR_BYTES : 2 * SECTOR_BYTES + 6])
    assert outcomes == {b"second", bytes(6)}


def test_a_partial_sync_covers_the_oldest_writes():
    disk = SimulatedDisk()
    file = disk.create(2 * SECTOR_BYTES)
    disk.write(file, 0, b"a")
    pending = disk.unsynced()
    disk.write(file, SECTOR_BYTES, b"b")
    disk.sync(pending)
    assert disk.unsynced() == 1
    lost = next(seed for seed in range(100) if random.Random(seed).choice((0.0, 0.5, 0.9, 1.0)) == 0.0)
    disk.lose_power(random.Random(lost))
    assert disk.files()[file][0:1] == b"a"
    assert disk.files()[file][SECTOR_BYTES : SECTOR_BYTES + 1] == b"\0"


def test_a_sector_with_several_writes_keeps_the_first_ones():
    for seed in range(200):
        disk = SimulatedDisk()
        file = disk.create(SECTOR_BYTES)
        for position in range(4):
            disk.write(file, position, b"x")
        disk.lose_power(random.Random(seed))
        assert bytes(disk.files()[file][:4]) in {b"x" * kept + bytes(4 - kept) for kept in range(5)}


class LogUnderTest:
    def __init__(self, disk: SimulatedDisk, seed: int = 0, *, sync: bool = True, segment_bytes: int = 64 * 1024):
        self.scheduler = Scheduler(seed)
        self.stored: list[Record] = []
        self.released: list[int] = []
        self.log = DiskLog(
            disk,
            self.scheduler,
            DiskOptions(segment_bytes=segment_bytes),
            CHAIN,
            3,
            sync=sync,
            stored=self.stored.append,
            released=self.released.append,
            failed=lambda: None,
        )

    def run(self, events: int = 1_000_000) -> None:
        while events and self.scheduler.run_next():
            events -= 1


def record(number: int, size: int = 100) -> Record:
    return Record(1 + number % 3, number, (number.to_bytes(4, "little"), bytes(size)))


def test_records_are_released_in_groups_after_the_sync_and_read_back():
    disk = SimulatedDisk()
    under_test = LogUnderTest(disk)
    for number in range(1, 6):
        assert under_test.log.append((record(number),)) == number
    assert under_test.stored == []
    assert under_test.log.pending_bytes() == 4 * 104  # the first is in the group that is being written
    under_test.run()
    assert under_test.released == [1, 5]
    assert [stored.instance for stored in under_test.stored] == [1, 2, 3, 4, 5]
    disk.lose_power(random.Random(0))
    expected = [(r.kind, r.instance, b"".join(r.parts)) for r in under_test.stored]
    assert read_log(disk, CHAIN, 3) == expected
    assert LogUnderTest(disk).log.recovered() == expected


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("sync", [True, False])
def test_a_crash_at_any_event_keeps_what_was_stored(power: bool, sync: bool):
    torn = 0
    for seed in range(60):
        disk, kept = SimulatedDisk(), []
        draw = random.Random(seed)
        for life in range(4):
            under_test = LogUnderTest(disk, seed * 10 + life, sync=sync)
            recovered = [instance for _, instance, _ in under_test.log.recovered()]
            assert recovered[: len(kept)] == kept
            torn += len(recovered) - len(kept)
            first = len(recovered) + 1
            for number in range(first, first + 12):
                under_test.log.append((record(number, draw.randrange(2_000)),))
            under_test.run(draw.randrange(12))
            kept = recovered + [stored.instance for stored in under_test.stored]
            under_test.log.stop()
            if power and sync:
                disk.lose_power(draw)
    assert torn > 0  # some unsynced records survived, so the cut was exercised


def test_segments_follow_one_another():
    disk = SimulatedDisk()
    under_test = LogUnderTest(disk)
    for number in range(1, 101):
        under_test.log.append((record(number, 5_000),))
        under_test.run()
    assert len(disk.files()) > 5
    assert [instance for _, instance, _ in read_log(disk, CHAIN, 3)] == list(range(1, 101))


def test_damage_below_a_synced_record_is_no_torn_tail():
    disk = SimulatedDisk()
    under_test = LogUnderTest(disk)
    for number in range(1, 6):
        under_test.log.append((record(number),))
        under_test.run()
    disk.write(0, 512 + 120, b"\xff")
    with pytest.raises(CorruptLog):
        LogUnderTest(disk)


def test_a_stopped_log_releases_nothing():
    under_test = LogUnderTest(SimulatedDisk())
    under_test.log.append((record(1),))
    under_test.log.stop()
    under_test.run()
    assert under_test.released == []


def test_the_memory_log_releases_after_the_step_and_remembers_nothing():
    scheduler = Scheduler(0)
    released: list[int] = []
    log = MemoryLog(scheduler, released.append)
    assert log.append((record(1), record(2))) == 2
    assert released == []
    while scheduler.run_next():
        pass
    assert (released, scheduler.now, log.recovered(), log.pending_bytes()) == ([2], 0, [], 0)
    log.append((record(3),))
    log.stop()
    while scheduler.run_next():
        pass
    assert released == [2]
