"""A replica's own settings: ``config.toml`` in its home folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from smartbft import limits
from smartbft.config.toml import Duration, Size, read_toml, write_toml
from smartbft.config.units import format_duration, format_size
from smartbft.errors import ConfigError
from smartbft.types import SEQUENTIAL, Parameters

Persistence = Literal["memory", "async", "sync"]
Transport = Literal["tls", "plain"]
SignatureCheck = Literal["parallel", "sequential"]
LogLevel = Literal["debug", "info", "warning", "error"]

PERSISTENCE_MODES: tuple[Persistence, ...] = get_args(Persistence)
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
SIGNATURE_CHECKS: tuple[SignatureCheck, ...] = get_args(SignatureCheck)

_MAX_SEGMENT_BYTES = 1 << 30
_MAX_SYNC_FLOOR_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class ReplicaConfig:
    """How one replica runs. All replicas of a chain should have the same `persistence` and `signature_check`.

    Attributes:
        replica: its id in the genesis.
        home: its folder; all paths are below it, so the folder can be moved.
        persistence: ``memory`` (nothing on disk), ``async`` (the operating system has it), ``sync`` (on disk).
        transport: ``tls`` (replicas authenticate each other), or ``plain``: TCP in the clear, for measurements only.
        signature_check: ``parallel`` before ordering, or ``sequential`` inside the application (benchmarks only).
        record_votes: log votes before they leave. False is unsafe across restarts and for comparison only.
        verify_threads: threads that check signatures; 0 chooses.
        application_sync: an application that keeps files of its own syncs them before it answers; benchmarks only.
        segment_bytes: size of a log segment.
        sync_floor_seconds: added to each sync, to show how a slower disk would do; benchmarks only.
        log_level: of the program's own messages.
    """

    replica: int
    home: Path
    persistence: Persistence = "sync"
    transport: Transport = "tls"
    signature_check: SignatureCheck = "parallel"
    record_votes: bool = True
    verify_threads: int = 0
    application_sync: bool = True
    segment_bytes: int = limits.DEFAULT_SEGMENT_BYTES
    sync_floor_seconds: float = 0.0
    log_level: LogLevel = "info"

    @property
    def config_path(self) -> Path:
        """The file this came from."""
        return self.home / "config.toml"

    @property
    def genesis_path(self) -> Path:
        """The chain's genesis."""
        return self.home / "genesis.toml"

    @property
    def keys_folder(self) -> Path:
        """Private keys and the TLS certificate."""
        return self.home / "keys"

    @property
    def data_folder(self) -> Path:
        """The log."""
        return self.home / "data"

    @property
    def evidence_folder(self) -> Path:
        """Contradictions that other members have signed; made when the first one is found."""
        return self.home / "evidence"

    @property
    def run_folder(self) -> Path:
        """What a running replica leaves for others to find."""
        return self.home / "run"

    @classmethod
    def load(cls, home: Path | str) -> ReplicaConfig:
        """Read ``config.toml`` in the folder `home`.

        Raises:
            ConfigError: names the file and the field.
        """
        home = Path(home)
        path = home / "config.toml"
        content = read_toml(path, _ReplicaFile)
        if not limits.MIN_SEGMENT_BYTES <= content.segment_size <= _MAX_SEGMENT_BYTES:
            bounds = f"{format_size(limits.MIN_SEGMENT_BYTES)} to {format_size(_MAX_SEGMENT_BYTES)}"
            raise ConfigError(f"out of bounds: choose {bounds}", file=str(path), field="segment_size")
        if content.sync_floor > _MAX_SYNC_FLOOR_MICROSECONDS:
            raise ConfigError("out of bounds: choose 0s to 1s", file=str(path), field="sync_floor")
        return cls(
            replica=content.replica,
            home=home,
            persistence=content.persistence,
            transport=content.transport,
            signature_check=content.signature_check,
            record_votes=content.record_votes,
            verify_threads=content.verify_threads,
            application_sync=content.application_sync,
            segment_bytes=int(content.segment_size),
            sync_floor_seconds=content.sync_floor / 1_000_000,
            log_level=content.log_level,
        )

    def dump(self) -> None:
        """Write ``config.toml`` in the home folder; `load` gives an equal configuration."""
        tree = {
            "replica": self.replica,
            "persistence": self.persistence,
            "transport": self.transport,
            "signature_check": self.signature_check,
            "record_votes": self.record_votes,
            "verify_threads": self.verify_threads,
            "application_sync": self.application_sync,
            "segment_size": format_size(self.segment_bytes),
            "sync_floor": format_duration(round(self.sync_floor_seconds * 1_000_000)),
            "log_level": self.log_level,
        }
        write_toml(self.config_path, tree, comment=f"Settings of replica {self.replica}.")


class _ReplicaFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    replica: Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
    persistence: Persistence = "sync"
    transport: Transport = "tls"
    signature_check: SignatureCheck = "parallel"
    record_votes: bool = True
    verify_threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    application_sync: bool = True
    segment_size: Size = Size(limits.DEFAULT_SEGMENT_BYTES)
    sync_floor: Duration = Duration(0)
    log_level: LogLevel = "info"


def check_schedule(persistence: Persistence, parameters: Parameters, file: str | None = None) -> None:
    """Check that the decisions which a rehearsal replays will be there.

    Raises:
        ConfigError: sequential checkpoints without a log: what follows a snapshot would be in nobody's memory for long.
    """
    if parameters.checkpoint_schedule == SEQUENTIAL and persistence == "memory":
        raise ConfigError(
            "sequential checkpoints (checkpoint_schedule of the genesis) need a log, from which others replay what "
            'follows a snapshot: choose "sync" or "async"',
            file=file,
            field="persistence",
        )
