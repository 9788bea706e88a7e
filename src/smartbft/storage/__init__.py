"""The only code that touches files: the durable log, reading it back, looking into it. Knows nothing of consensus."""

from smartbft.storage.inspection import LogReport, RecordSummary, inspect_log, verify_log
from smartbft.storage.lives import Lives, mark_never_started
from smartbft.storage.log import LogStatistics, PersistenceMode, ReplicaLog
from smartbft.storage.recovery import ParsedSegments, RawRecord, parse_segments

__all__ = [
    "Lives",
    "LogReport",
    "LogStatistics",
    "ParsedSegments",
    "PersistenceMode",
    "RawRecord",
    "RecordSummary",
    "ReplicaLog",
    "inspect_log",
    "mark_never_started",
    "parse_segments",
    "verify_log",
]
