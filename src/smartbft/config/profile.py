"""A client's profile: which chain, how to reach it, and with which keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from smartbft.config.genesis import Genesis
from smartbft.config.replica import PERSISTENCE_MODES, Persistence, Transport
from smartbft.config.toml import read_toml, write_toml
from smartbft.errors import ConfigError


@dataclass(frozen=True)
class ClientProfile:
    """What a client needs to know.

    Attributes:
        path: the profile's file.
        genesis: of the chain.
        transport: as the replicas have it.
        persistence: what the replicas promise; decides how many equal replies a client waits for.
        keys: key files by name, e.g. ``client`` and ``minter``.
    """

    path: Path
    genesis: Genesis
    transport: Transport
    persistence: Persistence
    keys: dict[str, Path]

    def key_path(self, name: str) -> Path:
        """The key file called `name`. Raises ConfigError: the profile has none."""
        if name not in self.keys:
            known = ", ".join(sorted(self.keys)) or "none"
            raise ConfigError(f"there is no key '{name}' (there is: {known})", file=str(self.path), field="keys")
        return self.keys[name]

    @property
    def replies_needed(self) -> int:
        """How many equal replies make a result: `Q` in the synchronous mode, else ``f + 1`` (protocols.md 2.1)."""
        view = self.genesis.view
        return view.quorum if self.persistence == "sync" else view.f + 1

    def weaker_than(self, levels: Iterable[int]) -> str:
        """What to tell people whose profile promises less than the chain does; empty if it does not.

        Args:
            levels: of the persistence modes of replicas, one each (0 memory, 1 asynchronous, 2 synchronous). What no
                more than `f` of them say counts for nothing.
        """
        own, f = PERSISTENCE_MODES.index(self.persistence), self.genesis.view.f
        stronger = sorted((level for level in levels if level > own), reverse=True)
        if len(stronger) <= f:
            return ""
        mode = PERSISTENCE_MODES[stronger[f]]
        return (
            f'{self.path}: persistence = "{self.persistence}" is weaker than that of the replicas, which run in {mode} '
            f"mode: a result is believed from {self.replies_needed} equal replies, which promise less than the chain "
            f'does; write persistence = "{mode}"'
        )

    @classmethod
    def load(cls, path: Path | str) -> ClientProfile:
        """Read a profile; the paths in it are relative to its folder.

        Raises:
            ConfigError: names the file and the field.
        """
        path = Path(path)
        content = read_toml(path, _ProfileFile)
        genesis = Genesis.load(path.parent / content.genesis)
        keys = {name: path.parent / file for name, file in content.keys.items()}
        return cls(path, genesis, content.transport, content.persistence, keys)

    @staticmethod
    def genesis_path(path: Path) -> Path:
        """The genesis file that a profile's file names. Raises ConfigError: as `load`."""
        return path.parent / read_toml(path, _ProfileFile).genesis

    def dump(self, genesis_path: Path) -> None:
        """Write the profile to `path`, with paths relative to its folder where they lie below it."""
        folder = self.path.parent

        def relative(target: Path) -> str:
            return str(target.relative_to(folder) if target.is_relative_to(folder) else target.absolute())

        tree = {
            "genesis": relative(genesis_path),
            "transport": self.transport,
            "persistence": self.persistence,
            "keys": {name: relative(file) for name, file in self.keys.items()},
        }
        write_toml(self.path, tree, comment="A client's profile: smartbft coin --profile THIS_FILE ...")


class _ProfileFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    genesis: str
    transport: Transport = "tls"
    persistence: Persistence = "sync"
    keys: dict[str, str] = {}
