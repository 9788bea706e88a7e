"""The records of a stopped replica's log, one segment in memory at a time; read-only, no lock taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smartbft._fastpath.log import SEGMENT_HEADER_SIZE, LogParser
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage.recovery import RawRecord, in_segment, segment_number


def read_records(folder: Path | str, chain_id: bytes, replica: int) -> Iterator[RawRecord]:
    """The records `(kind, instance, body)` of the log in `folder`, in order.

    Raises:
        StorageError: there is no log in the folder, or it is another chain's or replica's.
        CorruptLog: damage other than a torn tail; the records of the segments before it have been yielded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder")
    numbered = sorted((number, path) for path in folder.iterdir() if (number := segment_number(path.name)) is not None)
    # A segment that was prepared and never begun has zeros where others have their header.
    begun = [path for _, path in numbered if _is_begun(path)]
    parser = LogParser(chain_id, replica)
    for index, path in enumerate(begun):
        try:
            records = parser.parse(path.read_bytes(), index == len(begun) - 1)
        except CorruptLog as error:
            raise in_segment(error, path.name) from None
        yield from records


def _is_begun(path: Path) -> bool:
    with path.open("rb") as file:
        return any(file.read(SEGMENT_HEADER_SIZE))
