"""Mutated bytes into every decoder: no error but the documented ones, one encoding, bounded time and memory (H1, H2).

How long it runs: SMARTBFT_FUZZ_EXECUTIONS inputs for each decoder.
"""

from __future__ import annotations

import pytest
from kit.decoders import ALL
from kit.fuzzing import Decoder, Finding, fuzz
from kit.mutation import executions

# What a planted bug must be found within; most fall to the first few inputs.
PLANTED = 20_000
by_name = pytest.mark.parametrize("decoder", ALL, ids=lambda decoder: decoder.name.replace(" ", "-"))


@pytest.mark.timeout(900)
@by_name
def test_mutated_bytes(decoder: Decoder) -> None:
    accepted = fuzz(decoder, executions(), seed=1)
    assert accepted, "not one mutated input was valid: the mutations do not reach what lies behind the first check"


@by_name
def test_a_planted_bug_is_found(decoder: Decoder) -> None:
    with pytest.raises(Finding):
        fuzz(decoder.with_planted_bug(), PLANTED, seed=1)


def test_names_are_unique() -> None:
    assert len({decoder.name for decoder in ALL}) == len(ALL)
