"""Verification jobs, here and on the verifier's threads, with real signatures."""

from __future__ import annotations

import dataclasses
import select

import pytest
from kit.pool_scenarios import WIDE
from kit.requests import CHAIN, NOW, TestClient
from nacl.signing import VerifyKey

from smartbft._fastpath.pool import RequestPool, Verifier, join_requests
from smartbft.errors import LocalProtocolError


def real_pool():
    fields = dataclasses.asdict(WIDE) | {"chain_id": CHAIN, "lease": 3600 * 10**6, "skew": 60 * 10**6}
    return RequestPool(fields.pop("chain_id"), **fields)


def real_requests(count, *, bad=()):
    clients = [TestClient(number) for number in range(1, 8)]
    return [clients[number % 7].request(b"op %d" % number, good=number not in bad) for number in range(count)]


def test_a_job_verifies_on_this_thread():
    pool = real_pool()
    pool.admit(join_requests(real_requests(20, bad={3, 11})), 1, NOW)
    job = pool.take_unverified(100)
    assert job.count == 20
    mask = job.run()
    assert [number for number, verdict in enumerate(mask) if verdict == 0] == [3, 11]
    key, signature, message = job.items()[0]
    VerifyKey(key).verify(message, signature)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_verifier_gives_the_verdicts_of_run(threads):
    pool = real_pool()
    for part in range(6):
        pool.admit(join_requests(real_requests(56, bad={part, 30})), part + 1, NOW)
    verifier = Verifier(threads, nice=0)
    jobs = []
    while (job := pool.take_unverified(150)) is not None:
        verifier.submit(job)
        jobs.append(job)
    total = sum(job.count for job in jobs)
    assert verifier.in_flight() == total
    done = []
    while len(done) < len(jobs):
        select.select([verifier.fileno()], [], [], 30)
        done += verifier.drain()
    assert verifier.in_flight() == 0
    assert {id(job) for job in done} == {id(job) for job in jobs}
    for job in done:
        mask = job.mask
        assert mask == job.run()
        pool.apply_verdicts(job, mask)
    assert pool.stats()["signature_checks"] == total
    verifier.close()
    verifier.close()
    with pytest.raises(LocalProtocolError):
        verifier.submit(done[0])


@pytest.mark.parametrize(("threads", "nice"), [(0, 10), (-1, 10), (1, 20), (1, -1)])
def test_impossible_verifiers(threads, nice):
    with pytest.raises(ValueError, match="thread"):
        Verifier(threads, nice)
