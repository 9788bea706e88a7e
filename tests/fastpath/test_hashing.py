"""Batch hashing against the official vectors and the `blake3` package, Merkle trees against RFC 6962 in Python."""

from __future__ import annotations

import json
import mmap
import random
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import merkle

from smartbft._fastpath import hashing as native

VECTORS = Path(__file__).parent.parent / "vectors"
TEXT = bytes(i % 251 for i in range(110_000))
KEY = bytes(range(32))

HashMany = Callable[[Sequence[bytes]], bytes]


@cache
def vectors() -> dict[str, Any]:
    """The official vectors; each input is the start of TEXT."""
    content: dict[str, Any] = json.loads((VECTORS / "blake3_test_vectors.json").read_text())
    return content


def offsets_of(messages: Sequence[bytes]) -> array[int]:
    return array("Q", [0, *accumulate(map(len, messages))])


def packed(key: bytes | None) -> HashMany:
    return lambda messages: native.hash_many_packed(b"".join(messages), offsets_of(messages), key)


def joined(digests: Sequence[bytes]) -> bytes:
    return b"".join(digests)


def loop(messages: Sequence[bytes], key: bytes | None = None) -> bytes:
    """What a Python user would write without us."""
    return joined([blake3(message, key=key).digest() for message in messages])


def batches() -> list[list[bytes]]:
    """Batches that reach every path: all lengths up to two chunks, groups that fill the lanes or do not."""
    random_source = random.Random(1)
    lengths = [list(range(2100)), [310] * 100, [0] * 20, [64] * 16, [65] * 17, [1024] * 33, [1025] * 5]
    lengths += [[310] * count for count in range(36)]
    lengths += [[random_source.randrange(1500) for _ in range(random_source.randrange(200))] for _ in range(50)]
    return [[TEXT[i % 89 :][:length] for i, length in enumerate(batch)] for batch in lengths]


def wrong_batches(hash_many: HashMany, key: bytes | None = None) -> list[int]:
    """The numbers of the batches on which a batch hash differs from the `blake3` package."""
    return [number for number, batch in enumerate(batches()) if hash_many(batch) != loop(batch, key)]


# --- the official vectors ---


def test_plain_hashes_agree_with_the_official_vectors() -> None:
    cases = vectors()["cases"]
    messages = [TEXT[: case["input_len"]] for case in cases]
    expected = joined([bytes.fromhex(case["hash"])[:32] for case in cases])
    assert native.hash_many(messages) == expected
    assert native.hash_many_packed(joined(messages), offsets_of(messages)) == expected
    for message, digest in zip(messages, numpy.frombuffer(expected, dtype="V32"), strict=True):
        # The same message in every lane, alone and beside others.
        for count in (1, 2, 3, 8, 16, 17):
            assert native.hash_many([message] * count) == digest.tobytes() * count


def test_keyed_hashes_agree_with_the_official_vectors() -> None:
    key = vectors()["key"].encode()
    for case in vectors()["cases"]:
        message, expected = TEXT[: case["input_len"]], bytes.fromhex(case["keyed_hash"])[:32]
        assert native.keyed_hash(key, message) == expected
        assert packed(key)([message] * 9) == expected * 9


def test_derived_keys_agree_with_the_official_vectors() -> None:
    context = vectors()["context_string"]
    for case in vectors()["cases"]:
        assert native.derive_key(context, TEXT[: case["input_len"]]) == bytes.fromhex(case["derive_key"])[:32]


# --- parity with the package ---


@pytest.mark.parametrize(("hash_many", "key"), [(native.hash_many, None), (packed(None), None), (packed(KEY), KEY)])
def test_batches_agree_with_the_package(hash_many: HashMany, key: bytes | None) -> None:
    assert wrong_batches(hash_many, key) == []


@given(st.lists(st.binary(max_size=1300), max_size=60), st.none() | st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_any_batch_agrees_with_the_package(messages: list[bytes], key: bytes | None) -> None:
    assert native.hash_many(messages) == loop(messages)
    assert packed(key)(messages) == loop(messages, key)


def test_a_hash_with_a_wrong_last_block_is_found_out() -> None:
    def wrong_tail(messages: Sequence[bytes]) -> bytes:
        # As if the length of the last block did not enter the hash.
        return native.hash_many([message + bytes(-len(message) % 64) for message in messages])

    assert wrong_batches(wrong_tail)


def test_a_batch_that_forgets_unfilled_lanes_is_found_out() -> None:
    def forgetful(messages: Sequence[bytes]) -> bytes:
        full = len(messages) - len(messages) % 8
        return native.hash_many(messages[:full]) + bytes(32 * (len(messages) - full))

    assert wrong_batches(forgetful)


def test_a_batch_in_the_wrong_order_is_found_out() -> None:
    assert wrong_batches(lambda messages: native.hash_many(sorted(messages, key=len)))


# --- arguments ---


def test_any_sequence_of_bytes_is_hashed() -> None:
    messages = [b"a", b"bc", b""]
    for sequence in (messages, tuple(messages), iter(messages)):
        assert native.hash_many(sequence) == loop(messages)  # type: ignore[arg-type]
    for wrong in ([b"a", "b"], [bytearray(b"a")], [None], 5):
        with pytest.raises(TypeError):
            native.hash_many(wrong)  # type: ignore[arg-type]


def test_any_contiguous_buffer_is_hashed() -> None:
    data = TEXT[:4096]
    expected = loop([data[:1000], data[1000:4096]])
    region = mmap.mmap(-1, 4096)
    region[:] = data
    for buffer in (data, bytearray(data), memoryview(data), region, numpy.frombuffer(data, dtype=numpy.uint8)):
        for offsets in (array("Q", [0, 1000, 4096]), numpy.array([0, 1000, 4096]), array("l", [0, 1000, 4096])):
            assert native.hash_many_packed(buffer, offsets) == expected
        assert native.keyed_hash(KEY, buffer) == blake3(data, key=KEY).digest()
    unaligned = memoryview(b"\0" + array("Q", [0, 1000, 4096]).tobytes())[1:].cast("Q")
    assert native.hash_many_packed(data, unaligned) == expected
    with pytest.raises(BufferError):
        native.hash_many_packed(memoryview(data)[::2], array("Q", [0, 1]))


@pytest.mark.parametrize("offsets", [[5, 4], [0, 11], [0, 2**64 - 1], [11], [0, 10, 9, 10]])
def test_offsets_that_decrease_or_leave_the_buffer_are_refused(offsets: list[int]) -> None:
    for function in (native.hash_many_packed, native.merkle_root_packed):
        with pytest.raises(ValueError, match="leave the buffer"):
            function(b"0123456789", array("Q", offsets))


def test_arguments_of_the_wrong_size_are_refused() -> None:
    for offsets in (array("I", [0, 1]), array("d", [0.0, 1.0]), bytes(16), numpy.array([0, 1], dtype=numpy.uint32)):
        with pytest.raises(ValueError, match="native 64-bit integers"):
            native.hash_many_packed(b"0123456789", offsets)
    with pytest.raises(ValueError, match="at least one"):
        native.hash_many_packed(b"", array("Q"))
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match=f"32 bytes, got {size}"):
            native.keyed_hash(bytes(size), b"")
        with pytest.raises(ValueError, match=f"32 bytes, got {size}"):
            native.hash_many_packed(b"", array("Q", [0]), bytes(size))


# --- Merkle trees ---


def leaves_of(count: int) -> list[bytes]:
    return [TEXT[i : i + i * 7 % 400] for i in range(count)]


def wrong_roots(root: Callable[[Sequence[bytes]], bytes]) -> list[int]:
    """The sizes of tree on which `root` differs from the definition."""
    sizes = [*range(70), 127, 128, 129, 255, 256, 257, 1000]
    return [count for count in sizes if root(leaves_of(count)) != merkle.root(leaves_of(count))]


def test_roots_agree_with_the_definition() -> None:
    assert wrong_roots(native.merkle_root) == []
    assert wrong_roots(lambda leaves: native.merkle_root_packed(joined(leaves), offsets_of(leaves))) == []


def test_a_tree_without_separate_domains_is_found_out() -> None:
    assert wrong_roots(lambda leaves: merkle.root(leaves, leaf_kind="node"))
    # What the separation is for: two leaves' hashes, given as one leaf, must not have the same root.
    pair = [b"one", b"two"]
    forged = [merkle.root(pair[:1], "node") + merkle.root(pair[1:], "node")]
    assert merkle.root(forged, "node") == merkle.root(pair, "node")
    forged = [merkle.root(pair[:1]) + merkle.root(pair[1:])]
    assert native.merkle_root(forged) != native.merkle_root(pair)


def test_a_tree_that_repeats_its_odd_leaf_is_found_out() -> None:
    def repeating(leaves: Sequence[bytes]) -> bytes:
        return native.merkle_root([*leaves, leaves[-1]] if len(leaves) % 2 else leaves)

    assert wrong_roots(repeating)


def test_proofs_agree_with_the_definition_and_verify() -> None:
    for count in (*range(1, 34), 100):
        leaves = leaves_of(count)
        root = native.merkle_root(leaves)
        for index in range(count) if count < 34 else (0, 63, 64, 98, 99):
            proof = native.merkle_proof(leaves, index)
            assert proof == joined(merkle.path(leaves, index))
            assert native.merkle_verify(root, leaves[index], index, count, proof)


def test_a_proof_holds_for_nothing_else() -> None:
    leaves = [bytes([i]) for i in range(13)]
    root = native.merkle_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = native.merkle_proof(leaves, index)
        assert [i for i in range(-1, 16) if native.merkle_verify(root, leaf, i, 13, proof)] == [index]
        assert not native.merkle_verify(root, leaf + b"x", index, 13, proof)
        assert not native.merkle_verify(bytes(32), leaf, index, 13, proof)
        for bit in range(8 * len(proof)):
            changed = bytearray(proof)
            changed[bit // 8] ^= 1 << bit % 8
            assert not native.merkle_verify(root, leaf, index, 13, changed)
        for malformed in (proof[:-1], proof[32:], proof[:-32], proof + bytes(32), proof + b"x", b""):
            assert not native.merkle_verify(root, leaf, index, 13, malformed)


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    root = native.merkle_root(leaves)
    left, right = (merkle.root(leaves[:1]) + merkle.root(leaves[1:2]), merkle.root(leaves[2:]))
    assert not native.merkle_verify(root, left, 0, 2, right)


def test_leaves_and_roots_that_cannot_be() -> None:
    with pytest.raises(IndexError, match="no leaf 3 among 3"):
        native.merkle_proof([b"a", b"b", b"c"], 3)
    with pytest.raises(IndexError, match="no leaf -1 among 1"):
        native.merkle_proof([b"a"], -1)
    with pytest.raises(IndexError, match="no leaf 0 among 0"):
        native.merkle_proof([], 0)
    root = native.merkle_root([b"a"])
    assert native.merkle_verify(root, b"a", 0, 1, b"")
    assert not native.merkle_verify(root, b"a", 0, 0, b"")
    assert not native.merkle_verify(root, b"a", 0, 2**64, b"")
    assert not native.merkle_verify(root[1:], b"a", 0, 1, b"")


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=80), st.data())
@settings(deadline=None)
def test_any_leaf_of_any_tree_is_proven(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, proof = native.merkle_root(leaves), native.merkle_proof(leaves, index)
    assert root == merkle.root(leaves)
    assert native.merkle_verify(root, leaves[index], index, len(leaves), proof)
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        assert not native.merkle_verify(root, leaves[index], other, len(leaves), proof)
        assert not native.merkle_verify(root, leaves[other], index, len(leaves), proof)


def test_slices_of_one_buffer_are_the_messages() -> None:
    # Offsets may start anywhere and name empty slices.
    data, ends = TEXT[:1000], [3, 3, 500, 999, 999]
    expected = loop([data[start:end] for start, end in pairwise(ends)])
    assert native.hash_many_packed(data, array("Q", ends)) == expected
