"""The evidence that a replica has gathered: small files in its home, each written once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from smartbft.disk import write_file
from smartbft.errors import StorageError
from smartbft.limits import MAX_EVIDENCE_FILES_PER_MEMBER

SUFFIX = ".evidence"


class EvidenceFolder:
    """The folder ``evidence`` of a replica's home. It is made when the first evidence comes.

    Args:
        folder: where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """The evidence files, by name; none if the folder does not exist.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == SUFFIX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read: {error.strerror}") from None

    def put(self, accused: int, name: str, content: bytes) -> Path | None:
        """Write evidence and sync it: a crash leaves the whole file or none.

        Args:
            accused: id of the accused member; so many files against one are enough.
            name: of the file, without suffix; begins with the accused's id and a hyphen.
            content: its bytes.

        Returns:
            The new file; None if it was here before, or there is enough against the accused.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.folder / (name + SUFFIX)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            known = [file for file in self.files() if file.name.startswith(f"{accused}-")]
            if path in known or len(known) >= MAX_EVIDENCE_FILES_PER_MEMBER:
                return None
            write_file(path, content, 0o644)
        except OSError as error:
            raise StorageError(f"{path}: evidence cannot be written: {error.strerror}") from None
        return path
