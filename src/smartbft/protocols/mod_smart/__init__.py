"""Mod-SMaRt: state machine replication over a sequence of VP-Consensus instances (Sousa and Bessani, EDCC 2012)."""

from smartbft.protocols.mod_smart.ordering import ModSmart

__all__ = ["ModSmart"]
