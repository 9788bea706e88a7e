"""Evidence files: whole or not at all, each once, so many against one member."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartbft.errors import StorageError
from smartbft.limits import MAX_EVIDENCE_FILES_PER_MEMBER
from smartbft.storage.evidence import EvidenceFolder


def test_a_file_is_written_once(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "evidence")
    assert folder.files() == []
    path = folder.put(2, "2-ab", b"content")
    assert path is not None
    assert path.read_bytes() == b"content"
    assert folder.files() == [path]
    assert folder.put(2, "2-ab", b"content") is None


def test_there_is_enough_against_one_member_but_room_for_the_others(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "evidence")
    for number in range(2 * MAX_EVIDENCE_FILES_PER_MEMBER):
        folder.put(1, f"1-{number}", b"content")
    assert len(folder.files()) == MAX_EVIDENCE_FILES_PER_MEMBER
    assert folder.put(11, "11-0", b"content") is not None


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_fails_half_way_leaves_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = EvidenceFolder(tmp_path / "evidence")
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, broken)
        with pytest.raises(StorageError, match="No space left"):
            folder.put(2, "2-ab", b"content")
    assert folder.files() == []
    assert folder.put(2, "2-ab", b"content") is not None


def test_a_file_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_bytes(b"")
    folder = EvidenceFolder(tmp_path / "evidence")
    with pytest.raises(StorageError, match=str(tmp_path)):
        folder.files()
    with pytest.raises(StorageError, match=str(tmp_path)):
        folder.put(2, "2-ab", b"content")
