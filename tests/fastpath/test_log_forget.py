"""The oldest segments go after a checkpoint: what is left is a log, at every moment and whatever fails."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from kit.log_runs import CHAIN, REPLICA, FaultPlan, RawRecord, make_records, open_log, quick_folder, recover
from kit.power_loss import Entry, SimulatedDisk, read_journal

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog, LogEncoder, LogParser
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage import parse_segments, verify_log
from smartbft.storage.recovery import segment_number

RECORDS = make_records(80)


def fill(log: DurableLog, records: list[RawRecord]) -> None:
    for kind, instance, body in records:
        log.wait(log.append(kind, instance, [body]))


def begun(folder: Path) -> list[int]:
    """Numbers of the segments that hold something."""
    numbers = [(number, folder / name) for name in os.listdir(folder) if (number := segment_number(name)) is not None]
    return sorted(number for number, path in numbers if any(path.read_bytes()[:512]))


def instances_by_segment(folder: Path) -> dict[int, list[int]]:
    parser, found = LogParser(CHAIN, REPLICA), {}
    for number in begun(folder):
        data = (folder / f"segment-{number:016x}.log").read_bytes()
        found[number] = [instance for _, instance, _ in parser.parse(data, number == begun(folder)[-1])]
    return found


def superfluous(segments: dict[int, list[int]], instance: int) -> int:
    """How many of the first segments have earlier instances only; the last one is being written."""
    count = 0
    for number in sorted(segments)[:-1]:
        if max(segments[number], default=-1) >= instance:
            break
        count += 1
    return count


@pytest.mark.parametrize("instance", [0, 1, 7, 20, 33, 34, 35, 60, 79, 80, 2**64 - 1])
def test_whole_segments_of_earlier_instances_go(instance: int) -> None:
    with quick_folder() as folder:
        log = open_log(folder)
        fill(log, RECORDS)
        before = instances_by_segment(folder)
        expected = superfluous(before, instance)
        assert log.forget(instance) == expected
        assert begun(folder) == sorted(before)[expected:]
        assert log.forget(instance) == 0
        log.close()
        kept = sum(len(before[number]) for number in sorted(before)[expected:])
        assert kept
        assert recover(folder) == RECORDS[-kept:]
        assert [record for record in RECORDS if record[1] >= instance] == RECORDS[instance:]
        assert len(RECORDS[instance:]) <= kept


def test_the_log_goes_on_and_forgets_again_after_each_restart() -> None:
    """What is superfluous is known of segments found at opening too, the one that was being written among them."""
    everything: list[RawRecord] = []
    with quick_folder() as folder:
        for life in range(5):
            log = open_log(folder)
            found = log.recovered()
            assert found == everything[len(everything) - len(found) :]
            assert not everything or begun(folder)[0] > 0
            records = make_records(25, first=25 * life)
            fill(log, records)
            everything += records
            expected = superfluous(instances_by_segment(folder), 25 * life + 20)
            assert expected > 2
            assert log.forget(25 * life + 20) == expected
            log.close()
        assert verify_log(folder).verdict == "complete"
        assert verify_log(folder).last_instance == 124


def test_instances_that_go_back_keep_their_segment() -> None:
    """The log does not rely on rising instances: what counts is the highest in a segment."""
    with quick_folder() as folder:
        log = open_log(folder)
        fill(log, [(1, 50, b""), *((1, 3, bytes(1000)) for _ in range(20))])
        assert log.forget(50) == 0
        assert log.forget(51) > 2
        log.close()


def test_in_memory_there_is_nothing_to_forget() -> None:
    with quick_folder() as folder:
        log = open_log(folder, mode=native.MEMORY)
        assert log.forget(2**64 - 1) == 0
        log.close()


def test_a_closed_log_forgets_nothing() -> None:
    with quick_folder() as folder:
        log = open_log(folder)
        fill(log, RECORDS)
        log.close()
        with pytest.raises(StorageError, match="closed"):
            log.forget(80)
        assert recover(folder) == RECORDS


def test_a_forked_child_removes_nothing() -> None:
    with quick_folder() as folder:
        log = open_log(folder)
        fill(log, RECORDS)
        child = os.fork()
        if child == 0:
            try:
                log.forget(80)
            except StorageError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        log.close()
        assert recover(folder) == RECORDS


def test_forgetting_while_another_thread_appends() -> None:
    with quick_folder() as folder:
        log = open_log(folder)
        written = threading.Event()

        def append() -> None:
            fill(log, make_records(300))
            written.set()

        thread = threading.Thread(target=append)
        thread.start()
        removed = 0
        while not written.is_set():
            removed += log.forget(200)
        thread.join()
        removed += log.forget(200)
        assert removed == begun(folder)[0] > 5
        log.close()
        assert recover(folder)[-100:] == make_records(300)[-100:]


# --- the sans-IO parser and gaps ---


def segments_of(count: int, size: int = 0) -> list[bytes]:
    segments, previous = [], b""
    for number in range(count):
        encoder = LogEncoder(CHAIN, REPLICA, number, previous, size=size)
        segments.append(encoder.segment_header() + encoder.encode(1, number, [b"body"]))
        previous = encoder.previous
    return segments


@pytest.mark.parametrize("first", range(4))
def test_reading_begins_with_any_segment(first: int) -> None:
    segments = segments_of(4)
    found = parse_segments(segments[first:], CHAIN, REPLICA)
    assert [instance for _, instance, _ in found.records] == list(range(first, 4))
    assert found.segment == 3
    assert found.previous == parse_segments(segments, CHAIN, REPLICA).previous


def test_a_gap_in_the_middle_is_still_corrupt() -> None:
    segments = segments_of(5)
    with pytest.raises(CorruptLog, match="segment 3 is missing") as error:
        parse_segments([segments[2], segments[4]], CHAIN, REPLICA)
    assert error.value.segment == "segment-0000000000000003.log"
    with quick_folder() as folder:
        log = open_log(folder)
        fill(log, RECORDS)
        log.forget(30)
        log.close()
        first, second, *_ = begun(folder)
        assert first > 0
        (folder / f"segment-{second:016x}.log").unlink()
        with pytest.raises(CorruptLog, match="missing"):
            open_log(folder)
        assert verify_log(folder).verdict == "corrupt"


def test_damage_in_a_log_that_begins_late_is_named() -> None:
    segments = segments_of(5)[2:]
    segments[1] = segments[1][:520] + b"?" + segments[1][521:]
    with pytest.raises(CorruptLog) as error:
        parse_segments(segments, CHAIN, REPLICA)
    assert error.value.segment == "segment-0000000000000003.log"


# --- what may fail ---


@dataclass
class Forgetting:
    """A run that forgets now and then: what was appended, acknowledged and superfluous when the journal had how many
    bytes, and what the calls of `forget` said.
    """

    appended: list[RawRecord] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    limits: list[tuple[int, int]] = field(default_factory=list)
    removed: int = 0
    errors: list[StorageError] = field(default_factory=list)

    def check(self, found: list[RawRecord], position: int | None = None) -> None:
        """The log lost nothing that was acknowledged and not superfluous, and what it has is one piece."""
        acknowledged = max((n for at, n in self.acknowledged if position is None or at <= position), default=0)
        limit = max((n for at, n in self.limits if position is None or at <= position), default=0)
        assert len(found) <= len(self.appended)
        start = self.appended.index(found[0]) if found else 0
        assert found == self.appended[start : start + len(found)], "wrong data, or a gap"
        assert start + len(found) >= acknowledged, "an acknowledged record is missing"
        assert all(instance < limit for _, instance, _ in self.appended[:start]), "a record went that was needed"


def forgetting_run(folder: Path, plan: FaultPlan = (), seed: int = 0) -> tuple[Forgetting, list[Entry]]:
    """Append in groups, forget now and then, close; every step waits for the one before, so that runs repeat."""
    random, result = Random(seed), Forgetting()
    data, journal = folder / "data", folder / "journal"
    log = open_log(data, [*plan, ("journal", 0, str(journal))])
    sequence = 0
    while sequence < len(RECORDS):
        for kind, instance, body in RECORDS[sequence : sequence + random.randint(1, 5)]:
            sequence = log.append(kind, instance, [body])
            result.appended.append((kind, instance, body))
        log.wait(sequence)
        result.acknowledged.append((journal.stat().st_size, sequence))
        if random.random() < 0.4:
            limit = max(0, sequence - random.randint(1, 30))
            result.limits.append((journal.stat().st_size, limit))
            try:
                result.removed += log.forget(limit)
            except StorageError as error:
                result.errors.append(error)
    log.close()
    return result, read_journal(journal)


def crash_everywhere(result: Forgetting, entries: list[Entry], seeds: int = 3) -> int:
    disk, images = SimulatedDisk(), 0
    for number, entry in enumerate(entries):
        disk.apply(entry)
        for image in disk.images(range(number * seeds, (number + 1) * seeds)):
            segments = [image[name] for name in sorted(image) if name.endswith(".log")]
            result.check(parse_segments(segments, CHAIN, REPLICA).records, entry.end)
            images += 1
    return images


def test_a_power_loss_at_any_moment_leaves_a_log() -> None:
    for seed in range(3):
        with quick_folder() as folder:
            result, entries = forgetting_run(folder, seed=seed)
            assert result.removed > 5
            assert sum(entry.call == b"X" for entry in entries) == result.removed
            result.check(recover(folder / "data"))
            assert crash_everywhere(result, entries) > 300


def test_a_segment_that_cannot_be_removed_waits_for_the_next_time() -> None:
    with quick_folder() as folder:
        clean, _ = forgetting_run(folder)
    for fault in ("EIO", "ENOSPC"):
        for k in range(1, clean.removed + 1):
            with quick_folder() as folder:
                result, entries = forgetting_run(folder, [("remove", k, fault)])
                assert [str(error)[:13] for error in result.errors] == ["cannot remove"]
                assert len(result.appended) == len(RECORDS), "the log went on"
                if k < clean.removed - 3:
                    # (How many go later depends on how records fell into groups, and so into segments.)
                    assert sum(entry.call == b"X" for entry in entries) > k, "it was tried again, and the next ones"
                result.check(recover(folder / "data"))
                crash_everywhere(result, entries, seeds=1)


def test_an_interrupted_removal_is_repeated() -> None:
    with quick_folder() as folder:
        result, _ = forgetting_run(folder, [("remove", 2, "EINTR")])
        assert result.errors == []
        assert result.removed > 5


def syncs_of_removals(entries: list[Entry]) -> list[int]:
    """Which of the syncs follow a removal."""
    kinds = [entry.call for entry in entries if entry.call in (b"S", b"D", b"X")]
    return [kinds[:at].count(b"S") + kinds[:at].count(b"D") + 1 for at, kind in enumerate(kinds) if kind == b"X"]


def single_forget(folder: Path, plan: FaultPlan = ()) -> tuple[Forgetting, list[Entry], list[StorageError]]:
    """Everything is appended and the spare is there; then the oldest segments go in one call, and in another."""
    journal = folder / "journal"
    log = open_log(folder / "data", [*plan, ("journal", 0, str(journal))])
    fill(log, RECORDS)
    spare = folder / "data" / f"segment-{int(log.stats()['segments']):016x}.log"
    while not spare.exists():
        log.completed()
    result = Forgetting(list(RECORDS), [(journal.stat().st_size, len(RECORDS))], [(journal.stat().st_size, 60)])
    errors = []
    for _ in range(2):
        try:
            result.removed += log.forget(60)
        except StorageError as error:
            errors.append(error)
    log.wait(log.append(1, 80, [b"the log goes on"]))
    result.appended.append((1, 80, b"the log goes on"))
    result.acknowledged.append((journal.stat().st_size, len(result.appended)))
    log.close()
    return result, read_journal(journal), errors


def test_after_a_folder_that_cannot_be_synced_nothing_more_is_removed() -> None:
    with quick_folder() as folder:
        _, entries, errors = single_forget(folder)
        assert errors == []
        assert len(syncs_of_removals(entries)) > 5
    for k in syncs_of_removals(entries)[:3]:
        with quick_folder() as folder:
            result, entries, errors = single_forget(folder, [("sync", k, "EIO")])
            assert len(errors) == 2
            assert all("until the log is opened again" in str(error) for error in errors)
            result.check(recover(folder / "data"))
            crash_everywhere(result, entries)
            log = open_log(folder / "data")
            assert log.forget(60) > 0
            log.close()


# --- planted bugs ---


def test_planted_missing_sync_between_removals_is_found() -> None:
    with quick_folder() as folder:
        _, entries, _ = single_forget(folder)
    lies = [("sync", k, "lie") for k in syncs_of_removals(entries)]
    with quick_folder() as folder:
        result, entries, errors = single_forget(folder, lies)
        assert errors == []
        with pytest.raises((AssertionError, CorruptLog)):
            crash_everywhere(result, entries, seeds=6)


def test_planted_removal_of_the_newest_first_is_found() -> None:
    with quick_folder() as folder:
        result, entries, _ = single_forget(folder)
    removals = [at for at, entry in enumerate(entries) if entry.call == b"X"]
    backwards = list(entries)
    for at, other in zip(removals, reversed(removals), strict=True):
        backwards[at] = Entry(b"X", 0, 0, entries[other].data, entries[at].end)
    with pytest.raises((AssertionError, CorruptLog)):
        crash_everywhere(result, backwards)


def test_planted_limit_that_is_off_by_one_is_found() -> None:
    """Instances up to the limit, not below it: the last record that is needed goes."""
    found = 0
    for limit in range(10, 70):
        with quick_folder() as folder:
            log = open_log(folder)
            fill(log, RECORDS)
            log.forget(limit + 1)
            log.close()
            result = Forgetting(list(RECORDS), [(0, len(RECORDS))], [(0, limit)])
            try:
                result.check(recover(folder))
            except AssertionError:
                found += 1
    assert found >= 5
