"""When a replica may vote after a start: only if no vote that left can be missing in its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbft.storage import Lives, mark_never_started
from smartbft.storage import lives as module
from smartbft.storage.recovery import segment_name


class Home:
    """The folders of a replica."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("data", "run"):
            (root / name).mkdir()

    def life(self, mode: str = "sync", record_votes: bool = True) -> bool:
        """A start: is the record intact? It leaves a log, unless there is none in that mode."""
        lives = Lives(self.root, self.root / "data", self.root / "run")
        intact = lives.intact(mode, record_votes)
        if mode != "memory":
            (self.root / "data" / segment_name(0)).write_bytes(b"a segment that has been begun")
        lives.begin(mode, record_votes)
        if not intact:
            lives.lose()
        return intact

    def wipe(self) -> None:
        for path in (self.root / "data").iterdir():
            path.unlink()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("first boot\n")
    monkeypatch.setattr(module, "_BOOT_ID", path)
    return path


@pytest.mark.parametrize("mode", ["memory", "async", "sync"])
def test_the_first_start_of_a_marked_home(home: Home, mode: str) -> None:
    mark_never_started(home.root)
    assert home.life(mode)
    assert not (home.root / module.NEVER_STARTED).exists()


@pytest.mark.parametrize("mode", ["memory", "async", "sync"])
def test_a_home_without_marker_and_log_may_have_voted(home: Home, mode: str) -> None:
    assert not home.life(mode)


def test_a_synced_log_has_every_vote(home: Home) -> None:
    mark_never_started(home.root)
    home.life()
    assert home.life()


def test_a_wiped_log_has_none(home: Home) -> None:
    mark_never_started(home.root)
    home.life()
    home.wipe()
    assert not home.life()


def test_a_log_that_reads_as_zeros_has_none(home: Home) -> None:
    mark_never_started(home.root)
    home.life()
    (home.root / "data" / segment_name(0)).write_bytes(bytes(4096))
    assert not home.life()


def test_a_log_written_after_the_loss_does_not_bring_the_votes_back(home: Home) -> None:
    mark_never_started(home.root)
    home.life()
    home.wipe()
    home.life()
    assert not home.life()
    mark_never_started(home.root)
    assert not home.life()


def test_a_loss_that_others_noticed_lasts(home: Home) -> None:
    mark_never_started(home.root)
    home.life()
    Lives(home.root, home.root / "data", home.root / "run").lose()
    assert not home.life()


def test_memory_forgets_with_the_process(home: Home) -> None:
    mark_never_started(home.root)
    home.life("memory")
    assert not home.life("memory")


def test_without_vote_records_a_restart_has_none(home: Home) -> None:
    mark_never_started(home.root)
    home.life(record_votes=False)
    assert not home.life(record_votes=False)


def test_the_operating_system_keeps_an_asynchronous_log_until_it_restarts(home: Home, boot: Path) -> None:
    mark_never_started(home.root)
    home.life("async")
    assert home.life("async")
    boot.write_text("second boot\n")
    assert not home.life("async")


def test_where_boots_have_no_name_an_asynchronous_log_is_not_trusted(home: Home, boot: Path) -> None:
    boot.unlink()
    mark_never_started(home.root)
    home.life("async")
    assert not home.life("async")


# --- what counts is how it ran before, not how it is started now ---


@pytest.mark.parametrize("before", [("memory", True), ("async", True), ("async", False), ("sync", False)])
def test_a_synced_life_does_not_find_the_votes_of_one_that_was_not(
    home: Home, boot: Path, before: tuple[str, bool]
) -> None:
    """An operator who sets `persistence = "sync"` after a power loss must not make a replica vote twice."""
    mark_never_started(home.root)
    assert home.life(*before)
    boot.write_text("second boot\n")
    assert not home.life("sync")
    assert not home.life("sync"), "lost votes stay lost"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_asynchronous_log_is_whole_until_the_system_is_restarted(home: Home, boot: Path, mode: str) -> None:
    mark_never_started(home.root)
    home.life("async")
    assert home.life(mode)


def test_votes_are_safe_again_once_a_synced_life_has_begun(home: Home, boot: Path) -> None:
    mark_never_started(home.root)
    home.life("async")
    assert home.life("sync")
    boot.write_text("second boot\n")
    assert home.life("sync")


def test_a_marker_that_does_not_say_how_the_last_life_ran_is_one(home: Home, boot: Path) -> None:
    assert home.life() is False
    home.root.joinpath(module.VOTES_LOST).unlink()
    assert home.life() is True
    home.root.joinpath(module.VOTES_AT_RISK).touch()
    assert home.life() is False


def test_planted_bug_the_mode_of_now_counts(home: Home, boot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lives, "_note_risk", lambda _self, _risk: None)
    mark_never_started(home.root)
    home.life("async")
    boot.write_text("second boot\n")
    assert home.life("sync")
