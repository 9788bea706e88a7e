from __future__ import annotations

import errno
import os
import time

import pytest
from nacl.signing import SigningKey

from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.apps import coin
from smartbft.apps.coin_ledger import FILE_NAME, CoinLedgerApplication, LedgerBlock, read_ledger
from smartbft.errors import CorruptLog, DurabilityLost
from smartbft.smr.application import ExecutionContext

CHAIN = bytes(32)
ALICE = bytes(SigningKey(bytes(32)).verify_key)


def batch(sequence: int) -> bytes:
    return join_requests([encode_request(ALICE, 1, sequence, coin.mint([sequence]), bytes(64))])


def context(instance: int) -> ExecutionContext:
    return ExecutionContext(instance, 1000 + instance, bytes(32))


def make(tmp_path, **options) -> CoinLedgerApplication:
    return CoinLedgerApplication(CHAIN, [ALICE], folder=tmp_path, **{"synchronous": True, **options})


def test_each_batch_is_a_block_on_disk_before_the_answer(tmp_path) -> None:
    application = make(tmp_path)
    expected = []
    for instance in (1, 2, 3):
        results = application.execute_batch(batch(instance), context(instance))
        expected.append(LedgerBlock(instance, 1000 + instance, batch(instance), results))
        assert list(read_ledger(tmp_path / FILE_NAME)) == expected
    assert application.state.supply() == 6


def test_a_ledger_is_begun_anew(tmp_path) -> None:
    make(tmp_path).execute_batch(batch(1), context(1))
    make(tmp_path)
    assert list(read_ledger(tmp_path / FILE_NAME)) == []


@pytest.mark.parametrize("synchronous", [True, False])
def test_one_write_and_one_sync_per_batch(tmp_path, monkeypatch, synchronous: bool) -> None:
    calls: list[str] = []
    for name in ("writev", "fdatasync"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, name=name, original=original: calls.append(name) or original(*given)
        )
    monkeypatch.setattr(time, "sleep", lambda seconds: calls.append(f"sleep {seconds}"))
    application = make(tmp_path, synchronous=synchronous, sync_floor_seconds=0.004)
    application.execute_batch(batch(1), context(1))
    assert calls == (["writev", "fdatasync", "sleep 0.004"] if synchronous else ["writev"])


@pytest.mark.parametrize("call", ["writev", "fdatasync"])
def test_a_failing_disk_ends_it(tmp_path, monkeypatch, call: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "input/output error")

    application = make(tmp_path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DurabilityLost, match="input/output error"):
        application.execute_batch(batch(1), context(1))


def test_a_short_write_ends_it(tmp_path, monkeypatch) -> None:
    application = make(tmp_path)
    monkeypatch.setattr(os, "writev", lambda *_: 7)
    with pytest.raises(DurabilityLost, match="only a part"):
        application.execute_batch(batch(1), context(1))


def test_a_ledger_that_breaks_off_is_reported_with_its_place(tmp_path) -> None:
    application = make(tmp_path)
    application.execute_batch(batch(1), context(1))
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    application.execute_batch(batch(2), context(2))
    longer = path.read_bytes()
    for cut in (len(whole) + 1, len(longer) - 1):
        path.write_bytes(longer[:cut])
        blocks = read_ledger(path)
        assert next(blocks).instance == 1
        with pytest.raises(CorruptLog) as error:
            next(blocks)
        assert error.value.offset == len(whole)


def test_closing_twice_is_harmless(tmp_path, monkeypatch) -> None:
    """The second time nothing is closed: the descriptor's number may be another file's by then."""
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda descriptor: closed.append(descriptor) or close(descriptor))
    application = make(tmp_path)
    application.execute_batch(batch(1), context(1))
    closed.clear()
    application.close()
    application.close()
    assert len(closed) == 1
    assert len(list(read_ledger(tmp_path / FILE_NAME))) == 1
