"""`benchmarks/faults.py`: every case can be measured alone."""

from __future__ import annotations

import click
import pytest

from benchmarks.faults import case_names, choose


def test_every_case_can_be_chosen_alone() -> None:
    names = case_names()
    assert len(set(names)) == len(names)
    assert [choose(names, [name]) for name in names] == [{name} for name in names]


def test_a_part_of_a_name_chooses_all_that_contain_it() -> None:
    names = ["fault-free", "fault-free, TLS", "client: gaps"]
    assert choose(names, ["free, ", "gaps"]) == {"fault-free, TLS", "client: gaps"}
    assert choose(names, ["fault"]) == {"fault-free", "fault-free, TLS"}
    assert choose(names, []) == set(names)


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(click.UsageError, match="no case's name contains 'leadre'"):
        choose(case_names(), ["client", "leadre"])
