"""Links the native crate; the other compiled modules reach it through this one."""

def versions() -> dict[str, int]:
    """The version of each function table, by area (for ``smartbft version`` and for tests of the linkage)."""
