"""``smartbft genesis``: what a file says, whether its copies are of one chain, and comments that are out of date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smartbft.config import Genesis
from smartbft.testnet import create_testnet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_testnet(tmp_path / "net", 4, transport="plain").folder


def edit(path: Path) -> str:
    """Another address, as for another host; returns the chain id that the file has now."""
    path.write_text(path.read_text().replace("127.0.0.1", "127.0.0.2", 1))
    return Genesis.load(path).chain_id.hex()


@pytest.mark.parametrize("path", [".", "genesis.toml", "client.toml", "replica-2"])
def test_a_genesis_is_shown_wherever_it_is_named(cli, folder: Path, path: str) -> None:
    loaded = Genesis.load(folder / "genesis.toml")
    found = cli("genesis", "show", folder / path, "--json").json()
    assert found["chain_id"] == found["comment"] == loaded.chain_id.hex()
    assert (found["n"], found["f"], found["quorum"]) == (4, 1, 3)
    assert found["parameters"]["request_timeout"] == loaded.parameters.request_timeout
    assert [member["client_address"] for member in found["members"]] == [str(m.client_address) for m in loaded.members]
    shown = cli("genesis", "show", folder / path)
    for word in (loaded.chain_id.hex(), "4, of which 1 may be faulty", "parameters.request_timeout", "minters", "2s"):
        assert word in shown.out
    assert shown.err == ""


def test_copies_of_one_chain_are_fine(cli, folder: Path) -> None:
    outcome = cli("genesis", "check", folder)
    assert (outcome.code, outcome.err) == (0, "5 files of one chain\n")
    assert len(cli("genesis", "check", folder, folder / "client.toml", folder / "replica-1", "--json").json()) == 5


def test_a_copy_that_was_edited_alone_is_found(cli, folder: Path) -> None:
    edited = edit(folder / "replica-3" / "genesis.toml")
    outcome = cli("genesis", "check", folder)
    assert outcome.code == 3
    assert "of 2 chains" in outcome.err
    assert edited in outcome.out


def test_a_comment_that_names_another_chain_is_told_and_put_right(cli, folder: Path) -> None:
    path = folder / "genesis.toml"
    before = Genesis.load(path).chain_id.hex()
    edited = edit(path)
    text = path.read_text()
    shown = cli("genesis", "show", path)
    assert shown.code == 0
    assert edited in shown.out
    assert f"a comment says chain id {before[:16]}" in shown.err
    outcome = cli("genesis", "check", path)
    assert outcome.code == 3
    assert f"a comment says chain id {before[:16]}..., but the file is of chain {edited[:16]}..." in outcome.err
    path.chmod(0o640)
    assert cli("genesis", "check", path, "--write-comment").code == 0
    assert path.read_text() == text.replace(before, edited)
    assert path.stat().st_mode & 0o777 == 0o640
    assert cli("genesis", "check", path).code == 0


@pytest.mark.parametrize("comment", ["", "# chain id: unknown\n", "# a chain id is the hash of this file\n"])
def test_a_file_without_that_comment_is_fine(cli, folder: Path, comment: str) -> None:
    path = folder / "genesis.toml"
    path.write_text(re.sub("# chain id: .*\n", comment, path.read_text()))
    assert cli("genesis", "check", path).code == 0
    assert cli("genesis", "show", path, "--json").json()["comment"] == ""


def test_a_wrong_file_is_named(cli, folder: Path, tmp_path: Path) -> None:
    (folder / "replica-1" / "genesis.toml").write_text("chain_name = 5")
    outcome = cli("genesis", "check", folder)
    assert outcome.code == 3
    assert "replica-1/genesis.toml" in outcome.err
    (tmp_path / "empty").mkdir()
    assert f"there is no genesis in {tmp_path}/empty" in cli("genesis", "check", tmp_path / "empty").err
    assert f"no file or folder {tmp_path}/none" in cli("genesis", "show", tmp_path / "none").err
    (tmp_path / "lost.toml").write_text('genesis = "nowhere.toml"')
    lost = cli("genesis", "show", tmp_path / "lost.toml")
    assert lost.code == 3
    assert "nowhere.toml" in lost.err
