"""A running replica keeps evidence against a member that contradicts itself, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from kit.hostile import peer_of
from kit.requests import CHAIN
from kit.statements import V, W, accept

from smartbft import LocalCluster
from smartbft.apps.counter import Counter, add, decode_value
from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import Offence, decode_evidence, verify
from smartbft.crypto.domains import Domains
from smartbft.messages import Accept
from smartbft.runtime.evidence import EvidenceDesk

Run = Callable[[Callable[[], Awaitable[None]]], None]
REPORT = ReportEvidence(1, accept(1), accept(1, digest=W))


def test_evidence_is_kept_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = EvidenceDesk(tmp_path / "evidence", CHAIN)
    assert len(desk) == 0
    for _ in range(2):
        desk.report(REPORT)
    assert len(desk) == len(EvidenceDesk(tmp_path / "evidence", CHAIN)) == 1
    assert len(caplog.records) == 1
    assert "replica 1 has signed two ACCEPTs" in caplog.text


def test_a_disk_that_does_not_take_it_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = EvidenceDesk(tmp_path / "evidence", CHAIN)
    (tmp_path / "evidence").write_bytes(b"")
    desk.report(REPORT)
    assert len(desk) == 0
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "cannot be" in caplog.text


def test_a_lying_peer_is_caught_in_the_act(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, Counter, "memory", transport="plain", folder=tmp_path) as cluster:
            await cluster.stop(0)
            domains = Domains(cluster.genesis.chain_id)
            signer = cluster._secrets[0].consensus
            async with peer_of(cluster, 3, own=0) as liar:
                for digest in (V, W):
                    payload = domains.accept_payload(0, 0, 1, digest)
                    await liar.say(Accept(0, 0, 1, digest, signer.sign(payload)))
                while not (await cluster.replicas[3].status())["evidence"]:
                    await asyncio.sleep(0.005)
            (file,) = (tmp_path / "replica-3" / "evidence").iterdir()
            verdict = verify(decode_evidence(file.read_bytes()), cluster.genesis.view, domains)
            assert verdict.offence is Offence.TWO_ACCEPTS
            async with cluster.client() as client:
                assert decode_value(await client.invoke(add())) == 1

    run(scenario)
