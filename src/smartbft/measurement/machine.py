"""What this machine can do at best, and what it is: every figure is printed beside it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from smartbft._fastpath.native import versions
from smartbft._fastpath.verify import verify_packed
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import invariant


@dataclass(frozen=True)
class VerificationSample:
    """Signatures to measure the machine's verification rate with: one by each key, over messages of one length."""

    keys: bytes
    signatures: bytes
    messages: bytes
    offsets: bytes
    count: int


def verification_sample(signers: Sequence[Ed25519Signer], message_bytes: int) -> VerificationSample:
    """Sign a different message with each key."""
    messages = [number.to_bytes(4, "little") + bytes(message_bytes - 4) for number in range(len(signers))]
    offsets = b"".join((number * message_bytes).to_bytes(8, "little") for number in range(len(signers) + 1))
    return VerificationSample(
        b"".join(signer.public_key for signer in signers),
        b"".join(signer.sign(message) for signer, message in zip(signers, messages, strict=True)),
        b"".join(messages),
        offsets,
        len(signers),
    )


def verification_rate(sample: VerificationSample, seconds: float) -> float:
    """Signatures per second that batch verification reaches on all cores."""
    offsets = memoryview(sample.offsets).cast("Q")
    checked = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not checked:
        mask = verify_packed(sample.keys, sample.signatures, sample.messages, offsets)
        invariant(mask == b"\x01" * sample.count, "a valid signature was refused")
        checked += sample.count
    return checked / elapsed


def verification_limit(sample: VerificationSample) -> float:
    """Signatures per second that all cores could check if nothing else ran: from CPU time, whoever else is busy."""
    offsets = memoryview(sample.offsets).cast("Q")
    verify_packed(sample.keys, sample.signatures, sample.messages, offsets)
    started = time.process_time()
    verify_packed(sample.keys, sample.signatures, sample.messages, offsets)
    return (os.cpu_count() or 1) * sample.count / max(time.process_time() - started, 1e-6)


def description() -> dict[str, str]:
    """The machine and the versions, as each result names them."""
    native = " ".join(f"{area}={number}" for area, number in sorted(versions().items()))
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "smartbft": metadata.version("smartbft"),
        "native": native,
        "load_average": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
