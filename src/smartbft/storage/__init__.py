"""The only code that touches files: the durable log, reading it back, looking into it. Knows nothing of consensus."""

from smartbft.storage.consensus_keys import ConsensusKeys
from smartbft.storage.files import Files, FolderFiles, MemoryFiles
from smartbft.storage.inspection import LogReport, RecordSummary, inspect_log, verify_log
from smartbft.storage.lives import Lives, mark_never_started
from smartbft.storage.log import LogStatistics, PersistenceMode, ReplicaLog
from smartbft.storage.recovery import ParsedSegments, RawRecord, parse_segments
from smartbft.storage.snapshots import SNAPSHOT_FOLDER, SnapshotStore, read_snapshots
from smartbft.storage.trials import Trials

__all__ = [
    "SNAPSHOT_FOLDER",
    "ConsensusKeys",
    "Files",
    "FolderFiles",
    "Lives",
    "LogReport",
    "LogStatistics",
    "MemoryFiles",
    "ParsedSegments",
    "PersistenceMode",
    "RawRecord",
    "RecordSummary",
    "ReplicaLog",
    "SnapshotStore",
    "Trials",
    "inspect_log",
    "mark_never_started",
    "parse_segments",
    "read_snapshots",
    "verify_log",
]
