"""Signature checks against the published vectors and a plain-Python ZIP-215: one verdict, however it is asked for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from oracles import zip215

from smartbft._fastpath import verify as native

VECTORS = Path(__file__).parent.parent / "vectors"
SIZES = (1, 2, 3, 7, 8, 64, 257)
THREADS = (1, 2, 4)
# R is the identity with the sign bit set: RFC 8032 refuses the encoding, ZIP-215 accepts it.
VALID_UNDER_ZIP215 = 151


@dataclass(frozen=True)
class Case:
    name: str
    public_key: bytes
    signature: bytes
    message: bytes
    valid: bool


Single = Callable[[bytes, bytes, bytes], bool]
Many = Callable[[Sequence[bytes], Sequence[bytes], Sequence[bytes]], bytes]


def rfc8032() -> Iterator[Case]:
    for vector in json.loads((VECTORS / "rfc8032_section7_1.json").read_text()):
        fields = (bytes.fromhex(vector[field]) for field in ("public_key", "signature", "message"))
        yield Case(vector["name"], *fields, valid=True)


def wycheproof() -> Iterator[Case]:
    for group in json.loads((VECTORS / "wycheproof_ed25519_test.json").read_text())["testGroups"]:
        for test in group["tests"]:
            valid = test["result"] == "valid" or test["tcId"] == VALID_UNDER_ZIP215
            fields = (bytes.fromhex(text) for text in (group["publicKey"]["pk"], test["sig"], test["msg"]))
            yield Case(f"wycheproof {test['tcId']}", *fields, valid=valid)


def small_order() -> Iterator[Case]:
    pairs = json.loads((VECTORS / "zip215_small_order_196.json").read_text())
    for number, (key, signature) in enumerate(pairs):
        yield Case(f"small order {number}", bytes.fromhex(key), bytes.fromhex(signature), b"Zcash", valid=True)


@cache
def published() -> tuple[Case, ...]:
    return (*rfc8032(), *wycheproof(), *small_order())


@cache
def good(count: int) -> tuple[Case, ...]:
    """Valid signatures by different keys over messages of different lengths."""
    cases = []
    for number in range(count):
        key, message = SigningKey(number.to_bytes(32, "big")), bytes([number % 256]) * (number % 400)
        cases.append(Case(f"good {number}", bytes(key.verify_key), key.sign(message).signature, message, valid=True))
    return tuple(cases)


def spoiled(case: Case, random_source: random.Random) -> Case:
    """The case with one bit of its signature or message turned over."""
    bit = random_source.randrange(8 * (64 + len(case.message)))
    whole = bytearray(case.signature + case.message)
    whole[bit // 8] ^= 1 << bit % 8
    name = f"{case.name}, bit {bit}"
    return replace(case, name=name, signature=bytes(whole[:64]), message=bytes(whole[64:]), valid=False)


def wrong_single(verify: Single, cases: Sequence[Case]) -> list[str]:
    """The cases on which a single check errs."""
    return [case.name for case in cases if verify(case.public_key, case.signature, case.message) != case.valid]


def wrong_in_batches(verify_many: Many, cases: Sequence[Case], size: int) -> list[str]:
    """The cases on which a batch check errs, shown them in batches of `size`."""
    wrong = []
    for start in range(0, len(cases), size):
        batch = cases[start : start + size]
        mask = verify_many(*zip(*((case.public_key, case.signature, case.message) for case in batch), strict=True))
        assert len(mask) == len(batch)
        wrong += [case.name for case, verdict in zip(batch, mask, strict=True) if verdict != case.valid]
    return wrong


def with_threads(threads: int) -> Many:
    return lambda keys, signatures, messages: native.verify_many(keys, signatures, messages, threads=threads)


def packed(threads: int) -> Many:
    """`verify_packed` in the shape of `verify_many`, for signatures and keys of the right lengths."""

    def verify_many(keys: Sequence[bytes], signatures: Sequence[bytes], messages: Sequence[bytes]) -> bytes:
        offsets = numpy.array([0, *accumulate(map(len, messages))], dtype=numpy.uint64)
        joined = (b"".join(keys), b"".join(signatures), b"".join(messages))
        return native.verify_packed(*joined, offsets, threads=threads)

    return verify_many


def parsed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        key = native.ParsedKey(public_key)
    except ValueError:
        return False
    return key.verify(signature, message)


# --- the published vectors ---


def test_the_sets_are_complete() -> None:
    assert [len(list(cases())) for cases in (rfc8032, wycheproof, small_order)] == [3, 151, 196]
    assert sum(case.valid for case in wycheproof()) == 89


def test_the_oracle_agrees_with_the_published_vectors() -> None:
    assert wrong_single(zip215.verify, published()) == []


@pytest.mark.parametrize("verify", [native.verify, parsed], ids=["verify", "parsed key"])
def test_single_checks_agree_with_the_published_vectors(verify: Single) -> None:
    assert wrong_single(verify, published()) == []


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
def test_batches_agree_with_the_published_vectors(size: int, threads: int) -> None:
    for seed in range(3):
        cases = [*published(), *good(150)] if seed else list(published())
        random.Random(seed).shuffle(cases)
        assert wrong_in_batches(with_threads(threads), cases, size) == []
        of_right_length = [case for case in cases if len(case.signature) == 64]
        assert wrong_in_batches(packed(threads), of_right_length, size) == []


@pytest.mark.parametrize("threads", THREADS)
def test_one_batch_of_everything(threads: int) -> None:
    cases = [*published(), *good(1000), *published()]
    random.Random(threads).shuffle(cases)
    assert wrong_in_batches(with_threads(threads), cases, len(cases)) == []


# --- planted bugs: the checks above must see them ---


def test_a_verifier_that_takes_any_s_is_found_out() -> None:
    def lax(public_key: bytes, signature: bytes, message: bytes) -> bool:
        return zip215.verify(public_key, signature, message, canonical_s=False)

    assert wrong_single(lax, list(wycheproof()))


def test_a_verifier_with_the_rules_of_openssl_is_found_out() -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def openssl(public_key: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    assert len(wrong_single(openssl, list(small_order()))) > 100


def test_a_batch_that_forgets_its_last_item_is_found_out() -> None:
    def forgetful(keys: Sequence[bytes], signatures: Sequence[bytes], messages: Sequence[bytes]) -> bytes:
        return native.verify_many(keys[:-1], signatures[:-1], messages[:-1]) + b"\1"

    assert wrong_in_batches(forgetful, published(), 7)


def test_a_batch_with_one_verdict_for_all_is_found_out() -> None:
    def blunt(keys: Sequence[bytes], signatures: Sequence[bytes], messages: Sequence[bytes]) -> bytes:
        mask = native.verify_many(keys, signatures, messages)
        return bytes(len(mask)) if 0 in mask else mask

    assert wrong_in_batches(blunt, published(), 8)


# --- culprits ---


@pytest.mark.parametrize("size", [size for size in SIZES if size > 1])
def test_one_bad_signature_is_found_wherever_it_is(size: int) -> None:
    random_source = random.Random(size)
    positions = range(size) if size <= 64 else [0, 1, 127, 128, 254, 255, 256]
    for position in positions:
        cases = list(good(size))
        cases[position] = spoiled(cases[position], random_source)
        assert wrong_in_batches(with_threads(2), cases, size) == []


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_any_share_of_bad_signatures(share: float) -> None:
    random_source = random.Random(share)
    for _ in range(5):
        cases = [spoiled(case, random_source) if random_source.random() < share else case for case in good(300)]
        assert wrong_in_batches(with_threads(2), cases, 300) == []


def test_a_key_that_signed_much_stands_for_each_of_its_signatures() -> None:
    # Signatures by one key share a term of the batch equation.
    key = SigningKey(bytes(32))
    cases = []
    for number in range(200):
        message = number.to_bytes(4, "big")
        cases.append(Case(f"{number}", bytes(key.verify_key), key.sign(message).signature, message, valid=True))
    assert wrong_in_batches(with_threads(1), cases, 200) == []
    # Each message and its neighbour's signature: the sums of R and s are those of a valid batch.
    swapped = [replace(case, signature=cases[i ^ 1].signature, valid=False) for i, case in enumerate(cases)]
    assert wrong_in_batches(with_threads(1), swapped, 200) == []


def test_errors_that_cancel_out_are_found() -> None:
    # s + 1 in one signature and s - 1 in the other: without random coefficients the batch equation would hold.
    for number in range(0, 20, 2):
        pair = list(good(22)[number : number + 2])
        for index, step in enumerate((1, -1)):
            s = int.from_bytes(pair[index].signature[32:], "little") + step
            signature = pair[index].signature[:32] + (s % zip215.ORDER).to_bytes(32, "little")
            pair[index] = replace(pair[index], signature=signature, valid=False)
        assert wrong_in_batches(with_threads(1), [*pair, *good(60)[30:]], 32) == []


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_verdicts_agree_with_the_oracle_on_random_changes(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from((*published(), *good(20))))
    whole = bytearray(case.public_key + case.signature + case.message)
    for _ in range(data.draw(st.integers(0, 2))):
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
    end = 32 + len(case.signature)
    key, signature, message = bytes(whole[:32]), bytes(whole[32:end]), bytes(whole[end:])
    verdict = zip215.verify(key, signature, message)
    assert native.verify(key, signature, message) is verdict
    assert parsed(key, signature, message) is verdict
    position, others = data.draw(st.integers(0, 9)), good(9)
    cases = [*others[:position], Case("changed", key, signature, message, verdict), *others[position:]]
    assert wrong_in_batches(with_threads(2), cases, 10) == []


# --- keys ---


def test_small_order_keys() -> None:
    small = {case.public_key for case in small_order()}
    assert len(small) == 14
    assert all(native.is_small_order(key) and zip215.is_small_order(key) for key in small)
    assert not any(native.is_small_order(case.public_key) for case in good(50))
    no_point = next(key for key in (bytes([i]) + bytes(31) for i in range(256)) if zip215.decode(key) is None)
    assert native.is_small_order(no_point)
    assert native.is_small_order(b"")


def test_a_parsed_key_keeps_its_bytes_and_refuses_what_is_no_point() -> None:
    case = good(1)[0]
    assert native.ParsedKey(case.public_key).public_key == case.public_key
    assert case.public_key.hex() in repr(native.ParsedKey(case.public_key))
    with pytest.raises(ValueError, match="32 bytes, got 31"):
        native.ParsedKey(bytes(31))
    with pytest.raises(ValueError, match="not the encoding of a point"):
        native.ParsedKey(bytes([2]) + bytes(31))


# --- arguments ---


def test_no_signatures_have_no_verdicts() -> None:
    assert native.verify_many([], [], []) == b""
    assert native.verify_packed(b"", b"", b"", array("Q", [0])) == b""


def test_wrong_lengths_are_not_valid() -> None:
    case = good(2)[1]
    short_key, long_signature = case.public_key[:31], case.signature + b"\0"
    for key, signature in [(short_key, case.signature), (case.public_key, long_signature), (b"", b"")]:
        assert not native.verify(key, signature, case.message)
        mask = native.verify_many([case.public_key, key], [case.signature, signature], [case.message] * 2)
        assert mask == b"\1\0"
    assert not native.ParsedKey(case.public_key).verify(case.signature[1:], case.message)


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: numpy.frombuffer(data, dtype=numpy.uint8)])
def test_single_checks_take_any_buffer(kind: Callable[[bytes], bytes]) -> None:
    case = good(2)[1]
    assert native.verify(kind(case.public_key), kind(case.signature), kind(case.message))
    assert native.ParsedKey(case.public_key).verify(kind(case.signature), kind(case.message))


def test_lists_of_different_lengths_are_refused() -> None:
    case = good(1)[0]
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        native.verify_many([case.public_key], [case.signature] * 2, [case.message])
    with pytest.raises(TypeError):
        native.verify_many([case.public_key], ["text"], [case.message])  # type: ignore[list-item]


def test_packed_arguments_that_do_not_fit_are_refused() -> None:
    case = good(3)[2]
    key, signature, message = case.public_key, case.signature, case.message
    assert native.verify_packed(key, signature, message, array("Q", [0, len(message)])) == b"\1"
    with pytest.raises(ValueError, match="64 of signature"):
        native.verify_packed(key, signature[1:], message, array("Q", [0, 2]))
    with pytest.raises(ValueError, match="native 64-bit integers"):
        native.verify_packed(key, signature, message, array("I", [0, 2]))
    with pytest.raises(ValueError, match="1 messages have 2 offsets, got 1"):
        native.verify_packed(key, signature, message, array("Q", [0]))
    for offsets in ([0, len(message) + 1], [2, 1], [0, 2**64 - 1]):
        with pytest.raises(ValueError, match="leave the buffer"):
            native.verify_packed(key, signature, message, array("Q", offsets))


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="threads must not be negative"):
        native.verify_many([], [], [], threads=-1)
    with pytest.raises(ValueError, match="threads must not be negative"):
        native.set_threads(-1)
    with pytest.raises(ValueError, match="from 0 to 19, got 20"):
        native.set_threads(1, nice=20)


# --- threads and processes ---

# Each script runs in a process of its own, so that pools, forks and settings do not touch the other tests.
PREPARE = """
import os, sys, threading
from nacl.signing import SigningKey
from smartbft._fastpath import verify
keys = [SigningKey(i.to_bytes(32, "big")) for i in range(300)]
batch = [bytes(k.verify_key) for k in keys], [k.sign(b"m").signature for k in keys], [b"m"] * 300
def check():
    assert verify.verify_many(*batch, threads=2) == bytes([1] * 300)
    wrong = [batch[1][1], *batch[1][1:]]
    assert verify.verify_many(batch[0], wrong, batch[2], threads=2) == bytes([0] + [1] * 299)
"""


def run(script: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", PREPARE + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_forked_children_verify_with_threads_of_their_own() -> None:
    script = """
check()
def child(depth):
    check()
    return 0 if depth == 0 else fork(depth - 1)
def fork(depth):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = child(depth)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert fork(2) == 0
check()
print("verified")
"""
    assert run(script) == "verified\n"


def test_forks_in_the_middle_of_other_threads_calls() -> None:
    script = """
stop = threading.Event()
def busy():
    while not stop.is_set():
        check()
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
for thread in threads: thread.join()
print("verified")
"""
    assert run(script) == "verified\n"


def test_spawned_children_verify() -> None:
    script = """
import subprocess
check()
command = "from smartbft._fastpath.verify import verify_many; assert verify_many([], [], [], threads=2) == b''"
assert subprocess.run([sys.executable, "-c", command]).returncode == 0
print("verified")
"""
    assert run(script) == "verified\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_pool_s_threads_have_their_name_and_niceness() -> None:
    script = """
from pathlib import Path
def pool():
    tasks = [(t / "comm", t / "stat") for t in Path("/proc/self/task").iterdir()]
    # The fields after the name, which ends with the last bracket: niceness is the 19th of all.
    return [int(stat.read_text().rpartition(")")[2].split()[16]) for comm, stat in tasks
            if comm.read_text().strip() == "smartbft-verify"]
assert pool() == []
verify.verify_many(*batch, threads=1)
assert pool() == []
verify.set_threads(3, 7)
check()
print(*pool())
"""
    assert run(script).split() == ["7", "7", "7"]


def test_a_resized_pool_still_serves_calls_under_way() -> None:
    cases = good(300)
    arguments = [*zip(*((case.public_key, case.signature, case.message) for case in cases), strict=True)]
    masks: list[bytes] = []

    def verify() -> None:
        masks.extend(native.verify_many(*arguments, threads=2) for _ in range(10))

    threads = [threading.Thread(target=verify) for _ in range(4)]
    for thread in threads:
        thread.start()
    for size in (1, 2, 3, 0):
        native.set_threads(size)
    for thread in threads:
        thread.join()
    assert masks == [bytes([1] * 300)] * 40
