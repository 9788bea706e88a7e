"""Tables of a measurement, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from smartbft.measurement.cluster import Measurement, ReplicaFigures
from smartbft.measurement.faults import FaultFigures
from smartbft.measurement.machine import description

Row = tuple[str, str]


def figures(measurement: Measurement) -> list[Row]:
    """Name and value of everything that the demo's table shows, units included."""
    load, replicas = measurement.load, list(measurement.replicas.values())
    seconds = load.seconds or 1.0
    checks_per_second = sum(each.signature_checks for each in replicas) / seconds
    rows = [
        ("transactions per second", f"{load.transactions_per_second:,.0f}"),
        ("latency p50 / p99 / p99.9", " / ".join(milliseconds(load.latency(q)) for q in (0.5, 0.99, 0.999))),
        ("mean batch size", f"{measurement.mean_batch:,.0f} transactions"),
    ]
    if measurement.faults:  # replicas that were started again count from the beginning
        return rows
    rows += [
        ("signature checks per second", f"{checks_per_second:,.0f} (all replicas)"),
        *_log_rows(replicas, seconds),
        ("CPU per replica", ", ".join(f"{each.cpu.total / seconds:.2f}" for each in replicas) + " cores"),
        ("  of it signature checks", ", ".join(f"{each.cpu.verify / seconds:.2f}" for each in replicas) + " cores"),
        ("CPU of the clients", f"{load.client_cpu_seconds / seconds:.2f} cores"),
        ("CPU per transaction, everybody", _core_time(measurement)),
        ("serial cost per transaction", f"{measurement.serial_microseconds:.1f} us (thread '{_busiest(replicas)}')"),
        ("memory per replica", ", ".join(mebibytes(each.resident_bytes) for each in replicas)),
    ]
    if measurement.verification_rates:
        mean = sum(measurement.verification_rates) / len(measurement.verification_rates)
        rows.append(("batch verification, all cores", f"{mean:,.0f} signatures per second"))
        disturbed = " (above 1: other work slowed the machine while that rate was measured)"
        rows.append(("efficiency E", f"{measurement.efficiency:.2f}{disturbed if measurement.efficiency > 1 else ''}"))
    return rows


def context(measurement: Measurement) -> list[Row]:
    """What every printed result names: the scenario and the machine."""
    machine = description()
    scenario = measurement.scenario.describe()
    return [
        *scenario.items(),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}"),
        ("versions", f"smartbft {machine['smartbft']}, Python {machine['python']}, {machine['system']}"),
    ]


def fault_table(measurement: Measurement) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names and rows: a fault is a column, for names are long and figures are short."""
    faults = measurement.faults
    rows = [
        ("replica", *(str(fault.replica) for fault in faults)),
        ("time without progress", *(f"{fault.without_progress:.2f} s" for fault in faults)),
        ("regency", *(_regency(fault) for fault in faults)),
        ("down for", *(f"{fault.lasted:.1f} s" for fault in faults)),
        ("came back with", *(_state(fault) for fault in faults)),
        ("level again after", *(f"{fault.level_after:.1f} s" for fault in faults)),
        ("per second before", *(f"{fault.rate_before:,.0f}" for fault in faults)),
        ("per second after", *(f"{fault.rate_after:,.0f}" for fault in faults)),
    ]
    return ("fault", *(fault.name for fault in faults)), rows


def _regency(fault: FaultFigures) -> str:
    if fault.regency_after == fault.regency_before:
        return str(fault.regency_before)
    return f"{fault.regency_before}, then {fault.regency_after}"


def _state(fault: FaultFigures) -> str:
    return f"snapshot of instance {fault.transferred:,}" if fault.transferred else "its own state"


def verdicts(measurement: Measurement) -> list[Row]:
    """The checks."""
    return [(("ok      " if check.passed else "FAILED  ") + check.name, check.detail) for check in measurement.checks]


def milliseconds(seconds: float) -> str:
    """A latency."""
    return f"{1000 * seconds:.2f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"


def mebibytes(size: float) -> str:
    """A size."""
    return f"{size / (1 << 20):,.1f} MiB"


def _core_time(measurement: Measurement) -> str:
    share = f", {measurement.verify_share:.0%} of it in signature checks" if measurement.verification_rates else ""
    return f"{measurement.core_microseconds:.1f} us{share}"


def _busiest(replicas: Iterable[ReplicaFigures]) -> str:
    return max((each.cpu for each in replicas), key=lambda use: use.busiest).busiest_name


def _log_rows(replicas: list[ReplicaFigures], seconds: float) -> list[Row]:
    logs = [each.log for each in replicas if each.log]
    if not logs:
        return [("log", "none (memory mode)")]
    written = ", ".join(mebibytes(log["record_bytes"]) for log in logs)
    syncs = ", ".join(f"{log['syncs'] / seconds:,.0f}" for log in logs)
    p50, p99 = (max(log[name] for log in logs) for name in ("sync_p50_seconds", "sync_p99_seconds"))
    return [
        ("log bytes per replica", written),
        ("log syncs per second", syncs),
        ("sync latency p50 / p99", f"{milliseconds(p50)} / {milliseconds(p99)} (slowest replica)"),
    ]
