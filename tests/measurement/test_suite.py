"""Scenarios and series: the ten cells, the words that a result must name, pyperf files."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from smartbft.errors import LocalProtocolError
from smartbft.measurement.checks import Check
from smartbft.measurement.cluster import Measurement, ReplicaFigures, as_dict
from smartbft.measurement.cpu import CpuUse
from smartbft.measurement.report import context, figures, verdicts
from smartbft.measurement.scenario import Scenario, paper_mint, unsigned, usual_window
from smartbft.measurement.suite import COLUMNS, PAPER_TABLE_1, check_output, save_pyperf, table1, table1_rows
from smartbft.runtime.load import LoadResult

LOG = {"record_bytes": 1 << 20, "syncs": 20.0, "sync_p50_seconds": 0.001, "sync_p99_seconds": 0.002}


def measurement(rate: float = 1000.0, scenario: Scenario | None = None, passed: bool = True) -> Measurement:
    latencies = array("I", range(1000, 11000, 10))
    result = LoadResult(
        "multiplexed", 1024, 1, 2048, 2.0, int(2 * rate), latencies, 0.5, 2500, {0: 2500}, {0: 2500}, b""
    )
    replica = ReplicaFigures(CpuUse(1.0, 0.6, 0.1, 0.2, "loop"), int(2 * rate), 10, int(2 * rate), dict(LOG), 1 << 26)
    checks = [Check("money conserved", passed, "detail")]
    return Measurement(scenario or Scenario(), result, dict.fromkeys(range(4), replica), checks, [8000.0, 8000.0])


def test_figures_follow_from_what_was_counted() -> None:
    found = measurement(1000.0)
    assert found.load.transactions_per_second == 1000.0
    assert found.mean_batch == 200.0
    assert found.serial_microseconds == pytest.approx(100.0)
    assert found.efficiency == pytest.approx(0.5)
    assert found.load.latency(0.5) == pytest.approx(0.006)
    assert found.load.latency(1.0) == found.load.latencies[-1] / 1e6
    assert found.passed
    assert not measurement(passed=False).passed


def test_a_load_without_transactions_divides_by_nothing() -> None:
    found = measurement(0.0)
    assert found.serial_microseconds == found.efficiency == found.load.transactions_per_second == 0.0
    assert replace(found.load, latencies=array("I")).latency(0.5) == 0.0


def test_every_result_names_what_was_measured() -> None:
    names = dict(context(measurement()))
    assert {"load", "clients", "n", "signatures", "persistence", "transport", "machine", "versions"} <= names.keys()
    assert names["load"] == "spend 310/380 bytes"
    assert names["clients"] == "1024 (multiplexed)"
    floor = dict(context(measurement(scenario=Scenario(sync_floor_seconds=0.004, record_votes=False))))
    assert floor["persistence"] == "sync, without vote records, sync floor 4 ms"
    assert "serial cost per transaction" in dict(figures(measurement()))
    assert verdicts(measurement(passed=False))[0][0].startswith("FAILED")
    assert as_dict(measurement())["efficiency"] == pytest.approx(0.5)


def test_the_table_has_ten_cells_that_differ_as_the_paper_says() -> None:
    cells = table1(Scenario(seconds=3.0, sync_floor_seconds=0.004))
    assert [(cell.row, cell.column) for cell in cells] == [(row, c) for row in ("mint", "spend") for c in COLUMNS]
    described = {(cell.row, cell.column): cell.scenario.describe() for cell in cells}
    assert len({tuple(each.items()) for each in described.values()}) == 10
    assert described["spend", "Dura-SMaRt"]["persistence"] == "sync, sync floor 4 ms"
    assert described["spend", "parallel async"]["persistence"] == "async in the application, sync floor 4 ms"
    assert described["mint", "sequential sync"]["signatures"] == "sequential, in the application"
    assert all(cell.scenario.replies_needed == 3 and cell.scenario.seconds == 3.0 for cell in cells)
    assert cells[0].paper == (1801, 321)
    assert cells[-1].paper == (14829, 549)
    assert {cell.scenario.request_bytes for cell in cells} == {180, 310}


def test_ratios_are_to_the_first_column_of_the_row() -> None:
    cells = table1(Scenario())
    results = [(cell, [measurement(1000.0 * (1 + COLUMNS.index(cell.column)))]) for cell in cells]
    rows = table1_rows(results)
    assert [row[4] for row in rows[:5]] == ["1.00", "2.00", "3.00", "4.00", "5.00"]
    assert rows[4][5] == f"{15015 / 1801:.2f}"
    assert len(rows) == sum(map(len, PAPER_TABLE_1.values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"load": "steal"},
        {"model": "open-loop"},
        {"load": "unsigned"},
        {"clients": 2, "window": 2 * 64 + 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_scenarios_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        Scenario(**changes)  # type: ignore[arg-type]


def test_sizes_of_the_papers() -> None:
    assert Scenario().operation_bytes == 310 - 116
    assert paper_mint().operation_bytes == 180 - 116
    assert unsigned(310, 380).operation_bytes == 310
    assert unsigned(0, 0).application_parameters([]) == {"result_bytes": 0}
    assert Scenario().application_parameters(["x"])["receipt_bytes_spend"] == 380 - 61
    assert Scenario(persistence="memory").replies_needed == 2


@pytest.mark.parametrize(("clients", "window"), [(1, 64), (16, 1024), (32, 2048), (1024, 2048)])
def test_few_clients_have_fewer_requests_outstanding(clients: int, window: int) -> None:
    assert usual_window(clients) == window
    assert Scenario(clients=clients, window=usual_window(clients)).lane_window == window


def test_more_outstanding_than_the_clients_may_have_is_refused_with_advice() -> None:
    with pytest.raises(LocalProtocolError, match=r"16 clients may have 1024 .* not 1025: use more clients, or a "):
        Scenario(clients=16, window=1025)


def test_pyperf_reads_what_was_saved(tmp_path: Path) -> None:
    pyperf = pytest.importorskip("pyperf")
    path = tmp_path / "results.json"
    check_output(path)
    save_pyperf(path, [("first", [measurement(1000.0), measurement(500.0)]), ("second", [measurement(250.0)])])
    first, second = pyperf.BenchmarkSuite.load(str(path)).get_benchmarks()
    assert first.get_name() == "first"
    assert first.get_values() == (pytest.approx(0.001), pytest.approx(0.002))
    assert second.get_values() == (pytest.approx(0.004),)
    metadata = first.get_metadata()
    assert metadata["scenario_load"] == "spend 310/380 bytes"
    assert metadata["sync_p99"] == pytest.approx(0.002)
    with pytest.raises(LocalProtocolError, match="exists"):
        check_output(path)
    with pytest.raises(LocalProtocolError, match="does not exist"):
        check_output(tmp_path / "none" / "x.json")
