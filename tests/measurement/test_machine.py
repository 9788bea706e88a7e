"""CPU times, the verification sample, processes and the janitor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import InvariantViolation
from smartbft.measurement import cpu
from smartbft.measurement.machine import description, verification_limit, verification_rate, verification_sample
from smartbft.measurement.processes import workspace


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_busiest_thread_outside_the_pools_is_found() -> None:
    before = cpu.threads(os.getpid())
    worker = threading.Thread(target=burn, args=(0.05,))
    worker.start()
    burn(0.25)
    after_both = cpu.threads(os.getpid())
    worker.join()
    used = cpu.use(before, after_both)
    assert used.busiest_name == "loop"
    assert 0.2 <= used.busiest <= used.total


def test_pools_are_counted_apart() -> None:
    before = {1: cpu.ThreadTime("loop", 1.0), 2: cpu.ThreadTime("smartbft-verify", 0.0)}
    after = {
        1: cpu.ThreadTime("loop", 1.5),
        2: cpu.ThreadTime("smartbft-verify", 3.0),
        3: cpu.ThreadTime("smartbft-log", 0.25),
        4: cpu.ThreadTime("execute", 0.125),
    }
    assert cpu.use(before, after) == cpu.CpuUse(3.875, 3.0, 0.25, 0.5, "loop")


def test_a_process_that_is_gone_has_no_threads() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu.threads(process.pid) == {}
    assert cpu.resident_bytes(process.pid) == 0
    assert cpu.resident_bytes(os.getpid()) > 1_000_000


def test_the_verification_rate_counts_valid_signatures_only() -> None:
    sample = verification_sample([Ed25519Signer(bytes([number]) * 32) for number in range(16)], 310)
    assert verification_rate(sample, 0.0) > 0
    assert verification_limit(sample) > 0
    forged = type(sample)(sample.keys, bytes(64) + sample.signatures[64:], sample.messages, sample.offsets, 16)
    with pytest.raises(InvariantViolation):
        verification_rate(forged, 0.0)


def test_a_description_names_cpu_and_versions() -> None:
    assert {"cpu", "cores", "python", "smartbft", "native", "load_average"} <= description().keys()


def test_a_workspace_disappears_with_its_block() -> None:
    with workspace() as work:
        (work.folder / "file").write_text("x")
    assert not work.folder.exists()


def test_a_workspace_is_kept_on_request() -> None:
    with workspace(keep=True) as work:
        (work.folder / "file").write_text("x")
    assert (work.folder / "file").exists()
    (work.folder / "file").unlink()
    work.folder.rmdir()


def test_the_janitor_waits_for_the_last_holder_of_the_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "doomed"
    folder.mkdir()
    reader, writer = os.pipe()
    janitor = subprocess.Popen([sys.executable, "-m", "smartbft.measurement.janitor", str(folder), "0"], stdin=reader)
    os.close(reader)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(writer,))
    os.close(writer)
    assert folder.exists()
    assert janitor.poll() is None
    holder.communicate(b"\n")
    janitor.wait(300)
    assert not folder.exists()
