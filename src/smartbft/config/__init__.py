"""Configuration: the genesis of a chain, a replica's own settings, a client's profile.

Three TOML files, each with a strict schema: an unknown key, a wrong type, a value out of bounds, a duplicate key or
address is a `ConfigError` that names the file and the field and says what to do. Durations and sizes are strings with a
unit (``"250ms"``, ``"64MiB"``) in the files, and microseconds and bytes in Python.
"""

from smartbft.config.address import Address
from smartbft.config.genesis import Genesis, GenesisMember
from smartbft.config.profile import ClientProfile
from smartbft.config.replica import PERSISTENCE_MODES, SIGNATURE_CHECKS, TRANSPORTS, ReplicaConfig, check_schedule
from smartbft.config.units import Seconds, format_duration, format_size, parse_duration, parse_seconds, parse_size

__all__ = [
    "PERSISTENCE_MODES",
    "SIGNATURE_CHECKS",
    "TRANSPORTS",
    "Address",
    "ClientProfile",
    "Genesis",
    "GenesisMember",
    "ReplicaConfig",
    "Seconds",
    "check_schedule",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_seconds",
    "parse_size",
]
